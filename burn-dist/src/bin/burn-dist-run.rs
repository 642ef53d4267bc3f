//! `burn-dist-run`: starts a program as the ranks of this host, as torchrun does.
//!
//! `burn-dist-run --nproc-per-node 4 target/release/train --epochs 3`

use burn_dist::launch::{Node, Program, exit_code, supervise};
use clap::Parser;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs a program as the ranks of this host and looks after them.
///
/// Every rank finds its place in torchrun's variables (RANK, WORLD_SIZE, ...) and in BURN_DIST_*.
/// Ranks get SIGTERM when this gets SIGTERM, SIGINT or SIGHUP, and are killed with it.
#[derive(Debug, Parser)]
#[command(
    version,
    override_usage = "burn-dist-run [OPTIONS] [--] PROGRAM [ARGS]..."
)]
struct Cli {
    #[command(flatten)]
    flags: Flags,

    /// Accepted for those who come from torchrun; programs here are never Python's.
    #[arg(long, alias = "no_python", hide = true)]
    no_python: bool,

    /// The program, and what it is called with.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    #[arg(value_name = "PROGRAM")]
    program: Vec<OsString>,
}

/// What is to be started.
#[derive(Debug, clap::Args)]
struct Flags {
    /// Ranks to start on this host.
    #[arg(long, alias = "nproc_per_node", default_value_t = 1, value_name = "N")]
    nproc_per_node: usize,

    /// How often all ranks are started again after a failure.
    #[arg(long, alias = "max_restarts", default_value_t = 0, value_name = "N")]
    max_restarts: usize,

    /// Folder for each rank's output and records.
    #[arg(long, alias = "log_dir", value_name = "FOLDER")]
    log_dir: Option<PathBuf>,
}

impl Flags {
    fn node(&self) -> Node {
        Node {
            nodes: 1,
            node_rank: 0,
            ranks: self.nproc_per_node,
            master_addr: "127.0.0.1".into(),
            master_port: 0,
            max_restarts: self.max_restarts,
            log_dir: self.log_dir.clone(),
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut words = cli.program.into_iter();
    let program = Program {
        // There is one; the flags say so.
        path: words.next().unwrap_or_default(),
        args: words.collect(),
        env: Vec::new(),
    };
    let result = supervise(&cli.flags.node(), &program);
    if let Err(error) = &result {
        // Nobody may be there to read it.
        let _ = writeln!(std::io::stderr(), "burn-dist-run: {error}");
    }
    ExitCode::from(exit_code(&result))
}
