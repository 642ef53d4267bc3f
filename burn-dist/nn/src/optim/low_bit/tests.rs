//! Moments in few bits beside those in f32, and what comes back from records.

use super::moment::Moment;
use super::*;
use crate::optim::AdamWConfig;
use burn::optim::{ModuleOptimizer, Optimizer, RecordState, StateSink, StateSource};
use burn::tensor::{DType, Device, Tensor, TensorData};

const KINDS: [StateType; 2] = [StateType::Bf16, StateType::Int8];

/// Numbers of both signs and of sizes from 1e-6 to 1.
fn number(i: usize, step: usize) -> f32 {
    ((i * 37 + step * 11) as f32).sin() * 10f32.powi(-((i * 7 + step) as i32 % 7))
}

fn tensor(n: usize, of: impl Fn(usize) -> f32, dtype: DType) -> Tensor<1> {
    let numbers: Vec<f32> = (0..n).map(of).collect();
    let data = TensorData::new(numbers, [n]).convert_dtype(dtype);
    Tensor::from_data(data, (&Device::flex(), dtype))
}

fn run<O: Optimizer>(optimizer: &O, n: usize, steps: usize, dtype: DType) -> Vec<f64> {
    let (mut x, mut state) = (tensor(n, |i| (i as f32 * 0.7).sin(), dtype), None);
    for step in 0..steps {
        let gradient = tensor(n, |i| number(i, step), dtype);
        (x, state) = optimizer.step(0.01, x, gradient, state);
    }
    x.into_data().iter::<f64>().collect()
}

#[test]
fn steps_are_near_those_of_f32() {
    let wide = AdamWConfig::new().with_weight_decay(0.1).build();
    for (kind, bound) in [(StateType::Bf16, 0.002), (StateType::Int8, 0.02)] {
        let config = LowBitAdamWConfig::new(kind).with_weight_decay(0.1);
        for n in [0, 1, 255, 256, 257, 10_000] {
            let (found, wanted) = (
                run(&config.build(), n, 20, DType::F32),
                run(&wide, n, 20, DType::F32),
            );
            let off = found.iter().zip(&wanted).map(|(a, b)| (a - b).abs());
            // Twenty steps of 0.01 go 0.2 far.
            let mean = off.sum::<f64>() / n.max(1) as f64;
            assert!(mean <= bound, "{kind}, {n}: {mean}");
        }
        let double = run(&config.build(), 300, 20, DType::F64);
        let single = run(&config.build(), 300, 20, DType::F32);
        let pairs = double.iter().zip(&single);
        let off = pairs.map(|(a, b)| (a - b).abs()).sum::<f64>() / 300.0;
        assert!(off < 1e-3, "{kind} of f64: {off}");
    }
}

#[test]
fn threads_do_not_change_bits() {
    for kind in KINDS {
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let run = || {
                run(
                    &LowBitAdamWConfig::new(kind).build(),
                    100_003,
                    3,
                    DType::F32,
                )
            };
            pool.build().unwrap().install(run)
        };
        assert!(on(1) == on(2) && on(1) == on(3), "{kind}");
    }
}

#[test]
fn a_moment_comes_back_from_its_numbers_to_the_bit() {
    for kind in KINDS {
        for scale in [1.0, 1e-20, 1e-29, 1e-33, 1e20] {
            for is_signed in [true, false] {
                let sign = |x: f32| if is_signed { x } else { x * x };
                let numbers: Vec<f32> = (0..1000).map(|i| sign(number(i, 0)) * scale).collect();
                let once = Moment::of(kind, &numbers, is_signed);
                let again = Moment::of(kind, &once.numbers(), is_signed);
                assert_eq!(format!("{once:?}"), format!("{again:?}"), "{kind}, {scale}");
            }
        }
    }
}

#[test]
fn a_second_moment_above_0_stays_above_0() {
    let mut numbers = vec![1e-20f32; 256];
    numbers[0] = 1.0;
    let found = Moment::of(StateType::Int8, &numbers, false).numbers();
    assert!(found.iter().all(|x| *x > 0.0), "{found:?}");
}

#[test]
fn what_is_no_number_shows() {
    for kind in KINDS {
        for odd in [f32::NAN, f32::INFINITY] {
            let mut numbers = vec![1.0f32; 300];
            numbers[270] = odd;
            let found = Moment::of(kind, &numbers, true).numbers();
            assert!(found.iter().any(|x| !x.is_finite()), "{kind} of {odd}");
            assert!(found[..256].iter().all(|x| x.is_finite()), "{kind}");
        }
    }
}

#[test]
fn records_are_those_of_adamw() {
    for kind in KINDS {
        let adamw = LowBitAdamWConfig::new(kind).build();
        let gradient = |step| tensor(700, |i| number(i, step), DType::F32);
        let (x, state) = adamw.step(0.01, gradient(9), gradient(0), None);
        let state = state.unwrap();
        let mut sink = StateSink::default();
        state.state_flatten("p", &mut sink);
        let names: Vec<_> = sink.tensors.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["p.momentum.moment_1", "p.momentum.moment_2"]);
        let mut source = StateSource::new(sink.scalars.into_iter().collect());
        for (name, data) in sink.tensors {
            source.insert_tensor(name, data);
        }
        let read = LowBitState::<1>::state_unflatten("p", &mut source, &Device::flex());
        let next = |state| {
            adamw
                .step(0.01, x.clone(), gradient(1), state)
                .0
                .into_data()
        };
        assert_eq!(next(Some(state)), next(read), "{kind}");
    }
    let _: ModuleOptimizer = LowBitAdamWConfig::new(StateType::Bf16).init();
}

/// A step keeps 0.999 of the second moment, which is nearer to 1 than bf16 can say.
#[test]
fn second_moments_fall_as_slowly_as_they_should() {
    for kind in KINDS {
        let adamw = LowBitAdamWConfig::new(kind).build();
        let n = 1000;
        let ones = tensor(n, |i| 1.0 + i as f32 / 1000.0, DType::F32);
        let (mut x, mut state) = adamw.step(0.01, ones.clone(), ones.clone(), None);
        for _ in 0..1000 {
            (x, state) = adamw.step(0.01, x, ones.zeros_like(), state);
        }
        let mut sink = StateSink::default();
        state.unwrap().state_flatten("p", &mut sink);
        let second = sink.tensors.pop().unwrap().1;
        let wanted = ones.into_data();
        let wanted = wanted
            .iter::<f32>()
            .map(|g| 1e-3 * g * g * 0.999f32.powi(1000));
        let (found, wanted): (f32, f32) = (second.iter::<f32>().sum(), wanted.sum());
        assert!(
            (found / wanted - 1.0).abs() < 0.02,
            "{kind}: {found} for {wanted}"
        );
    }
}
