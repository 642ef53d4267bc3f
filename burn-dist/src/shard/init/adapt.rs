//! The adapters of a model whose weights are sharded already.
//!
//! Burn attaches one reparameterization to a parameter, so that of an adapted one says both which shard it stores and
//! what its adapters are. It is attached in a pass of its own, after all weights were initialised: they have the values
//! that they would have without adapters.

use super::cut::{Cut, ShardInit};
use crate::error::Result;
use crate::lora::{self, LoraConfig};
use crate::shard::model::{Adapted, Sharded, ShardedParam};
use burn::module::{LoraAdapter, Module, Param, ParamId, Reparameterizer};
use burn::tensor::{DType, Device, Distribution, FloatDType, Tensor};

/// Gives each adapted parameter of a model, whose weights are sharded already, its adapters.
pub(super) fn attach<M: Module>(model: M, init: &ShardInit<'_>, lora: &LoraConfig) -> Result<M> {
    let mut result = Ok(());
    let model = model.apply_reparameterization(Adapt {
        init,
        lora,
        result: &mut result,
    });
    result.map(|()| model)
}

struct Adapt<'a> {
    init: &'a ShardInit<'a>,
    lora: &'a LoraConfig,
    result: &'a mut Result<()>,
}

impl Reparameterizer for Adapt<'_> {
    type Reparam = Adapted;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<Adapted>) {
        if !self.init.is_adapted(path) {
            return (param, None);
        }
        let Some(base) = self.init.place(path) else {
            return (param, None);
        };
        let adapter = self.adapter(path, &base, &param.lazy_device());
        let cut = Cut {
            init: self.init,
            prefix: format!("{path}.{}.", lora::NAME),
            result: self.result,
        };
        let adapter = adapter.apply_reparameterization(cut);
        let base = Sharded::Shard(base);
        (param, Some(Adapted { base, adapter }))
    }
}

impl Adapt<'_> {
    /// The adapter of a matrix, not yet drawn.
    fn adapter(&self, path: &str, base: &ShardedParam, device: &Device) -> LoraAdapter {
        let layout = &base.sharding.unit(base.unit).layout;
        let slot = &layout.slots[base.slot];
        let (d_in, d_out) = (slot.shape[0], slot.shape[1]);
        let id = |name: &str| {
            let known = self.init.ids.get(&lora::factor_path(path, name));
            known.copied().unwrap_or_else(ParamId::new)
        };
        let rank = self.lora.rank;
        let std = self.lora.init_std.unwrap_or(1.0 / rank as f64);
        let drawn = Some(Distribution::Normal(0.0, std));
        LoraAdapter {
            a: factor(id("a"), [d_in, rank], drawn, slot.dtype, device),
            b: factor(id("b"), [rank, d_out], None, slot.dtype, device),
            scale: self.lora.scale(),
        }
    }
}

/// A factor that is drawn from a distribution, or zeros, when it is read first.
fn factor(
    id: ParamId,
    shape: [usize; 2],
    drawn: Option<Distribution>,
    dtype: DType,
    device: &Device,
) -> Param<Tensor<2>> {
    let init = move |device: &Device, takes_gradients: bool| {
        let values = match drawn {
            Some(distribution) => Tensor::<2>::random(shape, distribution, device),
            None => Tensor::zeros(shape, device),
        };
        let values = values.cast(FloatDType::from(dtype));
        values.set_require_grad(takes_gradients)
    };
    Param::uninitialized(id, init, device.clone(), true, shape.into())
}
