//! What the report says of runs, computed again from their records.

use crate::generated::{accuracy, finish, finish_all, matrix, peak, seconds_per_epoch, times};
use experiments::matrix::{Experiment, Matrix};
use experiments::results::{self, Run, SpeedUp, Status};
use experiments::runner::Launch;
use experiments::{published, report};
use std::fs;
use std::path::Path;

/// The cells of the rows of the Markdown tables under a heading.
fn rows(page: &str, heading: &str) -> Vec<Vec<String>> {
    let from = page
        .find(&format!("\n## {heading}"))
        .unwrap_or_else(|| panic!("no {heading}"));
    let section = &page[from + 4..];
    let section = &section[..section.find("\n## ").unwrap_or(section.len())];
    let rows = section.lines().filter(|line| line.starts_with("| "));
    rows.map(|row| {
        row.trim_matches('|')
            .split(" | ")
            .map(|cell| cell.trim().replace('\\', ""))
            .collect()
    })
    .collect()
}

fn written(out: &Path, matrix: &Matrix) -> (Vec<Run>, String, String) {
    let runs = results::read(out, matrix).unwrap();
    let files = report::write(out, matrix, &runs).unwrap();
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    (runs, read(&files.markdown), read(&files.html))
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

#[test]
fn speed_ups_are_those_of_the_records_beside_the_published_ones() {
    let folder = tempfile::tempdir().unwrap();
    let matrix = matrix("--study b --experiment 1");
    finish_all(folder.path(), &matrix);
    let (_, page, _) = written(folder.path(), &matrix);
    let rows = rows(&page, "Study B, experiment 1");
    let baseline = |one: &Experiment| {
        let is_it = |other: &&Experiment| other.setup.ranks() == 1 && other.batch == one.batch;
        matrix.experiments.iter().find(is_it).unwrap()
    };
    for one in matrix
        .experiments
        .iter()
        .filter(|one| one.setup.ranks() > 1)
    {
        let factor = seconds_per_epoch(baseline(one)) / seconds_per_epoch(one);
        let row = rows.iter().find(|row| {
            row[0] == "here" && row[1] == one.batch.to_string() && row[2] == one.setup.to_string()
        });
        let row = row.unwrap_or_else(|| panic!("{} in {rows:?}", one.name()));
        assert_eq!(row[4], format!("{factor:.2}x"));
        let efficiency = 100.0 * factor / one.setup.ranks() as f64;
        assert_eq!(row[5], format!("{efficiency:.1} %"));
    }
    // The published efficiencies, as the study's times give them.
    let published: Vec<_> = rows.iter().filter(|row| row[0] == "*published*").collect();
    let of = |setup: &str| -> Vec<&str> {
        let rows = published
            .iter()
            .filter(|row| row[2] == format!("*{setup}*"));
        rows.map(|row| row[5].trim_matches('*')).collect()
    };
    assert_eq!(of("1_4"), ["80.8 %", "95.4 %", "101.5 %"]);
    assert_eq!(of("2_2"), ["33.0 %", "61.1 %", "88.6 %"]);
    assert_eq!(published::study_b_epochs(3), []);
}

#[test]
fn runs_that_share_cores_have_no_efficiency() {
    let folder = tempfile::tempdir().unwrap();
    let matrix = matrix("--strategies ddp --setups 1_1,1_2,1_4,2_2");
    finish_all(folder.path(), &matrix);
    let (runs, page, html) = written(folder.path(), &matrix);
    let found: Vec<_> = runs
        .iter()
        .map(|run| (run.shares_cores, SpeedUp::of(run, &runs).is_some()))
        .collect();
    assert_eq!(
        found,
        [(false, false), (false, true), (true, false), (true, false)]
    );
    let glance = rows(&page, "The matrix at a glance");
    let column = |title: &str| glance[0].iter().position(|head| head == title).unwrap();
    // Axes on which runs do not differ have no column.
    assert!(!glance[0].contains(&"strategy".to_owned()));
    assert!(html.contains("All runs: vit-tiny, ddp, batch 32"));
    for row in &glance[1..] {
        let cell = |title: &str| row[column(title)].as_str();
        let shares = ["1_4", "2_2"].contains(&cell("set-up"));
        assert_eq!(cell("state") == "shares cores", shares, "{row:?}");
        assert_eq!(
            cell("efficiency") == "–",
            shares || cell("set-up") == "1_1",
            "{row:?}"
        );
        // The rest stays.
        assert!(
            cell("s/epoch").ends_with('s') && cell("memory").ends_with("MB"),
            "{row:?}"
        );
    }
    assert!(html.contains("1_4, shares cores"));
    // On four cores they are measured like the others.
    let four = tempfile::tempdir().unwrap();
    for one in &matrix.experiments {
        finish(four.path(), one, 4);
    }
    let runs = results::read(four.path(), &matrix).unwrap();
    assert!(runs.iter().all(|run| !run.shares_cores));
    assert!(SpeedUp::of(&runs[3], &runs).is_some());
}

#[test]
fn runs_beside_other_programs_are_said_to_be_disturbed() {
    let folder = tempfile::tempdir().unwrap();
    let matrix = matrix("--strategies ddp --setups 1_1,1_2");
    finish_all(folder.path(), &matrix);
    let (_, page, _) = written(folder.path(), &matrix);
    assert!(!page.contains("disturbed"));
    let of_second = folder
        .path()
        .join("runs")
        .join(matrix.experiments[1].name());
    let mut launch = Launch::read(&of_second).unwrap().unwrap();
    launch.outcome.as_mut().unwrap().others_cores = Some(1.3);
    launch.write(&of_second).unwrap();
    let (runs, page, _) = written(folder.path(), &matrix);
    assert_eq!(
        runs.iter().map(Run::is_disturbed).collect::<Vec<_>>(),
        [false, true]
    );
    assert!(
        page.contains("finished, disturbed")
            && page.contains("1 run was disturbed")
            && page.contains("1.3 cores")
    );
}

#[test]
fn study_a_shows_memory_time_and_accuracy_of_both_strategies() {
    let folder = tempfile::tempdir().unwrap();
    let matrix = matrix("--study a");
    finish_all(folder.path(), &matrix);
    let (_, page, _) = written(folder.path(), &matrix);
    let rows = rows(&page, "Study A");
    let ours: Vec<_> = rows.iter().filter(|row| row[0] == "here").collect();
    assert_eq!(ours.len(), 4);
    for (row, one) in ours.iter().zip(&matrix.experiments) {
        assert_eq!(row[6], format!("{:.3}", accuracy(one, 1)));
        // The rank with the most.
        let most = peak(one) * 1.03 / 1e6;
        assert_eq!(
            row[8],
            if most < 1000.0 {
                format!("{most:.1} MB")
            } else {
                format!("{:.2} GB", most / 1e3)
            }
        );
    }
    let published: Vec<_> = rows.iter().filter(|row| row[0] == "*published*").collect();
    assert_eq!(published[1][4..6], ["*1005 units*", "*1.15x*"]);
}

#[test]
fn far_nodes_are_compared_with_near_ones() {
    let folder = tempfile::tempdir().unwrap();
    let matrix = matrix("--study b --experiment 3");
    finish_all(folder.path(), &matrix);
    let (_, page, _) = written(folder.path(), &matrix);
    let ours: Vec<_> = rows(&page, "Study B, experiment 3")
        .into_iter()
        .filter(|row| row[0] == "here")
        .collect();
    for (pair, rows) in matrix.experiments.chunks(2).zip(ours.chunks(2)) {
        let ratio = seconds_per_epoch(&pair[1]) / seconds_per_epoch(&pair[0]);
        assert_eq!(
            (rows[0][4].as_str(), rows[1][4].clone()),
            ("–", format!("{ratio:.2}x"))
        );
        let split = times(&pair[1]);
        assert_eq!(rows[1][5], percent(split.exposed.mean / split.step.mean));
    }
    assert_eq!(rows(&page, "Stragglers").len(), 1 + 2);
}

#[test]
fn what_failed_and_what_is_missing_stands_in_the_report() {
    let folder = tempfile::tempdir().unwrap();
    let matrix = matrix("--strategies ddp --setups 1_1,1_2,2_1");
    matrix.claim(folder.path()).unwrap();
    finish(folder.path(), &matrix.experiments[0], 2);
    fs::create_dir_all(
        folder
            .path()
            .join("runs")
            .join(matrix.experiments[1].name()),
    )
    .unwrap();
    let (runs, page, _) = written(folder.path(), &matrix);
    assert!(matches!(runs[1].status, Status::Failed(_)) && runs[2].status == Status::Missing(None));
    let glance = rows(&page, "The matrix at a glance");
    let state = glance[0].iter().position(|head| head == "state").unwrap();
    let states: Vec<_> = glance[1..].iter().map(|row| row[state].clone()).collect();
    assert_eq!(states, ["finished", "failed", "not yet run"]);
    // A report of nothing is one too.
    let empty = tempfile::tempdir().unwrap();
    matrix.claim(empty.path()).unwrap();
    let (_, page, _) = written(empty.path(), &matrix);
    assert!(page.contains("**0 / 3** runs finished"), "{page}");
}
