//! Histograms of what a run trains.

use super::{RunLog, now};
use crate::unit_histograms::unit_histograms;
use burn::module::Module;
use burn_dist::{Result, ShardedGradients, World};

impl RunLog {
    /// Records histograms of a model's parameters by unit, from the shards of all ranks; nothing in a run that is not written.
    /// Collective.
    ///
    /// # Cost
    /// A walk over this rank's elements, and 12 kB for each unit from each rank.
    ///
    /// # Errors
    /// [`Error::File`](burn_dist::Error::File) on rank 0 if the records cannot be written; what a collective returns.
    pub fn parameters<M: Module>(&mut self, model: &M) -> Result<()> {
        self.histograms("parameters", |world, each| {
            world.visit_elements(model, each)
        })
    }

    /// The same of a step's gradients, which a loss scaler has scaled so; by 1 without one. Collective.
    ///
    /// # Errors
    /// As [`parameters`](Self::parameters).
    pub fn gradients(&mut self, gradients: &ShardedGradients, loss_scale: f64) -> Result<()> {
        self.histograms("gradients", |_, each| {
            gradients.visit_elements(|unit, elements| {
                let unscaled = elements.iter().map(|element| element / loss_scale);
                each(unit, &unscaled.collect::<Vec<_>>());
            })
        })
    }

    fn histograms(
        &mut self,
        what: &str,
        visit: impl FnOnce(&World, &mut dyn FnMut(&str, &[f64])) -> Result<()>,
    ) -> Result<()> {
        if !self.is_written {
            return Ok(());
        }
        let units = unit_histograms(&self.world, |each| visit(&self.world, each))?;
        let at = (self.number(), now());
        let folder = self.folder.as_mut();
        folder.map_or(Ok(()), |folder| folder.histograms(what, at, &units))
    }
}
