//! What a model's training step returns: [`output`] in the place of `TrainOutput::new`.
//!
//! `TrainStep::step` runs the backward pass itself, and nothing but its result leaves it. A sharded model's
//! backward pass belongs to the strategy: it knows the samples of the other ranks, the loss scale, and which
//! pass is the last of the step. So [`output`] leaves the loss in a thread-local where a strategy waits for
//! it, and is Burn's own line where none does.

use crate::raise::{catch_raised, raise};
use crate::rank_output::RankOutput;
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use burn_dist::{Error, Result};
use burn_train::TrainOutput;
use std::cell::RefCell;

thread_local! {
    /// The training step that this thread runs for a sharded strategy.
    static STEP: RefCell<Step> = const { RefCell::new(Step::None) };
}

enum Step {
    /// None: Burn's own strategies, or a program's own loop.
    None,
    /// Its loss is awaited.
    Waiting,
    /// It has a loss.
    Given(Box<StepLoss>),
}

/// The loss of one training step of this rank.
pub(crate) struct StepLoss {
    /// The mean.
    pub(crate) loss: Tensor<1>,
    /// The number of samples, or of whatever else the sum was divided by.
    pub(crate) weight: f64,
}

/// The output of a training step whose `loss` is the mean over the samples of `item`.
///
/// Write it in the place of `TrainOutput::new(self, loss.backward(), item)`. Under [`Sharded`] the strategy
/// runs the backward pass, on every rank's loss in the share of its samples, so that the gradients are
/// those of the mean over the samples of all ranks. Under Burn's own strategies this is Burn's line, to the
/// bit.
///
/// # Errors
/// Leaves the step with [`Error::Config`], which [`Launch::run`] returns, if it is called twice in a step of
/// a sharded model.
///
/// ```
/// use burn::module::Module;
/// use burn::nn::{Linear, LinearConfig, loss::{MseLoss, Reduction}};
/// use burn::tensor::{Device, Tensor};
/// use burn_train::{InferenceStep, RegressionOutput, TrainOutput, TrainStep};
///
/// #[derive(Module, Debug)]
/// struct Model {
///     linear: Linear,
/// }
///
/// impl InferenceStep for Model {
///     type Input = (Tensor<2>, Tensor<2>);
///     type Output = RegressionOutput;
///
///     fn step(&self, (x, y): Self::Input) -> RegressionOutput {
///         let output = self.linear.forward(x);
///         let loss = MseLoss::new().forward(output.clone(), y.clone(), Reduction::Mean);
///         RegressionOutput::new(loss, output, y)
///     }
/// }
///
/// impl TrainStep for Model {
///     type Input = (Tensor<2>, Tensor<2>);
///     type Output = RegressionOutput;
///
///     fn step(&self, batch: Self::Input) -> TrainOutput<RegressionOutput> {
///         let item = InferenceStep::step(self, batch);
///         burn_dist_train::output(self, item.loss.clone(), item)
///     }
/// }
///
/// // No strategy waits for the loss here, so the gradients are Burn's.
/// let device = Device::flex().autodiff();
/// let model = Model { linear: LinearConfig::new(3, 1).init(&device) };
/// let batch = (Tensor::ones([4, 3], &device), Tensor::ones([4, 1], &device));
/// assert_eq!(TrainStep::step(&model, batch).grads.len(), 2);
/// ```
///
/// # Source
/// Burn: `TrainOutput::new`.
///
/// [`Sharded`]: crate::Sharded
/// [`Launch::run`]: burn_dist::launch::Launch::run
pub fn output<M: Module, O: RankOutput>(model: &M, loss: Tensor<1>, item: O) -> TrainOutput<O> {
    let samples = item.samples() as f64;
    output_over(model, loss, samples, item)
}

/// The output of a training step whose `loss` is a sum that was divided by `count`.
///
/// As [`output`], for a loss that is not the mean over samples: over the tokens that are not padding, or
/// with weights of classes, `count` being their sum. Ranks then count in the share of their `count`. A
/// validation step tells no such count: the loss that rank 0 sees there is the mean by samples.
///
/// # Errors
/// As [`output`].
///
/// # Source
/// Burn: `TrainOutput::new`.
pub fn output_over<M: Module, O: RankOutput>(
    model: &M,
    loss: Tensor<1>,
    count: f64,
    item: O,
) -> TrainOutput<O> {
    let is_awaited = STEP.with_borrow(|step| match step {
        Step::None => Ok(false),
        Step::Waiting => Ok(true),
        Step::Given(_) => Err(Error::config(
            "the training step",
            "one call of `output`, with the whole loss",
            "a second call",
        )),
    });
    match is_awaited {
        Ok(false) => TrainOutput::new(model, loss.backward(), item),
        Ok(true) => {
            let weight = count;
            STEP.set(Step::Given(Box::new(StepLoss { loss, weight })));
            let grads = GradientsParams::new();
            TrainOutput { grads, item }
        }
        Err(error) => raise(error),
    }
}

/// Runs a training step of a sharded model: what it returns, and the loss that it gave to [`output`].
///
/// # Errors
/// What a collective inside `f` failed with.
pub(crate) fn step<T>(f: impl FnOnce() -> T) -> Result<(T, Option<StepLoss>)> {
    let _open = Open;
    STEP.set(Step::Waiting);
    let value = catch_raised(f)?;
    match STEP.replace(Step::None) {
        Step::Given(loss) => Ok((value, Some(*loss))),
        Step::None | Step::Waiting => Ok((value, None)),
    }
}

/// Ends the step also where it unwinds.
struct Open;

impl Drop for Open {
    fn drop(&mut self) {
        STEP.set(Step::None);
    }
}
