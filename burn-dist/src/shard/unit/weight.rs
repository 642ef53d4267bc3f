//! Where a parameter's value comes from when a layer reads it.

use super::pass::Pass;
use super::plain;
use super::scope;
use crate::error::{Error, Result};
use crate::lora;
use crate::shard::memory::{Primitive, Shard, untracked};
use crate::shard::model::{Adapted, Sharded, ShardedParam, full};
use crate::shard::tape::{self, WeightHook};
use crate::unwind::{or_raise, raise};
use burn::module::Reparameterization;
use burn::tensor::{DType, Tensor};
use std::sync::Arc;

impl Reparameterization for Sharded {
    const NAME: &'static str = "shard";

    /// The full parameter whose stored shard is `base`.
    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        let Self::Shard(param) = self else {
            return base;
        };
        let (source, token) = or_raise(source(param, &base));
        let slot = param.slot;
        tape::weight(base, token, Arc::new(View { source, slot }))
    }
}

impl Reparameterization for Adapted {
    const NAME: &'static str = lora::NAME;

    /// The full parameter whose stored shard is `base`, and the product of its adapters.
    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        let Sharded::Shard(param) = &self.base else {
            return base;
        };
        let slot = param.slot;
        if base.is_require_grad() {
            let layout = &param.sharding.unit(param.unit).layout;
            raise(Error::model(
                &layout.slots[slot].path,
                "has adapters and was made to take gradients after the model was sharded (unfreeze, set_require_grad)",
                "leave it frozen, or name it in LoraConfig::modules_to_save to train it without adapters",
            ));
        }
        let (source, token) = or_raise(source(param, &base));
        let hook = Arc::new(View { source, slot });
        let factors = [self.adapter.a.val(), self.adapter.b.val()];
        if full::keeps_adapters() {
            or_raise(full::keep_adapter(param, self.plain(factors)));
            return tape::weight(base, token, hook);
        }
        tape::adapted(base, token, factors, self.adapter.scale, hook)
    }
}

/// One parameter, as a layer reads it.
#[derive(Debug)]
struct View {
    source: Source,
    slot: usize,
}

/// Where the full value of a parameter comes from.
#[derive(Debug)]
enum Source {
    /// The pass of its unit.
    Pass(Arc<Pass>),
    /// No pass of its unit is open: it is gathered alone.
    Alone {
        param: ShardedParam,
        dtype: DType,
        /// Whether there is a tape, which keeps the value anyway.
        has_tape: bool,
    },
    /// The whole model is being gathered, unit by unit.
    Full(ShardedParam),
}

impl WeightHook for View {
    fn unshard(&self, stored: Primitive) -> Result<Primitive> {
        match &self.source {
            Source::Pass(pass) => pass.view(self.slot, stored),
            Source::Full(param) => full::take(param),
            Source::Alone {
                param,
                dtype,
                has_tape,
            } => gathered_alone(param, stored, *dtype, *has_tape),
        }
    }

    fn unshard_again(&self, stored: Primitive) -> Result<Primitive> {
        match &self.source {
            Source::Pass(pass) => pass.view_again(self.slot, stored),
            _ => self.unshard(stored),
        }
    }

    fn keeps_unsharded(&self) -> bool {
        match &self.source {
            // What is gathered stays, not what is made of it.
            Source::Pass(pass) if pass.is_quantized() => false,
            Source::Pass(pass) => pass.keeps_parameters(),
            _ => true,
        }
    }

    fn accumulate(&self, gradient: Primitive) -> Result<()> {
        match &self.source {
            Source::Pass(pass) => pass.accumulate(self.slot, gradient),
            Source::Alone { param, .. } | Source::Full(param) => {
                let ShardedParam { sharding, unit, .. } = param;
                sharding.accumulate_alone(*unit, self.slot, gradient)
            }
        }
    }
}

/// The full parameter, gathered by itself unless it is stored whole or kept from an earlier read.
fn gathered_alone(
    param: &ShardedParam,
    stored: Primitive,
    dtype: DType,
    has_tape: bool,
) -> Result<Primitive> {
    let ShardedParam {
        sharding,
        unit,
        slot,
    } = param;
    let parameter = &sharding.unit(*unit).layout.slots[*slot];
    if sharding.is_replicated(*unit) {
        return match &parameter.quantized {
            None => Ok(stored.cast(dtype)),
            Some(scheme) => {
                let shard = Shard::of_primitive(stored);
                shard.dequantize(scheme, &parameter.shape, dtype)
            }
        };
    }
    let shard = Shard::of_primitive(stored);
    let computed = dtype;
    let dtype = parameter.quantized.map_or(dtype, |_| DType::U8);
    let full = match sharding.kept_parameter(*unit, *slot, &shard, dtype) {
        Some(full) => full,
        None => {
            let ticket = sharding.all_gather_parameter(*unit, *slot, shard.clone(), dtype);
            let full = sharding.wait_for_all_gather(ticket)?;
            if has_tape {
                sharding.keep_parameter(*unit, *slot, shard, dtype, full.clone());
            }
            full
        }
    };
    match &parameter.quantized {
        None => Ok(full.view(0, &parameter.shape)),
        Some(scheme) => full.dequantize(0, scheme, &parameter.shape, computed),
    }
}

/// Where the parameter that stores `base` finds its value now, and the token that orders it.
fn source<const D: usize>(param: &ShardedParam, base: &Tensor<D>) -> Result<(Source, Tensor<1>)> {
    let shard = Shard::of(base.clone())?;
    if let Some((pass, token)) = scope::open_pass(param, &shard) {
        return Ok((Source::Pass(pass), token));
    }
    plain::leave();
    let source = if full::is_gathering() {
        Source::Full(param.clone())
    } else {
        // Around it activations have the type of the policy if any unit of the model is open,
        // and the stored one if the model marks no units at all.
        let ShardedParam {
            sharding,
            unit,
            slot,
        } = param;
        // Gathers of two threads would come in an order of their own on each rank.
        if sharding.is_forward_elsewhere() && !sharding.is_replicated(*unit) {
            return Err(Error::model(
                &sharding.unit(*unit).layout.slots[*slot].path,
                "is read (`val()`) on another thread than the one that runs its unit",
                "read parameters in the thread in which the closure of `unit` is called",
            ));
        }
        let stored = sharding.unit(*unit).layout.slots[*slot].dtype;
        let dtype = if scope::is_inside(sharding) {
            sharding.strategy.precision.computed(stored)
        } else {
            stored
        };
        let has_tape = base.device().is_autodiff();
        if has_tape {
            // Its gradient is taken at the end of a backward, so the unit is not final before.
            sharding.pass_opened(*unit);
        }
        Source::Alone {
            param: param.clone(),
            dtype,
            has_tape,
        }
    };
    Ok((source, untracked(&base.device())))
}
