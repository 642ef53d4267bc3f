//! AdamW with moments in few bits.

use super::StateType;
use super::moment::Moment;
use crate::flex::{contiguous, from_flex, into_flex, is_plain, owned, same_shape, slice};
use crate::optim::moments::{self, Decay, Options, Step};
use crate::simd;
use burn::config::Config;
use burn::optim::{
    AdaptiveMomentumState, LearningRate, ModuleOptimizer, Optimizer, RecordState, StateSink,
    StateSource, join_path,
};
use burn::tensor::{DType, Device, Tensor, TensorData};
use rayon::prelude::*;
use std::sync::Arc;

/// Blocks that a thread steps at once: 8192 numbers.
const TOGETHER: usize = 32;

/// The name under which Burn's AdamW records its moments.
const MOMENTUM: &str = "momentum";

/// The options of [`LowBitAdamW`]: the type of its states, and those of AdamW with the same defaults.
#[derive(Config, Debug)]
pub struct LowBitAdamWConfig {
    /// The type in which the moments are kept.
    pub states: StateType,
    /// How much of the mean of gradients a step keeps.
    #[config(default = 0.9)]
    pub beta_1: f64,
    /// How much of the mean of squared gradients a step keeps.
    #[config(default = 0.999)]
    pub beta_2: f64,
    /// Added to the root of the second moment.
    #[config(default = 1e-5)]
    pub epsilon: f64,
    /// How much a weight decays in a step, times the learning rate.
    #[config(default = 1e-4)]
    pub weight_decay: f64,
}

/// AdamW that keeps its moments as bf16, or in eight bits block by block.
///
/// A step is that of [`AdamW`](crate::optim::AdamW) in f32, block by block: moments are read from their bits, stepped with
/// the parameter, and rounded again. Parameters stay as they are. A block has a scale of its own, its largest magnitude,
/// and is counted from the start of a parameter, so a model is sharded at multiples of [`StateType::BLOCK`] for it; then a
/// step has the same bits whatever the shards. Second moments above 0 are never rounded to 0. To bf16
/// a step rounds by chance, up or down, as the second moment changes by less than bf16 can say; what is drawn follows from
/// the number itself and the time.
///
/// # Cost
/// 4 bytes a parameter for bf16 and 2.03 for int8, where f32 has 8. States are in the memory of the process: for a
/// parameter on a GPU they go there and back in every step. A record is that of AdamW, in f32, so that a save made with
/// either loads into the other (with `load_record`, which changes an optimizer on purpose); the first step after it
/// rounds to the same bits again.
///
/// ```
/// use burn::optim::Optimizer;
/// use burn::tensor::{Device, Tensor};
/// use burn_dist_nn::optim::{LowBitAdamWConfig, StateType};
///
/// let adamw = LowBitAdamWConfig::new(StateType::Int8).build();
/// let x = Tensor::<1>::ones([300], &Device::flex());
/// let (x, state) = adamw.step(0.1, x.clone(), x * 3.0, None);
/// assert!((x.into_data().iter::<f32>().next().unwrap() - 0.9).abs() < 1e-3);
/// assert_eq!(state.map(|state| state.bytes()), Some(2 * (300 + 4 * 2)));
/// ```
///
/// # Source
/// Dettmers et al., *8-bit Optimizers via Block-wise Quantization*, 2022, <https://arxiv.org/abs/2110.02861>;
/// bitsandbytes: `AdamW8bit`; torchao: `AdamW8bit`.
#[derive(Clone, Debug)]
pub struct LowBitAdamW {
    options: LowBitAdamWConfig,
}

impl LowBitAdamWConfig {
    /// The optimizer for tensors, as [`ModuleOptimizer::with_group`] takes it.
    pub fn build(&self) -> LowBitAdamW {
        LowBitAdamW {
            options: self.clone(),
        }
    }

    /// The optimizer for a module.
    pub fn init(&self) -> ModuleOptimizer {
        self.build().into()
    }
}

/// The state that [`LowBitAdamW`] keeps of a parameter.
#[derive(Clone, Debug)]
pub struct LowBitState<const D: usize> {
    time: usize,
    shape: [usize; D],
    moment_1: Moment,
    moment_2: Moment,
}

impl<const D: usize> LowBitState<D> {
    /// Bytes of both moments.
    pub fn bytes(&self) -> usize {
        self.moment_1.bytes() + self.moment_2.bytes()
    }

    /// A moment as f32, on a device and in a type.
    fn tensor(&self, moment: &Moment, device: &Device, dtype: DType) -> Tensor<D> {
        let data = TensorData::new(moment.numbers(), self.shape).convert_dtype(dtype);
        Tensor::from_data(data, (device, dtype))
    }
}

