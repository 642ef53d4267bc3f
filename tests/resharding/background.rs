//! Saves that are written while training goes on.

use crate::contents::Contents;
use crate::model::{Run, load, ranks, save, start, train};
use burn_dist::checkpoint::{Busy, Keep, Save};
use burn_dist::{Error, Result, Strategy, World};
use std::path::Path;

fn part(run: &Run, step: usize) -> Save<'_> {
    Save::new(step as u64).model("model", &run.0, &run.1)
}

#[test]
fn a_save_is_of_the_moment_at_which_it_was_begun() {
    for size in 1..=3 {
        for strategy in [Strategy::fsdp(), Strategy::ddp(), Strategy::zero2()] {
            let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let run = ranks(size).run(|world| {
                let run = train(&world, start(&world, &strategy)?, 0..2)?;
                let mut saves = world.checkpointer(folder.path())?.keep(Keep::all());
                assert_eq!(saves.durable(), None);
                let state = 2usize;
                assert!(saves.save_in_background(part(&run, 2).state("state", &state))?);
                let run = train(&world, run, 2..4)?;
                assert!(saves.save_in_background(part(&run, 4))?);
                train(&world, run, 4..5)?;
                assert_eq!(saves.wait()?, Some(4));
                assert!(saves.is_idle());
                // The same without a background.
                let run = train(&world, start(&world, &strategy)?, 0..2)?;
                save(&world, other.path(), &run, 2)?;
                Ok(())
            });
            run.unwrap();
            let first = Contents::of_save(&folder.path().join("step-00000002"));
            first.expect(
                &Contents::of(other.path()),
                &format!("{strategy} on {size}"),
            );
        }
    }
}

#[test]
fn the_end_of_a_run_waits_for_the_save() {
    let folder = tempfile::tempdir().unwrap();
    let run = ranks(2).run(|world| {
        let run = train(&world, start(&world, &Strategy::fsdp())?, 0..1)?;
        let mut saves = world.checkpointer(folder.path())?;
        saves.save_in_background(part(&run, 1).state("state", &1usize))?;
        Ok(world)
    });
    let _kept = run.unwrap();
    // And the folder is free, though something of the run may live on.
    let run = ranks(3).run(|world| {
        world.claim_saves(folder.path())?;
        load(&world, folder.path(), start(&world, &Strategy::fsdp())?)
    });
    assert_eq!(run.unwrap()[2].1, 1);
}

#[test]
fn while_one_is_written_the_next_waits_or_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let run = ranks(2).run(|world| {
        let run = start(&world, &Strategy::fsdp())?;
        let mut saves = world.checkpointer(folder.path())?.when_busy(Busy::Skip);
        // As many at once as no disk can write.
        let begun: Result<Vec<bool>> = (1..=20)
            .map(|step| saves.save_in_background(part(&run, step)))
            .collect();
        let begun = begun?;
        assert!(begun[0]);
        let written = begun.iter().filter(|begun| **begun).count();
        assert!(written < 20, "none was left out");
        saves.wait()?;
        // All ranks have left out the same.
        let all = world.gather(&begun)?;
        assert_eq!(all[0], all[1]);
        let mut saves = saves.when_busy(Busy::Wait);
        for step in 30..35 {
            assert!(saves.save_in_background(part(&run, step))?);
        }
        assert_eq!(saves.wait()?, Some(34));
        Ok(())
    });
    run.unwrap();
}

/// A run whose folder vanishes after a first save.
fn vanishing(
    outer: &Path,
    f: impl Fn(&World, &mut burn_dist::checkpoint::Checkpointer, &Run) -> Result<()> + Sync,
) -> Error {
    let folder = outer.join("run");
    let run = ranks(2).run(|world| {
        let run = start(&world, &Strategy::fsdp())?;
        let mut saves = world.checkpointer(&folder)?;
        saves.save(part(&run, 1).state("state", &1usize))?;
        if world.is_chief() {
            std::fs::rename(&folder, outer.join("elsewhere")).unwrap();
        }
        world.comm().barrier(&"vanished".into())?;
        saves.save_in_background(part(&run, 2))?;
        f(&world, &mut saves, &run)
    });
    run.unwrap_err()
}

#[test]
fn a_failure_is_told_by_the_next_call_on_every_rank_and_by_the_end_of_the_run() {
    let outer = tempfile::tempdir().unwrap();
    let error = vanishing(outer.path(), |world, saves, run| {
        let error = saves.save_in_background(part(run, 3)).unwrap_err();
        let text = error.to_string();
        // On the others, the text of the rank that failed.
        assert!(text.contains("run"), "{text}");
        assert_eq!(
            matches!(error, Error::PeerFailed { .. }),
            !world.is_chief(),
            "{error}"
        );
        world.comm().barrier(&"told".into())?;
        // It was told once; the next save tries again, and fails by itself.
        assert!(saves.wait().is_ok());
        Err(error)
    });
    assert!(matches!(error, Error::File { .. }), "{error}");
    // The save before is as good as ever.
    let kept = outer.path().join("elsewhere");
    let run = ranks(1).run(|world| load(&world, &kept, start(&world, &Strategy::single())?));
    assert_eq!(run.unwrap()[0].1, 1);

    let outer = tempfile::tempdir().unwrap();
    let error = vanishing(outer.path(), |_, _, _| Ok(()));
    assert!(matches!(error, Error::File { .. }), "{error}");
}
