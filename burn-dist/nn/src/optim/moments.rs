//! The step that Adam and AdamW share.

use crate::flex::{contiguous, from_flex, into_flex, is_plain, owned, same_shape, slice};
use crate::rows::block;
use crate::simd::{self, Kernel, MulAdd};
use burn::optim::AdaptiveMomentumState;
use burn::tensor::Tensor;
use rayon::prelude::*;

/// The options of one step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    pub(super) rate: f64,
    pub(super) beta_1: f64,
    pub(super) beta_2: f64,
    pub(super) epsilon: f64,
    pub(super) decay: Decay,
}

/// How weights decay.
#[derive(Debug, Clone, Copy)]
pub(super) enum Decay {
    /// By this times the learning rate, apart from the gradient (AdamW).
    Decoupled(f64),
    /// By this, added to the gradient (Adam).
    L2(f64),
}

/// What a step multiplies with, besides the options.
#[derive(Debug, Clone, Copy)]
struct Exact {
    /// 1 - beta_1
    first: f64,
    /// 1 - beta_2
    second: f64,
    /// The learning rate over the first moment's bias correction.
    rate: f64,
    /// One over the square root of the second moment's bias correction.
    scale: f64,
    /// What is left of a decoupled weight.
    kept: f64,
    /// What is added of a weight to its gradient.
    penalty: f64,
}

impl Exact {
    fn new(options: &Options, time: usize) -> Self {
        let power = |beta: f64| beta.powi(time.try_into().unwrap_or(i32::MAX));
        let (kept, penalty) = match options.decay {
            Decay::Decoupled(decay) => (1.0 - options.rate * decay, 0.0),
            Decay::L2(decay) => (1.0, decay),
        };
        Self {
            first: 1.0 - options.beta_1,
            second: 1.0 - options.beta_2,
            rate: options.rate / (1.0 - power(options.beta_1)),
            scale: 1.0 / (1.0 - power(options.beta_2)).sqrt(),
            kept,
            penalty,
        }
    }
}

/// The same and the options, each rounded once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Factors {
    first: f32,
    beta_2: f32,
    second: f32,
    rate: f32,
    scale: f32,
    epsilon: f32,
    kept: f32,
    penalty: f32,
}

impl Factors {
    pub(super) fn new(options: &Options, time: usize) -> Self {
        let exact = Exact::new(options, time);
        Self {
            first: exact.first as f32,
            beta_2: options.beta_2 as f32,
            second: exact.second as f32,
            rate: exact.rate as f32,
            scale: exact.scale as f32,
            epsilon: options.epsilon as f32,
            kept: exact.kept as f32,
            penalty: exact.penalty as f32,
        }
    }
}

/// The step of some elements.
pub(super) struct Step<'a> {
    pub(super) parameter: &'a mut [f32],
    pub(super) gradient: &'a [f32],
    pub(super) moment_1: &'a mut [f32],
    pub(super) moment_2: &'a mut [f32],
    pub(super) factors: Factors,
}

impl Kernel for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn run<M: MulAdd>(self) {
        let f = self.factors;
        let moments = self.moment_1.iter_mut().zip(self.moment_2);
        let values = self.parameter.iter_mut().zip(self.gradient);
        for ((p, &gradient), (moment_1, moment_2)) in values.zip(moments) {
            let gradient = M::mul_add(f.penalty, *p, gradient);
            *moment_1 = M::mul_add(f.first, gradient - *moment_1, *moment_1);
            *moment_2 = M::mul_add(f.second * gradient, gradient, f.beta_2 * *moment_2);
            let deviation = M::mul_add(moment_2.sqrt(), f.scale, f.epsilon);
            *p = M::mul_add(*p, f.kept, -(f.rate * *moment_1 / deviation));
        }
    }
}

/// The parameter after a step, and its state.
///
/// On f32 in the memory of the process it is one pass, and storage that nobody else holds is written in place.
pub(super) fn step<const D: usize>(
    options: &Options,
    parameter: Tensor<D>,
    gradient: Tensor<D>,
    state: Option<AdaptiveMomentumState<D>>,
) -> (Tensor<D>, AdaptiveMomentumState<D>) {
    let state = state.unwrap_or_else(|| {
        AdaptiveMomentumState::new(0, gradient.zeros_like(), gradient.zeros_like())
    });
    let moments = [&state.moment_1, &state.moment_2];
    same_shape(
        &parameter,
        [
            ("gradient", Some(&gradient)),
            ("first moment", Some(moments[0])),
            ("second moment", Some(moments[1])),
        ],
    );
    let inputs = [&parameter, &gradient, moments[0], moments[1]];
    if !inputs.into_iter().all(is_plain) {
        return composed(options, parameter, gradient, state);
    }
    let time = state.time + 1;
    let gradient = contiguous(into_flex(gradient));
    let [mut parameter, mut moment_1, mut moment_2] =
        [parameter, state.moment_1, state.moment_2].map(|tensor| owned(into_flex(tensor)));
    let factors = Factors::new(options, time);
    let elements = block(4);
    let parameters = parameter.storage_mut().par_chunks_mut(elements);
    let blocks = parameters.zip(slice(&gradient).par_chunks(elements));
    let blocks = blocks.zip(moment_1.storage_mut().par_chunks_mut(elements));
    let blocks = blocks.zip(moment_2.storage_mut().par_chunks_mut(elements));
    blocks.for_each(|(((parameter, gradient), moment_1), moment_2)| {
        simd::run(Step {
            parameter,
            gradient,
            moment_1,
            moment_2,
            factors,
        });
    });
    let [parameter, moment_1, moment_2] = [parameter, moment_1, moment_2].map(from_flex);
    let state = AdaptiveMomentumState::new(time, moment_1, moment_2);
    (parameter, state)
}

/// The same of Burn's operations, in any type and on any device.
fn composed<const D: usize>(
    options: &Options,
    parameter: Tensor<D>,
    gradient: Tensor<D>,
    state: AdaptiveMomentumState<D>,
) -> (Tensor<D>, AdaptiveMomentumState<D>) {
    let time = state.time + 1;
    let f = Exact::new(options, time);
    let gradient = if f.penalty == 0.0 {
        gradient
    } else {
        parameter.clone().mul_scalar(f.penalty) + gradient
    };
    let moment_1 = state.moment_1.mul_scalar(options.beta_1) + gradient.clone().mul_scalar(f.first);
    let squares = gradient.square().mul_scalar(f.second);
    let moment_2 = state.moment_2.mul_scalar(options.beta_2) + squares;
    let deviation = moment_2
        .clone()
        .sqrt()
        .mul_scalar(f.scale)
        .add_scalar(options.epsilon);
    let step = (moment_1.clone() / deviation).mul_scalar(f.rate);
    let parameter = parameter.mul_scalar(f.kept) - step;
    let state = AdaptiveMomentumState::new(time, moment_1, moment_2);
    (parameter, state)
}
