//! `kill -9` at random moments of saving.

use crate::contents::{Contents, latest, manifest};
use crate::program::{STEPS, command, run};
use burn_dist::Noise;
use burn_dist::checkpoint::Keep;
use std::collections::BTreeMap;
use std::io::Read;
use std::time::{Duration, Instant};

/// How often a process is killed, unless `BURN_DIST_KILLS` says so.
const KILLS: usize = 12;

/// What a run that is never killed saves, by step.
fn expected() -> BTreeMap<u64, Contents> {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), STEPS, &Keep::all()).unwrap();
    let saves = (1..=STEPS as u64).map(|step| {
        let save = folder.path().join(format!("step-{step:08}"));
        (step, Contents::of_save(&save))
    });
    saves.collect()
}

#[test]
fn a_killed_run_leaves_a_save_that_training_really_had() {
    let kills = std::env::var("BURN_DIST_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let expected = expected();
    let mut folder = tempfile::tempdir().unwrap();
    let (mut found, mut started, mut steps) = (0, 0, Vec::new());
    // Some are killed before they have saved anything.
    while found < kills {
        let mut child = command(folder.path(), STEPS).spawn().unwrap();
        let after = 20 + Noise::new(15, started, 0).number(0) % 480;
        let until = Instant::now() + Duration::from_millis(after);
        started += 1;
        while Instant::now() < until && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let ended = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        if ended.is_some_and(|ended| !ended.success()) {
            let mut text = String::new();
            child.stderr.unwrap().read_to_string(&mut text).unwrap();
            panic!("after {found} kills: {text}");
        }
        if !folder.path().join("latest").exists() {
            continue;
        }
        found += 1;
        let step = manifest(&latest(folder.path()))["step"].as_u64().unwrap();
        Contents::of(folder.path()).expect(&expected[&step], &format!("step {step}"));
        steps.push(step);
        if step == STEPS as u64 {
            folder = tempfile::tempdir().unwrap();
        }
    }
    println!("{found} kills, at steps {steps:?}");
}
