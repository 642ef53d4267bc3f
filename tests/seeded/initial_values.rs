//! Ranks that begin with different parameters or generators: all ranks train the same model, and each draws
//! random numbers of its own.
//!
//! Each case runs with ranks as threads and, since this test starts itself again, as processes.

use crate::alone;
use crate::oracle;
use crate::oracle::{Values, ranks, values};
use burn::module::{Module, Param, ParamId, RunningState};
use burn::nn::{BatchNorm, BatchNormConfig, Initializer, Linear, LinearConfig};
use burn::tensor::{Bool, Device, Distribution, Int, Tensor, TensorData};
use burn_dist::comm::{Op, Span, SpanMut};
use burn_dist::launch::{Flags, NProc, exit_code};
use burn_dist::{Destination, Noise, Result, Strategy, World, launch};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A class token, lazy layers, and every kind of buffer.
#[derive(Module, Debug)]
struct Net {
    first: Linear,
    token: Param<Tensor<1>>,
    norm: BatchNorm,
    positions: Param<Tensor<1, Int>>,
    mask: Param<Tensor<1, Bool>>,
    last: Linear,
}

impl Net {
    /// A model whose buffers are `rank`'s own, and whose parameters are lazy.
    fn new(rank: usize, device: &Device) -> Self {
        let mut norm = BatchNormConfig::new(5).init(device);
        norm.running_mean = RunningState::new(Tensor::full([5], rank as f64, device));
        let (positions, mask) = (vec![rank as i32; 3], vec![rank == 0; 2]);
        let uniform = Initializer::Uniform {
            min: -1.0,
            max: 1.0,
        };
        Self {
            first: LinearConfig::new(7, 5).init(device),
            token: uniform.init([11], device),
            norm,
            positions: Param::initialized(
                ParamId::new(),
                Tensor::from_data(TensorData::new(positions, [3]), device),
            ),
            mask: Param::initialized(
                ParamId::new(),
                Tensor::from_data(TensorData::new(mask, [2]), device),
            ),
            last: LinearConfig::new(5, 3).init(device),
        }
    }

    /// The same with a class token of the rank's own.
    fn with_token(mut self, value: Tensor<1>) -> Self {
        let id = self.token.id;
        self.token = self.token.transform_for_load(value, id);
        self
    }
}

