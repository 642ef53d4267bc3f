//! Detection of NCCL and GPUs, and worlds in which a rank lacks them.

use crate::memory::buffer;
use crate::mock;
use crate::ranks::{FAR, NEAR, fail, options, succeed};
use burn_dist::comm::nccl::{Choice, Nccl, Options};
use burn_dist::comm::{Communicator, Engine, Order, Recorder, Reduce, local};
use burn_dist::{Error, Result};
use std::sync::Arc;
use std::time::Instant;

/// Makes the engines of `size` ranks, each after `prepare`, which gives the number of its GPU.
fn choose(size: usize, prepare: impl Fn(usize) -> usize + Sync) -> Vec<Result<Choice>> {
    std::thread::scope(|scope| {
        let prepare = &prepare;
        let rank = |engine: local::Local| {
            scope.spawn(move || {
                let ordinal = prepare(engine.rank());
                let options = options(Order::Device, FAR);
                Nccl::if_everywhere(Arc::new(engine), ordinal, options)
            })
        };
        let engines = local::ranks(size, 1, FAR).into_iter();
        let running: Vec<_> = engines.map(rank).collect();
        running.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

/// Asserts that the error of every rank says that rank `peer` lacks what `words` name, and that the host's engine
/// still works.
fn goes_through_the_host(
    size: usize,
    prepare: impl Fn(usize) -> usize + Sync,
    peer: usize,
    words: &str,
) {
    std::thread::scope(|scope| {
        for choice in choose(size, prepare) {
            let Ok(Choice::Host { host, reason }) = choice else {
                panic!("{choice:?}")
            };
            let is_named = matches!(&reason, Error::PeerFailed { peer: p, .. } if *p == peer);
            assert!(is_named && reason.to_string().contains(words), "{reason}");
            scope.spawn(move || {
                let comm = Communicator::of(host, Recorder::default());
                assert!(comm.on_device().is_none());
                comm.barrier(&"on".into()).unwrap();
            });
        }
    });
}

fn is_missing(words: &[&str]) {
    let error = Nccl::available().unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "{error}");
    }
    println!("- {error}");
    goes_through_the_host(3, |rank| rank, 0, words[0]);
    let mut engines = local::ranks(1, 1, FAR);
    let alone = Nccl::new(Arc::new(engines.remove(0)), 0, Options::default());
    assert!(alone.unwrap_err().to_string().contains(words[0]));
}

pub(crate) fn no_driver() {
    is_missing(&["libcuda.so.1", "NVIDIA's driver"]);
}

pub(crate) fn no_nccl() {
    is_missing(&["libnccl.so.2", "BURN_DIST_NCCL_LIB"]);
}

pub(crate) fn lacks_abort() {
    is_missing(&["ncclCommAbort", "update it"]);
}

pub(crate) fn no_device() {
    mock::set("no_device", None, 1);
    is_missing(&["cuInit returned CUDA_ERROR_NO_DEVICE (100)"]);
    mock::assert_clean();
}

pub(crate) fn is_there() {
    let info = Nccl::available().unwrap();
    assert_eq!(info.version.to_string(), "9.99.99");
    assert_eq!(
        (info.gpus, info.cuda, info.orders_on_device),
        (128, 13_000, true)
    );
    println!("- {info:?}");
    orders(Order::Device);
}

pub(crate) fn orders_on_the_host() {
    assert!(!Nccl::available().unwrap().orders_on_device);
    orders(Order::Host);
}

/// With the device's order requested, the ranks use `expected`.
fn orders(expected: Order) {
    succeed(2, Order::Device, |rank| {
        assert_eq!(rank.device().order(), expected);
        let sum = buffer::<f32>(3);
        rank.device()
            .all_reduce(&"sum".into(), Reduce::Sum, &sum)?
            .wait()
    });
}

pub(crate) fn one_rank_lacks_it() {
    let old = |rank: usize| {
        if rank == 2 {
            mock::version(21_500);
        }
        rank
    };
    goes_through_the_host(3, old, 2, "expected version 2.18.0 or newer, found 2.15.0");
    let no_such_gpu = |rank: usize| if rank == 1 { 128 } else { rank };
    goes_through_the_host(4, no_such_gpu, 1, "a number below 128");
    mock::assert_clean();
}

/// Ranks on one GPU, which NCCL refuses unless it is asked.
pub(crate) fn one_gpu_for_two() {
    let third_on_first = |rank: usize| if rank == 2 { 0 } else { rank };
    for choice in choose(3, third_on_first) {
        let Ok(Choice::Host { reason, .. }) = choice else {
            panic!("{choice:?}")
        };
        let text = reason.to_string();
        assert!(text.contains("GPUs of ranks 0 and 2"), "{text}");
        assert!(text.contains("NCCL_MULTI_RANK_GPU_ENABLE=1"), "{text}");
    }
    mock::assert_clean();
}

/// The same where it is asked.
pub(crate) fn one_gpu_shared() {
    let third_on_first = |rank: usize| if rank == 2 { 0 } else { rank };
    for choice in choose(3, third_on_first) {
        let Ok(Choice::Nccl(nccl)) = choice else {
            panic!("{choice:?}")
        };
        // A wait for the device would wait for the other rank's work too.
        assert_eq!(nccl.device().map(|d| d.order()), Some(Order::Host));
    }
    let old = |rank: usize| {
        mock::version(22_900);
        third_on_first(rank)
    };
    for choice in choose(3, old) {
        assert!(matches!(choice, Ok(Choice::Host { .. })), "{choice:?}");
    }
    mock::assert_clean();
}

pub(crate) fn unequal_versions() {
    let other = |rank: usize| {
        if rank == 1 {
            mock::version(23_000);
        }
        rank
    };
    for choice in choose(3, other) {
        let error = choice.unwrap_err();
        let is_named = matches!(
            error,
            Error::Mismatch {
                rank: 0,
                peer: 1,
                ..
            }
        );
        let text = error.to_string();
        assert!(
            is_named && text.contains("NCCL 2.30.0") && text.contains("NCCL 9.99.99"),
            "{text}"
        );
    }
    mock::assert_clean();
}

/// The real NCCL without a GPU: its own error, on every rank.
pub(crate) fn the_real_library() {
    let info = Nccl::available().unwrap();
    assert_ne!(info.version.to_string(), "9.99.99");
    println!("- {info:?}");
    let since = Instant::now();
    let error = fail(2, FAR, options(Order::Host, FAR), |rank| {
        let sum = buffer::<f32>(3);
        rank.device()
            .all_reduce(&"sum".into(), Reduce::Sum, &sum)?
            .wait()
    });
    assert!(since.elapsed() < FAR / 4 + NEAR);
    println!("- {error}");
    assert!(error.to_string().contains("nccl"), "{error}");
}
