//! Overlap of reductions with the last backward of a step, if the program announces it.

use crate::oracle::{self, Values, ranks, values};
use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::optim::SgdConfig;
use burn::tensor::activation::gelu;
use burn::tensor::{DType, Device, Tensor};
use burn_dist::comm::{Call, Communicator, Engine, Op, Reduce, Span, SpanMut, local};
use burn_dist::{Destination, Error, Result, Strategy, World, unit};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A block that runs twice, a frozen one, and a parameter that is read outside of any unit.
#[derive(Module, Debug)]
struct Net {
    blocks: Vec<Linear>,
    scale: Param<Tensor<1>>,
}

impl Net {
    fn new(device: &Device) -> Self {
        let mut blocks: Vec<_> = (0..4)
            .map(|_| LinearConfig::new(7, 7).init(device))
            .collect();
        blocks[1] = blocks[1].clone().no_grad();
        oracle::undrawn(Self {
            blocks,
            scale: Param::from_data([1.5], device),
        })
    }

    /// Without `last`, the last block takes no part.
    fn loss(&self, x: Tensor<2>, last: bool) -> Tensor<1> {
        let y = unit(self, x, move |net: &Self, mut x| {
            let order = [0, 1, 2, 0, 3];
            for block in &order[..4 + usize::from(last)] {
                x = unit(&net.blocks[*block], x, |block: &Linear, x| {
                    x.clone() + gelu(block.forward(x))
                });
            }
            x
        });
        (y * self.scale.val().unsqueeze()).powi_scalar(2).mean()
    }
}

/// How a program announces the last backward.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Announcement {
    Nothing,
    Number,
    Last,
}

/// Parameters after a step of three micro-batches, and calls and bytes of each kind of collective.
fn step(
    world: &World,
    strategy: &Strategy,
    announced: Announcement,
) -> Result<(Values, [(u64, u64); 3])> {
    let device = world.device();
    let model = strategy.clone().shard(Net::new(&device), world)?;
    world.ledger().reset();
    let mut sums = world.accumulate(&model)?;
    if announced == Announcement::Number {
        sums = sums.micro_batches(3);
    }
    for pass in 0..3 {
        let rows = oracle::batch(6 * world.size(), 7, pass);
        let rows = oracle::rows(&rows, world.rank(), world.size());
        // The last micro-batch of a unit need not be the step's last.
        let loss = model.loss(oracle::tensor(&rows, DType::F32, &device), pass != 2);
        if announced == Announcement::Last && pass == 2 {
            sums.set_is_last();
        }
        sums.add(loss)?;
    }
    let gradients = sums.finish()?.into_params();
    let sent = [Op::AllGather, Op::ReduceScatter, Op::AllReduce];
    let sent = sent
        .map(|op| world.ledger().total(op))
        .map(|sent| (sent.calls, sent.bytes));
    let model = SgdConfig::new().init().step(0.1, model, gradients);
    let full = world.full(&model, Destination::All)?;
    Ok((full.map(|full| values(&full)).unwrap_or_default(), sent))
}

#[test]
fn announcing_the_last_pass_changes_no_result_and_no_traffic() {
    for size in 1..=4 {
        for strategy in oracle::strategies(size) {
            let run = |announced| {
                ranks(size)
                    .run(|world| step(&world, &strategy, announced))
                    .unwrap()
            };
            let nothing = run(Announcement::Nothing);
            assert!(!nothing[0].0.is_empty());
            for announced in [Announcement::Number, Announcement::Last] {
                for (found, nothing) in run(announced).iter().zip(&nothing) {
                    let what = format!("{strategy} at world {size}, {announced:?}");
                    assert_eq!(found.1, nothing.1, "{what}");
                    assert!(found.0 == nothing.0, "{what}: other parameters");
                }
            }
        }
    }
}

/// An engine that records reductions and delays each.
#[derive(Debug)]
struct Slow {
    engine: Arc<dyn Engine>,
    wait: Duration,
    log: Arc<Mutex<Vec<String>>>,
}

impl Slow {
    fn note(&self, call: &Call) {
        // Norms, counts and labels are small.
        if call.len > 100 {
            std::thread::sleep(self.wait);
            self.log.lock().unwrap().push(call.label.unit.to_string());
        }
    }
}

impl Engine for Slow {
    fn rank(&self) -> usize {
        self.engine.rank()
    }

    fn members(&self) -> &[usize] {
        self.engine.members()
    }

    fn all_gather(&self, call: &Call, buffer: SpanMut<'_>) -> Result<()> {
        self.engine.all_gather(call, buffer)
    }

    fn reduce_scatter(
        &self,
        call: &Call,
        op: Reduce,
        send: Span<'_>,
        recv: SpanMut<'_>,
    ) -> Result<()> {
        self.note(call);
        self.engine.reduce_scatter(call, op, send, recv)
    }

    fn all_reduce(&self, call: &Call, op: Reduce, buffer: SpanMut<'_>) -> Result<()> {
        self.note(call);
        self.engine.all_reduce(call, op, buffer)
    }

    fn broadcast(&self, call: &Call, root: usize, buffer: SpanMut<'_>) -> Result<()> {
        self.engine.broadcast(call, root, buffer)
    }

