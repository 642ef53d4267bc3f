//! The options that trade memory for traffic, or say which gradients count.

use super::Strategy;

impl Strategy {
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
    /// let model = vec![LinearConfig::new(64, 64).init(&Device::flex()); 3];
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
    /// let model = vec![LinearConfig::new(60, 64).init(&Device::flex()); 3];
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
}
