//! The program of a rank: a small training under FSDP, with a fault in a given phase.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::optim::AdamWConfig;
use burn::tensor::activation::gelu;
use burn::tensor::{Device, Tensor};
use burn_dist::comm::{Event, Reduce, SpanMut, State};
use burn_dist::launch::{Flags, exit_code};
use burn_dist::{Destination, Error, Result, Strategy, World, launch, unit};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The time after which a process that a test has left running exits.
const MAX_LIFETIME: Duration = Duration::from_secs(60);
const WIDTH: usize = 6;
const STEPS: usize = 4;
/// The step of the fault.
const FAULTY_STEP: usize = 2;

/// A process's instructions, from environment variables of the test.
#[derive(Debug, Clone)]
pub(super) struct Instructions {
    folder: PathBuf,
    /// What goes wrong, and on which rank.
    act: String,
    faulty: Option<usize>,
    /// The rank that begins backward only when the test creates a file.
    late: Option<usize>,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn number(name: &str) -> Option<usize> {
    variable(name).map(|text| text.parse().unwrap())
}

pub(crate) fn main() {
    let Some(folder) = variable("FAULTS_FOLDER") else {
        return; // The ignored tests are run directly.
    };
    std::thread::spawn(|| {
        std::thread::sleep(MAX_LIFETIME);
        eprintln!("this process has run for too long");
        std::process::exit(98);
    });
    let log = env_logger::Env::default().default_filter_or("warn");
    env_logger::Builder::from_env(log).init();
    let instructions = Instructions {
        folder: folder.into(),
        act: variable("FAULTS_ACT").unwrap_or_default(),
        faulty: number("FAULTS_FAULTY"),
        late: number("FAULTS_LATE"),
    };
    if let Some(rank) = number("BURN_DIST_RANK")
        && instructions.act == "rendezvous"
        && instructions.faulty == Some(rank)
    {
        instructions.announce("at", rank);
        stay();
    }
    if let Some(rank) = number("BURN_DIST_RANK")
        && instructions.comes_up_badly(rank)
    {
        match instructions.act.as_str() {
            "stuck" => stay(),
            _ => std::process::exit(3),
        }
    }
    let flags = Flags {
        nproc_per_node: variable("FAULTS_NPROC").map(|text| text.parse().unwrap()),
        max_restarts: number("FAULTS_RESTARTS"),
        rejoin: variable("FAULTS_REJOIN")
            .map(|text| Duration::from_secs_f64(text.parse().unwrap())),
        ..Flags::default()
    };
    let result = launch(&flags)
        .seed(7)
        .run(|world| match instructions.act.as_str() {
            "epoch" => super::epoch::run(&instructions, &world),
            "evaluate" => super::evaluation::run(&instructions, &world),
            "gather" => super::reading::run(&instructions, &world),
            _ => Rank::new(&instructions, world).train(),
        });
    if let Err(error) = &result {
        // In one write, because the test harness writes to the same stream.
        let line = format!("error: {error}\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    std::process::exit(exit_code(&result).into());
}

fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}

fn stay() -> ! {
    loop {
        std::thread::sleep(MAX_LIFETIME);
    }
}

impl Instructions {
    /// Whether this rank, which has been killed before, does not come up again at this restart.
    fn comes_up_badly(&self, rank: usize) -> bool {
        let restart = number("BURN_DIST_RESTART_COUNT").unwrap_or(0);
        let at: &[usize] = match self.act.as_str() {
            "epoch" | "lost" | "stuck" => &[1],
            "dwindle" => &[1, 3],
            _ => &[],
        };
        self.faulty == Some(rank) && at.contains(&restart)
    }

    /// A file of this test.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Whether this rank is the faulty one, at the first start.
    pub(super) fn is_killed(&self, world: &World) -> bool {
        self.faulty == Some(world.rank()) && world.restarts() == 0
    }

    /// Creates a file with this process's number, atomically.
    pub(super) fn announce(&self, what: &str, rank: usize) {
        let pid = std::process::id().to_string();
        self.write(&format!("{what}-{rank}"), &pid);
    }

    fn write(&self, file: &str, text: &str) {
        let file = self.folder.join(file);
        let unfinished = file.with_extension("new");
        std::fs::write(&unfinished, text).unwrap();
        std::fs::rename(unfinished, file).unwrap();
    }

    pub(super) fn wait_for(&self, what: &str) {
        while !self.folder.join(what).exists() {
            pause();
        }
    }
}

/// Blocks of one size; a fault may be injected in the second.
#[derive(Module, Debug)]
struct Net {
    blocks: Vec<Linear>,
}

impl Net {
    fn new(blocks: usize, device: &Device) -> Self {
        let block = || LinearConfig::new(WIDTH, WIDTH).init(device);
        Self {
            blocks: (0..blocks).map(|_| block()).collect(),
        }
    }

    fn forward(&self, x: Tensor<2>, midway: &Arc<dyn Fn() + Send + Sync>) -> Tensor<2> {
        let midway = midway.clone();
        unit(self, x, move |net: &Self, mut x| {
            for (i, block) in net.blocks.iter().enumerate() {
                let midway = midway.clone();
                x = unit(block, x, move |block: &Linear, x| {
                    if i == 1 {
                        midway();
                    }
                    x.clone() + gelu(block.forward(x))
                });
            }
            x
        })
    }
}

/// One rank of the training.
#[derive(Clone)]
struct Rank {
    instructions: Instructions,
    world: World,
    rank: usize,
}

impl Rank {
    fn new(instructions: &Instructions, world: World) -> Self {
        let instructions = instructions.clone();
        let rank = world.rank();
        Self {
            instructions,
            world,
            rank,
        }
    }

    /// Whether this rank has the fault `act`.
    fn does(&self, act: &str) -> bool {
        self.instructions.faulty == Some(self.rank) && self.instructions.act == act
    }

    fn train(&self) -> Result<()> {
        let world = &self.world;
        let device = world.device();
        let (size, initial, restarts) = (world.size(), world.initial_size(), world.restarts());
        let ran = format!("ran-{size}-of-{initial}-at-restart-{restarts}");
        self.instructions.announce(&ran, self.rank);
        let blocks = if self.does("model") { 3 } else { 4 };
        let mut model = Strategy::fsdp().shard(Net::new(blocks, &device), world)?;
        let mut optimizer = world.optimizer(AdamWConfig::new().init(), &model)?;
        if self.instructions.faulty != Some(self.rank) {
            self.watch();
        }
        let saves = self.instructions.folder.join("saves");
        let restarts = self.instructions.act == "restart";
        let mut step: usize = 0;
        if restarts && world.has_save(&saves)? {
            (model, optimizer, step) = world.load(&saves, model, optimizer)?;
            let resumed = format!("resumed-{}-at-{step}", world.restarts());
            self.instructions.announce(&resumed, self.rank);
        }
        while step < STEPS || self.is_endless() {
            let midway = self.midway(step);
            let value = |i: usize| ((i * 37 + step * 101 + self.rank * 13) % 97) as f32 / 48.5;
            let data: Vec<f32> = (0..4 * WIDTH).map(value).collect();
            let x = Tensor::<1>::from_floats(data.as_slice(), &device).reshape([4, WIDTH]);
            let loss = model.forward(x, &midway).powi_scalar(2).mean();
            if step == FAULTY_STEP {
                self.before_backward();
            }
            let gradients = world.backward(loss, &model)?.clip_norm(1.0)?;
            model = optimizer.step(1e-2, model, gradients.grads);
            step += 1;
            if restarts && step == FAULTY_STEP {
                world.save(&saves, &model, &optimizer, &step)?;
            }
            if step > FAULTY_STEP && !self.after_step(step)? {
                break;
            }
        }
        if self.does("leave") {
            return Ok(());
        }
        let full = world.full(&model, Destination::All)?;
        let mut bits = String::new();
        for block in full.iter().flat_map(|net| &net.blocks) {
            let bias = block.bias.as_ref().map(|b| b.val().into_data());
            for data in [Some(block.weight.val().into_data()), bias] {
                for x in data.iter().flat_map(|d| d.iter::<f32>()) {
                    bits += &format!("{:08x}\n", x.to_bits());
                }
            }
        }
        let file = format!("final-{}", self.rank);
        std::fs::write(self.instructions.folder.join(file), bits).unwrap();
        self.instructions
            .announce(&format!("ended-at-{step}"), self.rank);
        if self.does("exit") {
            self.stay_here();
        }
        if self.instructions.act == "goodbye" && !self.does("goodbye") {
            self.instructions.wait_for("go");
        }
        Ok(())
    }

    fn is_endless(&self) -> bool {
        ["stop", "stubborn"].contains(&self.instructions.act.as_str())
    }

    /// Faults within the forward of a block.
    fn midway(&self, step: usize) -> Arc<dyn Fn() + Send + Sync> {
        let (rank, done) = (self.clone(), AtomicBool::new(step != FAULTY_STEP));
        Arc::new(move || {
            if done.swap(true, Ordering::Relaxed) {
                return;
            }
            if ["forward", "panic", "code", "abort"]
                .iter()
                .any(|act| rank.does(act))
            {
                // The next block is being gathered already.
                rank.settle(Some("blocks.2"));
            }
            if rank.does("forward") {
                rank.stay_here();
            }
            if rank.does("panic") {
                panic!("a bug of rank {}", rank.rank);
            }
            if rank.does("code") {
                std::process::exit(3);
            }
            if rank.does("abort") {
                std::process::abort();
            }
            let restarts = rank.world.restarts();
            let first = ["restart", "lost", "stuck"]
                .iter()
                .any(|act| rank.does(act));
            if first && restarts == 0
                || rank.does("dwindle") && restarts % 2 == 0
                || rank.does("relapse")
            {
                kill_self();
            }
        })
    }

    fn before_backward(&self) {
        if self.instructions.late == Some(self.rank) {
            self.instructions.wait_for("go");
        }
        if self.does("backward") {
            // The rank that is late keeps it in its first collective.
            let (recorder, instructions) = (
                self.world.comm().recorder().clone(),
                self.instructions.clone(),
            );
            let (rank, running) = (self.rank, |e: &Event| e.state == State::Running);
            std::thread::spawn(move || {
                while !recorder.events().last().is_some_and(running) {
                    pause();
                }
                instructions.announce("at", rank);
            });
        }
    }

    /// The program's own collective, with its faults; `false` ends the training.
    fn after_step(&self, step: usize) -> Result<bool> {
        let comm = self.world.comm();
        let wrong = step == FAULTY_STEP + 1;
        if wrong && (self.does("between") || self.does("error")) {
            self.settle(None);
        }
        if wrong && self.does("between") {
            self.stay_here();
        }
        if wrong && (self.does("early") || self.does("leave")) {
            return Ok(false);
        }
        if wrong && self.does("error") {
            return Err(Error::user("no more disk"));
        }
        if wrong && self.does("extra") {
            self.metric()?;
        }
        match self.instructions.act.as_str() {
            "other" if wrong && self.does("other") => comm.barrier(&"metric".into())?,
            "length" if wrong && self.does("length") => {
                comm.all_reduce(&"metric".into(), Reduce::Sum, SpanMut::of(&mut [1.0f32; 9]))?;
            }
            "dtype" if wrong && self.does("dtype") => {
                comm.all_reduce(&"metric".into(), Reduce::Sum, SpanMut::of(&mut [1u32; 8]))?;
            }
            "skip" if wrong && self.does("skip") => {}
            _ => self.metric()?,
        }
        if self.is_endless() {
            let stop = self.world.should_stop()?;
            self.instructions.announce("at", self.rank);
            return Ok(!stop || self.instructions.act == "stubborn");
        }
        Ok(true)
    }

    fn metric(&self) -> Result<()> {
        let mut sum = [self.rank as f32; 8];
        let comm = self.world.comm();
        comm.all_reduce(&"metric".into(), Reduce::Sum, SpanMut::of(&mut sum))
    }

    /// Announces that this rank has reached the phase of the fault, and waits until the test lets it continue.
    fn stay_here(&self) {
        self.instructions.announce("at", self.rank);
        self.instructions.wait_for("go");
    }

    /// Returns when this rank's collectives so far are done, the last of them for this unit if one is
    /// named, and all others wait for it in the next one.
    fn settle(&self, unit: Option<&str>) {
        let recorder = self.world.comm().recorder();
        let over = |e: &Event| e.state == State::Done && unit.is_none_or(|unit| e.unit == unit);
        let last = loop {
            match recorder.events().pop().filter(over) {
                Some(last) => break last.sequence,
                None => pause(),
            }
        };
        self.instructions.write("settled", &last.to_string());
        for rank in (0..self.world.size()).filter(|r| *r != self.rank) {
            self.instructions.wait_for(&format!("waits-{rank}"));
        }
    }

    /// Watches on another thread until the training waits for the rank that has settled.
    fn watch(&self) {
        let (recorder, instructions) = (
            self.world.comm().recorder().clone(),
            self.instructions.clone(),
        );
        let rank = self.rank;
        std::thread::spawn(move || {
            instructions.wait_for("settled");
            let settled = std::fs::read_to_string(instructions.folder.join("settled")).unwrap();
            let next = settled.parse::<u64>().unwrap() + 1;
            let waits = |e: &Event| e.sequence == next && e.state == State::Running;
            while !recorder.events().last().is_some_and(waits) {
                pause();
            }
            instructions.announce("waits", rank);
        });
    }
}

pub(super) fn kill_self() -> ! {
    let kill = format!("kill -KILL {}", std::process::id());
    Command::new("sh").args(["-c", &kill]).status().unwrap();
    stay()
}
