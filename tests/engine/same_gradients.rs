//! Optimizers on shards, bit for bit against one plain device that is given the same gradients.
//!
//! Gradients are numbers by formula, so that nothing but the step itself can differ: a world of any size has the bits
//! of the plain device. A save in the middle goes on at another number of ranks with the same bits.

use crate::oracle;
use crate::oracle::{Values, values};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, Tensor, TensorData};
use burn_dist::launch::Threads;
use burn_dist::optim::{AdamWConfig, Groups, LayerDecay, LowBitAdamWConfig, StateType};
use burn_dist::{Destination, Error, Result, Strategy, World};
use std::collections::BTreeMap;
use std::path::Path;

const STEPS: usize = 6;

/// Matrices of more than one block of 256 elements, of which none is a multiple of it.
#[derive(Module, Debug)]
struct Net {
    first: Linear,
    blocks: Vec<Linear>,
    last: Linear,
    scale: Param<Tensor<1>>,
}

impl Net {
    fn new(device: &Device) -> Self {
        let dense = |i, o| LinearConfig::new(i, o).init(device);
        oracle::undrawn(Self {
            first: dense(23, 40),
            blocks: vec![dense(40, 40), dense(40, 40)],
            last: dense(40, 7),
            scale: Param::from_data([1.5], device),
        })
    }
}

/// An optimizer, and the rates it is stepped with.
type Recipe = fn(&Groups) -> Result<(ModuleOptimizer, LayerDecay)>;

/// What the field does: no decay of small parameters, and rates that fall by layer.
fn grouped(groups: &Groups) -> Result<(ModuleOptimizer, LayerDecay)> {
    let config = AdamWConfig::new().with_weight_decay(0.3);
    let none = config.clone().with_weight_decay(0.0).build();
    let still = groups.no_decay().at(["last"])?;
    let adamw = config.init().with_group(still.group(), none, None);
    let rates = groups.layer_decay(0.5, groups.block_depths("blocks.*")?)?;
    Ok((adamw, rates))
}

/// Burn's own optimizers, one of them for the blocks alone.
fn burns(groups: &Groups) -> Result<(ModuleOptimizer, LayerDecay)> {
    let adamw = burn::optim::AdamWConfig::new().with_weight_decay(0.3);
    let lion = burn::optim::LionConfig::new().build();
    let blocks = groups.at(["blocks.*.weight"])?;
    Ok((
        adamw.init().with_group(blocks, lion, None),
        LayerDecay::none(),
    ))
}

/// Moments in few bits, without decay of small parameters.
fn low_bit(states: StateType, groups: &Groups) -> Result<(ModuleOptimizer, LayerDecay)> {
    let config = LowBitAdamWConfig::new(states).with_weight_decay(0.3);
    let none = config.clone().with_weight_decay(0.0).build();
    let adamw = config
        .init()
        .with_group(groups.no_decay().group(), none, None);
    Ok((adamw, LayerDecay::none()))
}

/// The gradients of a step, in a plain model's place of its parameters.
fn gradients(step: usize, device: &Device) -> Net {
    struct Waves(usize);
    impl ModuleMapper for Waves {
        fn map_float<const D: usize>(&mut self, p: Param<Tensor<D>>) -> Param<Tensor<D>> {
            self.0 += 1;
            let from = self.0;
            p.map(|t| {
                // Of sizes from 1e-4 to 1, as gradients are.
                let size = |i: usize| 10f64.powi(-((i * 7 + from) as i32 % 5));
                let at = |i: usize| ((i * 31 + from * 17) as f64).sin() * size(i);
                let (dims, device) = (t.dims(), t.device().inner());
                let numbers: Vec<f64> = (0..dims.iter().product()).map(at).collect();
                let data = TensorData::new(numbers, dims).convert_dtype(t.dtype());
                Tensor::from_inner(Tensor::from_data(data, &device)).require_grad()
            })
        }
    }
    Net::new(device).map(&mut Waves(100 * step))
}

/// What a module stores, as the gradients of the parameters of another one, path by path.
fn as_gradients(of: &Net, to: &Net) -> GradientsParams {
    #[derive(Default)]
    struct Ids(Vec<String>, BTreeMap<String, ParamId>);
    impl ModuleVisitor for Ids {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, p: &Param<Tensor<D>>) {
            self.1.insert(self.0.join("."), p.id);
        }
    }
    struct Give(Vec<String>, BTreeMap<String, ParamId>, GradientsParams);
    impl ModuleVisitor for Give {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.0.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, p: &Param<Tensor<D>>) {
            let stored = p.base().inner();
            // Of nothing there is nothing to step, as in `ShardedGradients::into_params`.
            if stored.shape().num_elements() > 0 {
                self.2.register(self.1[&self.0.join(".")], stored);
            }
        }
    }
    let mut ids = Ids::default();
    to.visit(&mut ids);
    let mut give = Give(Vec::new(), ids.1, GradientsParams::new());
    of.visit(&mut give);
    give.2
}

/// The parameters of one plain device after so many steps.
fn plain(recipe: Recipe, steps: usize) -> Values {
    let device = Device::flex().autodiff();
    let mut model = Net::new(&device);
    let (mut optimizer, rates) = recipe(&Groups::of(&model).unwrap()).unwrap();
    for step in 0..steps {
        let given = as_gradients(&gradients(step, &device), &model);
        model = optimizer.step(rates.at(0.01), model, given);
    }
    values(&model)
}

