//! Tests of the loader.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

use super::*;

/// Ten samples, of which number 6 may go wrong.
#[derive(Default)]
struct Ten {
    on_six: Option<fn() -> Result<usize>>,
    reads: Arc<AtomicUsize>,
}

impl Dataset for Ten {
    type Item = usize;

    fn len(&self) -> usize {
        10
    }

    fn get(&self, index: usize) -> Result<usize> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        match self.on_six {
            Some(fail) if index == 6 => fail(),
            _ => Ok(index),
        }
    }
}

fn loader(dataset: Ten) -> Loader<Vec<usize>> {
    Loader::replicated(dataset, Batch::per_rank(2), |items, _| items).unwrap()
}

#[test]
fn batches_come_in_the_samplers_order() {
    let sampler = DistributedSampler::new(10, Batch::per_rank(3), (0, 1)).unwrap();
    let sampler = sampler.shuffled(7);
    let expected: Vec<_> = sampler.epoch(4).map(|step| step.indices).collect();
    for workers in [1, 2, 3, 7] {
        let loader = Loader::with_sampler(Ten::default(), sampler.clone(), |items, info| {
            assert_eq!(items, info.indices);
            // The first batches take longest.
            sleep(Duration::from_millis(10 / (1 + info.step as u64)));
            items
        });
        let loader = loader.unwrap().with_workers(workers).unwrap();
        assert_eq!(loader.steps(), 4);
        let all: Result<Vec<_>> = loader.epoch(4).unwrap().collect();
        assert_eq!(all.unwrap(), expected, "{workers} workers");
        let resumed: Result<Vec<_>> = loader.resume(4, 6).unwrap().collect();
        assert_eq!(resumed.unwrap(), expected[2..], "{workers} workers");
        let resumed: Result<Vec<_>> = loader.resume(4, 4).unwrap().collect();
        let (all, resumed) = (expected.concat(), resumed.unwrap());
        assert_eq!(resumed, [&all[4..7], &all[7..]], "{workers} workers");
        assert_eq!(loader.resume(4, 10).unwrap().count(), 0);
        assert_eq!(loader.resume(4, usize::MAX).unwrap().count(), 0);
    }
}

/// Samples that say in which epoch they were read, also through an `Arc`.
struct Epochs;

impl Dataset for Epochs {
    type Item = (usize, u64);

    fn len(&self) -> usize {
        3
    }

    fn get(&self, index: usize) -> Result<(usize, u64)> {
        Ok((index, u64::MAX))
    }

    fn get_in_epoch(&self, index: usize, epoch: u64) -> Result<(usize, u64)> {
        Ok((index, epoch))
    }
}

#[test]
fn a_dataset_that_augments_is_told_the_epoch() {
    let loader = Loader::replicated(Arc::new(Epochs), Batch::per_rank(3), |items, _| items);
    let loader = loader.unwrap();
    for epoch in [0, 7] {
        let batch = loader.epoch(epoch).unwrap().next().unwrap().unwrap();
        assert_eq!(batch, [(0, epoch), (1, epoch), (2, epoch)]);
    }
}

#[test]
fn the_thread_stays_as_many_batches_ahead_as_asked() {
    let ten = Ten::default();
    let reads = ten.reads.clone();
    let mut batches = loader(ten).with_prefetch(2).unwrap().epoch(0).unwrap();
    let settles_at = |count| {
        while reads.load(Ordering::SeqCst) < count {
            sleep(Duration::from_millis(1));
        }
        // Time to read on, if it would.
        sleep(Duration::from_millis(50));
        assert_eq!(reads.load(Ordering::SeqCst), count);
    };
    settles_at(4);
    batches.next();
    settles_at(6);
}

#[test]
fn leaving_early_stops_the_thread() {
    let ten = Ten::default();
    let reads = Arc::downgrade(&ten.reads);
    let loader = loader(ten);
    let mut batches = loader.epoch(0).unwrap();
    assert_eq!(batches.next().unwrap().unwrap(), [0, 1]);
    drop(batches);
    drop(loader);
    // The dataset is gone, so the thread that held it is.
    assert_eq!(reads.strong_count(), 0);
}

