//! From any strategy on any number of ranks to any other.

use crate::contents::{Contents, latest};
use crate::model::{distance, load, parameters, ranks, save, start, train};
use crate::oracle::{self, Values};
use burn_dist::Strategy;
use std::collections::BTreeMap;
use std::path::Path;

/// A save after three steps under a strategy on so many ranks.
fn saved(folder: &Path, size: usize, strategy: &Strategy) {
    let run = ranks(size).run(|world| {
        let run = train(&world, start(&world, strategy)?, 0..3)?;
        save(&world, folder, &run, 3)
    });
    run.unwrap();
}

/// One device that was never interrupted.
fn straight(steps: usize) -> Values {
    let run = ranks(1).run(|world| {
        let run = train(&world, start(&world, &Strategy::single())?, 0..steps)?;
        parameters(&world, &run.0)
    });
    run.unwrap().remove(0)
}

#[test]
fn any_ranks_go_on_with_the_save_of_any_others() {
    let expected = straight(5);
    let mut pairs = 0;
    for size in 1..=4 {
        for strategy in oracle::strategies(size) {
            let folder = tempfile::tempdir().unwrap();
            saved(folder.path(), size, &strategy);
            let contents = Contents::of(folder.path());
            for other in [1, 2, 3, 4, 8] {
                for next in oracle::strategies(other) {
                    let name = format!("{strategy} on {size} to {next} on {other}");
                    let again = tempfile::tempdir().unwrap();
                    let run = ranks(other).run(|world| {
                        let (run, step) = load(&world, folder.path(), start(&world, &next)?)?;
                        save(&world, again.path(), &run, step)?;
                        parameters(&world, &train(&world, run, step..5)?.0)
                    });
                    let found = run.unwrap_or_else(|error| panic!("{name}: {error}"));
                    Contents::of(again.path()).expect(&contents, &name);
                    let off = distance(&found[0], &expected);
                    assert!(off < 1e-9, "{name}: off by {off:e}");
                    pairs += 1;
                }
            }
        }
    }
    println!("{pairs} pairs");
    assert!(pairs > 400);
}

#[test]
fn a_save_goes_on_under_other_options() {
    let expected = straight(5);
    let options = [
        Strategy::fsdp(),
        Strategy::fsdp().persistence_threshold(20),
        Strategy::zero2().no_sync(true).persistence_threshold(20),
        Strategy::fsdp().reshard_after_backward(false),
        Strategy::hybrid(2).reshard_after_forward(1),
    ];
    for strategy in &options {
        let folder = tempfile::tempdir().unwrap();
        saved(folder.path(), 2, strategy);
        let contents = Contents::of(folder.path());
        for next in &options {
            let name = format!("{strategy} to {next}");
            let again = tempfile::tempdir().unwrap();
            let run = ranks(4).run(|world| {
                let (run, step) = load(&world, folder.path(), start(&world, next)?)?;
                save(&world, again.path(), &run, step)?;
                parameters(&world, &train(&world, run, step..5)?.0)
            });
            let found = run.unwrap_or_else(|error| panic!("{name}: {error}"));
            Contents::of(again.path()).expect(&contents, &name);
            let off = distance(&found[0], &expected);
            assert!(off < 1e-9, "{name}: off by {off:e}");
        }
    }
}

#[test]
fn equal_runs_write_equal_saves() {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [one, other] = folders.each_ref().map(|folder| {
        saved(folder.path(), 3, &Strategy::fsdp());
        let files = std::fs::read_dir(latest(folder.path())).unwrap();
        let read = |file: std::io::Result<std::fs::DirEntry>| {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_owned();
            (name, std::fs::read(path).unwrap())
        };
        files.map(read).collect::<BTreeMap<_, _>>()
    });
    assert_eq!(one.len(), 4);
    for (name, bytes) in &one {
        assert!(other[name] == *bytes, "{name:?}");
    }
}
