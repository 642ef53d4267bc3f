//! The launcher of one host: it starts the host's ranks, prints their output, passes signals on, and ends
//! when no process of theirs is left.
//!
//! It does what torchrun's agent does, and three things more: ranks are killed with the launcher even if
//! that is killed itself, the first failure is told from those that follow from it, and the ranks' flight
//! records are compared.

mod attempt;
mod child;
mod elastic;
mod end;
mod group;
mod local_ranks;
mod members;
mod output;
mod part;
mod port;
mod program;
mod rank_variables;
mod records;
mod signals;
mod slots;
mod summary;
mod terminal;

pub use program::Program;

use super::node::Node;
use super::threads::fits_here;
use super::variable::YEAR;
use crate::error::{Error, Result};
use attempt::Attempt;
use local_ranks::{FAIL_GRACE, STOP_GRACE, Supervisor};
use part::Part;
use port::Port;
use rank_variables::RankVariables;
use records::Records;
use signals::Watch;
use std::sync::Arc;
use std::time::Duration;
use terminal::{Stderr, Terminal};

/// Runs a program as the ranks of this host, and returns when all of them are gone.
///
/// Each rank is told its numbers by the variables that torchrun sets, and by `BURN_DIST_RANK`,
/// `BURN_DIST_WORLD_SIZE`, `BURN_DIST_LOCAL_RANK`, `BURN_DIST_LOCAL_WORLD_SIZE`,
/// `BURN_DIST_INITIAL_WORLD_SIZE` (of the first start), `BURN_DIST_MASTER_ADDR`,
/// `BURN_DIST_MASTER_PORT`, `BURN_DIST_PORT_RESERVED` (rank 0 must bind the port with `SO_REUSEPORT`),
/// `BURN_DIST_RESTART_COUNT`, `BURN_DIST_SECRET`, `BURN_DIST_FLIGHT_DIR` and `BURN_DIST_PARENT` (this
/// process). The cores are divided among the
/// ranks by `RAYON_NUM_THREADS` and `OMP_NUM_THREADS`, unless one of them is set already.
///
/// What the ranks print comes out here, each line after `[rank]: `, and goes into
/// `rank-N/stdout.log` and `rank-N/stderr.log` of the node's `log_dir`.
///
/// SIGTERM, SIGINT and SIGHUP are passed on as SIGTERM, so that ranks can finish their step, save
/// and leave; after `BURN_DIST_GRACE` seconds (30), or a second SIGINT, they are killed. When a rank
/// fails, the others get `BURN_DIST_FAIL_GRACE` seconds (5) to end by themselves, as long again
/// after SIGTERM, and are killed then. What a rank has started is killed with it, unless it has left
/// the rank's process group; if this process is killed itself, the ranks are killed too.
///
/// With [`Node::elastic`](super::Node::elastic) the launchers of all hosts agree before each start who takes part,
/// and ranks get new numbers; a rank is also told `BURN_DIST_READY_FILE`, which it makes when it has joined.
///
/// Handles signals while it runs; run one at a time in a process, on a thread that stays. The ranks
/// are this process's children: do not wait for them elsewhere.
///
/// ```
/// use burn_dist::launch::{Node, Program, exit_code, supervise};
///
/// let node = Node {
///     nodes: 1,
///     node_rank: 0,
///     ranks: 2,
///     master_addr: "127.0.0.1".into(),
///     master_port: 0,
///     max_restarts: 0,
///     log_dir: None,
///     elastic: None,
/// };
/// let mut program = Program::new("sh");
/// program.args = ["-c", "exit $((RANK * 7))"].map(Into::into).to_vec();
/// let result = supervise(&node, &program);
/// assert_eq!(exit_code(&result), 7);
/// ```
///
/// # Errors
/// [`Error::TooFew`] if too few ranks or hosts are left to go on. [`Error::Child`] for the rank that failed first, or that could not be started, after a table of
/// all failed ranks on standard error. [`Error::Config`] and [`Error::File`] if the ranks cannot be
/// started as the node says.
///
/// # Source
/// PyTorch: `torchrun`, `torch.distributed.elastic`.
pub fn supervise(node: &Node, program: &Program) -> Result<()> {
    check(node)?;
    let records = Records::open(node, program)?;
    let terminal = Terminal::default();
    let supervisor = Supervisor {
        stop_grace: grace("BURN_DIST_GRACE", STOP_GRACE)?,
        fail_grace: grace("BURN_DIST_FAIL_GRACE", FAIL_GRACE)?,
        failed_starts: Arc::default(),
        watch: Watch::start()?,
        stderr: Stderr::new(&terminal),
        terminal,
    };
    let result = run(node, program, &records, &supervisor);
    // In this order: if nothing reads the launcher's messages, a signal can still end it.
    let Supervisor { watch, stderr, .. } = supervisor;
    drop(watch);
    stderr.end();
    result
}

