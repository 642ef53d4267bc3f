//! `burn-dist-run`: starts a program as the ranks of this host, as torchrun does.
//!
//! `burn-dist-run --nproc-per-node 4 target/release/train --epochs 3`

use burn_dist::Result;
use burn_dist::launch::{Flags, NNodes, Node, Program, exit_code, process_variable, supervise};
use clap::Parser;
use std::ffi::OsString;
use std::io::Write;
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

/// What is to be started here; without a word about processes it is one, as with torchrun.
fn node(mut flags: Flags) -> Result<Option<Node>> {
    let cluster = ["PET_NNODES", "PET_NPROC_PER_NODE", "LWS_GROUP_SIZE"];
    let is_told = cluster.iter().any(|name| process_variable(name).is_some());
    if !flags.is_launch() && !is_told {
        flags.nnodes = Some(NNodes::from(1));
    }
    flags.node(process_variable)
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(flag) = cli
        .program
        .first()
        .filter(|w| w.to_string_lossy().starts_with('-'))
    {
        let flag = flag.to_string_lossy();
        eprintln!("error: unexpected argument '{flag}' found; --help lists the flags");
        if flag.starts_with("--rdzv") {
            eprintln!("ranks meet at --master-addr and --master-port; there is no other way");
        }
        return ExitCode::from(2);
    }
    let mut words = cli.program.into_iter();
    let transport = cli
        .flags
        .transport
        .map(|t| ("BURN_DIST_TRANSPORT".into(), t.to_string().into()));
    let link = cli.flags.link;
    let link = link.map(|link| ("BURN_DIST_LINK".into(), link.to_string().into()));
    let program = Program {
        // There is one; the flags say so.
        path: words.next().unwrap_or_default(),
        args: words.collect(),
        env: transport.into_iter().chain(link).collect(),
    };
    let result = node(cli.flags).and_then(|node| match node {
        Some(node) => supervise(&node, &program),
        None => Ok(()),
    });
    if let Err(error) = &result {
        // Nobody may be there to read it.
        let _ = writeln!(std::io::stderr(), "burn-dist-run: {error}");
    }
    ExitCode::from(exit_code(&result))
}
