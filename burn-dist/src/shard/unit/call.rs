//! The function that a model calls at the boundary of a unit.

use super::activations::Activations;
use super::check::{Check, hint};
use super::probe;
use super::recompute;
use super::scope::Scope;
use crate::unwind::resume_with_hint;
use burn::module::Module;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a module's forward as one unit: its parameters are gathered together before it and resharded
/// after it.
///
/// Write it in a model where the forward of a block is called, and once around the whole forward,
/// for what no block claims and so that the next block can be prefetched. On a module that is
/// not sharded it only calls `f`.
///
/// Under a [`Precision`](crate::Precision) policy float inputs are cast to the type of the
/// parameters, and what the outermost call returns to the output type.
///
/// `f` has to be repeatable, for [`Strategy::recompute`](crate::Strategy::recompute) runs it again
/// in backward: everything that takes gradients comes through `inputs`, and random numbers come out
/// the same again. It reads parameters on the thread that it is called on.
///
/// # The first pass
/// In builds with debug assertions, and in others with `BURN_DIST_CHECK_UNITS=1`, the first pass of each unit is
/// checked: `f` runs twice more (eight times where it returns few numbers), on a plain copy of the module, and what it
/// returns is compared. So a layer that takes a shape from what is stored (`weight.dims()`), which is a shard, is an
/// error that names the unit. Meanwhile each rank holds all of the unit; of the outermost call, all of the model.
/// Above 512 MiB, and where `f` draws from Burn's generator, there is no verdict, and a warning says so; such a unit
/// has drawn more numbers than without.
/// [`Strategy::check_units`](crate::Strategy::check_units) decides in the program.
///
/// ```
/// use burn::{nn::LinearConfig, tensor::{Device, Tensor}};
/// use burn_dist::unit;
///
/// let device = Device::flex();
/// let layer = LinearConfig::new(4, 2).init(&device);
/// let y = unit(&layer, Tensor::<2>::ones([3, 4], &device), |layer, x| layer.forward(x));
/// assert_eq!(y.dims(), [3, 2]);
/// ```
///
/// # Panics
/// Inside a sharded model, if a collective fails, or the check of the first pass does.
/// [`World::run`](crate::World::run), a backward pass and the launchers turn that into an `Err`.
///
/// # Source
/// PyTorch: `fully_shard(block)`, with its pre-forward and post-forward hooks.
pub fn unit<M, I, O, F>(module: &M, inputs: I, f: F) -> O
where
    M: Module + 'static,
    I: Activations,
    O: Activations,
    F: Fn(&M, I) -> O + Send + 'static,
{
    let mut scope = Scope::pre_forward(module);
    let inputs = scope.to_param_dtype(inputs);
    let (check, inputs) = Check::run(&scope, module, inputs, &f);
    let span = scope.span();
    let ran = catch_unwind(AssertUnwindSafe(|| {
        if scope.is_recomputed() {
            recompute::forward(&mut scope, module, inputs, f)
        } else {
            let inputs = scope.enter(inputs);
            f(module, inputs)
        }
    }));
    drop(span);
    let outputs = ran
        .unwrap_or_else(|payload| resume_with_hint(payload, || Some(hint(&scope.sharded_name()?))));
    let outputs = match check {
        Some(check) => check.compare(outputs),
        None => outputs,
    };
    probe::record_outputs(|| scope.name(), scope.to_output_dtype(outputs))
}
