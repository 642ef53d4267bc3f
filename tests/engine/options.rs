//! The options that trade memory for traffic, alone and two at a time: one plain device's results, and the plan's
//! calls and bytes.

use crate::oracle::{self, Trace, ranks};
use burn::module::{Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::optim::{AdamWConfig, ModuleOptimizer};
use burn::tensor::activation::gelu;
use burn::tensor::{DType, Device, FloatDType, Tensor};
use burn_dist::comm::Op;
use burn_dist::{Precision, Result, ShardedGradients, Strategy, World, unit};

const STEPS: usize = 2;
/// Divides by 1 to 4 ranks and by 1 and 3 micro-batches.
const ROWS: usize = 36;

#[derive(Module, Debug)]
struct Block {
    norm: LayerNorm,
    linear: Linear,
}

/// Uneven shapes, small parameters in every unit, a unit without small ones that train, and a frozen one.
#[derive(Module, Debug)]
struct Net {
    first: Linear,
    blocks: Vec<Block>,
    last: Linear,
    scale: Param<Tensor<1>>,
}

impl Net {
    fn new(device: &Device) -> Self {
        let dense = |i, o| LinearConfig::new(i, o).init(device);
        let block = |_| Block {
            norm: LayerNormConfig::new(15).init(device),
            linear: dense(15, 15),
        };
        let mut blocks: Vec<Block> = (0..4).map(block).collect();
        blocks[1].norm = blocks[1].norm.clone().freeze();
        blocks[1].linear.bias = None;
        blocks[2] = blocks[2].clone().freeze();
        Self {
            first: dense(7, 15),
            blocks,
            last: dense(15, 3),
            scale: Param::from_data([1.5], device),
        }
    }

    fn loss(&self, x: Tensor<2>) -> Tensor<1> {
        unit(self, x, |net: &Self, x| {
            let mut x = gelu(net.first.forward(x));
            for block in &net.blocks {
                x = unit(block, x, |block: &Block, x: Tensor<2>| {
                    x.clone() + gelu(block.linear.forward(block.norm.forward(x)))
                });
            }
            net.last.forward(x) * net.scale.val().unsqueeze()
        })
        .powi_scalar(2)
        .mean()
    }
}

fn net(float: FloatDType) -> Net {
    let device = Device::flex().autodiff();
    oracle::cast(oracle::undrawn(Net::new(&device)), float)
}

fn adamw() -> ModuleOptimizer {
    AdamWConfig::new().with_weight_decay(0.1).init()
}

/// The micro-batches of a step, and whether their number is said before.
#[derive(Debug, Clone, Copy)]
struct Step {
    micro_batches: usize,
    announced: bool,
}

const HOW: [Step; 3] = [
    Step {
        micro_batches: 1,
        announced: true,
    },
    Step {
        micro_batches: 3,
        announced: true,
    },
    Step {
        micro_batches: 3,
        announced: false,
    },
];

fn gradients(
    world: &World,
    net: &Net,
    how: Step,
    step: usize,
    dtype: DType,
) -> Result<ShardedGradients> {
    let Step {
        micro_batches,
        announced,
    } = how;
    let mut sums = world.accumulate(net)?;
    if announced {
        sums = sums.micro_batches(micro_batches);
    }
    let all = oracle::batch(ROWS, 7, step);
    for micro in 0..micro_batches {
        let part = world.rank() * micro_batches + micro;
        let rows = oracle::rows(&all, part, world.size() * micro_batches);
        let x = oracle::tensor(&rows, dtype, &world.device());
        let loss = world.run(|| net.loss(x))?;
        sums.add(loss)?;
    }
    sums.finish()
}

/// Asserts that the ledger holds what is planned, and nothing else.
fn sent_as_planned(world: &World, strategy: &Strategy, net: &Net, micro_batches: usize) {
    let plan = strategy.plan(net, world.size()).unwrap();
    let mut all = 0;
    for op in [Op::AllGather, Op::ReduceScatter, Op::AllReduce] {
        let planned = plan.traffic(micro_batches).into_iter();
        let planned = planned.filter(|row| row.op == op);
        let planned = planned.fold((0, 0), |sum, row| (sum.0 + row.calls, sum.1 + row.bytes));
        let sent = world.ledger().total(op);
        assert_eq!(
            (sent.calls as usize, sent.bytes as usize),
            planned,
            "{strategy} at world {}, {micro_batches} micro-batches, {}",
            world.size(),
            op.name()
        );
        all += sent.calls;
    }
    assert_eq!(world.ledger().all().calls, all, "{strategy}");
}

/// Trains for some steps; the first one's traffic must be as planned.
fn run(world: &World, strategy: &Strategy, net: &Net, how: Step) -> Result<Trace> {
    let model = strategy
        .clone()
        .check_units(false)
        .shard(net.clone(), world)?;
    oracle::sharded(world, model, adamw(), STEPS, 1e-2, |model, step| {
        world.ledger().reset();
        let found = gradients(world, model, how, step, DType::F64)?;
        sent_as_planned(world, strategy, net, how.micro_batches);
        Ok((0.0, found))
    })
}

#[test]
fn every_option_trains_as_one_device_and_sends_what_is_planned() {
    let device = Device::flex().autodiff();
    let net = net(FloatDType::F64);
    let expected = oracle::plain(net.clone(), adamw(), STEPS, 1e-2, |net, step| {
        net.loss(oracle::tensor(
            &oracle::batch(ROWS, 7, step),
            DType::F64,
            &device,
        ))
    });
    for size in 1..=4 {
        let all = oracle::with_options(size, &net);
        assert!(all.len() > 4, "{size}: {all:?}");
        for strategy in all {
            for how in HOW {
                let what = format!("{strategy} at world {size}, {how:?}");
                let traces = ranks(size)
                    .run(|world| run(&world, &strategy, &net, how))
                    .unwrap_or_else(|e| panic!("{what}: {e}"));
                for trace in traces {
                    for (found, wanted) in trace.gradients.iter().zip(&expected.gradients) {
                        oracle::close(&what, found, wanted, 1e-9);
                    }
                    oracle::close(&what, &trace.parameters, &expected.parameters, 1e-9);
                }
            }
        }
    }
}

/// Compares the traffic of a step of three micro-batches with the plan.
fn check_traffic(strategies: impl Fn(usize, &Net) -> Vec<Strategy>) {
    let net = net(FloatDType::F32);
    for size in [2, 4] {
        for strategy in strategies(size, &net) {
            let strategy = strategy.check_units(false);
            let run = |world: World| {
                let model = strategy.clone().shard(net.clone(), &world)?;
                world.ledger().reset();
                let _ = gradients(&world, &model, HOW[1], 0, DType::F32)?;
                sent_as_planned(&world, &strategy, &net, HOW[1].micro_batches);
                Ok(())
            };
            let what = format!("{strategy} at world {size}");
            ranks(size)
                .run(run)
                .unwrap_or_else(|e| panic!("{what}: {e}"));
        }
    }
}

#[test]
fn bytes_in_other_types_are_as_planned() {
    check_traffic(|size, net| {
        let all = oracle::with_options(size, net).into_iter();
        all.map(|strategy| strategy.precision(Precision::bf16()))
            .collect()
    });
}

#[test]
fn bytes_of_codes_are_as_planned() {
    check_traffic(|size, net| {
        let all = oracle::with_options(size, net).into_iter();
        let coded = all.map(|strategy| strategy.quantized_gathers(50));
        let coded: Vec<Strategy> = coded.filter(|s| s.plan(net, size).is_ok()).collect();
        assert!(coded.len() > 10);
        coded
    });
}