/// A rank's part of a run: from a save if there is one, with a save after the step `save_at`.
fn run(
    world: &World,
    strategy: &Strategy,
    recipe: Recipe,
    saves: &Path,
    until: usize,
) -> Result<Values> {
    let device = world.device();
    let shard = |net: Net| strategy.clone().shard(net, world);
    let mut model = shard(Net::new(&device))?;
    let (optimizer, rates) = recipe(&Groups::of(&model)?)?;
    let mut optimizer = world.optimizer(optimizer, &model)?;
    let mut first = 0;
    if world.has_save(saves)? {
        (model, optimizer, first) = world.load(saves, model, optimizer)?;
    }
    for step in first..until {
        let given = as_gradients(&shard(gradients(step, &device))?, &model);
        model = optimizer.step(rates.at(0.01), model, given);
    }
    world.save(saves, &model, &optimizer, &until)?;
    Ok(values(&world.full(&model, Destination::All)?.unwrap()))
}

/// Every strategy at every world size up to 4 has the bits of one plain device, also where a run is saved halfway and
/// goes on with another number of ranks.
fn same_bits(name: &str, recipe: Recipe, strategies: fn(usize) -> Vec<Strategy>) {
    let (half, whole) = (plain(recipe, STEPS / 2), plain(recipe, STEPS));
    assert_ne!(half, whole);
    for size in 1..=4 {
        for strategy in strategies(size) {
            let what = format!("{name}: {strategy} at world {size}");
            let folder = tempfile::tempdir().unwrap();
            let saves = folder.path();
            let at = |size: usize, strategy: &Strategy, until: usize| {
                let threads = Threads::new(size);
                let found = threads.run(|world| run(&world, strategy, recipe, saves, until));
                found.unwrap_or_else(|error| panic!("{what}: {error}"))
            };
            for (rank, found) in at(size, &strategy, STEPS / 2).iter().enumerate() {
                assert_eq!(*found, half, "{what}, rank {rank}");
            }
            // On as many ranks, and then the same save on another number of them.
            let copy = tempfile::tempdir().unwrap();
            copy_folder(saves, copy.path());
            assert_eq!(at(size, &strategy, STEPS)[0], whole, "{what}, resumed");
            let other = size % 4 + 1;
            let strategy = strategies(other).pop().unwrap();
            let moved = Threads::new(other)
                .run(|world| run(&world, &strategy, recipe, copy.path(), STEPS))
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(moved[0], whole, "{what}, resumed on {other} ranks");
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn groups_and_layer_decay_have_the_bits_of_one_device() {
    same_bits("groups", grouped, oracle::strategies);
}

#[test]
fn groups_of_burns_optimizers_have_the_bits_of_one_device() {
    same_bits("Burn's", burns, oracle::strategies);
}

#[test]
fn states_in_few_bits_have_the_bits_of_one_device() {
    same_bits(
        "bf16",
        |groups| low_bit(StateType::Bf16, groups),
        oracle::strategies,
    );
    same_bits(
        "int8",
        |groups| low_bit(StateType::Int8, groups),
        |size| {
            let all = oracle::strategies(size).into_iter();
            all.map(|strategy| strategy.block_aligned(256)).collect()
        },
    );
}

#[test]
fn states_in_blocks_need_shards_at_blocks() {
    for (block, fits) in [(1, false), (64, false), (256, true), (512, true)] {
        let found = Threads::new(2).run(|world| {
            let strategy = Strategy::fsdp().block_aligned(block);
            let model = strategy.shard(Net::new(&world.device()), &world)?;
            let adamw = LowBitAdamWConfig::new(StateType::Int8).init();
            world.optimizer(adamw, &model).map(drop)
        });
        match found {
            Ok(_) => assert!(fits, "blocks of {block}"),
            Err(error @ Error::Optimizer { .. }) => {
                assert!(!fits, "blocks of {block}: {error}");
                let error = error.to_string();
                assert!(error.contains("Strategy::block_aligned(256)"), "{error}");
            }
            Err(other) => panic!("{other}"),
        }
    }
    // A norm of a whole tensor has no remedy in blocks.
    let found = Threads::new(2).run(|world| {
        let model = Strategy::fsdp().shard(Net::new(&world.device()), &world)?;
        let lamb = burn::optim::LambConfig::new().init();
        world.optimizer(lamb, &model).map(drop)
    });
    let error = found.unwrap_err().to_string();
    assert!(error.contains("element-wise"), "{error}");
    for block in [0, 100, 32] {
        let found = Threads::new(2).run(|world| {
            let strategy = Strategy::fsdp().block_aligned(block);
            strategy.shard(Net::new(&world.device()), &world).map(drop)
        });
        let error = found.unwrap_err().to_string();
        assert!(error.contains("a multiple of 64"), "{error}");
    }
}

#[test]
fn groups_of_shards_are_those_of_the_whole_model() {
    let device = Device::flex().autodiff();
    let whole = Groups::of(&Net::new(&device)).unwrap();
    for size in 1..=4 {
        for strategy in oracle::strategies(size) {
            let found = Threads::new(size).run(|world| {
                let model = strategy.clone().shard(Net::new(&world.device()), &world)?;
                Groups::of(&model)
            });
            for groups in found.unwrap() {
                assert_eq!(groups.parameters(), whole.parameters());
            }
        }
    }
}
