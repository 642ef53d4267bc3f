//! The options that trade memory for traffic, or say which gradients count.

use super::Strategy;
use crate::lora::LoraConfig;

impl Strategy {
    /// Freezes the model, and trains low-rank adapters beside its matrices.
    ///
    /// The frozen parameters are sharded and gathered as ever, but they have neither gradients that are reduced nor states
    /// of an optimizer. A weight with adapters is computed when a layer reads it and again in backward: nothing of its size
    /// stays on the tape. The adapters are parameters of the same unit, at the paths `<path>.lora.a` and `<path>.lora.b`, which
    /// optimizers, saves and parameter groups find there. [`World::full`](crate::World::full) merges them into the weights.
    ///
    /// On the device that [`shard`](Self::shard) seeds they are drawn as Burn's `apply_lora` draws them on a model that is
    /// initialised already. A model that `apply_lora` or `apply_qlora` has given adapters of one rank and scale is sharded as it
    /// is, without this option, at the price of the whole model on every rank until then. After `shard` they cannot be called:
    /// they would freeze everything and add nothing.
    ///
    /// # Cost
    /// For each adapted matrix of `m x n` a product of `2 m n rank` operations in forward, one more in backward, and in
    /// backward the gradient of the whole matrix, from which that of the adapters is made.
    ///
    /// ```
    /// use burn::{nn::LinearConfig, tensor::Tensor};
    /// use burn_dist::{LoraConfig, Strategy, launch::Threads};
    ///
    /// Threads::new(2).run(|world| {
    ///     let layer = LinearConfig::new(16, 8).init(&world.device());
    ///     let layer = Strategy::fsdp().lora(LoraConfig::new(2, 4.0)).shard(layer, &world)?;
    ///     let x = Tensor::<2>::ones([4, 16], &world.device());
    ///     let grads = world.backward(layer.forward(x).mean(), &layer)?.into_params();
    ///     assert!(grads.get::<2>(layer.weight.id).is_none());
    ///     Ok(())
    /// })?;
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    ///
    /// # Source
    /// Hu et al., *LoRA*, ICLR 2022; PEFT: `get_peft_model`.
    pub fn lora(mut self, lora: LoraConfig) -> Self {
        self.lora = Some(lora);
        self
    }

    /// Whether gradients stay whole on each rank for all micro-batches of a step but the last, instead of being
    /// reduced in every backward.
    ///
    /// For `zero2`, `fsdp` and `hybrid`; `ddp` and `zero1` do so anyway. Where it is known which backward is the
    /// step's last ([`micro_batches`](crate::Accumulation::micro_batches)), that one reduces while it runs.
    ///
    /// # Cost
    /// One reduction a step instead of one per micro-batch, for all gradients of the model on every rank, in the
    /// stored type, instead of a shard of them.
    ///
    /// ```
    /// use burn::{nn::LinearConfig, tensor::Device};
    /// use burn_dist::{Strategy, comm::Op};
    ///
    /// let model = LinearConfig::new(256, 64).init(&Device::flex());
    /// let plan = Strategy::fsdp().no_sync(true).plan(&model, 4)?;
    /// let reductions = plan.traffic(3).into_iter().find(|row| row.op == Op::ReduceScatter);
    /// assert_eq!(reductions.map(|row| row.calls), Some(1));
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    ///
    /// # Source
    /// PyTorch: FSDP's `no_sync()`, FSDP2's `set_requires_gradient_sync(False)` for all micro-batches but the last.
    pub fn no_sync(mut self, no_sync: bool) -> Self {
        self.no_sync = no_sync;
        self
    }

