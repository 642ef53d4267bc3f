//! Tests of the sampler.

use proptest::prelude::*;

use super::*;

/// All ranks' steps of an epoch: `[rank][step]`.
fn ranks(len: usize, batch: usize, world: usize, seed: Option<u64>) -> Vec<Vec<Step>> {
    (0..world)
        .map(|rank| {
            let batch = Batch::per_rank(batch);
            let sampler = DistributedSampler::new(len, batch, (rank, world)).unwrap();
            match seed {
                Some(seed) => sampler.shuffled(seed).epoch(5).collect(),
                None => sampler.epoch(5).collect(),
            }
        })
        .collect()
}

/// The samples of all ranks in each step, rank after rank.
fn global(ranks: &[Vec<Step>]) -> Vec<Vec<usize>> {
    (0..ranks[0].len())
        .map(|s| ranks.iter().flat_map(|r| r[s].indices.clone()).collect())
        .collect()
}

proptest! {
    #[test]
    fn every_sample_once_in_even_parts_and_equal_steps(
        len in 1..500_usize,
        batch in 1..20_usize,
        world in 1..12_usize,
        seed in proptest::option::of(any::<u64>()),
    ) {
        let ranks = ranks(len, batch, world, seed);
        let steps = len.div_ceil(world * batch);
        prop_assert!(ranks.iter().all(|steps_of| steps_of.len() == steps));

        let mut seen = global(&ranks).concat();
        seen.sort_unstable();
        prop_assert_eq!(seen, (0..len).collect::<Vec<_>>());

        for step in 0..steps {
            let counts: Vec<_> = ranks.iter().map(|r| r[step].indices.len()).collect();
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            prop_assert!(most - least <= 1 && *most <= batch, "{:?}", counts);
            let total: usize = counts.iter().sum();
            prop_assert!(ranks.iter().all(|r| r[step].global_count == total));
            prop_assert!(total == world * batch || step + 1 == steps);
        }
    }

    #[test]
    fn any_world_sees_the_same_global_batches(
        len in 1..500_usize,
        batch in 1..12_usize,
        world in 1..12_usize,
        seed in proptest::option::of(any::<u64>()),
    ) {
        let one_device = global(&ranks(len, world * batch, 1, seed));
        prop_assert_eq!(global(&ranks(len, batch, world, seed)), one_device);
    }

    #[test]
    fn any_step_can_be_asked_for_again(
        len in 1..200_usize,
        world in 1..5_usize,
        skip in 0..60_usize,
        seed: u64,
    ) {
        let rank = (world - 1, world);
        let sampler = DistributedSampler::new(len, Batch::per_rank(3), rank).unwrap();
        let sampler = sampler.shuffled(seed);
        let all: Vec<_> = sampler.epoch(1).collect();
        let resumed: Vec<_> = sampler.epoch(1).skip(skip).collect();
        prop_assert_eq!(&resumed[..], &all[skip.min(all.len())..]);
        prop_assert_eq!(sampler.epoch_from(1, 3 * world * skip).collect::<Vec<_>>(), resumed);
        prop_assert_eq!(sampler.batch(1, skip), all.get(skip).cloned());
        prop_assert_eq!(sampler.epoch(1).len(), sampler.steps());
    }

    #[test]
    fn the_rest_of_an_epoch_is_cut_from_its_first_sample_on(
        len in 1..300_usize,
        first in 0..310_usize,
        (batch, world) in (1..12_usize, 1..9_usize),
        drop_last: bool,
        seed in proptest::option::of(any::<u64>()),
    ) {
        let batch_of_all = batch * world;
        prop_assume!(!drop_last || len >= batch_of_all);
        let (mut parts, mut lens) = (Vec::new(), Vec::new());
        for rank in 0..world {
            let batch = Batch::per_rank(batch);
            let batch = if drop_last { batch.drop_last() } else { batch };
            let mut sampler = DistributedSampler::new(len, batch, (rank, world)).unwrap();
            sampler.seed = seed;
            let rest = sampler.epoch_from(5, first);
            lens.push((rest.len(), sampler.steps_from(first)));
            parts.push(rest.collect::<Vec<_>>());
        }
        let left = len.saturating_sub(first);
        let taken = if drop_last { left / batch_of_all * batch_of_all } else { left };
        let steps = taken.div_ceil(batch_of_all);
        prop_assert!(lens.iter().all(|both| *both == (steps, steps)));
        let whole = global(&ranks(len, len, 1, seed)).concat();
        let rest = &whole[len - left..][..taken];
        for (step, cut) in rest.chunks(batch_of_all).enumerate() {
            let taken: Vec<_> = parts.iter().flat_map(|p| p[step].indices.clone()).collect();
            prop_assert_eq!(&taken[..], cut);
            let number = first.div_ceil(batch_of_all) + step;
            prop_assert!(parts.iter().all(|p| p[step].step == number));
            prop_assert!(parts.iter().all(|p| p[step].global_count == cut.len()));
        }
    }
}

