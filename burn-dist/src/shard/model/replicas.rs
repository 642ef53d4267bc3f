//! Whether replicas are still equal: what several ranks store must be the same bits on all of them.
//!
//! Nothing that ranks exchange would tell otherwise. Replicas that were stepped with different learning
//! rates, or restored from different files, train on without an error, each another model.

use super::stored::StoredShards;
use crate::comm::{Span, SpanMut};
use crate::error::{Error, Result};
use crate::world::World;
use burn::module::Module;
use std::hash::{DefaultHasher, Hash, Hasher};

impl World {
    /// Returns if all ranks that store the same parameters of `model` store the same bits.
    ///
    /// Under `ddp` that is all parameters on all ranks, under `hybrid` each shard on one rank of every
    /// group, and otherwise what every rank stores whole. Runs by itself before every
    /// [`save`](Self::save) and every
    /// [100 steps](crate::Strategy::check_replicas_every). Collective.
    ///
    /// # Cost
    /// A checksum of what this rank stores of such parameters, and an all-gather of 8 bytes a rank; nothing
    /// where no rank stores what another one does.
    ///
    /// # Errors
    /// [`Error::Replicas`], the same on every rank, naming the first parameter that differs and the ranks
    /// on either side; [`Error::Model`] if `model` was not sharded; what collectives return.
    ///
    /// ```
    /// use burn::{nn::LinearConfig, optim::SgdConfig, tensor::Tensor};
    /// use burn_dist::prelude::*;
    ///
    /// let found = Threads::new(3).run(|world| {
    ///     let layer = LinearConfig::new(4, 2).init(&world.device());
    ///     let layer = Strategy::ddp().shard(layer, &world)?;
    ///     let mut optim = world.optimizer(SgdConfig::new().init(), &layer)?;
    ///     world.check_replicas(&layer)?;
    ///     let x = Tensor::<2>::ones([8, 4], &world.device());
    ///     let grads = world.backward(layer.forward(x).mean(), &layer)?.into_params();
    ///     let rate = if world.rank() == 1 { 0.2 } else { 0.1 };
    ///     let layer = optim.step(rate, layer, grads);
    ///     world.check_replicas(&layer)
    /// });
    /// let found = found.unwrap_err().to_string();
    /// assert!(found.contains("weight") && found.contains("[0, 2]") && found.contains("[1]"), "{found}");
    /// ```
    pub fn check_replicas<M: Module>(&self, model: &M) -> Result<()> {
        let stored = checksums(&StoredShards::of_sharded(model)?)?;
        if self.size() == 1 || stored.is_empty() {
            return Ok(());
        }
        // What a rank stores has to equal what those store that have the same part of everything, so one
        // number is compared first among ranks whose parts are the same, group by group.
        let mut groups: Vec<usize> = stored
            .iter()
            .map(|stored| stored.shard_group_size)
            .collect();
        groups.sort_unstable();
        groups.dedup();
        let summary = |shard_group_size: &usize| {
            let mut hash = DefaultHasher::new();
            let same = stored
                .iter()
                .filter(|stored| stored.shard_group_size == *shard_group_size);
            same.for_each(|stored| stored.checksum.hash(&mut hash));
            hash.finish()
        };
        let mine: Vec<u64> = groups.iter().map(summary).collect();
        let all = self.gathered(&mine)?;
        let is_parted = groups.iter().enumerate().any(|(at, shard_group_size)| {
            let of = |rank: usize| all[rank * groups.len() + at];
            parted(self.size(), *shard_group_size, of).is_some()
        });
        if !is_parted {
            return Ok(());
        }
        let mine: Vec<u64> = stored.iter().map(|stored| stored.checksum).collect();
        let all = self.gathered(&mine)?;
        // Nobody leaves with the error before all have it.
        self.comm().barrier(&LABEL.into())?;
        for (at, stored) in stored.iter().enumerate() {
            let of = |rank: usize| all[rank * mine.len() + at];
            if let Some((ranks, others)) = parted(self.size(), stored.shard_group_size, of) {
                return Err(Error::Replicas {
                    parameter: stored.path.clone(),
                    ranks,
                    others,
                });
            }
        }
        Ok(())
    }

    /// The numbers of all ranks, one after the other.
    fn gathered(&self, mine: &[u64]) -> Result<Vec<u64>> {
        let mut all = vec![0; mine.len() * self.size()];
        let (send, recv) = (Span::of(mine), SpanMut::of(&mut all));
        self.comm().all_gather(&LABEL.into(), send, recv)?;
        Ok(all)
    }
}

const LABEL: &str = "replicas";

/// The first ranks that should have the same number and have not: those that agree with the first of
/// them, and the others. Ranks have the same part if they are a multiple of `shard_group_size` apart.
fn parted(
    size: usize,
    shard_group_size: usize,
    of: impl Fn(usize) -> u64,
) -> Option<(Vec<usize>, Vec<usize>)> {
    (0..shard_group_size.min(size)).find_map(|part| {
        let ranks = (part..size).step_by(shard_group_size);
        let (same, others): (Vec<_>, Vec<_>) = ranks.partition(|rank| of(*rank) == of(part));
        (!others.is_empty()).then_some((same, others))
    })
}

/// What this rank stores of a parameter that other ranks store too.
struct Stored {
    path: String,
    /// Number of different shards of it; ranks that far apart have the same.
    shard_group_size: usize,
    checksum: u64,
}

/// One for each parameter that another rank stores as this one does.
fn checksums(model: &StoredShards) -> Result<Vec<Stored>> {
    let mut all = Vec::new();
    for unit in &model.units {
        let shard_group_size = if unit.sharding.is_replicated(unit.number) {
            1
        } else {
            unit.sharding.shard_group.size()
        };
        if shard_group_size == unit.sharding.world.size() {
            continue;
        }
        for (path, shard) in unit.parameters() {
            all.push(Stored {
                path: path.into(),
                shard_group_size,
                checksum: u64::from(crc32fast::hash(&shard.read()?)),
            });
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_compared_with_those_that_have_the_same_part() {
        let numbers = |all: &'static [u64]| move |rank: usize| all[rank];
        // Two groups of two: ranks 0 and 2 have one part, 1 and 3 the other.
        assert_eq!(parted(4, 2, numbers(&[5, 6, 5, 6])), None);
        assert_eq!(
            parted(4, 2, numbers(&[5, 6, 5, 7])),
            Some((vec![1], vec![3]))
        );
        assert_eq!(
            parted(3, 1, numbers(&[5, 6, 5])),
            Some((vec![0, 2], vec![1]))
        );
        assert_eq!(parted(3, 3, numbers(&[5, 6, 7])), None);
    }
}
