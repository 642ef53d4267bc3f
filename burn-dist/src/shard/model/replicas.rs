//! Whether replicas are still equal: what several ranks store must be the same bits on all of them.
//!
//! Nothing that ranks exchange would tell otherwise. Replicas that were stepped with different learning
//! rates, or restored from different files, train on without an error, each another model.

use super::stored::StoredShards;
use crate::comm::{Communicator, Span, SpanMut};
use crate::error::{Error, Result};
use crate::shard::memory::Shard;
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
        Replicas::of(&StoredShards::of_sharded(model)?).check(self.comm())
    }
}

/// What this rank stores of a model, to be compared with what others store of the same.
#[derive(Debug)]
pub(crate) struct Replicas {
    /// Parameters that other ranks store as this one does.
    parameters: Vec<Stored>,
    /// What is not sharded: running state, and parameters that a strategy was told to ignore.
    plain: Vec<Stored>,
}

impl Replicas {
    pub(crate) fn of(model: &StoredShards) -> Self {
        let plain = model.plain.iter().map(|tensor| Stored {
            path: tensor.path.clone(),
            shard_group_size: 1,
            content: Content::Shard(Box::new(tensor.stored.clone())),
        });
        Self {
            parameters: replicated(model),
            plain: plain.collect(),
        }
    }

    /// Reads all, so that nothing of a device's memory is kept.
    pub(crate) fn read(&mut self) -> Result<()> {
        for stored in self.parameters.iter_mut().chain(&mut self.plain) {
            stored.content = Content::Checksum(stored.content.checksum()?);
        }
        Ok(())
    }

    /// Returns if all ranks that store the same parameters store the same bits. Collective.
    ///
    /// # Errors
    /// As [`World::check_replicas`].
    pub(crate) fn check(&self, comm: &Communicator) -> Result<()> {
        compare(comm, &self.parameters)
    }

    /// The same of what is not sharded.
    pub(crate) fn check_plain(&self, comm: &Communicator) -> Result<()> {
        compare(comm, &self.plain)
    }
}

/// Compares what is stored with those that should store the same.
fn compare(comm: &Communicator, stored: &[Stored]) -> Result<()> {
    if comm.size() == 1 || stored.is_empty() {
        return Ok(());
    }
    let checksums = stored.iter().map(|stored| stored.content.checksum());
    let checksums = checksums.collect::<Result<Vec<u64>>>()?;
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
        let same = stored.iter().zip(&checksums);
        let same = same.filter(|(stored, _)| stored.shard_group_size == *shard_group_size);
        same.for_each(|(_, checksum)| checksum.hash(&mut hash));
        hash.finish()
    };
    let mine: Vec<u64> = groups.iter().map(summary).collect();
    let all = gathered(comm, &mine)?;
    let is_parted = groups.iter().enumerate().any(|(at, shard_group_size)| {
        let of = |rank: usize| all[rank * groups.len() + at];
        parted(comm.size(), *shard_group_size, of).is_some()
    });
    if !is_parted {
        return Ok(());
    }
    let all = gathered(comm, &checksums)?;
    // Nobody leaves with the error before all have it.
    comm.barrier(&LABEL.into())?;
    for (at, stored) in stored.iter().enumerate() {
        let of = |rank: usize| all[rank * checksums.len() + at];
        if let Some((ranks, others)) = parted(comm.size(), stored.shard_group_size, of) {
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
fn gathered(comm: &Communicator, mine: &[u64]) -> Result<Vec<u64>> {
    let mut all = vec![0; mine.len() * comm.size()];
    let (send, recv) = (Span::of(mine), SpanMut::of(&mut all));
    comm.all_gather(&LABEL.into(), send, recv)?;
    Ok(all)
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

/// What this rank stores that other ranks store too.
#[derive(Debug)]
struct Stored {
    path: String,
    /// Number of different shards of it; ranks that far apart have the same.
    shard_group_size: usize,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Shard(Box<Shard>),
    Checksum(u64),
}

impl Content {
    fn checksum(&self) -> Result<u64> {
        match self {
            Self::Shard(shard) => Ok(u64::from(crc32fast::hash(&shard.read()?))),
            Self::Checksum(checksum) => Ok(*checksum),
        }
    }
}

/// The parameters that another rank stores as this one does.
fn replicated(model: &StoredShards) -> Vec<Stored> {
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
                content: Content::Shard(Box::new(shard.clone())),
            });
        }
    }
    all
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
