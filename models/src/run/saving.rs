//! Saves of a run: where they lie, when one is made, and which is loaded again.

use super::RunArgs;
use burn::module::Module;
use burn_dist::checkpoint::{Checkpointer, Keep, Save, Which, folder_of_saves};
use burn_dist::optim::Ema;
use burn_dist::{Error, Result, Stepper, World};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;

/// The name of the average in saves.
const AVERAGE: &str = "ema";

impl RunArgs {
    /// Tries the places that this run will write to, and claims that of its saves. Collective.
    ///
    /// # Errors
    /// [`Error::File`] for one that cannot be made or written to, or to which another run saves.
    pub fn try_folders(&self, world: &World) -> Result<()> {
        if let Some(place) = &self.save {
            // Before any work, which the second of two runs would lose.
            world.claim_saves(place)?;
        }
        let export = self.weights.export.as_ref();
        export.map_or(Ok(()), |folder| world.try_folder(folder))
    }

    /// The folder of the saves, if they go to one and not to an object store.
    pub fn save_folder(&self) -> Option<&Path> {
        self.save.as_deref().and_then(folder_of_saves)
    }

    /// The folder to resume from, if this run resumes.
    ///
    /// After a restart by the launcher it resumes from the last save, if there is one. A new run needs a folder
    /// without a save, so that no run uses the save of another one. This run locks the folder. Collective.
    ///
    /// # Errors
    /// [`Error::User`] for the save of another run; [`Error::File`] for a folder that another run is
    /// saving to, or whose save cannot be read; what a collective returns.
    pub fn resumes(&self, world: &World) -> Result<Option<&Path>> {
        let Some(folder) = &self.save else {
            return Ok(None);
        };
        world.claim_saves(folder)?;
        let saved = world.has_save(folder)?;
        match (self.resume, world.restarts()) {
            (true, _) => Ok(Some(folder)),
            (false, 0) if saved => Err(Error::user(format!(
                "{} holds the save of an earlier run: go on from it with --resume, or choose \
                 another folder",
                folder.display()
            ))),
            (false, _) => Ok(saved.then_some(folder)),
        }
    }

    /// Saves in the background if `--save` is given; the end of the run waits for it. `score` is that of the epoch which has
    /// ended, if one has. Collective.
    ///
    /// # Errors
    /// As [`Checkpointer::save_in_background`], those of the save before included.
    pub fn checkpoint<M: Module + 'static, S: Serialize>(
        &self,
        world: &World,
        step: usize,
        (model, stepper, average): (&M, &Stepper, Option<&Ema<M>>),
        score: Option<f64>,
        state: &S,
    ) -> Result<()> {
        let Some(mut saves) = self.saves(world)? else {
            return Ok(());
        };
        let save = Save::new(step as u64).model("model", model, stepper.optimizer());
        let save = match average {
            Some(average) => save.average(AVERAGE, average),
            None => save,
        };
        // Not a number is never the best.
        let save = save.metric(self.monitor.name(), score.unwrap_or(f64::NAN));
        saves
            .save_in_background(save.state("state", state))
            .map(drop)
    }

    /// Goes on from the last save of a folder: model, optimizer states, average and the program's state come back. Collective.
    ///
    /// # Errors
    /// As [`World::load`] and [`World::stepper`]; [`Error::User`] for a save with an average if this run keeps none.
    pub fn load<M: Module, S: DeserializeOwned>(
        &self,
        world: &World,
        folder: &Path,
        (model, stepper): (M, Stepper),
        average: Option<Ema<M>>,
    ) -> Result<(M, Stepper, Option<Ema<M>>, S)> {
        let mut save = world.open_save(folder, Which::Latest)?;
        if average.is_none() && save.models().any(|name| name == AVERAGE) {
            return Err(Error::user(format!(
                "{} holds an average of the parameters: go on with the --ema of that run",
                folder.display()
            )));
        }
        let (model, optimizer) = save.model("model", model, stepper.into_optimizer())?;
        let average = average.map(|average| save.average(AVERAGE, average));
        let average = average.transpose()?;
        let state = save.state("state")?;
        save.finish()?;
        let stepper = world.stepper(optimizer, &model)?;
        Ok((model, stepper, average, state))
    }

    /// Waits until the last save is durable. Collective.
    ///
    /// # Errors
    /// What writing it has failed with.
    pub fn wait_for_save(&self, world: &World) -> Result<()> {
        match self.saves(world)? {
            Some(mut saves) => saves.wait().map(drop),
            None => Ok(()),
        }
    }

    fn saves(&self, world: &World) -> Result<Option<Checkpointer>> {
        let Some(folder) = &self.save else {
            return Ok(None);
        };
        let keep = Keep::last(self.keep)?;
        let keep = if self.load_best_model_at_end {
            keep.best(self.monitor.name(), self.monitor.best())
        } else {
            keep
        };
        Ok(Some(world.checkpointer(folder)?.keep(keep)))
    }

    /// The model of the best epoch, if it is to be tested and exported instead of the last one. Collective.
    ///
    /// # Errors
    /// [`Error::File`] if the save cannot be read.
    pub fn best_model<M: Module>(&self, world: &World, model: M) -> Result<M> {
        match &self.save {
            Some(folder) if self.load_best_model_at_end => {
                self.wait_for_save(world)?;
                let mut best = world.open_save(folder, Which::Best)?;
                let name = self.optimizer.ema.map_or("model", |_| AVERAGE);
                let model = best.weights(name, model)?;
                if world.is_chief() {
                    log::info!("the best model is that of step {}", best.step());
                }
                Ok(model)
            }
            _ => Ok(model),
        }
    }
}
