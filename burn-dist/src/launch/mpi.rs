//! Ranks as processes that `mpirun` has started: this process is one of them.

use super::Devices;
use super::process_variable;
use super::start::Start;
use super::threads::compute_threads;
use crate::comm::{Recorder, mpi};
use crate::error::{Error, Result};
use crate::stop::Stop;
use crate::world::World;
use std::time::Duration;

/// How long a rank that failed waits for the others to come to their end too.
const CLOSE_AFTER_FAILURE: Duration = Duration::from_secs(10);

/// Runs one function on this process's rank of a world that `mpirun` (or `srun`) has started.
///
/// ```no_run
/// use burn_dist::launch::Mpi;
///
/// // mpirun -n 4 target/release/train
/// let (rank, size) = Mpi::new().run(|world| Ok((world.rank(), world.size())))?;
/// println!("rank {rank} of {size}");
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Mpi {
    seed: u64,
    deadline: Duration,
    devices: Devices,
}

impl Default for Mpi {
    fn default() -> Self {
        Self::new()
    }
}

impl Mpi {
    /// On the CPU, with seed 0 and a deadline of five minutes.
    pub fn new() -> Self {
        Self {
            seed: 0,
            deadline: Duration::from_secs(300),
            devices: Devices::default(),
        }
    }

    /// The seed that parameters are initialised from, the same on all ranks.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How long a collective may wait for another rank.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// What the ranks compute on: a device for all of them, or a [`DeviceKind`] of which each takes its
    /// own. It tracks gradients whether given so or not.
    ///
    /// [`DeviceKind`]: super::DeviceKind
    pub fn device(mut self, devices: impl Into<Devices>) -> Self {
        self.devices = devices.into();
        self
    }

    /// Runs `f` on this rank, waits for the other ranks to end, and ends MPI: it cannot begin again,
    /// so a process runs once.
    ///
    /// # Errors
    /// What [`mpi::world`] refuses, and a `BURN_DIST_LINK`. If `f` fails or panics, its error; the other ranks' collectives
    /// then fail too, naming it. If a rank does not come to its end within the deadline,
    /// [`Error::Timeout`](crate::Error::Timeout).
    pub fn run<T: Send>(&self, f: impl FnOnce(World) -> Result<T> + Send) -> Result<T> {
        if let Some(link) =
            process_variable("BURN_DIST_LINK").filter(|link| !link.trim().is_empty())
        {
            let expected = "nothing over MPI, whose connections are not this library's to shape";
            return Err(Error::config("BURN_DIST_LINK", expected, link));
        }
        let engine = mpi::world(self.deadline)?;
        let threads = compute_threads(engine.sharing());
        let start = Start {
            devices: self.devices.clone(),
            local_rank: engine.local_rank(),
            threads,
            deadline: self.deadline,
            link: None,
            seed: self.seed,
            ranks_here: 1,
            restarts: 0,
            initial: None,
            stop: Stop::on_signals()?,
        };
        let result = start.run(engine, Recorder::default(), f);
        match result {
            Ok(value) => mpi::close(self.deadline).map(|()| value),
            Err(error) => {
                // The cause counts, not what follows from it.
                let _ = mpi::close(self.deadline.min(CLOSE_AFTER_FAILURE));
                Err(error)
            }
        }
    }
}