#[test]
fn epochs_and_seeds_have_their_own_order() {
    let sampler = DistributedSampler::new(100, Batch::per_rank(100), (0, 1)).unwrap();
    let order = |seed, epoch| {
        sampler
            .clone()
            .shuffled(seed)
            .batch(epoch, 0)
            .unwrap()
            .indices
    };
    assert_eq!(order(1, 0), order(1, 0));
    assert_ne!(order(1, 0), order(1, 1));
    assert_ne!(order(1, 0), order(2, 0));
    assert_eq!(
        sampler.batch(3, 0).unwrap().indices,
        (0..100).collect::<Vec<_>>()
    );
}

#[test]
fn with_fewer_samples_than_ranks_the_last_ranks_have_none() {
    let counts: Vec<_> = ranks(2, 8, 4, None)
        .iter()
        .map(|r| r[0].indices.len())
        .collect();
    assert_eq!(counts, [1, 1, 0, 0]);
}

#[test]
fn a_batch_beyond_usize_takes_the_whole_dataset() {
    let all = Batch::per_rank(usize::MAX);
    let sampler = DistributedSampler::new(10, all, (1, 2)).unwrap();
    assert_eq!(sampler.steps(), 1);
    assert_eq!(sampler.batch(0, 0).unwrap().indices, [5, 6, 7, 8, 9]);
}

#[test]
fn a_global_batch_is_that_of_one_device_in_any_world() {
    let of = |world| -> Vec<Vec<usize>> {
        let parts = (0..world).map(|rank| {
            let sampler = DistributedSampler::new(29, Batch::global(12).uneven(), (rank, world));
            sampler
                .unwrap()
                .shuffled(3)
                .epoch(1)
                .map(|step| step.indices)
                .collect()
        });
        let parts: Vec<Vec<Vec<usize>>> = parts.collect();
        (0..parts[0].len())
            .map(|step| parts.iter().flat_map(|part| part[step].clone()).collect())
            .collect()
    };
    for world in [2, 3, 5, 7, 13] {
        assert_eq!(of(world), of(1), "{world} ranks");
    }
}

#[test]
fn without_the_last_samples_all_steps_are_full() {
    for (len, world) in [(29, 1), (29, 3), (12, 2), (24, 4)] {
        for rank in 0..world {
            let batch = Batch::global(12).drop_last();
            let sampler = DistributedSampler::new(len, batch, (rank, world)).unwrap();
            let steps: Vec<_> = sampler.epoch(0).collect();
            assert_eq!((steps.len(), sampler.steps()), (len / 12, len / 12));
            assert_eq!(sampler.samples(), len / 12 * 12);
            assert!(steps.iter().all(|step| step.indices.len() == 12 / world));
            assert!(steps.iter().all(|step| step.global_count == 12));
        }
    }
}

#[test]
fn what_makes_no_sense_is_an_error() {
    let message = |len, batch, rank| {
        let sampler = DistributedSampler::new(len, batch, rank);
        sampler.unwrap_err().to_string()
    };
    let two = Batch::per_rank(2);
    for (found, wanted) in [
        (
            message(0, two, (0, 1)),
            "dataset length: expected at least 1 sample, found 0",
        ),
        (
            message(10, Batch::per_rank(0), (0, 1)),
            "batch size: expected at least 1 sample a rank, found 0",
        ),
        (
            message(10, Batch::global(0), (0, 1)),
            "batch size: expected at least 1 sample a step, found 0",
        ),
        (
            message(10, two, (0, 0)),
            "world size: expected at least 1 rank, found 0",
        ),
        (
            message(10, two, (4, 4)),
            "rank: expected less than the world size 4, found 4",
        ),
        (
            message(10, Batch::global(8), (0, 3)),
            "the global batch: expected a number of samples that 3 ranks divide; or \
             Batch::uneven(), with a summed loss, found 8",
        ),
        (
            message(7, Batch::per_rank(4).drop_last(), (1, 2)),
            "dataset length: expected at least the 8 samples of one step, as drop_last is on, \
             found 7",
        ),
    ] {
        assert_eq!(found, wanted);
    }
}