    /// Whether a unit is resharded when a backward has gone through it; without that it stays gathered for the
    /// micro-batches of a step.
    ///
    /// For `fsdp` and `hybrid`. With `false` a unit is gathered in the first forward of a step and let go in the
    /// backward that is known to be the last ([`micro_batches`](crate::Accumulation::micro_batches)), or else at the
    /// step. Evaluation reshards as usual.
    ///
    /// # Cost
    /// One all-gather per unit and step, for the memory of all units gathered.
    ///
    /// ```
    /// use burn::{nn::LinearConfig, tensor::Device};
    /// use burn_dist::{Strategy, comm::Op};
    ///
    /// let layer = |_| LinearConfig::new(64, 64).init(&Device::flex());
    /// let model: Vec<_> = (0..3).map(layer).collect();
    /// let plan = Strategy::fsdp().reshard_after_backward(false).plan(&model, 4)?;
    /// let gathers = plan.traffic(5).into_iter().find(|row| row.op == Op::AllGather);
    /// assert_eq!(gathers.map(|row| row.calls), Some(3));
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    ///
    /// # Source
    /// PyTorch: FSDP2's `set_reshard_after_backward`, which does not touch the reshard after forward.
    pub fn reshard_after_backward(mut self, reshard: bool) -> Self {
        self.reshard_after_backward = reshard;
        self
    }

    /// Over how many ranks a unit stays sharded between its forward and its backward, which gathers it again over
    /// those alone.
    ///
    /// For `fsdp` and `hybrid`. `group` consecutive ranks of the ranks that share the state; it divides their number.
    /// As many as all of them is what happens without this option, and 1 keeps every unit gathered until its backward.
    /// With the ranks of one host for a group, the second gather does not cross between hosts.
    ///
    /// # Cost
    /// A copy of 1 / `group` of every unit from its forward to its backward, in the type that it is gathered in; the
    /// second gather sends (`group` - 1) / `group` of a unit. A third group of ranks is made at `shard`.
    ///
    /// ```
    /// use burn::{nn::LinearConfig, tensor::Device};
    /// use burn_dist::{Strategy, comm::Op};
    ///
    /// let layer = |_| LinearConfig::new(60, 64).init(&Device::flex());
    /// let model: Vec<_> = (0..3).map(layer).collect();
    /// let sent = |strategy: Strategy| -> Result<Option<usize>, burn_dist::Error> {
    ///     let traffic = strategy.plan(&model, 8)?.traffic(1);
    ///     Ok(traffic.into_iter().find(|row| row.op == Op::AllGather).map(|row| row.bytes))
    /// };
    /// let unit = 61 * 64 * 4;
    /// assert_eq!(sent(Strategy::fsdp())?, Some(3 * unit * 7 / 8 * 2));
    /// assert_eq!(sent(Strategy::fsdp().reshard_after_forward(2))?, Some(3 * (unit * 7 / 8 + unit / 2)));
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    ///
    /// # Source
    /// PyTorch: FSDP2's `reshard_after_forward=N`; ZeRO++'s hpZ (`zero_hpz_partition_size`).
    pub fn reshard_after_forward(mut self, group: usize) -> Self {
        self.reshard_after_forward = Some(group);
        self
    }

    /// Stores every parameter of at most so many elements whole on every rank, as
    /// [`replicate`](Self::replicate) does.
    ///
    /// Biases and norms are small, many, and not worth their share of a gather. Their gradients, with those of what
    /// `replicate` names, are all-reduced together behind each backward, or once a step where the strategy reduces
    /// then. Not in units of [`absent`](Self::absent).
    ///
    /// # Cost
    /// One all-reduce per type instead of one per unit, and these parameters with their gradients and optimizer states
    /// whole on every rank; DeepSpeed shards the latter. The plan says how many they are.
    ///
    /// ```
    /// use burn::{nn::LinearConfig, tensor::Device};
    /// use burn_dist::{Strategy, comm::Op};
    ///
    /// let layer = |_| LinearConfig::new(256, 64).init(&Device::flex());
    /// let model: Vec<_> = (0..3).map(layer).collect();
    /// let plan = Strategy::fsdp().persistence_threshold(1000).plan(&model, 4)?;
    /// let whole = plan.units().iter().filter(|unit| unit.is_replicated());
    /// assert_eq!(whole.map(|unit| unit.elements()).sum::<usize>(), 3 * 64);
    /// let reductions = plan.traffic(1).into_iter().find(|row| row.op == Op::AllReduce);
    /// assert_eq!(reductions.map(|row| row.calls), Some(1));
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    ///
    /// # Source
    /// DeepSpeed: `stage3_param_persistence_threshold`.
    pub fn persistence_threshold(mut self, elements: usize) -> Self {
        self.persistence_threshold = Some(elements);
        self
    }