/// Whether a rank has a value for the class token before the model is sharded.
type Valued = (&'static str, fn(usize) -> bool);

const VALUED: [Valued; 3] = [
    ("on every rank", |_| true),
    ("on rank 0 alone", |rank| rank == 0),
    ("on rank 1 alone", |rank| rank == 1),
];

/// Rank 0's numbers, on every rank.
fn of_chief(world: &World, mine: &[f64]) -> Result<Vec<f64>> {
    let mut all = mine.to_vec();
    let label = "numbers of rank 0".into();
    world.comm().broadcast(&label, 0, SpanMut::of(&mut all))?;
    Ok(all)
}

fn numbers(values: &Values) -> Vec<f64> {
    values.values().flatten().copied().collect()
}

/// Every strategy trains rank 0's model, whichever ranks have values.
///
/// The `k`-th model of a world is drawn from its seed and `k`; each case has a world of its own, so
/// that what is lazy comes out the same in all of them.
fn begin_with_equal_parameters(world: &World) -> Result<()> {
    let (rank, device) = (world.rank(), world.device());
    for strategy in oracle::strategies(world.size()) {
        let mut drawn: Option<Values> = None;
        for (who, is_valued) in VALUED {
            let case = format!("{strategy}, valued {who}, rank {rank}");
            let own = world
                .noise(3)
                .random([11], Distribution::Default, &device, 0);
            let mut net = Net::new(rank, &device);
            if is_valued(rank) {
                net = net.with_token(own.clone());
            }
            let comm = world.comm().split(0, rank)?;
            let fresh = World::new(comm, device.clone(), world.seed())?;
            let net = strategy.clone().shard(net, &fresh)?;

            let full = fresh.full(&net, Destination::All)?.unwrap();
            let mut found = values(&full);
            let mine = numbers(&found);
            assert_eq!(mine, of_chief(world, &mine)?, "{case}");

            let token = found.remove("token").unwrap();
            let own: Vec<f64> = own.into_data().iter::<f64>().collect();
            let of_chief = of_chief(world, &own)?;
            // Where rank 0 has none it is drawn there; it never comes from another rank.
            assert_eq!(token == of_chief, is_valued(0), "{case}");
            assert!(rank == 0 || token != own, "{case}");
            assert_eq!(found["norm.running_mean"], [0.0; 5], "{case}");
            let positions = full.positions.val().into_data();
            assert_eq!(
                positions.iter::<i64>().collect::<Vec<_>>(),
                [0; 3],
                "{case}"
            );
            let mask = full.mask.val().into_data();
            assert_eq!(mask.iter::<bool>().collect::<Vec<_>>(), [true; 2], "{case}");

            // Whichever ranks had a token, the other parameters are drawn equally.
            assert_eq!(*drawn.get_or_insert_with(|| found.clone()), found, "{case}");
        }
    }
    Ok(())
}

/// What is lazy on every rank is drawn there, and nothing is sent.
fn lazy_is_silent(world: &World) -> Result<()> {
    let before = world.ledger().total(Op::Broadcast).calls;
    let model = LinearConfig::new(7, 5).init(&world.device());
    let model = Strategy::ddp().shard(model, world)?;
    assert_eq!(world.ledger().total(Op::Broadcast).calls, before);
    let mine = numbers(&values(&model));
    assert_eq!(mine, of_chief(world, &mine)?);
    Ok(())
}

/// A rank's noise follows from seed, pass and rank, wherever it runs.
fn noise_is_the_ranks_own(world: &World) -> Result<()> {
    let draw = |noise: Noise| -> TensorData {
        let normal = Distribution::Normal(0.0, 1.0);
        noise
            .random::<1>([8], normal, &world.device(), 4)
            .into_data()
    };
    for rank in 0..world.size() {
        let same = draw(world.noise(9)) == draw(Noise::new(world.seed(), 9, rank as u32));
        assert_eq!(same, rank == world.rank());
    }
    Ok(())
}

/// What Burn draws on this rank after a model was sharded; in processes every rank draws its own.
fn drawn_after_shard(world: &World) -> Result<Vec<f64>> {
    let model = LinearConfig::new(7, 5).init(&world.device());
    let _model = Strategy::fsdp().shard(model, world)?;
    let draw = Tensor::<1>::random([8], Distribution::Default, &world.device());
    let draw: Vec<f64> = draw.into_data().iter::<f64>().collect();
    if world.ranks_here() == 1 {
        let mut all = vec![0.0; 8 * world.size()];
        let label = "draws".into();
        let (send, recv) = (Span::of(&draw), SpanMut::of(&mut all));
        world.comm().all_gather(&label, send, recv)?;
        let draws: Vec<&[f64]> = all.chunks(8).collect();
        for (a, first) in draws.iter().enumerate() {
            assert!(draws[a + 1..].iter().all(|second| first != second));
        }
    }
    Ok(draw)
}

fn all(world: World) -> Result<()> {
    begin_with_equal_parameters(&world)?;
    lazy_is_silent(&world)?;
    noise_is_the_ranks_own(&world)?;
    let drawn = drawn_after_shard(&world)?;
    if let Ok(folder) = std::env::var("ALIKE_FOLDER") {
        let file = Path::new(&folder).join(world.rank().to_string());
        std::fs::write(file, format!("{drawn:?}")).unwrap();
    }
    Ok(())
}

#[test]
fn threads_begin_with_equal_parameters() {
    let _alone = alone();
    for size in 2..=4 {
        ranks(size).seed(7).run(all).unwrap();
    }
}

#[test]
fn processes_begin_with_equal_parameters_and_draw_different_numbers() {
    let _alone = alone();
    for size in [2, 3] {
        let run = || -> Vec<String> {
            let folder = tempfile::tempdir().unwrap();
            start(size, folder.path());
            let read = |rank: usize| folder.path().join(rank.to_string());
            (0..size)
                .map(|rank| std::fs::read_to_string(read(rank)).unwrap())
                .collect()
        };
        assert_eq!(run(), run(), "a second run draws the same");
    }
}

/// Starts this test again as `size` processes, and waits for them.
fn start(size: usize, folder: &Path) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "initial_values::rank_program",
            "--nocapture",
        ])
        .env("ALIKE_FOLDER", folder)
        .env("ALIKE_RANKS", size.to_string())
        .spawn()
        .unwrap();
    let start = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if start.elapsed() > Duration::from_secs(120) => {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("{size} processes did not end");
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    assert!(status.success(), "{size} processes: {status}");
}

/// Not a test: what the processes run.
#[test]
#[ignore = "a rank of the other tests"]
fn rank_program() {
    let Ok(size) = std::env::var("ALIKE_RANKS") else {
        return; // The ignored tests are run directly.
    };
    let flags = Flags {
        nproc_per_node: Some(NProc::Count(size.parse().unwrap())),
        ..Flags::default()
    };
    let result = launch(&flags).seed(7).run(all);
    if let Err(error) = &result {
        eprintln!("error: {error}");
    }
    std::process::exit(exit_code(&result).into());
}
