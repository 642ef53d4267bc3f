//! Every operation beside Burn's composition in f64: values and all gradients, at odd sizes; its bits on
//! several threads; and what it makes of what is no number.

mod half;
mod operations;
mod special;
mod tape;

use burn::tensor::{Device, Distribution, FloatDType, Gradients, Tensor, TensorData};

/// The device, with a tape.
fn device() -> Device {
    Device::flex().autodiff()
}

/// Numbers of a normal distribution, the same each time.
fn normal<const D: usize>(shape: [usize; D], seed: u64) -> Vec<f32> {
    use rand::SeedableRng;
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let distribution = Distribution::Normal(0.0, 1.0);
    let data = TensorData::random::<f32, _, _>(shape, distribution, &mut rng);
    data.try_to_vec().unwrap()
}

/// A leaf of these numbers in a type.
fn leaf<const D: usize>(numbers: &[f32], shape: [usize; D], dtype: FloatDType) -> Tensor<D> {
    let data = TensorData::new(numbers.to_vec(), shape);
    let tensor = Tensor::<D>::from_data(data, &Device::flex()).cast(dtype);
    Tensor::from_inner(tensor).require_grad()
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

/// A scalar all of whose derivatives by `y` differ.
fn weighted<const D: usize>(y: Tensor<D>) -> Tensor<1> {
    let shape = y.dims();
    let weights = normal(shape, 99);
    let dtype: FloatDType = y.dtype().into();
    let weights = Tensor::<D>::from_data(TensorData::new(weights, shape), &Device::flex());
    (y * Tensor::from_inner(weights.cast(dtype))).sum()
}

fn gradient<const D: usize>(of: &Tensor<D>, gradients: &Gradients) -> Vec<f64> {
    numbers(of.grad(gradients).unwrap())
}

/// Compares what `run` makes of f32 with what it makes of f64: each vector within `bound` of its largest.
fn beside_f64(bound: f64, run: impl Fn(FloatDType) -> Vec<Vec<f64>>) {
    let (found, exact) = (run(FloatDType::F32), run(FloatDType::F64));
    assert_eq!(found.len(), exact.len());
    for (which, (found, exact)) in found.iter().zip(&exact).enumerate() {
        assert_eq!(found.len(), exact.len());
        let largest = exact.iter().fold(1e-30f64, |max, x| max.max(x.abs()));
        for (at, (found, exact)) in found.iter().zip(exact).enumerate() {
            let error = (found - exact).abs() / largest;
            assert!(
                error <= bound,
                "vector {which}, element {at}: {found} for {exact}, {error:e} of the largest"
            );
        }
    }
}

/// Whether `run` gives the same bits on 1, 2 and 3 threads, and again.
fn same_on_all_threads(run: impl Fn(FloatDType) -> Vec<Vec<f64>> + Sync) {
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| run(FloatDType::F32))
    };
    let bits = |found: Vec<Vec<f64>>| -> Vec<Vec<u64>> {
        let bits = |row: Vec<f64>| row.into_iter().map(f64::to_bits).collect();
        found.into_iter().map(bits).collect()
    };
    let one = bits(on(1));
    for threads in [2, 3, 1] {
        assert!(bits(on(threads)) == one, "{threads} threads");
    }
}