/// The exit code that tells a shell how [`supervise`] ended: that of the rank that failed first, 128
/// and the number of the signal that killed it, 127 or 126 if it could not be started, else 0 or 1.
pub fn exit_code<T>(result: &Result<T>) -> u8 {
    match result {
        Ok(_) => 0,
        Err(Error::Child { code, .. }) => *code,
        Err(_) => 1,
    }
}

fn run(node: &Node, program: &Program, records: &Records, supervisor: &Supervisor) -> Result<()> {
    // With several hosts, the other launchers could not be told it.
    let alone = node.nodes == 1 && program.variable("BURN_DIST_SECRET").is_none();
    let secret = alone.then(|| format!("{:032x}", rand::random::<u128>()));
    if let Some(elastic) = &node.elastic {
        let run = elastic::Run {
            node,
            elastic,
            program,
            records,
            supervisor,
            secret: secret.as_deref(),
        };
        return run.run();
    }
    let mut attempt = 0;
    loop {
        let free = node.master_port == 0;
        let port = free.then(|| Port::reserve(&node.master_addr)).transpose()?;
        let variables = RankVariables {
            part: &Part::of(node, attempt),
            program,
            records,
            master_addr: &node.master_addr,
            port: port.as_ref().map_or(node.master_port, Port::number),
            reserved: port.is_some(),
            secret: secret.as_deref(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
        };
        let ended = Attempt::run(supervisor, &variables)?;
        let Some(failure) = ended.failure else {
            return Ok(());
        };
        if ended.stop.is_some() || attempt == node.max_restarts {
            return Err(failure.error);
        }
        attempt += 1;
        let most = node.max_restarts;
        let again = format!("starting all ranks of this host again: restart {attempt} of {most}");
        supervisor.stderr.print(&again);
    }
}

/// A time that a variable gives in seconds.
pub(super) fn grace(name: &str, default: Duration) -> Result<Duration> {
    let Some(value) = std::env::var_os(name) else {
        return Ok(default);
    };
    let value = value.to_string_lossy();
    let seconds = value.trim().parse().ok();
    let duration = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
    let refused = || Error::config(name, "a number of seconds, such as 30", &value);
    // More than a year is for ever.
    Ok(duration.ok_or_else(refused)?.min(YEAR))
}

/// Checks a node before anything is started.
pub(super) fn check(node: &Node) -> Result<()> {
    let Node {
        nodes,
        node_rank,
        ranks,
        master_port,
        ..
    } = *node;
    let at_least_1 = |what: &str, found| match found {
        0 => Err(Error::config(what, "at least 1", 0)),
        _ => Ok(()),
    };
    let at_most = |what: &str, found, most: usize| match found {
        found if found > most => Err(Error::config(what, format!("at most {most}"), found)),
        _ => Ok(()),
    };
    at_least_1("number of ranks on this host", ranks)?;
    fits_here(ranks)?;
    at_least_1("number of hosts", nodes)?;
    if node_rank >= nodes {
        let expected = format!("a number below that of hosts, {nodes}");
        return Err(Error::config("number of this host", expected, node_rank));
    }
    if let Some(elastic) = &node.elastic {
        at_least_1("least number of hosts", elastic.least_nodes)?;
        at_least_1("least number of ranks on this host", elastic.least_ranks)?;
        at_most("least number of hosts", elastic.least_nodes, nodes)?;
        at_most(
            "least number of ranks on this host",
            elastic.least_ranks,
            ranks,
        )?;
    }
    if nodes > 1 && master_port == 0 {
        let expected = "the same port for all hosts, such as 29500";
        return Err(Error::config("master port", expected, "0, any free one"));
    }
    Ok(())
}
