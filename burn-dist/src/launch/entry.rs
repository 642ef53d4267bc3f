//! `launch`: one call for every way of starting ranks.

use super::Devices;
use super::flags::Flags;
use super::node_name::link_and_host;
use super::process::Process;
use super::role::Role;
use super::secrecy;
use super::settings::Settings;
use super::supervise::{Program, supervise};
use super::threads::Threads;
use super::variable::Environment;
use super::{Detected, Launcher, Node, process_variable};
use crate::error::{Error, Result};
use crate::foreign_error::from_box;
use crate::stop::Stop;
use crate::world::World;
use std::error::Error as StdError;
use std::time::Duration;

/// Starts ranks in the way that the flags and the environment ask for.
///
/// The same program can be any of these, without a change:
///
/// - **a rank**, where a launcher has started it: burn-dist-run, torchrun, mpirun, srun and others,
///   told apart by their environment variables ([`detect`](super::detect));
/// - **a launcher**, where flags like `--nproc-per-node 4` or a cluster's variables ask for
///   processes: it starts itself as each of them, and supervises them ([`supervise`]);
/// - **all ranks**, as threads of this process, where nothing asks for processes.
///
/// ```
/// use burn_dist::launch::Flags;
///
/// let flags = Flags::default(); // or, from a command line, with #[command(flatten)]
/// let ranks = burn_dist::launch(&flags).threads(2).seed(7).run(|world| Ok(world.rank()))?;
/// assert_eq!(ranks, [0, 1]);
/// # Ok::<(), burn_dist::Error>(())
/// ```
///
/// # Source
/// PyTorch: `torchrun`, `init_process_group("env://")`; Lightning: cluster environments.
pub fn launch(flags: &Flags) -> Launch {
    Launch {
        flags: flags.clone(),
        threads: 1,
        seed: 0,
        deadline: None,
        devices: Devices::default(),
    }
}

/// Ranks that are about to start; see [`launch()`].
#[derive(Debug, Clone)]
#[must_use = "nothing starts before `run`"]
pub struct Launch {
    flags: Flags,
    threads: usize,
    seed: u64,
    deadline: Option<Duration>,
    devices: Devices,
}

impl Launch {
    /// So many ranks as threads, where nothing asks for processes; 1 if this is not called.
    pub fn threads(mut self, ranks: usize) -> Self {
        self.threads = ranks;
        self
    }

    /// The seed that parameters are initialised from, the same on all ranks.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How long a collective may wait for another rank; `BURN_DIST_TIMEOUT` wins, and without either
    /// it is five minutes.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
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

    /// Runs `f` on the ranks of this process, and returns what they return, in rank order.
    ///
    /// A process that starts ranks as processes has none itself: it returns nothing once all have
    /// ended well.
    ///
    /// # Errors
    /// [`Error::Config`] for flags and variables that contradict each other. As a rank: what joining
    /// the world or `f` fails with; what ends one rank ends all. As a launcher:
    /// [`Error::Child`] of the rank that failed first.
    pub fn run<T: Send>(&self, f: impl Fn(World) -> Result<T> + Sync) -> Result<Vec<T>> {
        let role = match Role::find(&self.flags, process_variable)? {
            Role::Launch(node) => return self.children(&node).map(|()| Vec::new()),
            role => role,
        };
        let settings = Settings::read(Environment::new(&process_variable))?;
        let stop = Stop::on_signals()?;
        let result = match role {
            Role::Rank(found) => self.rank(*found, settings, &stop, f).map(|one| vec![one]),
            _ => Threads::new(self.threads)
                .seed(self.seed)
                .deadline(self.patience(&settings))
                .device(self.devices.clone())
                .stop(stop.clone())
                .run(f),
        };
        // Not before all ranks have left: while others finish, this one must not die.
        stop.disarm();
        result
    }

    /// As [`run`](Self::run), for a program with an error type of its own: anyhow's, a boxed error, an enum.
    ///
    /// What `f` returns arrives as this library's error, with the texts of its causes; one that another rank's
    /// failure has caused stays what it is.
    ///
    /// ```
    /// use burn_dist::launch::Flags;
    /// use std::error::Error;
    ///
    /// let found = burn_dist::launch(&Flags::default()).try_run(|world| {
    ///     let total = world.sum(1_u32)?; // this library's errors
    ///     let wanted: u32 = "7x".parse()?; // and any other
    ///     Ok::<_, Box<dyn Error + Send + Sync>>(total == wanted)
    /// });
    /// assert!(found.unwrap_err().to_string().contains("invalid digit"));
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn try_run<T, E>(
        &self,
        f: impl Fn(World) -> std::result::Result<T, E> + Sync,
    ) -> Result<Vec<T>>
    where
        T: Send,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        self.run(|world| f(world).map_err(|error| from_box(error.into(), None)))
    }

    fn rank<T: Send>(
        &self,
        found: Detected,
        settings: Settings,
        stop: &Stop,
        f: impl Fn(World) -> Result<T> + Sync,
    ) -> Result<T> {
        // What our own launcher sets need not be said.
        let level = match (found.identity.rank, found.launcher) {
            (0, launcher) if launcher != Launcher::BurnDist => log::Level::Info,
            _ => log::Level::Debug,
        };
        log::log!(level, "{found}");
        secrecy::check(&found.identity, &settings);
        let link = self.flags.link.or(settings.link);
        let (link, host) = link_and_host(link, &settings, found.identity.world_size);
        let process = Process {
            identity: found.identity,
            link,
            host,
            transport: self
                .flags
                .transport
                .or(settings.transport)
                .unwrap_or_default(),
            deadline: self.patience(&settings),
            settings,
            devices: self.devices.clone(),
            seed: self.seed,
            stop: stop.clone(),
        };
        process.run(&f)
    }

    /// Starts this very program as the ranks of this host.
    fn children(&self, node: &Node) -> Result<()> {
        let path = std::env::current_exe()
            .map_err(|e| Error::config("this program", "a path to start it again", e))?;
        let mut program = Program::new(path);
        program.args = std::env::args_os().skip(1).collect();
        supervise(node, &program)
    }

    fn patience(&self, settings: &Settings) -> Duration {
        let given = settings.deadline.or(self.deadline);
        given.unwrap_or(Duration::from_secs(300))
    }
}
