//! The optimizers beside their formulas in f64 and beside Burn's own.

use super::*;
use burn::module::Param;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{GradientsParams, ModuleOptimizer, Optimizer};
use burn::tensor::{DType, Device, Tensor, TensorData};

const RATE: f64 = 0.01;
const STEPS: usize = 7;

/// Gradient `i` of step `t`: of both signs and several sizes.
fn gradient(step: usize, i: usize) -> f64 {
    let x = (i * 37 + step * 101) % 97;
    f64::from(((x as f32) - 48.0) * 0.02 * if i.is_multiple_of(5) { 1e-3 } else { 1.0 })
}

fn start(i: usize) -> f64 {
    f64::from((i as f32 * 0.7).sin())
}

/// The parameters after some steps of `optimizer`, in a type.
fn run<O: Optimizer>(optimizer: &O, n: usize, dtype: DType) -> Vec<f64> {
    let tensor = |of: &dyn Fn(usize) -> f64| {
        let numbers: Vec<f64> = (0..n).map(of).collect();
        Tensor::<1>::from_data(TensorData::new(numbers, [n]), (&Device::flex(), dtype))
    };
    let (mut parameter, mut state) = (tensor(&start), None);
    for step in 0..STEPS {
        let gradient = tensor(&|i| gradient(step, i));
        (parameter, state) = optimizer.step(RATE, parameter, gradient, state);
    }
    parameter.into_data().iter::<f64>().collect()
}

/// The same by a formula: from time (from 1 on), parameter, gradient and two numbers of state, the parameter.
fn formula(n: usize, step: impl Fn(usize, f64, f64, &mut [f64; 2]) -> f64) -> Vec<f64> {
    let of = |i| {
        let (mut p, mut state) = (start(i), [0.0; 2]);
        for t in 0..STEPS {
            p = step(t + 1, p, gradient(t, i), &mut state);
        }
        p
    };
    (0..n).map(of).collect()
}

fn near(found: &[f64], wanted: &[f64], bound: f64) {
    assert_eq!(found.len(), wanted.len());
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        assert!((found - wanted).abs() <= bound, "{i}: {found} for {wanted}");
    }
}

/// Compares with a formula, in f32 and by Burn's operations in f64, and the bits on several threads.
fn check<O: Optimizer>(optimizer: &O, step: impl Fn(usize, f64, f64, &mut [f64; 2]) -> f64 + Copy) {
    for n in [0, 1, 15, 17, 65, 100_003] {
        near(&run(optimizer, n, DType::F32), &formula(n, step), 1e-6);
    }
    near(&run(optimizer, 65, DType::F64), &formula(65, step), 1e-14);
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build()
            .unwrap()
            .install(|| run(optimizer, 100_003, DType::F32))
    };
    assert!(on(1) == on(2) && on(1) == on(3));
}

#[test]
fn adamw_and_adam_follow_their_formulas() {
    let (b1, b2, decay) = (0.9f64, 0.999f64, 0.1);
    let moments = move |t: usize, gradient: f64, [m, v]: &mut [f64; 2], epsilon: f64| {
        *m = b1 * *m + (1.0 - b1) * gradient;
        *v = b2 * *v + (1.0 - b2) * gradient * gradient;
        let corrected = |x: f64, beta: f64| x / (1.0 - beta.powi(t as i32));
        RATE * corrected(*m, b1) / (corrected(*v, b2).sqrt() + epsilon)
    };
    let adamw = AdamWConfig::new()
        .with_epsilon(1e-8)
        .with_weight_decay(decay);
    check(&adamw.build(), move |t, p, gradient, state| {
        p * (1.0 - RATE * decay) - moments(t, gradient, state, 1e-8)
    });
    // Where a gradient and the penalty cancel, a step divides what is left of the rounding by its own size.
    let adam = AdamConfig::new()
        .with_epsilon(1e-3)
        .with_weight_decay(decay);
    check(&adam.build(), move |t, p, gradient, state| {
        p - moments(t, gradient + decay * p, state, 1e-3)
    });
}

#[test]
fn lion_follows_its_formula() {
    let lion = LionConfig::new().with_weight_decay(0.1);
    check(&lion.build(), |_, p, gradient, [momentum, _]| {
        let direction = 0.9 * *momentum + 0.1 * gradient;
        *momentum = 0.99 * *momentum + 0.01 * gradient;
        let sign = if direction == 0.0 {
            0.0
        } else {
            direction.signum()
        };
        p * (1.0 - RATE * 0.1) - RATE * sign
    });
}

#[test]
fn sgd_follows_its_formula_with_every_option() {
    for (momentum, dampening, nesterov) in [
        (0.0, 0.0, false),
        (0.9, 0.0, false),
        (0.9, 0.1, false),
        (0.9, 0.0, true),
    ] {
        let sgd = SgdConfig::new()
            .with_momentum(momentum)
            .with_dampening(dampening)
            .with_nesterov(nesterov)
            .with_weight_decay(0.1);
        check(&sgd.build(), move |t, p, gradient, [velocity, _]| {
            let gradient = gradient + 0.1 * p;
            let share = if t == 1 { 1.0 } else { 1.0 - dampening };
            *velocity = momentum * *velocity + share * gradient;
            let direction = if nesterov {
                gradient + momentum * *velocity
            } else {
                *velocity
            };
            p - RATE * direction
        });
    }
}

