//! Several models, optimizers and states in one save, loaded whole or in part.

use crate::contents::Contents;
use crate::model::{Run, Zoo, load, optimizer, parameters, ranks, start, train};
use crate::oracle::{self, Mlp};
use burn::module::Module;
use burn::optim::SgdConfig;
use burn::tensor::Device;
use burn_dist::checkpoint::{OpenSave, Save, Which};
use burn_dist::{Error, Result, Strategy, World};
use std::path::Path;

/// A model to learn, another one without an optimizer, and two states, saved by two ranks.
fn saved(folder: &Path) {
    let run = ranks(2).run(|world| {
        let student = train(&world, start(&world, &Strategy::fsdp())?, 0..2)?;
        let teacher = teacher(&world, 2, &Strategy::zero1())?;
        let save = Save::new(40)
            .model("student", &student.0, &student.1)
            .weights("teacher", &teacher)
            .state("epoch", &2usize)
            .state("best", &f64::INFINITY)
            .metric("loss", 0.1);
        world.checkpointer(folder)?.save(save)
    });
    run.unwrap();
}

fn teacher(world: &World, blocks: usize, strategy: &Strategy) -> Result<Mlp> {
    let model = oracle::undrawn(Mlp::new(blocks, &world.device()));
    strategy.clone().shard(model, world)
}

#[test]
fn all_parts_come_back_on_other_ranks() {
    let folder = tempfile::tempdir().unwrap();
    saved(folder.path());
    let before = Contents::of(folder.path());
    let run = ranks(3).run(|world| {
        let (model, optim) = start(&world, &Strategy::ddp())?;
        let mut save = world.open_save(folder.path(), Which::Step(40))?;
        assert_eq!((save.step(), save.metric("loss")), (40, Some(0.1)));
        assert!(save.models().eq(["student", "teacher"]));
        let (model, optim) = save.model("student", model, optim)?;
        let teacher = save.weights("teacher", teacher(&world, 2, &Strategy::fsdp())?)?;
        let best: f64 = save.state("best")?;
        let epoch: usize = save.state("epoch")?;
        assert_eq!((best, epoch), (f64::INFINITY, 2));
        let report = save.finish()?;
        assert!(
            report.missing.is_empty() && report.unused.is_empty(),
            "{report}"
        );
        // It was loaded whole, so that this run may go on in the same folder.
        let save = Save::new(50)
            .model("student", &model, &optim)
            .weights("teacher", &teacher)
            .state("epoch", &2usize)
            .state("best", &best);
        world.checkpointer(folder.path())?.save(save)
    });
    run.unwrap();
    Contents::of(folder.path()).expect(&before, "saved again");
}

#[test]
fn a_part_is_loaded_and_the_rest_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    saved(folder.path());
    let run = ranks(2).run(|world| {
        let (model, _) = start(&world, &Strategy::fsdp())?;
        let mut save = world.open_save(folder.path(), Which::Latest)?;
        let model = save.weights("student", model)?;
        let report = save.finish()?;
        assert_eq!(
            report.unused,
            [
                "optimizer of student",
                "model teacher",
                "state best",
                "state epoch"
            ]
        );
        let shown = report.to_string();
        assert!(
            shown.contains("in the save, but not used (4): optimizer of"),
            "{shown}"
        );
        // It is another run's folder then.
        let optim = optimizer(&world, &model)?;
        let refused = world.save(folder.path(), &model, &optim, &0).unwrap_err();
        assert!(refused.to_string().contains("of another run"), "{refused}");
        world.comm().barrier(&"after".into())?;
        Ok(report.applied.len())
    });
    assert_eq!(run.unwrap(), [20; 2]);
}

#[test]
fn what_differs_on_purpose_keeps_its_values() {
    let folder = tempfile::tempdir().unwrap();
    saved(folder.path());
    for size in [1, 3] {
        let run = ranks(size).run(|world| {
            // A block more than the save has.
            let model = teacher(&world, 3, &Strategy::fsdp())?;
            let save = world.open_save(folder.path(), Which::Latest)?;
            let mut save = save.may_differ(["blocks.2", "last"]);
            let model = save.weights("teacher", model)?;
            let report = save.finish()?;
            assert_eq!(
                report.missing,
                ["teacher: blocks.2.weight", "teacher: blocks.2.bias"]
            );
            let full = world.full(&model, burn_dist::Destination::All)?.unwrap();
            let new = oracle::undrawn(Mlp::new(3, &world.device()));
            let (full, new) = (oracle::values(&full), oracle::values(&new));
            assert_eq!(full["blocks.2.weight"], new["blocks.2.weight"]);
            // A block less: the rest is unused.
            let model = teacher(&world, 1, &Strategy::fsdp())?;
            let save = world.open_save(folder.path(), Which::Latest)?;
            let mut save = save.may_differ(["blocks.*"]);
            save.weights("teacher", model)?;
            let unused = save.finish()?.unused;
            assert!(unused.contains(&"teacher: blocks.1.weight".to_string()));
            Ok(())
        });
        run.unwrap();
    }
}

