//! Clipping, loss scaling, accumulation, precision, recomputation, frozen and tied parameters and
//! dropout, all together: every combination against one plain device.
//!
//! The reference is written by hand with plain Burn: it casts a master copy to the type of the policy,
//! runs each rank's and each micro-batch's share as a pass of its own, and adds the gradients up
//! in f32.

use crate::oracle;
use crate::oracle::{Values, close, holding, ranks, values};
use burn::module::{Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::activation::gelu;
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use burn_dist::Noise;
use burn_dist::nn::loss::cross_entropy_sum;
use burn_dist::{Destination, GradScaler, Precision, Result, Strategy, World, unit};

const STEPS: usize = 3;
const WORDS: usize = 11;
const WIDTH: usize = 6;
/// Samples of a step; divides by 1, 2, 3 ranks and by 1, 2 micro-batches.
const BATCH: usize = 12;

#[derive(Module, Debug)]
struct Block {
    norm: LayerNorm,
    linear: Linear,
}

/// A small language model: its embeddings are tied to the decoder, and the middle block is frozen.
#[derive(Module, Debug)]
struct Net {
    table: Param<Tensor<2>>,
    blocks: Vec<Block>,
}

impl Net {
    /// Numbers that no generator draws: now and then a draw overflows in f16, for the reference too.
    fn new(device: &Device) -> Self {
        let wave = |len: usize, from: usize| -> Vec<f32> {
            let at = |i| ((i + from) * 29 % 31) as f32 / 15.0 - 1.0;
            (0..len).map(|i| at(i) * 0.6).collect()
        };
        let matrix = |rows: usize, from: usize| {
            let numbers = TensorData::new(wave(rows * WIDTH, from), [rows, WIDTH]);
            Param::from_data(numbers, device)
        };
        let block = |at: usize| {
            let mut linear = LinearConfig::new(WIDTH, WIDTH).init(device);
            linear.weight = matrix(WIDTH, 7 * at + 3);
            let bias = TensorData::new(wave(WIDTH, at), [WIDTH]);
            linear.bias = Some(Param::from_data(bias, device));
            let norm = LayerNormConfig::new(WIDTH).init(device);
            let block = Block { norm, linear };
            if at == 1 { block.freeze() } else { block }
        };
        Self {
            table: matrix(WORDS, 0),
            blocks: (0..3).map(block).collect(),
        }
    }

    fn forward(&self, words: Tensor<1, Int>, noise: Noise) -> Tensor<2> {
        unit(self, words, move |net: &Self, words| {
            let mut x = net.table.val().select(0, words);
            for (block, number) in net.blocks.iter().zip(1..) {
                let noise = noise.unit(number);
                x = unit(block, x, move |block: &Block, x: Tensor<2>| {
                    let y = gelu(block.linear.forward(block.norm.forward(x.clone())));
                    x + noise.dropout(y, 0.2, 0)
                });
            }
            x.matmul(net.table.val().transpose())
        })
    }

    /// The summed loss of one rank's part of one micro-batch.
    fn loss(&self, part: Part, device: &Device) -> Tensor<1> {
        let at = |i: usize| (i * 5 + part.step * 3) as i64 % WORDS as i64;
        let range = part.start..part.start + part.len;
        let words: Vec<i64> = range.clone().map(at).collect();
        let labels: Vec<i64> = range.map(|i| at(i + 1)).collect();
        let int = |data: Vec<i64>| Tensor::<1, Int>::from_data(data.as_slice(), device);
        let noise = Noise::new(7, (part.step * 8 + part.micro) as u64, part.rank as u32);
        let logits = self.forward(int(words), noise).cast(FloatDType::F32);
        cross_entropy_sum(logits, int(labels), None)
    }
}

/// The rank, step and micro-batch of the samples.
#[derive(Clone, Copy)]
struct Part {
    step: usize,
    micro: usize,
    rank: usize,
    start: usize,
    len: usize,
}

impl Part {
    fn new(step: usize, micro: usize, rank: usize, case: &Case, size: usize) -> Self {
        let len = BATCH / case.micros / size;
        let start = (micro * size + rank) * len;
        Self {
            step,
            micro,
            rank,
            start,
            len,
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
struct Case {
    precision: Precision,
    recompute: bool,
    micros: usize,
    clip: Option<f64>,
}

impl Case {
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for precision in [Precision::full(), Precision::bf16(), Precision::f16()] {
            for recompute in [false, true] {
                for micros in [1, 2] {
                    for clip in [None, Some(0.05)] {
                        all.push(Self {
                            precision,
                            recompute,
                            micros,
                            clip,
                        });
                    }
                }
            }
        }
        all
    }

    fn scale(&self) -> f64 {
        if self.precision == Precision::f16() {
            256.0
        } else {
            1.0
        }
    }

    fn scaler(&self) -> GradScaler {
        if self.precision == Precision::f16() {
            GradScaler::new().starting_at(self.scale())
        } else {
            GradScaler::disabled()
        }
    }
}

fn adamw() -> ModuleOptimizer {
    AdamWConfig::new().with_weight_decay(0.01).init()
}

const LR: f64 = 1e-2;

#[derive(Debug, Clone, PartialEq)]
struct Trace {
    gradients: Vec<Values>,
    norms: Vec<f64>,
    parameters: Values,
}

/// Trains on one plain device.
fn reference(case: &Case, size: usize, model: Net) -> Trace {
    let device = Device::flex().autodiff();
    let (mut model, mut optimizer) = (model, adamw());
    let (mut gradients, mut norms) = (Vec::new(), Vec::new());
    for step in 0..STEPS {
        let mut sum: Option<Net> = None;
        for micro in 0..case.micros {
            for rank in 0..size {
                let computed = match case.precision.param_dtype {
                    Some(dtype) => oracle::cast(model.clone(), dtype),
                    None => model.clone(),
                };
                let part = Part::new(step, micro, rank, case, size);
                let loss = computed.loss(part, &device) * case.scale();
                let grads = GradientsParams::from_grads(loss.backward(), &computed);
                let one = oracle::cast(holding(&computed, &grads), FloatDType::F32);
                sum = Some(match sum {
                    Some(sum) => mixed(sum, 1.0, &one, 1.0),
                    None => one,
                });
            }
        }
        let sum = sum.unwrap();
        let by = 1.0 / (BATCH as f64 * case.scale());
        let mean = mixed(sum.clone(), by, &sum, 0.0);
        let norm = values(&mean).values().flatten().map(|x| x * x).sum::<f64>();
        let norm = norm.sqrt();
        let mean = match case.clip {
            Some(clip) if norm > clip => mixed(mean.clone(), clip / (norm + 1e-6), &mean, 0.0),
            _ => mean,
        };
        gradients.push(values(&mean));
        norms.push(norm);
        model = optimizer.step(LR, model.clone(), given(&model, &mean));
    }
    Trace {
        gradients,
        norms,
        parameters: values(&model),
    }
}

/// `by * a + of * b`, parameter by parameter.
fn mixed(a: Net, by: f64, b: &Net, of: f64) -> Net {
    struct Add<'a>(&'a mut dyn Iterator<Item = Vec<f32>>, f64, f64);
    impl burn::module::ModuleMapper for Add<'_> {
        fn map_float<const D: usize>(&mut self, p: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let other = self.0.next().unwrap();
            p.map(|x| {
                let x = x.inner();
                let other = TensorData::new(other, x.dims());
                let other = Tensor::from_data(other, &x.device());
                Tensor::from_inner(x * self.1 + other * self.2)
            })
        }
    }
    struct All(Vec<Vec<f32>>);
    impl burn::module::ModuleVisitor for All {
        fn visit_float<const D: usize>(&mut self, p: &Param<Tensor<D>>) {
            self.0.push(p.val().into_data().iter::<f32>().collect());
        }
    }
    let mut all = All(Vec::new());
    b.visit(&mut all);
    a.map(&mut Add(&mut all.0.into_iter(), by, of))
}

/// The gradients that `mean` holds, for those of `model` that take some.
fn given(model: &Net, mean: &Net) -> GradientsParams {
    struct Pairs(Vec<(burn::module::ParamId, bool)>);
    impl burn::module::ModuleVisitor for Pairs {
        fn visit_float<const D: usize>(&mut self, p: &Param<Tensor<D>>) {
            self.0.push((p.id, p.is_require_grad()));
        }
    }
    struct Register(Vec<(burn::module::ParamId, bool)>, GradientsParams);
    impl burn::module::ModuleVisitor for Register {
        fn visit_float<const D: usize>(&mut self, p: &Param<Tensor<D>>) {
            let (id, trains) = self.0.remove(0);
            if trains {
                self.1.register(id, p.val().inner());
            }
        }
    }
    let mut pairs = Pairs(Vec::new());
    model.visit(&mut pairs);
    let mut register = Register(pairs.0, GradientsParams::new());
    mean.visit(&mut register);
    register.1
}

fn run(world: &World, strategy: Strategy, case: &Case, model: Net) -> Result<Trace> {
    let strategy = strategy.precision(case.precision).recompute(case.recompute);
    let mut model = strategy.shard(model, world)?;
    let mut optimizer = world.optimizer(adamw(), &model)?;
    let mut scaler = case.scaler();
    let (mut gradients, mut norms) = (Vec::new(), Vec::new());
    for step in 0..STEPS {
        let mut sums = world.accumulate(&model)?;
        for micro in 0..case.micros {
            let part = Part::new(step, micro, world.rank(), case, world.size());
            let loss = world.run(|| model.loss(part, &world.device()))?;
            sums.add_sum(scaler.scale(loss), part.len)?;
        }
        let found = scaler.unscale(sums.finish()?)?.expect("no overflow");
        let clipped = found.clip_norm(case.clip.unwrap_or(f64::MAX))?;
        norms.push(clipped.norm);
        let full = world.full(&holding(&model, &clipped.grads), Destination::All)?;
        gradients.push(values(&full.unwrap()));
        model = optimizer.step(LR, model, clipped.grads);
    }
    let full = world.full(&model, Destination::All)?;
    Ok(Trace {
        gradients,
        norms,
        parameters: values(&full.unwrap()),
    })
}

fn check(size: usize) {
    let device = Device::flex().autodiff();
    let model = Net::new(&device);
    for case in Case::all() {
        let expected = reference(&case, size, model.clone());
        assert!(case.clip.is_none_or(|clip| clip < expected.norms[0]));
        // A case in which the reference itself overflows would prove nothing.
        let norms = &expected.norms;
        assert!(
            norms.iter().all(|norm| norm.is_finite()),
            "{case:?}: {norms:?}"
        );
        // In half precision a difference in the last bit of a stored f32 can become one in the
        // last bit of a half from the second step on.
        let (first, later) = if case.precision.is_full() {
            (1e-5, 1e-4)
        } else {
            (1e-5, 3e-2)
        };
        for strategy in oracle::strategies(size) {
            let what = format!("{strategy} at world {size}, {case:?}");
            let traces = ranks(size)
                .run(|world| run(&world, strategy.clone(), &case, model.clone()))
                .unwrap_or_else(|e| panic!("{what}: {e}"));
            for trace in traces {
                for step in 0..STEPS {
                    let bound = if step == 0 { first } else { later };
                    let (found, wanted) = (trace.norms[step], expected.norms[step]);
                    assert!(
                        (found - wanted).abs() <= bound * wanted,
                        "{what}: norm {found} for {wanted} at step {step}"
                    );
                    let what = format!("{what}, gradients of step {step}");
                    close(
                        &what,
                        &trace.gradients[step],
                        &expected.gradients[step],
                        bound,
                    );
                }
                close(&what, &trace.parameters, &expected.parameters, later);
                // The frozen block is where it was.
                let name = "blocks.1.linear.weight";
                assert_eq!(trace.parameters[name], values(&model)[name], "{what}");
            }
        }
    }
}

#[test]
fn every_combination_on_one_rank() {
    check(1);
}

#[test]
fn every_combination_on_two_ranks() {
    check(2);
}

#[test]
fn every_combination_on_three_ranks() {
    check(3);
}
