//! Branches that differ between ranks: experts that only some ranks use, and a head that only some losses reach, against
//! one plain device.

use crate::oracle::{self, Trace, ranks};
use burn::module::Module;
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::optim::{AdamWConfig, ModuleOptimizer};
use burn::tensor::activation::gelu;
use burn::tensor::{DType, Device, FloatDType, Tensor};
use burn_dist::{Error, Result, ShardedGradients, Strategy, World, unit};

const STEPS: usize = 3;
/// Rows that go to one expert.
const CHUNK: usize = 2;
/// Chunks of a step; divides by 1 to 4 ranks and by 1 and 3 micro-batches.
const CHUNKS: usize = 36;
const WIDTH: usize = 7;

#[derive(Module, Debug)]
struct Moe {
    gate: Linear,
    experts: Vec<Linear>,
}

#[derive(Module, Debug)]
struct Block {
    norm: LayerNorm,
    moe: Moe,
}

/// Two blocks with four experts each, the last of which nobody uses, and a head for some of the samples.
#[derive(Module, Debug)]
struct Net {
    first: Linear,
    blocks: Vec<Block>,
    last: Linear,
    extra: Linear,
}

/// The expert of a chunk, if it has one.
fn expert(chunk: usize, step: usize) -> Option<usize> {
    match (chunk + step) % 5 {
        _ if chunk == 25 => Some(2),
        0 | 3 => Some(0),
        1 => Some(1),
        _ => None,
    }
}

/// Whether the loss of a chunk has the extra head's; in the last step that of none.
fn has_extra(chunk: usize, step: usize) -> bool {
    (chunk + 1).is_multiple_of(9) && step + 1 < STEPS
}

impl Net {
    fn new() -> Self {
        let device = Device::flex().autodiff();
        let dense = |o| LinearConfig::new(WIDTH, o).init(&device);
        let block = |_| Block {
            norm: LayerNormConfig::new(WIDTH).init(&device),
            moe: Moe {
                gate: dense(WIDTH),
                experts: (0..4).map(|_| dense(WIDTH)).collect(),
            },
        };
        let net = Self {
            first: dense(WIDTH),
            blocks: (0..2).map(block).collect(),
            last: dense(3),
            extra: dense(5),
        };
        oracle::cast(oracle::undrawn(net), FloatDType::F64)
    }

    /// The mean loss of some chunks of a step.
    fn loss(&self, x: Tensor<2>, chunks: Vec<usize>, step: usize) -> Tensor<1> {
        let experts: Vec<_> = chunks.iter().map(|c| expert(*c, step)).collect();
        let (y, extra) = unit(self, x, move |net: &Self, x| {
            let mut x = gelu(net.first.forward(x));
            for block in &net.blocks {
                let experts = experts.clone();
                x = unit(block, x, move |block: &Block, x: Tensor<2>| {
                    let y = block.norm.forward(x.clone());
                    x + unit(&block.moe, y, {
                        let experts = experts.clone();
                        move |moe: &Moe, y| moe.forward(y, &experts)
                    })
                });
            }
            // Run for all, whatever becomes of it.
            let extra = unit(&net.extra, x.clone(), |extra: &Linear, x| extra.forward(x));
            (net.last.forward(x), extra)
        });
        let mean = |x: Tensor<2>| x.powi_scalar(2).mean();
        let mut loss = mean(y);
        let of_all = 1.0 / chunks.len() as f64;
        for (number, chunk) in chunks.iter().enumerate() {
            if has_extra(*chunk, step) {
                let rows = number * CHUNK..(number + 1) * CHUNK;
                loss = loss + mean(extra.clone().slice([rows])) * of_all;
            }
        }
        loss
    }
}

impl Moe {
    fn forward(&self, x: Tensor<2>, experts: &[Option<usize>]) -> Tensor<2> {
        let x = gelu(self.gate.forward(x));
        let chunks = x.chunk(experts.len(), 0).into_iter().zip(experts);
        let ran = chunks.map(|(x, expert)| match expert {
            Some(expert) => gelu(self.experts[*expert].forward(x.clone())) + x,
            None => x,
        });
        Tensor::cat(ran.collect(), 0)
    }
}

fn adamw() -> ModuleOptimizer {
    AdamWConfig::new().with_weight_decay(0.1).init()
}

fn rows(step: usize) -> burn::tensor::TensorData {
    oracle::batch(CHUNK * CHUNKS, WIDTH, step)
}

/// The gradients of this rank's chunks, in so many micro-batches.
fn gradients(
    world: &World,
    net: &Net,
    step: usize,
    micro_batches: usize,
    announced: bool,
) -> Result<ShardedGradients> {
    let mut sums = world.accumulate(net)?;
    if announced {
        sums = sums.micro_batches(micro_batches);
    }
    let parts = world.size() * micro_batches;
    let each = CHUNKS / parts;
    for micro in 0..micro_batches {
        let part = world.rank() * micro_batches + micro;
        let mine = oracle::rows(&rows(step), part, parts);
        let x = oracle::tensor(&mine, DType::F64, &world.device());
        let chunks = (part * each..(part + 1) * each).collect();
        let loss = world.run(|| net.loss(x, chunks, step))?;
        sums.add(loss)?;
    }
    sums.finish()
}

