//! What one rank has written of a save, and what all have together.

use crate::checkpoint::format::{
    DataFile, OptimizerBehaviour, Piece, SavedModel, SavedOptimizer, SavedTensor, TensorFacts,
};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;

/// What a rank tells of the file that it has written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::checkpoint) struct RankContents {
    pub(in crate::checkpoint) file: DataFile,
    pub(in crate::checkpoint) models: BTreeMap<String, RankModel>,
}

/// The part of a model that a rank has written; ranks list the same tensors.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::checkpoint) struct RankModel {
    pub(super) strategy: String,
    pub(super) forwards: BTreeMap<String, u64>,
    pub(super) tensors: Vec<RankTensor>,
    pub(super) optimizer: Option<RankStates>,
}

/// The states that a rank has written: none of a parameter of which it stores nothing.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(in crate::checkpoint) struct RankStates {
    pub(super) behaviour: Option<OptimizerBehaviour>,
    pub(super) tensors: Vec<RankTensor>,
    pub(super) scalars: BTreeMap<String, String>,
}

/// A tensor, and the elements of it that a rank has written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::checkpoint) struct RankTensor {
    facts: TensorFacts,
    start: usize,
    end: usize,
}

impl RankTensor {
    pub(super) fn new(facts: TensorFacts, written: &Range<usize>) -> Self {
        let Range { start, end } = *written;
        Self { facts, start, end }
    }
}

/// The models of a save, from what each rank has written, in rank order.
///
/// # Errors
/// [`Error::Model`] for a tensor that ranks describe differently, or of which elements are missing.
pub(in crate::checkpoint) fn merge(ranks: &[RankContents]) -> Result<BTreeMap<String, SavedModel>> {
    let first = ranks.first().map(|rank| &rank.models);
    let names = first.into_iter().flat_map(|models| models.keys());
    names
        .map(|name| {
            let models = ranks.iter().map(|rank| rank.models.get(name));
            let models: Option<Vec<&RankModel>> = models.collect();
            let models = models.ok_or_else(|| differs(name, "saved by some ranks only"))?;
            Ok((name.clone(), merge_model(&models, ranks.len())?))
        })
        .collect()
}

fn merge_model(ranks: &[&RankModel], files: usize) -> Result<SavedModel> {
    let mut tensors = Tensors::default();
    let mut optimizer: Option<(Tensors, SavedOptimizer)> = None;
    for (file, rank) in ranks.iter().enumerate() {
        for tensor in &rank.tensors {
            tensors.add(file, tensor)?;
        }
        let Some(states) = &rank.optimizer else {
            continue;
        };
        let (all, saved) = optimizer.get_or_insert_with(|| {
            let saved = SavedOptimizer {
                behaviour: states.behaviour.clone(),
                tensors: Vec::new(),
                scalars: BTreeMap::new(),
            };
            (Tensors::default(), saved)
        });
        for tensor in &states.tensors {
            all.add(file, tensor)?;
        }
        for (name, text) in &states.scalars {
            let known = saved.scalars.entry(name.clone()).or_insert(text.clone());
            if known != text {
                let odd = format!("is {text} on rank {file} and {known} on another");
                return Err(differs(name, &odd));
            }
        }
    }
    let optimizer = match optimizer {
        None => None,
        Some((all, mut saved)) => {
            saved.tensors = all.finish(files)?;
            // Ranks meet them in different orders.
            saved
                .tensors
                .sort_by(|a, b| a.facts.name.cmp(&b.facts.name));
            Some(saved)
        }
    };
    Ok(SavedModel {
        strategy: ranks.first().map_or(String::new(), |r| r.strategy.clone()),
        forwards: ranks
            .first()
            .map_or_else(BTreeMap::new, |r| r.forwards.clone()),
        tensors: tensors.finish(files)?,
        optimizer,
    })
}

fn differs(name: &str, how: &str) -> Error {
    Error::model(
        name,
        format!("cannot be saved: it {how}"),
        "give all ranks the same model, and step it with an optimizer from world.optimizer",
    )
}

/// Tensors in the order in which they were met, with an index of their names.
#[derive(Default)]
struct Tensors {
    all: Vec<SavedTensor>,
    places: BTreeMap<String, usize>,
}

impl Tensors {
    fn add(&mut self, file: usize, tensor: &RankTensor) -> Result<()> {
        let RankTensor { facts, start, end } = tensor;
        let place = match self.places.get(&facts.name) {
            Some(place) => *place,
            None => {
                self.all.push(SavedTensor {
                    facts: facts.clone(),
                    pieces: Vec::new(),
                });
                self.places.insert(facts.name.clone(), self.all.len() - 1);
                self.all.len() - 1
            }
        };
        let known = &mut self.all[place];
        if known.facts != *facts {
            let how = format!("is {facts} on rank {file} and {} on another", known.facts);
            return Err(differs(&facts.name, &how));
        }
        if start < end {
            let (start, end) = (*start, *end);
            known.pieces.push(Piece { file, start, end });
        }
        Ok(())
    }

    fn finish(mut self, files: usize) -> Result<Vec<SavedTensor>> {
        for tensor in &mut self.all {
            tensor.pieces.sort_by_key(|piece| piece.start);
            if let Some(fault) = tensor.fault(files) {
                let how = format!("would be saved as {fault}");
                return Err(differs(&tensor.facts.name, &how));
            }
        }
        Ok(self.all)
    }
}
