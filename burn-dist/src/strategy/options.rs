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
}