fn units(strategy: Strategy) -> Strategy {
    strategy.units(["blocks.*", "blocks.*.moe", "extra"])
}

fn absent(strategy: Strategy) -> Strategy {
    units(strategy).absent(["blocks.*.moe", "extra"])
}

#[test]
fn experts_of_some_ranks_train_as_on_one_device() {
    let device = Device::flex().autodiff();
    let net = Net::new();
    let expected = oracle::plain(net.clone(), adamw(), STEPS, 1e-2, |net, step| {
        let x = oracle::tensor(&rows(step), DType::F64, &device);
        net.loss(x, (0..CHUNKS).collect(), step)
    });
    // What nobody uses is where it was: zeros would have decayed it.
    let start = oracle::values(&net);
    let name = "blocks.0.moe.experts.3.weight";
    assert_eq!(expected.parameters[name], start[name]);
    assert_ne!(
        expected.parameters["extra.weight"], start["extra.weight"],
        "the head is used"
    );
    for size in 1..=4 {
        let mut all = oracle::strategies(size);
        all.extend(oracle::with_option(size, &net));
        for strategy in all {
            let strategy = absent(strategy);
            for (micro_batches, announced) in [(1, true), (3, true), (3, false)] {
                let what = format!("{strategy} at world {size}, {micro_batches} micro-batches");
                let run = |world: World| -> Result<Trace> {
                    let model = strategy.clone().shard(net.clone(), &world)?;
                    oracle::sharded(&world, model, adamw(), STEPS, 1e-2, |net, step| {
                        Ok((0.0, gradients(&world, net, step, micro_batches, announced)?))
                    })
                };
                let traces = ranks(size)
                    .run(run)
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

#[test]
fn an_evaluation_and_a_dropped_forward_gather_alike_on_all_ranks() {
    let net = Net::new();
    let run = |world: World| {
        let net = absent(Strategy::fsdp()).shard(net.clone(), &world)?;
        let input = || oracle::tensor(&oracle::batch(CHUNK, WIDTH, 0), DType::F64, &world.device());
        let chunk = vec![world.rank()];
        for _ in 0..2 {
            let dropped = world.run(|| net.loss(input(), chunk.clone(), 0))?;
            let _ = gradients(&world, &net, 0, 1, true)?;
            drop(dropped);
            let valid = net.valid();
            let _ = world.run(|| valid.loss(input().inner(), chunk.clone(), 0))?;
        }
        Ok(())
    };
    ranks(3).run(run).unwrap();
}

#[test]
fn without_the_option_the_parameter_is_named() {
    let run = |world: World| {
        let net = units(Strategy::fsdp()).shard(Net::new(), &world)?;
        gradients(&world, &net, 0, 3, true).map(|_| ())
    };
    let found = ranks(4).run(run).unwrap_err();
    assert!(matches!(found, Error::GradientSet { .. }), "{found}");
    assert!(found.to_string().contains("Strategy::absent"), "{found}");
}

#[test]
fn a_unit_that_only_some_ranks_run_is_an_error_that_says_so() {
    let run = |world: World| {
        // Every expert is a unit of its own, as elements of vectors are.
        let net = Strategy::fsdp().shard(Net::new(), &world)?;
        let x: Tensor<2> =
            oracle::tensor(&oracle::batch(CHUNK, WIDTH, 0), DType::F64, &world.device());
        let used = world.rank();
        let loss = world.run(|| {
            unit(&net, x, move |net: &Net, x| {
                unit(&net.blocks[0].moe.experts[used], x, |expert: &Linear, x| {
                    expert.forward(x)
                })
            })
        })?;
        world.backward(loss.mean(), &net).map(|_| ())
    };
    let found = ranks(2).run(run).unwrap_err();
    assert!(matches!(found, Error::Mismatch { .. }), "{found}");
    let text = found.to_string();
    assert!(
        text.contains("only some ranks run") && text.contains("Strategy::absent"),
        "{text}"
    );
}

#[test]
fn a_pattern_that_names_no_unit_is_refused() {
    let found = Strategy::fsdp()
        .absent(["blocks.*.moe"])
        .plan(&Net::new(), 2);
    let found = found.unwrap_err().to_string();
    assert!(
        found.contains("blocks.0.moe.experts.0") && found.ends_with("found blocks.*.moe"),
        "{found}"
    );
    let named = units(Strategy::fsdp()).absent(["root", "blocks.*"]);
    assert!(named.plan(&Net::new(), 2).is_ok());
}
