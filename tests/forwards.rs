//! Memory of forwards without a backward, in training mode, as for a policy that acts or a loss that is dropped.
//!
//! They hold what plain Burn holds for them, and in addition the root unit gathered once; without
//! `unit` calls, and where a strategy keeps parameters until the step anyway, the whole model gathered
//! once. The operations that gather are on the tape too, a fixed number of bytes for every parameter
//! that is read. A backward releases all of it.
//!
//! A program of its own: it counts the bytes of the process, and no rank may have run in it before plain
//! Burn is measured.

mod oracle;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::gelu;
use burn::tensor::{Device, Tensor};
use burn_dist::comm::{Reduce, SpanMut};
use burn_dist::telemetry::{Tracked, live_bytes};
use burn_dist::{Result, Strategy, World, unit};
use oracle::ranks;
use std::alloc::System;

#[global_allocator]
static MEMORY: Tracked<System> = Tracked::new(System);

const WIDTH: usize = 128;
const BLOCKS: usize = 6;
/// Bytes of a layer's weight.
const LAYER: usize = 4 * WIDTH * WIDTH;
/// Bytes of the whole model's weights.
const MODEL: usize = (BLOCKS + 2) * LAYER;
/// What messages, labels, biases and lists may take beside tensors, and what another rank's thread has
/// not yet freed.
const SLACK: usize = 2 * LAYER;
/// Collectives of which a rank keeps a record.
const RECORDED: usize = 1024;
/// What the tape and the passes keep of every parameter that is read; and a bias itself, for small
/// parameters are copied out of a unit that is resharded.
const READ: usize = 768 + 4 * WIDTH;

/// Two layers in the root, and blocks.
#[derive(Module, Debug)]
struct Net {
    first: Linear,
    blocks: Vec<Linear>,
    last: Linear,
}

impl Net {
    fn new(device: &Device) -> Self {
        let layer = || LinearConfig::new(WIDTH, WIDTH).init(device);
        Self {
            first: layer(),
            blocks: (0..BLOCKS).map(|_| layer()).collect(),
            last: layer(),
        }
    }

    fn loss(&self, x: Tensor<2>, units: bool) -> Tensor<1> {
        let inside = |x| {
            if units {
                unit(self, x, |net: &Self, x| net.layers(x, true))
            } else {
                self.layers(x, false)
            }
        };
        inside(x).powi_scalar(2).mean()
    }

    fn layers(&self, x: Tensor<2>, units: bool) -> Tensor<2> {
        let mut x = self.first.forward(x);
        for block in &self.blocks {
            x = gelu(if units {
                unit(block, x, |block: &Linear, x| block.forward(x))
            } else {
                block.forward(x)
            });
        }
        self.last.forward(x)
    }
}

fn input(device: &Device) -> Tensor<2> {
    Tensor::ones([2, WIDTH], device)
}

/// Bytes that are held after forwards whose results are dropped, and after a backward behind them.
type Held = [usize; 2];

/// Plain Burn on one device.
fn plain(forwards: usize) -> Held {
    let device = Device::flex().autodiff();
    let net = Net::new(&device);
    let once = || drop(net.loss(input(&device), false).backward());
    once();
    let start = live_bytes();
    for _ in 0..forwards {
        let _ = net.loss(input(&device), false);
    }
    let forward = live_bytes().saturating_sub(start);
    once();
    [forward, live_bytes().saturating_sub(start)]
}

/// One of the ranks of a world, each of which holds as much.
fn sharded(world: &World, strategy: &Strategy, forwards: usize, units: bool) -> Result<Held> {
    let device = world.device();
    let net = strategy.clone().shard(Net::new(&device), world)?;
    let once = || -> Result<()> {
        world.backward(net.loss(input(&device), units), &net)?;
        Ok(())
    };
    // All ranks are at the same place while the counter is read, and get the same number.
    let read = || -> Result<usize> {
        world.comm().barrier(&"before".into())?;
        let mut live = [live_bytes() as u64];
        let all = SpanMut::of(&mut live);
        world.comm().all_reduce(&"after".into(), Reduce::Max, all)?;
        Ok(live[0] as usize)
    };
    once()?;
    // The record of the latest collectives, kept for a diagnosis, is full from here on.
    let valid = net.valid();
    for _ in 0..RECORDED / BLOCKS {
        let _ = valid.loss(input(&device.clone().inner()), units);
    }
    let start = read()?;
    for _ in 0..forwards {
        let _ = net.loss(input(&device), units);
    }
    let forward = read()?.saturating_sub(start);
    once()?;
    // Where ranks are threads, Burn may let go of what one of them holds with a later backward of another.
    let mut backward = read()?.saturating_sub(start);
    for _ in 0..10 {
        if backward <= (SLACK + MODEL) * world.size() {
            break;
        }
        once()?;
        backward = read()?.saturating_sub(start);
    }
    Ok([forward, backward].map(|bytes| bytes / world.size()))
}

/// `expected` holds what plain Burn holds after so many forwards.
fn check(units: bool, expected: &[(usize, Held)]) {
    for &(forwards, expected) in expected {
        for size in [1, 2, 3] {
            for strategy in oracle::strategies(size) {
                let plan = strategy.plan(&Net::new(&Device::flex()), size).unwrap();
                let until_step = [Strategy::zero1(), Strategy::zero2()].contains(&strategy);
                let gathered = match plan.shard_group_size() {
                    1 => 0,
                    _ if units && !until_step => 2 * LAYER,
                    _ => MODEL,
                };
                let run = |world: World| sharded(&world, &strategy, forwards, units);
                let [forward, backward] = ranks(size).run(run).unwrap()[0];
                let what = format!(
                    "{strategy} at world {size}, {forwards} forwards: {forward} bytes, {backward} after \
                     a backward, plain Burn {expected:?}"
                );
                println!("{what}");
                let reads = forwards * 2 * (BLOCKS + 2) * READ;
                assert!(forward <= expected[0] + gathered + reads + SLACK, "{what}");
                // What the last backward itself has gathered may stay until the next one; what the forwards
                // held is a hundred times that.
                assert!(backward <= expected[1] + MODEL + SLACK, "{what}");
            }
        }
    }
}

/// One test: the counter belongs to the process.
#[test]
fn forwards_without_backward_hold_the_gathered_root_or_without_units_the_model() {
    // Before any rank ran: what threads of an ended world still give back would count as less here.
    let expected = [10, 1000].map(|forwards| (forwards, plain(forwards)));
    check(true, &expected);
    check(false, &expected);
}
