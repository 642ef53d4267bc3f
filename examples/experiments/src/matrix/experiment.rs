//! One experiment: a point of the matrix, which is one run.

use super::{Link, Model, Precision, Recipe, Strategy};
use crate::record::Setup;
use serde::{Deserialize, Serialize};

/// One run of a matrix.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    /// The part of the matrix that it belongs to: `matrix`, `a`, `b1`, `b2` or `b3`.
    pub part: String,
    /// The model.
    pub model: Model,
    /// The sharding strategy.
    pub strategy: Strategy,
    /// Nodes, and ranks on each.
    pub setup: Setup,
    /// Samples of a rank in one backward pass.
    pub batch: usize,
    /// The highest learning rate.
    pub rate: f64,
    /// What it computes in.
    pub precision: Precision,
    /// The link between its nodes; `None` is whatever connects them.
    pub link: Option<Link>,
    /// What it has in common with others.
    pub recipe: Recipe,
}

impl Experiment {
    /// Its name, which its folder has too: every axis in it.
    pub fn name(&self) -> String {
        let Self {
            part,
            model,
            strategy,
            setup,
            batch,
            rate,
            precision,
            link,
            ..
        } = self;
        let link = link.as_ref().map_or(String::new(), |l| format!("_{l}"));
        let name =
            format!("{part}_{model}_{strategy}_{setup}_b{batch}_lr{rate:e}_{precision}{link}");
        name.replace([':', ','], "-")
    }

    /// Why it cannot be, if so.
    pub fn contradiction(&self) -> Option<String> {
        self.strategy.refuses(self.setup.ranks())
    }

    /// Its flags, without those of launch and records.
    pub fn arguments(&self) -> Vec<String> {
        let own = [
            ("--model", self.model.size.clone()),
            ("--strategy", self.strategy.to_string()),
            ("--setup", self.setup.to_string()),
            ("--per-gpu-batch", self.batch.to_string()),
            ("--lr", format!("{:e}", self.rate)),
            ("--precision", self.precision.to_string()),
        ];
        let own = own
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value]);
        own.chain(self.recipe.arguments(self.model.program))
            .collect()
    }

    /// Whether both differ in nothing but the set-up, so that one can be the other's baseline.
    pub fn differs_in_setup_alone(&self, other: &Self) -> bool {
        let alike = Self {
            setup: other.setup,
            link: other.link.clone(),
            ..self.clone()
        };
        alike == *other
    }
}