fn model() -> Linear {
    let device = Device::flex().autodiff();
    // One parameter: the order of several in a file is not determined.
    let mut linear = LinearConfig::new(5, 3).with_bias(false).init(&device);
    let weight: Vec<f32> = (0..15).map(|i| start(i) as f32).collect();
    let weight = Tensor::<2>::from_data(TensorData::new(weight, [5, 3]), &device);
    linear.weight = Param::initialized(linear.weight.id, weight.require_grad());
    linear
}

fn train(optimizer: &mut ModuleOptimizer, mut model: Linear, steps: usize) -> Linear {
    for step in 0..steps {
        let x = Tensor::<2>::ones([2, 5], &Device::flex().autodiff()) * (step as f32 - 1.5);
        let gradients = model.forward(x).powi_scalar(2).sum().backward();
        let gradients = GradientsParams::from_grads(gradients, &model);
        model = optimizer.step(RATE, model, gradients);
    }
    model
}

/// A save of either, loaded by the other and saved again, is the same file.
#[test]
fn saves_load_into_burns_optimizers_and_back() {
    let burns_sgd = burn::optim::SgdConfig::new()
        .with_momentum(Some(burn::optim::momentum::MomentumConfig::new()));
    let pairs: [[ModuleOptimizer; 2]; 5] = [
        [
            AdamWConfig::new().init(),
            burn::optim::AdamWConfig::new().init(),
        ],
        [
            AdamConfig::new().init(),
            burn::optim::AdamConfig::new().init(),
        ],
        [
            LionConfig::new().init(),
            burn::optim::LionConfig::new().init(),
        ],
        [SgdConfig::new().with_momentum(0.9).init(), burns_sgd.init()],
        [
            SgdConfig::new().init(),
            burn::optim::SgdConfig::new().init(),
        ],
    ];
    for (which, pair) in pairs.into_iter().enumerate() {
        let [ours, burns] = pair;
        for [mut saver, loader] in [[ours.clone(), burns.clone()], [burns, ours]] {
            train(&mut saver, model(), 3);
            let saved = saver.into_bytes().unwrap();
            let loaded = loader.from_bytes(saved.clone()).unwrap();
            let again = loaded.into_bytes().unwrap();
            assert_eq!(again[..], saved[..], "pair {which}");
        }
    }
}

/// What is computed by Burn's own takes the same options.
#[test]
fn amsgrad_and_cautious_decay_are_burns() {
    let trained =
        |mut optimizer: ModuleOptimizer| train(&mut optimizer, model(), 4).weight.val().into_data();
    let ours = AdamWConfig::new().with_weight_decay(0.1);
    let burns = burn::optim::AdamWConfig::new().with_weight_decay(0.1);
    trained(ours.clone().with_amsgrad(true).init())
        .assert_eq(&trained(burns.clone().with_amsgrad(true).init()), true);
    trained(ours.with_cautious_weight_decay(true).init()).assert_eq(
        &trained(burns.with_cautious_weight_decay(true).init()),
        true,
    );
}

/// A tensor that somebody else holds keeps its values.
#[test]
fn a_parameter_that_is_held_elsewhere_is_not_written() {
    let optimizer = AdamWConfig::new().build();
    let parameter = Tensor::<1>::ones([40], &Device::flex());
    let held = parameter.clone();
    let (stepped, _) = optimizer.step(RATE, parameter, held.clone(), None);
    assert_eq!(held.into_data().iter::<f32>().sum::<f32>(), 40.0);
    assert!(stepped.into_data().iter::<f32>().all(|x| x < 1.0));
    // Nor is what lies beside a view of it.
    let buffer = Tensor::<1>::ones([40], &Device::flex());
    let view = buffer.narrow(0, 3, 7);
    let gradient = view.ones_like();
    let (stepped, _) = optimizer.step(RATE, view, gradient, None);
    assert_eq!(stepped.dims(), [7]);
}

/// A state of another size, as of a save of another model, is not used in part.
#[test]
#[should_panic(expected = "sizes of the first moment and of its parameter")]
fn a_state_of_another_size_is_refused() {
    let zeros = || Tensor::<1>::zeros([50], &Device::flex());
    let state = burn::optim::AdaptiveMomentumState::new(1, zeros(), zeros());
    let state = burn::optim::AdamWState::new(state);
    let parameter = Tensor::<1>::ones([100], &Device::flex());
    let optimizer = AdamWConfig::new().build();
    optimizer.step(RATE, parameter.clone(), parameter, Some(state));
}

#[test]
#[should_panic(expected = "sizes of the gradient and of its parameter")]
fn a_gradient_of_another_size_is_refused() {
    let parameter = Tensor::<1>::ones([100], &Device::flex());
    let gradient = Tensor::<1>::ones([99], &Device::flex());
    SgdConfig::new()
        .build()
        .step(RATE, parameter, gradient, None);
}
