//! How many operations per second a device can do, measured with a matrix product.

use burn::tensor::{DType, Tensor};
use burn_dist::{Precision, Result, World};
use std::time::{Duration, Instant};

/// Rows and columns of the product: enough for a CPU's and a GPU's best kernel.
const SIDE: usize = 1024;

/// How long is measured.
const FOR: Duration = Duration::from_millis(200);

/// Operations per second of this rank's device in the type that a precision computes in: the best of several products,
/// while all ranks do the same. Takes about a quarter of a second. Collective.
///
/// # Errors
/// What a collective returns.
pub(super) fn peak_flops(world: &World, precision: Precision) -> Result<f64> {
    let device = world.device().inner();
    let dtype = match precision {
        p if p.is_full() => DType::F32,
        p if p == Precision::f16() => DType::F16,
        _ => DType::BF16,
    };
    // Nothing is drawn: the run's random numbers stay what they are.
    let filled = || Tensor::<2>::ones([SIDE, SIDE], &device).cast(dtype);
    let (a, b) = (filled(), filled());
    let product = || {
        let start = Instant::now();
        // Reading one element waits for the whole product.
        drop(a.clone().matmul(b.clone()).slice([0..1, 0..1]).into_data());
        start.elapsed().as_secs_f64()
    };
    product();
    world.comm().barrier(&"peak".into())?;
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < FOR {
        best = best.min(product());
    }
    let flops = 2.0 * (SIDE as f64).powi(3) / best;
    // What the slowest can do is what all can.
    world.min(flops)
}
