//! `burn-dist-save diff`.

use super::IsWell;
use super::bar::bar;
use super::output::print;
use burn_dist::Result;
use burn_dist::checkpoint::{ModelContents, SaveContents, TensorContents};
use burn_dist_models::saves::{ChosenSave, differences};

/// Compares two saves: lists the tensors, numbers and states that differ, with the largest absolute difference.
///
/// Exits with 1 if they differ. Steps, metrics, ranks and strategies are not compared.
#[derive(Debug, clap::Args)]
pub(super) struct Diff {
    /// RUN, RUN@best or RUN@STEP.
    a: ChosenSave,
    /// The other one.
    b: ChosenSave,
}

impl Diff {
    pub(super) fn run(self) -> Result<IsWell> {
        let (a, b) = (self.a.open()?, self.b.open()?);
        let bar = bar(bytes(&b), "compared");
        let found = differences(&a, &b, |bytes| bar.inc(bytes));
        bar.finish_and_clear();
        let found = found?;
        let lines = found.iter().map(|difference| format!("{difference}\n"));
        print(&lines.collect::<String>())?;
        Ok(found.is_empty())
    }
}

/// The bytes of all tensors.
fn bytes(save: &SaveContents) -> u64 {
    let of =
        |tensors: &[TensorContents]| -> usize { tensors.iter().map(TensorContents::bytes).sum() };
    let model = |model: &ModelContents| {
        let states = model.optimizer.as_ref();
        of(&model.tensors) + states.map_or(0, |states| of(&states.tensors))
    };
    save.models.values().map(model).sum::<usize>() as u64
}