/// The text of the error of rank 0.
fn refused(
    size: usize,
    folder: &Path,
    f: impl Fn(&World, &mut OpenSave) -> Result<()> + Sync,
) -> String {
    let run = ranks(size).run(|world| {
        let mut save = world.open_save(folder, Which::Latest)?;
        let error = f(&world, &mut save).expect_err("it differs");
        let own = matches!(error, Error::File { .. } | Error::Config { .. });
        assert!(own, "{error}");
        Ok(error.to_string())
    });
    run.unwrap().remove(0)
}

#[test]
fn what_differs_without_having_been_named_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    saved(folder.path());
    let folder = folder.path();
    let error = refused(2, folder, |world, save| {
        let model = teacher(world, 3, &Strategy::fsdp())?;
        save.weights("teacher", model).map(drop)
    });
    assert!(
        error.contains("blocks.2.weight [15, 15]") && error.contains("no such"),
        "{error}"
    );
    let error = refused(3, folder, |world, save| {
        let model = teacher(world, 1, &Strategy::ddp())?;
        save.weights("teacher", model).map(drop)
    });
    assert!(
        error.contains("expected no such tensor, found blocks.1"),
        "{error}"
    );
    let error = refused(2, folder, |world, save| {
        let model = teacher(world, 2, &Strategy::fsdp())?;
        let sgd = world.optimizer(SgdConfig::new().init(), &model)?;
        save.model("teacher", model, sgd).map(drop)
    });
    assert!(error.contains("load it by weights"), "{error}");
    let error = refused(2, folder, |world, save| {
        save.weights("critic", teacher(world, 2, &Strategy::fsdp())?)
            .map(drop)
    });
    assert!(
        error.contains("\"critic\", found models student, teacher"),
        "{error}"
    );
    let error = refused(1, folder, |_, save| save.state::<usize>("epochs").map(drop));
    assert!(error.contains("found states best, epoch"), "{error}");
    let error = refused(1, folder, |_, save| save.state::<String>("epoch").map(drop));
    assert!(error.contains("a state of the type"), "{error}");
}

#[test]
fn parts_of_one_name_and_names_that_confuse_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let run = ranks(2).run(|world| {
        let run: Run = start(&world, &Strategy::fsdp())?;
        let mut saves = world.checkpointer(folder.path())?;
        let twice = Save::new(1).model("a", &run.0, &run.1).weights("a", &run.0);
        let error = saves.save(twice).unwrap_err().to_string();
        assert!(error.contains("two of model a"), "{error}");
        let odd = Save::new(1).weights("a/b", &run.0);
        let error = saves.save(odd).unwrap_err().to_string();
        assert!(error.contains("\"a/b\""), "{error}");
        // A model and a state of one name are two things.
        saves.save(Save::new(1).weights("a", &run.0).state("a", &1))
    });
    run.unwrap();
}

#[test]
fn one_device_reads_a_save_without_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let expected = ranks(3).run(|world| {
        let run = train(&world, start(&world, &Strategy::hybrid(1))?, 0..3)?;
        crate::model::save(&world, folder.path(), &run, 3)?;
        parameters(&world, &run.0)
    });
    let expected = expected.unwrap().remove(0);
    // The layers of this model need a world of one; it is plain all the same.
    let run = ranks(1).run(|world| {
        let plain = Zoo::new(&world);
        let optim = optimizer(&world, &Strategy::single().shard(Zoo::new(&world), &world)?)?;
        let mut save = OpenSave::new(folder.path(), Which::Latest)?;
        let (plain, optim) = save.model("model", plain, optim)?;
        assert_eq!(save.state::<usize>("state")?, 3);
        assert!(save.finish()?.unused.is_empty());
        assert_eq!(oracle::values(&plain), expected);
        // The states are those of a run of one rank.
        let (run, _) = load(&world, folder.path(), start(&world, &Strategy::single())?)?;
        assert_eq!(optim.to_record().len(), run.1.to_record().len());
        Ok(())
    });
    run.unwrap();
    let other = Mlp::new(2, &Device::flex()).valid();
    let mut save = OpenSave::new(folder.path(), Which::Latest).unwrap();
    let error = save.weights("model", other).unwrap_err().to_string();
    assert!(error.contains("first.weight"), "{error}");
}
