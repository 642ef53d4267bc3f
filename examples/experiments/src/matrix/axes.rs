//! The axes of a matrix, and the experiments that they span.

use super::{Experiment, Link, Model, Precision, Recipe, Strategy};
use crate::record::Setup;

/// The values on each axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Axes {
    /// The name of this part of the matrix.
    pub part: String,
    /// Models.
    pub models: Vec<Model>,
    /// Strategies.
    pub strategies: Vec<Strategy>,
    /// Nodes, and ranks on each.
    pub setups: Vec<Setup>,
    /// Samples of a rank in one backward pass.
    pub batches: Vec<usize>,
    /// Learning rates.
    pub rates: Vec<f64>,
    /// Precisions.
    pub precisions: Vec<Precision>,
    /// Links between nodes; `None` is whatever connects them.
    pub links: Vec<Option<Link>>,
    /// What all have in common.
    pub recipe: Recipe,
}

/// What axes span.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Expansion {
    /// One for each combination that can be.
    pub experiments: Vec<Experiment>,
    /// Combinations that cannot be, and why.
    pub left_out: Vec<String>,
}

impl Axes {
    /// All combinations, the set-up varying fastest but one, the link fastest.
    pub fn expand(&self) -> Expansion {
        let mut all = Expansion::default();
        for model in &self.models {
            for precision in &self.precisions {
                for strategy in &self.strategies {
                    for rate in &self.rates {
                        for batch in &self.batches {
                            for setup in &self.setups {
                                let one = Experiment {
                                    part: self.part.clone(),
                                    model: model.clone(),
                                    strategy: strategy.clone(),
                                    setup: *setup,
                                    batch: *batch,
                                    rate: *rate,
                                    precision: *precision,
                                    link: None,
                                    recipe: self.recipe.clone(),
                                };
                                self.with_links(one, &mut all);
                            }
                        }
                    }
                }
            }
        }
        all
    }

    /// One node has no link, and is one experiment whatever links there are.
    fn with_links(&self, one: Experiment, all: &mut Expansion) {
        let none = [None];
        let links = match one.setup.nodes {
            1 => &none[..],
            _ => &self.links,
        };
        for link in links {
            let one = Experiment {
                link: link.clone(),
                ..one.clone()
            };
            match one.contradiction() {
                Some(why) => all.left_out.push(format!("{}: {why}", one.name())),
                None => all.add(one),
            }
        }
    }
}

impl Expansion {
    /// Adds an experiment, unless it is there.
    fn add(&mut self, one: Experiment) {
        if !self.experiments.contains(&one) {
            self.experiments.push(one);
        }
    }

    /// Adds what other axes span.
    pub fn extend(&mut self, other: Self) {
        for one in other.experiments {
            self.add(one);
        }
        self.left_out.extend(other.left_out);
    }
}
