//! A model of one's own under FSDP, on two ranks: `cargo run --release --example minimal`.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::AdamWConfig;
use burn::tensor::{Distribution, Tensor, activation::gelu};
use burn_dist::prelude::*;

#[derive(Module, Debug)]
struct Mlp {
    blocks: Vec<Linear>, // each element is a unit, which is gathered as one buffer
}

impl Mlp {
    fn forward(&self, mut x: Tensor<2>) -> Tensor<2> {
        for block in &self.blocks {
            x = gelu(unit(block, x, |block, x| block.forward(x))); // gather, forward, reshard
        }
        x
    }
}

fn main() -> Result<()> {
    let ranks = std::env::args().nth(1).map_or(Ok(2), |n| n.parse());
    let losses = Threads::new(ranks.map_err(Error::user)?).run(|world| {
        let device = world.device();
        let block = |_| LinearConfig::new(16, 16).init(&device); // allocates nothing
        let blocks = (0..4).map(block).collect();
        let mut model = Strategy::fsdp().shard(Mlp { blocks }, &world)?; // same type
        let mut optim = world.optimizer(AdamWConfig::new().init(), &model)?; // Burn's own
        let mut losses = Vec::new();
        for step in 0..100 {
            let noise = world.noise(step); // each rank draws a batch of its own
            let x = noise.random([32, 16], Distribution::Default, &device, 0);
            let y = unit(&model, x.clone(), Mlp::forward); // prefetches the next block
            let loss = (y - x.sin()).powi_scalar(2).mean();
            losses.push(loss.clone().into_scalar::<f32>());
            let grads = world.backward(loss, &model)?; // averaged over ranks, and sharded
            model = optim.step(0.01, model, grads.clip_norm(1.0)?.grads); // steps the shards
        }
        Ok((losses[0], losses[99]))
    })?;
    println!("loss of each rank, before and after: {losses:.3?}");
    Ok(())
}