/// Batches 0 to 2 arrive, batch 3 is the error, and then the epoch is over: with any number of workers.
fn error_of(on_six: fn() -> Result<usize>) -> String {
    let of = |workers| {
        let ten = Ten {
            on_six: Some(on_six),
            ..Ten::default()
        };
        let loader = loader(ten).with_workers(workers).unwrap();
        let mut batches = loader.epoch(0).unwrap();
        assert_eq!(batches.by_ref().take(3).filter(Result::is_ok).count(), 3);
        let error = batches.next().unwrap().unwrap_err();
        assert!(batches.next().is_none());
        error.to_string()
    };
    assert_eq!(of(1), of(3));
    of(1)
}

#[test]
fn several_workers_work_at_the_same_time() {
    let meeting = Arc::new(std::sync::Barrier::new(3));
    // Each of three batches waits until the others are being made, too.
    let collate = move |items: Vec<usize>, _: &BatchInfo| {
        meeting.wait();
        items
    };
    let six: Vec<usize> = (0..6).collect();
    let loader = Loader::replicated(six, Batch::per_rank(2), collate).unwrap();
    let loader = loader.with_workers(3).unwrap();
    let all: Result<Vec<_>> = loader.epoch(0).unwrap().collect();
    assert_eq!(all.unwrap(), [[0, 1], [2, 3], [4, 5]]);
}

#[test]
fn an_error_or_panic_of_the_dataset_arrives_and_names_the_sample() {
    let torn = || {
        Err(Error::File {
            path: "a.bin".into(),
            expected: "8 bytes".into(),
            found: "7".into(),
        })
    };
    assert_eq!(error_of(torn), "sample 6: a.bin: expected 8 bytes, found 7");
    assert_eq!(
        error_of(|| Dataset::get(&vec![0], 1)),
        "sample 6: expected an item of the dataset, \
         found sample index: expected less than the 1 samples there are, found 1"
    );
    assert_eq!(
        error_of(|| panic!("out of {}", "cheese")),
        "sample 6: expected no panic, found out of cheese"
    );
}

#[test]
fn a_panic_of_the_batch_closure_names_the_step() {
    let loader = Loader::replicated(Ten::default(), Batch::per_rank(2), |_, info| {
        assert!(info.step < 1, "too late");
    });
    let error = loader.unwrap().epoch(3).unwrap().nth(1).unwrap();
    assert_eq!(
        error.unwrap_err().to_string(),
        "batch of epoch 3, step 1: expected no panic, found too late"
    );
}

#[test]
fn a_rank_without_samples_gets_padding_of_weight_zero() {
    // Steps of 4 over 3 ranks, 10 samples: the last step has 1 sample, for rank 0.
    let info = |rank| {
        let sampler = DistributedSampler::new(10, Batch::per_rank(3), (rank, 3)).unwrap();
        let collate = |items, info: &BatchInfo| (items, info.clone());
        let loader = Loader::with_sampler(Ten::default(), sampler, collate);
        let (items, info) = loader.unwrap().epoch(0).unwrap().last().unwrap().unwrap();
        assert_eq!(items, info.indices);
        (info.indices, info.weights, info.count, info.global_count)
    };
    assert_eq!(info(0), (vec![9], vec![1.0], 1, 1));
    assert_eq!(info(1), (vec![0], vec![0.0], 0, 1));
    assert_eq!(info(2), (vec![0], vec![0.0], 0, 1));
}

#[test]
fn what_cannot_work_is_an_error() {
    let sampler = DistributedSampler::new(9, Batch::per_rank(2), (0, 1)).unwrap();
    let error = Loader::with_sampler(Ten::default(), sampler, |_, _| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "data loader: expected a sampler over the dataset's 10 samples, found one over 9"
    );
    let error = loader(Ten::default()).with_prefetch(0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "prefetch: expected at least 1 batch ahead, found 0"
    );
    let error = loader(Ten::default()).with_workers(0).unwrap_err();
    assert_eq!(
        error.to_string(),
        "workers: expected at least 1 thread, found 0"
    );
}
