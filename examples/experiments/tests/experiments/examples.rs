//! A small matrix of the real programs, where `BURN_DIST_EXAMPLES` says in which folder they are.

use crate::generated::{cli, matrix};
use experiments::{results, session};
use std::fs;

#[test]
fn a_matrix_of_the_real_programs() {
    let Some(programs) = std::env::var_os("BURN_DIST_EXAMPLES") else {
        eprintln!("not run: BURN_DIST_EXAMPLES names no folder with vit_fsdp and bert_fsdp");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let axes = "--models vit-tiny,bert-tiny --strategies fsdp --setups 1_2,2_1 --batches 4 --steps 4 --epochs 1 \
                --train-size 64 --test-size 32 --trace 2..3";
    let programs = programs.to_string_lossy();
    let arguments = format!(
        "{axes} --program-dir {programs} --out {} --deadline 120",
        out.display()
    );
    assert!(
        session::run(&cli(&arguments)).unwrap(),
        "see the output above"
    );
    let matrix = matrix(axes);
    let runs = results::read(&out, &matrix).unwrap();
    assert_eq!(runs.len(), 4);
    for run in &runs {
        let summary = run.summary.as_ref().unwrap();
        assert_eq!((summary.steps, summary.setup), (4, run.experiment.setup));
        assert_eq!((run.steps.len(), run.shares_cores), (4, false));
        assert!(run.accuracy().is_some() && run.seconds_per_epoch().is_some_and(|s| s > 0.0));
        // What was sent is what the strategy's plan says, but for the records themselves.
        let planned = run.config.planned_sent.unwrap() as f64;
        let sent = summary.sent_bytes.mean;
        assert!(
            (sent - planned).abs() < 0.02 * planned + 1000.0,
            "{sent} and {planned}"
        );
    }
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("A step, traced"));
}
