//! A sum over ranks within a model's forward, through which gradients flow.

use super::memory::{Flat, Primitive};
use super::tape::{self, ExchangeHook};
use crate::error::Result;
use crate::world::World;
use burn::tensor::Tensor;
use std::sync::Arc;

/// The sum of the ranks' tensors, on every rank. Collective, and again in backward, where the gradients of all ranks
/// are added up: each rank's tensor had a part in what all ranks got.
pub(crate) fn sum_over_ranks<const D: usize>(world: &World, x: Tensor<D>) -> Tensor<D> {
    let world = world.clone();
    tape::exchange(x, Arc::new(Sum { world }))
}

#[derive(Debug)]
struct Sum {
    world: World,
}

impl ExchangeHook for Sum {
    fn exchange(&self, mine: Primitive, shape: &[usize]) -> Result<Primitive> {
        let world = self.world.clone();
        let len = shape.iter().product();
        let mut flat = Flat::zeros(len, mine.dtype(), &mine.residence());
        flat.put(0, &mine);
        // In the queue, where gathers and reductions of the same pass are: one order on all ranks.
        let ticket = self
            .world
            .submit(move || flat.all_reduce(world.comm(), &"sum in a forward".into()));
        let sum = self.world.waiting(|| ticket.wait())?.wait()?;
        Ok(sum.share().copy(0, shape))
    }
}
