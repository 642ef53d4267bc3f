//! Which elements of a tensor a rank stores, and which of them it writes: a pure function of the layout.

use crate::layout::UnitLayout;
use std::ops::Range;

/// Elements that a replica writes at least: no parameter is divided into crumbs.
const SHARE: usize = 1024;

/// The part of `len` elements that replica `number` of `replicas` writes.
pub(super) fn share(len: usize, (number, replicas): (usize, usize)) -> Range<usize> {
    let each = len.div_ceil(replicas).next_multiple_of(SHARE);
    number.saturating_mul(each).min(len)..(number + 1).saturating_mul(each).min(len)
}

/// The elements of a parameter that a rank stores, and those of them that it writes, by their numbers in the whole
/// parameter. The rank has the shard `shard` of the unit, as one of several replicas: `replica` is its number and how
/// many there are.
pub(super) fn places(
    layout: &UnitLayout,
    slot: usize,
    shard: usize,
    replica: (usize, usize),
) -> (Range<usize>, Range<usize>) {
    let stored = layout.shard_range(slot, shard);
    let in_shard = layout.slot_in_shard(slot, shard);
    // Replicas divide a unit's shard evenly, wherever its parameters begin.
    let mine = share(layout.shard_len, replica);
    let inside = |at: usize| at.clamp(in_shard.start, in_shard.end) - in_shard.start;
    let written = stored.start + inside(mine.start)..stored.start + inside(mine.end);
    (stored, written)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::contents::{RankContents, RankModel, RankTensor, merge};
    use super::*;
    use crate::checkpoint::format::{DataFile, Kind, SavedTensor, TensorFacts};
    use crate::layout::{Parameter, units};
    use burn::tensor::DType;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Ranks, of which each group of so many in a row divides the parameters.
    #[derive(Debug, Clone, Copy)]
    struct Ranks {
        all: usize,
        group: usize,
    }

    impl Ranks {
        fn any() -> impl Strategy<Value = Self> {
            // 1 is DDP, all is FSDP and ZeRO, what is between is hybrid.
            let pairs = (1usize..=8).prop_flat_map(|all| {
                let groups = (1..=all).filter(|group| all.is_multiple_of(*group));
                let groups: Vec<usize> = groups.collect();
                (Just(all), prop::sample::select(groups))
            });
            pairs.prop_map(|(all, group)| Self { all, group })
        }

        /// What each rank stores and writes of each parameter.
        fn places(self, model: &[Parameter], rank: usize) -> Vec<(Parameter, [Range<usize>; 2])> {
            let mut found = Vec::new();
            for layout in units(model, self.group, 1) {
                let replicas = if layout.is_replicated() {
                    (rank, self.all)
                } else {
                    (rank / self.group, self.all / self.group)
                };
                let shard = if layout.is_replicated() {
                    0
                } else {
                    rank % self.group
                };
                for (slot, parameter) in layout.parameters().enumerate() {
                    let (stored, written) = places(&layout, slot, shard, replicas);
                    found.push((parameter, [stored, written]));
                }
            }
            found
        }

        /// The tensors of a save, as the manifest lists them.
        fn save(self, model: &[Parameter]) -> Vec<SavedTensor> {
            let contents = |rank: usize| {
                let places = self.places(model, rank).into_iter();
                let tensors = places.map(|(parameter, [_, written])| {
                    let facts = TensorFacts {
                        name: parameter.path,
                        shape: parameter.shape,
                        dtype: "f32".into(),
                        kind: Kind::Trainable,
                        quantized: None,
                    };
                    RankTensor::new(facts, &written)
                });
                let model = RankModel {
                    strategy: String::new(),
                    forwards: BTreeMap::new(),
                    tensors: tensors.collect(),
                    optimizer: None,
                };
                let file = format!(r#"{{"name":"{rank}","bytes":0,"sums":""}}"#);
                let file: DataFile = serde_json::from_str(&file).unwrap();
                let models = BTreeMap::from([("m".to_string(), model)]);
                RankContents { file, models }
            };
            let ranks: Vec<RankContents> = (0..self.all).map(contents).collect();
            merge(&ranks).unwrap().remove("m").unwrap().tensors
        }
    }

    fn model() -> impl Strategy<Value = Vec<Parameter>> {
        let shape = prop::collection::vec(1usize..60, 0..4);
        let facts = (0usize..3, shape, any::<bool>(), prop::bool::weighted(0.1));
        prop::collection::vec(facts, 1..12).prop_map(|all| {
            let parameter = |(at, facts): (usize, (usize, Vec<usize>, bool, bool))| Parameter {
                path: format!("p{at}"),
                unit: format!("u{}", facts.0),
                shape: facts.1,
                dtype: DType::F32,
                quantized: None,
                trainable: facts.2,
                replicated: facts.3,
            };
            all.into_iter().enumerate().map(parameter).collect()
        })
    }

    proptest! {
        #[test]
        fn replicas_write_each_element_once(len in 0usize..20_000, replicas in 1usize..9) {
            let mut next = 0;
            for number in 0..replicas {
                let part = share(len, (number, replicas));
                prop_assert_eq!(part.start, next);
                prop_assert!(part.start >= part.end || part.end == len || part.len() >= SHARE);
                next = part.end.max(next);
            }
            prop_assert_eq!(next, len);
        }

        /// From any ranks and strategy to any others. `merge` fails unless each element is written once; each is then
        /// read once by every rank that stores it.
        #[test]
        fn every_element_moves_exactly_once(model in model(), from in Ranks::any(), to in Ranks::any()) {
            let saved = from.save(&model);
            prop_assert_eq!(saved.len(), model.len());
            let mut stored_by: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
            for rank in 0..to.all {
                for (parameter, [stored, _]) in to.places(&model, rank) {
                    let tensor = saved.iter().find(|t| t.facts.name == parameter.path).unwrap();
                    let len = parameter.shape.iter().product();
                    let counts = stored_by.entry(&tensor.facts.name).or_insert_with(|| vec![0; len]);
                    let mut next = stored.start;
                    for (piece, part) in tensor.within(stored.clone()) {
                        prop_assert_eq!(part.start, next);
                        prop_assert!(piece.start <= part.start && part.end <= piece.end);
                        counts[part.clone()].iter_mut().for_each(|count| *count += 1);
                        next = part.end;
                    }
                    prop_assert!(stored.is_empty() || next == stored.end);
                }
            }
            for parameter in &model {
                let copies = if parameter.replicated { 1 } else { to.group };
                let times = to.all / copies;
                prop_assert!(stored_by[&*parameter.path].iter().all(|count| *count == times));
            }
        }
    }
}