    /// Gathers parameters for a pass as int8 codes, of which `block` elements share an f32 scale.
    ///
    /// **It changes results.** Every rank computes with what comes out of the codes, the owner of a shard too, so that
    /// all compute with the same weights. What is stored, stepped, saved and exported stays exact, and so does what a
    /// rank alone computes with, what every rank stores whole, and a parameter that is read outside of any
    /// [`unit`](crate::unit()). Blocks count from a shard's start, so another number of ranks rounds in other places.
    /// A block with an element that is not finite becomes NaN. For ranks on CPUs; on a GPU `shard` is an error.
    ///
    /// # Numerics
    /// An element is off by at most 1 / 254 of the largest in its block, which small biases and norms may share with
    /// larger weights; [`persistence_threshold`](Self::persistence_threshold) keeps them exact. Whether a model still
    /// learns is to be tried: compare the loss with that of a run without it, over as many steps as matter. A stack of
    /// three layers of 15 x 15 had a loss of 0.00571 after 300 steps, and 0.00572 with blocks of 64 or 256
    /// (`tests/engine/quantized.rs`).
    ///
    /// # Cost
    /// A shard is sent as a byte per element and 4 bytes per block, instead of 4 bytes per element. Coding and
    /// decoding pass over the elements once more at each gather.
    ///
    /// ```
    /// use burn::{nn::LinearConfig, tensor::Device};
    /// use burn_dist::{Strategy, comm::Op};
    ///
    /// let model = LinearConfig::new(255, 64).init(&Device::flex()); // 16384 elements with the bias
    /// let plan = Strategy::fsdp().quantized_gathers(256).plan(&model, 2)?;
    /// let gathers = plan.traffic(1).into_iter().find(|row| row.op == Op::AllGather);
    /// assert_eq!(gathers.map(|row| row.bytes), Some(8192 + 4 * 32));
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    ///
    /// # Source
    /// Wang et al., *ZeRO++*, 2023: qwZ; DeepSpeed: `zero_quantized_weights`.
    pub fn quantized_gathers(mut self, block: usize) -> Self {
        self.quantized_gathers = Some(block);
        self
    }

    /// Lets ranks lack gradients in these units: where some ranks have a gradient and others none, the others count as
    /// zeros, and one that no rank has stays absent, as on one device.
    ///
    /// For branches that differ between ranks, such as the experts of a mixture or an optional head. The branch lies
    /// inside of a unit that every rank runs, with which it is gathered: make the module that branches a unit, and none
    /// of what is in it ([`units`](Self::units)). A unit that only some ranks run is an error: the others would wait
    /// for its gather. Patterns are as in `units`; `root` is what no unit claims. Without this, ranks whose losses
    /// reach different parameters get [`Error::GradientSet`](crate::Error::GradientSet).
    ///
    /// # Cost
    /// These units are reduced behind the backward, not during it; their gradients stay whole until then, and they stay
    /// gathered from their forward until then. One all-reduce of a byte per parameter more.
    ///
    /// ```
    /// use burn::{nn::LinearConfig, tensor::Tensor};
    /// use burn_dist::prelude::*;
    ///
    /// Threads::new(2).run(|world| {
    ///     let layer = LinearConfig::new(4, 2).init(&world.device());
    ///     let layer = Strategy::fsdp().absent(["root"]).shard(layer, &world)?;
    ///     let x = Tensor::<2>::ones([8, 4], &world.device());
    ///     let use_bias = world.is_chief();
    ///     let loss = unit(&layer, x, move |layer, x| {
    ///         if use_bias { layer.forward(x) } else { x.matmul(layer.weight.val()) }
    ///     });
    ///     let norm = world.backward(loss.sum(), &layer)?.norm()?;
    ///     // 8 for each weight; 8 and 0 for each bias, on average 4.
    ///     assert!((norm - (8.0 * 64.0 + 2.0 * 16.0f64).sqrt()).abs() < 1e-4);
    ///     Ok(())
    /// })?;
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    ///
    /// # Source
    /// PyTorch: DDP's `find_unused_parameters`; DeepSpeed: `set_z3_leaf_modules`.
    pub fn absent(mut self, patterns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.absent.extend(patterns.into_iter().map(Into::into));
        self
    }
}