    fn barrier(&self, call: &Call) -> Result<()> {
        self.engine.barrier(call)
    }

    fn split(&self, call: &Call, color: usize, key: usize) -> Result<Arc<dyn Engine>> {
        let (wait, log) = (self.wait, self.log.clone());
        let engine = self.engine.split(call, color, key)?;
        Ok(Arc::new(Self { engine, wait, log }))
    }

    fn fault(&self) -> Option<Error> {
        self.engine.fault()
    }

    fn abort(&self, error: Error) {
        self.engine.abort(error);
    }

    fn leave(&self) {
        self.engine.leave();
    }
}

/// Slow blocks, also when they run again in backward.
#[derive(Module, Debug)]
struct Tower {
    blocks: Vec<Linear>,
}

const BLOCKS: usize = 5;
const WAIT: Duration = Duration::from_millis(30);

impl Tower {
    fn loss(&self, x: Tensor<2>) -> Tensor<1> {
        unit(self, x, |tower: &Self, mut x| {
            for block in &tower.blocks {
                x = unit(block, x, |block: &Linear, x| {
                    std::thread::sleep(WAIT);
                    gelu(block.forward(x))
                });
            }
            x
        })
        .mean()
    }
}

/// What was reduced during the last backward and after it, and how long computation waited.
fn slow(strategy: &Strategy, size: usize, announced: bool) -> (Vec<String>, Vec<String>, Duration) {
    let rank = |engine: local::Local| -> Result<(Vec<String>, Vec<String>, Duration)> {
        let log = Arc::new(Mutex::new(Vec::new()));
        let engine = Slow {
            engine: Arc::new(engine),
            wait: WAIT,
            log: log.clone(),
        };
        let world = World::new(Communicator::new(engine), Device::flex(), 0)?;
        let device = world.device();
        let block = |_| LinearConfig::new(16, 16).init(&device);
        let blocks = (0..BLOCKS).map(block).collect();
        let strategy = strategy.clone().recompute(true);
        let model = strategy.shard(Tower { blocks }, &world)?;
        let x = || Tensor::<2>::ones([4, 16], &device).require_grad();
        let mut sums = world.accumulate(&model)?;
        if announced {
            sums = sums.micro_batches(2);
        }
        sums.add(model.loss(x()))?;
        let loss = model.loss(x());
        let take = || std::mem::take(&mut *log.lock().unwrap());
        let _ = take();
        let exposed = world.exposed();
        sums.add(loss)?;
        let during = take();
        let _ = sums.finish()?;
        Ok((during, take(), world.exposed() - exposed))
    };
    std::thread::scope(|s| {
        let ranks = local::ranks(size, 1, Duration::from_secs(60)).into_iter();
        let threads: Vec<_> = ranks.map(|engine| s.spawn(|| rank(engine))).collect();
        let mut ends = threads.into_iter().map(|t| t.join().unwrap().unwrap());
        let first = ends.next().unwrap();
        ends.for_each(|_| ());
        first
    })
}

#[test]
fn the_last_backward_reduces_while_it_runs() {
    let all: Vec<String> = (0..BLOCKS).rev().map(|b| format!("blocks.{b}")).collect();
    for (strategy, size) in [
        (Strategy::ddp(), 2),
        (Strategy::zero1(), 2),
        (Strategy::hybrid(1), 2),
        (Strategy::fsdp().no_sync(true), 2),
    ] {
        // A busy machine may delay a rank, and the other one waits for it then.
        let mut times = Vec::new();
        let is_overlapped = (0..5).any(|_| {
            let (during, after, waited) = slow(&strategy, size, false);
            assert_eq!(after, all, "{strategy}: {during:?}");
            let (during, after, overlapped) = slow(&strategy, size, true);
            assert_eq!((&during, &after), (&all, &Vec::new()), "{strategy}");
            assert!(waited >= WAIT * BLOCKS as u32, "{strategy}: {waited:?}");
            times.push((waited, overlapped));
            overlapped < waited / 2
        });
        println!("{strategy}: exposed without and with overlap: {times:?}");
        assert!(is_overlapped, "{strategy}: {times:?}");
    }
}

#[test]
fn more_or_fewer_passes_than_announced_are_an_error() {
    for size in [1, 2] {
        let run = |world: World| {
            let model = Strategy::ddp().shard(Net::new(&world.device()), &world)?;
            let loss = || model.loss(Tensor::ones([2, 7], &world.device()), true);
            let mut sums = world.accumulate(&model)?.micro_batches(2);
            sums.add(loss())?;
            let few = sums.finish().map(|_| ());
            let mut sums = world.accumulate(&model)?.micro_batches(2);
            sums.add(loss())?;
            sums.add(loss())?;
            let many = sums.add(loss());
            // The passes before it are still valid.
            let norm = sums.finish()?.norm()?;
            Ok((few, many, norm))
        };
        for (few, many, norm) in ranks(size).run(run).unwrap() {
            let few = few.unwrap_err().to_string();
            assert!(few.contains("the 2 that were announced"), "{few}");
            assert!(few.ends_with("found 1"), "{few}");
            let many = many.unwrap_err().to_string();
            assert!(many.ends_with("found 3"), "{many}");
            assert!(norm > 0.0);
        }
    }
}