impl<const D: usize> RecordState for LowBitState<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        let prefix = join_path(prefix, MOMENTUM);
        for (name, moment) in [("moment_1", &self.moment_1), ("moment_2", &self.moment_2)] {
            out.push_tensor(&prefix, name, TensorData::new(moment.numbers(), self.shape));
        }
        out.push_scalar(&prefix, "time", self.time.into());
    }

    fn state_unflatten(prefix: &str, src: &mut StateSource, _: &Device) -> Option<Self> {
        let prefix = join_path(prefix, MOMENTUM);
        let time = usize::try_from(src.take_scalar(&prefix, "time")?).ok()?;
        let mut moment = |name: &str| {
            let data = src.take_tensor(&prefix, name)?;
            let shape: [usize; D] = data.shape().to_vec().try_into().ok()?;
            let numbers: Vec<f32> = data.convert::<f32>().try_to_vec().ok()?;
            Some((shape, Moment::Wide(Arc::new(numbers))))
        };
        let ((shape, moment_1), (_, moment_2)) = (moment("moment_1")?, moment("moment_2")?);
        Some(Self {
            time,
            shape,
            moment_1,
            moment_2,
        })
    }
}

impl LowBitAdamW {
    fn moments(&self, rate: f64) -> Options {
        let options = &self.options;
        Options {
            rate,
            beta_1: options.beta_1,
            beta_2: options.beta_2,
            epsilon: options.epsilon,
            decay: Decay::Decoupled(options.weight_decay),
        }
    }

    /// The step of a parameter in another type or on another device, of Burn's operations.
    fn composed<const D: usize>(
        &self,
        rate: f64,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: LowBitState<D>,
    ) -> (Tensor<D>, LowBitState<D>) {
        let (device, dtype) = (tensor.device(), tensor.dtype());
        let [moment_1, moment_2] =
            [&state.moment_1, &state.moment_2].map(|moment| state.tensor(moment, &device, dtype));
        let wide = AdaptiveMomentumState::new(state.time, moment_1, moment_2);
        let (tensor, wide) = moments::step(&self.moments(rate), tensor, grad, Some(wide));
        let kind = self.options.states;
        let narrow = |moment: Tensor<D>, is_signed: bool| {
            let numbers: Vec<f32> = moment.into_data().iter::<f32>().collect();
            Moment::stepped(kind, &numbers, is_signed, wide.time)
        };
        let state = LowBitState {
            time: wide.time,
            shape: state.shape,
            moment_1: narrow(wide.moment_1, true),
            moment_2: narrow(wide.moment_2, false),
        };
        (tensor, state)
    }
}

impl Optimizer for LowBitAdamW {
    type State<const D: usize> = LowBitState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<LowBitState<D>>,
    ) -> (Tensor<D>, Option<LowBitState<D>>) {
        same_shape(&tensor, [("gradient", Some(&grad)), ("", None), ("", None)]);
        let (shape, kind) = (tensor.dims(), self.options.states);
        let len = shape.iter().product();
        let mut state = state.unwrap_or_else(|| LowBitState {
            time: 0,
            shape,
            moment_1: Moment::zeros(kind, len, true),
            moment_2: Moment::zeros(kind, len, false),
        });
        state.moment_1 = state.moment_1.into_type(kind, true);
        state.moment_2 = state.moment_2.into_type(kind, false);
        assert_eq!(
            state.shape, shape,
            "sizes of the state and of its parameter"
        );
        if ![&tensor, &grad].into_iter().all(is_plain) {
            let (tensor, state) = self.composed(lr, tensor, grad, state);
            return (tensor, Some(state));
        }
        state.time += 1;
        let factors = moments::Factors::new(&self.moments(lr), state.time);
        let time = Some(state.time);
        let grad = contiguous(into_flex(grad));
        let mut tensor = owned(into_flex(tensor));
        let parts = state.moment_1.parts(TOGETHER).into_iter();
        let parts = parts.zip(state.moment_2.parts(TOGETHER));
        let parts: Vec<_> = parts.collect();
        let elements = TOGETHER * StateType::BLOCK;
        let values = tensor.storage_mut().par_chunks_mut(elements);
        let values = values.zip(slice(&grad).par_chunks(elements));
        let all = values.zip(parts.into_par_iter());
        all.for_each(|((parameters, gradients), (mut first, mut second))| {
            let mut wide = [[0f32; StateType::BLOCK]; 2];
            let blocks = parameters.chunks_mut(StateType::BLOCK);
            let blocks = blocks.zip(gradients.chunks(StateType::BLOCK));
            for (at, (parameter, gradient)) in blocks.enumerate() {
                let [moment_1, moment_2] =
                    wide.each_mut().map(|moment| &mut moment[..parameter.len()]);
                first.read(at, moment_1);
                second.read(at, moment_2);
                simd::run(Step {
                    parameter,
                    gradient,
                    moment_1: &mut *moment_1,
                    moment_2: &mut *moment_2,
                    factors,
                });
                first.write(at, moment_1, time);
                second.write(at, moment_2, time);
            }
        });
        (from_flex(tensor), Some(state))
    }

    fn to_device<const D: usize>(state: LowBitState<D>, _: &Device) -> LowBitState<D> {
        state
    }
}
