//! Peak memory of a rank, counted by the allocator.
//!
//! Ranks are threads here, so the process holds all of them: every figure is the process's above
//! its start, divided by the world. `S` is a rank's shard, `U` the largest unit, `R` the root.
//!
//! A program of its own: no other test may allocate meanwhile.

mod allocator;
mod gpt;
mod lora;
mod options;
#[path = "../oracle/mod.rs"]
mod oracle;
mod saves;

use allocator::{COUNTING, peak};

use burn::module::{Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::optim::SgdConfig;
use burn::tensor::activation::gelu;
use burn::tensor::{Device, Distribution, Tensor};
use burn_dist::nn::functional::{MlpWeights, layer_norm, mlp};
use burn_dist::weights::{Export, Weights};
use burn_dist::{Strategy, World, unit};
use oracle::ranks;
use std::sync::{Barrier, PoisonError};

const STEPS: usize = 5;

/// A block as transformers have it: the norm's weight is reshaped, and must not pin the unit.
#[derive(Module, Debug)]
struct Block {
    norm: LayerNorm,
    up: Linear,
    down: Linear,
    /// Whether it computes with the operations of `burn_dist::nn`.
    fused: bool,
}

#[derive(Module, Debug)]
struct Net {
    left: Linear,
    right: Linear,
    blocks: Vec<Block>,
}

impl Block {
    fn new(size: Size, device: &Device) -> Self {
        let Size { width, inner, .. } = size;
        Self {
            norm: LayerNormConfig::new(width).init(device),
            up: LinearConfig::new(width, inner).init(device),
            down: LinearConfig::new(inner, width).init(device),
            fused: size.fused,
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        if self.fused {
            let of = |param: &Option<Param<Tensor<1>>>| param.as_ref().unwrap().val();
            let (gamma, beta) = (self.norm.gamma.val(), of(&self.norm.beta));
            let weights = MlpWeights {
                up: self.up.weight.val(),
                up_bias: of(&self.up.bias),
                down: self.down.weight.val(),
                down_bias: of(&self.down.bias),
            };
            return x.clone() + mlp(layer_norm(x, gamma, beta, 1e-5), weights);
        }
        x.clone()
            + self
                .down
                .forward(gelu(self.up.forward(self.norm.forward(x))))
    }
}

/// What a model is made of.
#[derive(Clone, Copy)]
struct Size {
    blocks: usize,
    width: usize,
    /// Inner width of a block.
    inner: usize,
    /// Output width of the root.
    root: usize,
    frozen: bool,
    fused: bool,
}

impl Size {
    fn init(self, device: &Device) -> Net {
        let mut net = Net {
            left: LinearConfig::new(self.width, self.root / 2).init(device),
            right: LinearConfig::new(self.width, self.root / 2).init(device),
            blocks: (0..self.blocks).map(|_| Block::new(self, device)).collect(),
        };
        if self.frozen {
            for block in net.blocks.iter_mut().step_by(2) {
                *block = block.clone().freeze();
            }
        }
        net
    }
}

impl Net {
    fn loss(&self, x: Tensor<2>) -> Tensor<1> {
        unit(self, x, |net: &Self, mut x| {
            for block in &net.blocks {
                x = unit(block, x, Block::forward);
            }
            let square = |y: Tensor<2>| y.powi_scalar(2).mean();
            square(net.left.forward(x.clone())) + square(net.right.forward(x))
        })
    }
}

/// Bytes per rank above the start of the program.
#[derive(Debug, Clone, Copy, Default)]
struct Peaks {
    /// What the kernels of one plain block take for themselves.
    scratch: usize,
    shard: usize,
    forward: usize,
    backward: usize,
    /// What is left after each step.
    after: [usize; STEPS],
}

/// One sample: activations are not what is measured.
fn input(size: Size, device: &Device) -> Tensor<2> {
    Tensor::random([1, size.width], Distribution::Default, device)
}

/// What the kernels take for one block; they keep some of it for each thread, so that what is
/// measured afterwards is without it.
fn scratch(size: Size, world: &World, all: &Barrier) -> usize {
    let device = world.device();
    let block = Block::new(size, &device);
    let run = || block.forward(input(size, &device)).mean();
    let _ = run().backward();
    let ((), before) = peak(world, all, || ());
    let (_, during) = peak(world, all, run);
    (during - before) / world.size()
}

fn measure(size: Size, world_size: usize) -> Peaks {
    let loss = |net: &Net, device: &Device| net.loss(input(size, device));
    let scratch = |world: &World, all: &Barrier| scratch(size, world, all);
    let strategy = Strategy::fsdp();
    measure_model(
        world_size,
        strategy,
        |device| size.init(device),
        loss,
        scratch,
    )
}

fn measure_model<M: Module>(
    world_size: usize,
    strategy: Strategy,
    init: impl Fn(&Device) -> M + Sync,
    loss: impl Fn(&M, &Device) -> Tensor<1> + Sync,
    scratch: impl Fn(&World, &Barrier) -> usize + Sync,
) -> Peaks {
    let _one = COUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    let all = Barrier::new(world_size);
    let run = |world: World| {
        let device = world.device();
        let mut peaks = Peaks {
            scratch: scratch(&world, &all),
            ..Peaks::default()
        };
        let ((), start) = peak(&world, &all, || ());
        let per_rank = |bytes: usize| bytes.saturating_sub(start) / world_size;
        let shard = || {
            // The plain copy of a check would be measured.
            let strategy = strategy.clone().check_units(false);
            strategy.shard(init(&device), &world)
        };
        let (model, bytes) = peak(&world, &all, shard);
        let mut model = model?;
        peaks.shard = per_rank(bytes);
        let mut sgd = SgdConfig::new().init();
        for after in &mut peaks.after {
            let (loss, bytes) = peak(&world, &all, || loss(&model, &device));
            peaks.forward = peaks.forward.max(per_rank(bytes));
            let (grads, bytes) = peak(&world, &all, || world.backward(loss, &model));
            peaks.backward = peaks.backward.max(per_rank(bytes));
            model = sgd.step(1e-3, model, grads?.into_params());
            *after = per_rank(peak(&world, &all, || ()).1);
        }
        Ok(peaks)
    };
    ranks(world_size).run(run).unwrap()[0]
}

/// Asserts that `found` is at most `bar` and 5 %.
fn within(what: &str, found: usize, bar: usize) {
    let percent = 100.0 * found as f64 / bar as f64;
    println!("{what}: {found} of {bar} bytes, {percent:.1} %");
    assert!(
        percent <= 105.0,
        "{what}: {found} of {bar} bytes, {percent:.1} %"
    );
}

/// Compares a model with the bars at worlds 2, 3 and 4.
fn check(name: &str, size: Size) {
    check_model(
        name,
        |device| size.init(device),
        |ranks| measure(size, ranks),
    );
}

fn check_model<M: Module>(
    name: &str,
    init: impl Fn(&Device) -> M,
    measure: impl Fn(usize) -> Peaks,
) {
    for ranks in 2..=4 {
        let model = init(&Device::flex().autodiff());
        let plan = Strategy::fsdp().plan(&model, ranks).unwrap();
        let largest = |root: bool| {
            let units = plan.units().iter().filter(|u| u.path.is_empty() == root);
            units.map(|u| u.bytes()).max().unwrap()
        };
        let (s, g) = (plan.memory().parameters, plan.memory().gradients);
        let (u, r) = (largest(false), largest(true));
        let peaks = measure(ranks);
        let what = |when: &str| format!("{name} at world {ranks}, {when}");
        let forward = s + 2 * u + r + peaks.scratch;
        within(&what("forward"), peaks.forward, forward);
        within(&what("backward"), peaks.backward, s + g + 3 * u + 2 * r);
        for after in peaks.after {
            within(&what("after a step"), after, s);
        }
        // Threads share the process: all shards together are one whole model, once.
        let slots = plan.units().iter().flat_map(|u| &u.slots);
        let parameter = 4 * slots.map(|slot| slot.len).max().unwrap();
        within(
            &what("sharding"),
            ranks * peaks.shard,
            ranks * s + parameter,
        );
    }
}

const EVEN: Size = Size {
    blocks: 12,
    width: 768,
    inner: 768,
    root: 1536,
    frozen: false,
    fused: false,
};

#[test]
fn fused_operations_hold_no_weights() {
    check(
        "fused",
        Size {
            fused: true,
            ..EVEN
        },
    );
    let frozen = Size {
        fused: true,
        frozen: true,
        ..EVEN
    };
    check("fused, half frozen", frozen);
}

#[test]
fn units_as_large_as_the_root() {
    check("U = R", EVEN);
}

#[test]
fn units_much_smaller_than_the_root() {
    let small = Size {
        inner: 192,
        root: 6144,
        ..EVEN
    };
    check("U << R", small);
}

#[test]
fn units_much_larger_than_the_root() {
    check("U >> R", Size { root: 4, ..EVEN });
}

#[test]
fn half_of_the_parameters_frozen() {
    let frozen = Size {
        frozen: true,
        ..EVEN
    };
    check("half frozen", frozen);
}

/// Memory that every step leaks, from what is held after each. A thread that runs a kernel for the first time
/// allocates working memory once.
fn left_by_each(held: &[usize]) -> usize {
    let pairs = held.windows(2);
    pairs.map(|p| p[1].saturating_sub(p[0])).min().unwrap()
}

/// Bytes per rank, above the sharded model, that a batch of `rows` holds between forward and
/// backward, and at the worst moment of backward.
fn activations(size: Size, rows: usize, recompute: bool) -> (usize, usize) {
    let _one = COUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    let (ranks_here, all) = (2, Barrier::new(2));
    let run = |world: World| {
        let device = world.device();
        let strategy = Strategy::fsdp().recompute(recompute).check_units(false);
        let model = strategy.shard(size.init(&device), &world)?;
        let (mut found, mut starts) = ((0, 0), Vec::new());
        // Kernels keep some memory for each thread, so the first step does not count.
        for _ in 0..6 {
            let x = Tensor::random([rows, size.width], Distribution::Default, &device);
            let ((), start) = peak(&world, &all, || ());
            starts.push(start);
            let (loss, _) = peak(&world, &all, || model.loss(x));
            let ((), held) = peak(&world, &all, || ());
            let (grads, worst) = peak(&world, &all, || world.backward(loss, &model));
            let _ = grads?;
            let above = |now: usize| now.saturating_sub(start) / ranks_here;
            found = (above(held), above(worst));
            // A forward without a backward: what is kept for backward must be freed with it.
            drop(model.loss(input(size, &device)));
        }
        let left = left_by_each(&starts);
        assert!(left < 1 << 14, "steps leave memory behind: {starts:?}");
        Ok(found)
    };
    ranks(ranks_here).run(run).unwrap()[0]
}

#[test]
fn recomputation_keeps_only_the_inputs_of_units() {
    let size = Size {
        blocks: 12,
        width: 256,
        inner: 512,
        root: 4,
        frozen: false,
        fused: false,
    };
    let rows = 512;
    let input = 4 * rows * size.width;
    let (kept, kept_worst) = activations(size, rows, false);
    let (held, worst) = activations(size, rows, true);
    // One input for each block, and what the root's loss keeps: its own input, and small change.
    within("held for backward", held, (size.blocks + 1) * input);
    // In backward what one block keeps, once more for its gradients, and gathered parameters.
    let block = kept / size.blocks;
    let model = size.init(&Device::flex().autodiff());
    let plan = Strategy::fsdp().plan(&model, 2).unwrap();
    let bar = (size.blocks + 1) * input + 2 * block + plan.memory().transient;
    within("in backward", worst, bar);
    println!("recomputed over kept: held {held} / {kept}, worst {worst} / {kept_worst}");
    assert!(4 * held < kept, "{held} of {kept}");
    assert!(2 * worst < kept_worst, "{worst} of {kept_worst}");
}

#[test]
fn steps_leak_no_memory() {
    let after = measure(EVEN, 2).after;
    assert!(left_by_each(&after) < 1 << 14, "{after:?}");
}

#[test]
fn loading_needs_the_shards_and_exporting_one_unit_more() {
    let _one = COUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = tempfile::tempdir().unwrap();
    let source = EVEN.init(&Device::flex());
    Export::new().write(&source, folder.path()).unwrap();
    drop(source);
    for size in 2..=3 {
        let all = Barrier::new(size);
        let model = EVEN.init(&Device::flex().autodiff());
        let plan = Strategy::fsdp().plan(&model, size).unwrap();
        let shard = plan.memory().parameters;
        let unit = plan.units().iter().map(|u| u.bytes()).max().unwrap();
        let run = |world: World| {
            let ((), start) = peak(&world, &all, || ());
            let per_rank = |bytes: usize| bytes.saturating_sub(start) / size;
            let load = || {
                let weights = Weights::open(folder.path())?;
                let model = EVEN.init(&world.device());
                Strategy::fsdp().shard_from(model, &world, &weights)
            };
            let (loaded, loading) = peak(&world, &all, load);
            let (model, report) = loaded?;
            assert!(report.missing.is_empty(), "{report}");
            let target = folder.path().join("exported");
            let export = || world.export(&model, &target, &Export::new());
            let (written, exporting) = peak(&world, &all, export);
            written?;
            Ok((per_rank(loading), per_rank(exporting)))
        };
        let (loading, exporting) = ranks(size).run(run).unwrap()[0];
        within(&format!("loading at world {size}"), loading, shard);
        within(
            &format!("exporting at world {size}"),
            exporting,
            shard + unit,
        );
    }
}
