//! The flags themselves, as a user gives them.

use super::nnodes::NNodes;
use super::nproc::NProc;
#[cfg(feature = "cli")]
use super::rejoin::seconds;
use crate::comm::mesh::{LinkShape, Transport};
use std::path::PathBuf;
use std::time::Duration;

/// The part of a program's help that these flags are in.
#[cfg(feature = "cli")]
const HEADING: &str = "Launch";

/// The flags of torchrun that a program of this library understands too.
///
/// With the feature `cli` it is a group of clap arguments, to be flattened into a program's own.
/// `None` is a flag that was not given.
///
/// ```
/// use burn_dist::launch::{Flags, NProc};
///
/// let flags = Flags {
///     nproc_per_node: Some(NProc::Count(2)),
///     ..Flags::default()
/// };
/// let node = flags.node(|_| None)?.unwrap();
/// assert_eq!((node.nodes, node.ranks, node.master_addr.as_str()), (1, 2, "127.0.0.1"));
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
// Without this, a program with no description would show this comment in its help.
#[cfg_attr(
    feature = "cli",
    derive(clap::Args),
    command(about = None, long_about = None)
)]
pub struct Flags {
    /// Start all ranks on this host, meeting at any free port.
    #[cfg_attr(feature = "cli", arg(long, help_heading = HEADING))]
    pub standalone: bool,

    /// Number of hosts, or MIN:MAX to go on with fewer or more at a restart [default: 1].
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = HEADING, value_name = "N")
    )]
    pub nnodes: Option<NNodes>,

    /// Ranks to start on each host: a number, MIN:MAX, auto, gpu or cpu [default: 1].
    #[cfg_attr(
        feature = "cli",
        arg(
            long,
            help_heading = HEADING,
            alias = "nproc_per_node",
            value_name = "N"
        )
    )]
    pub nproc_per_node: Option<NProc>,

    /// This host's number, from 0.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = HEADING, alias = "node_rank", value_name = "I")
    )]
    pub node_rank: Option<usize>,

    /// Host of rank 0, as the other hosts reach it.
    #[cfg_attr(
        feature = "cli",
        arg(
            long,
            help_heading = HEADING,
            alias = "master_addr",
            value_name = "HOST"
        )
    )]
    pub master_addr: Option<String>,

    /// Port of rank 0 [default: any free one, or 29500 on several hosts].
    #[cfg_attr(
        feature = "cli",
        arg(
            long,
            help_heading = HEADING,
            alias = "master_port",
            value_name = "PORT"
        )
    )]
    pub master_port: Option<u16>,

    /// How often to start again after a failure [default: 0].
    #[cfg_attr(
        feature = "cli",
        arg(
            long,
            help_heading = HEADING,
            alias = "max_restarts",
            value_name = "N"
        )
    )]
    pub max_restarts: Option<usize>,

    /// With MIN:MAX, how long a lost rank or host may take to come back [default: 60].
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = HEADING, value_name = "SECONDS", value_parser = seconds)
    )]
    pub rejoin: Option<Duration>,

    /// Folder for each rank's output, besides the terminal.
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = HEADING, alias = "log_dir", value_name = "DIR")
    )]
    pub log_dir: Option<PathBuf>,

    /// How processes send bytes to each other: auto, tcp, shm or ring [default: auto].
    #[cfg_attr(feature = "cli", arg(long, help_heading = HEADING, value_name = "WAY"))]
    pub transport: Option<Transport>,

    /// Make the connections between nodes as slow as such a network: 1gbit,5ms [default: as they are].
    #[cfg_attr(
        feature = "cli",
        arg(long, help_heading = HEADING, value_name = "BANDWIDTH,LATENCY")
    )]
    pub link: Option<LinkShape>,
}

impl Flags {
    /// Whether any of these flags asks for processes to be started.
    ///
    /// The others only say how; given without one of these, they may be meant for a launcher that
    /// has set the environment.
    pub fn is_launch(&self) -> bool {
        self.standalone || self.nnodes.is_some() || self.nproc_per_node.is_some()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn which_flags_ask_for_processes() {
        let none = Flags {
            max_restarts: Some(1),
            transport: Some(Transport::Tcp),
            master_addr: Some("h".into()),
            ..Flags::default()
        };
        assert!(!none.is_launch() && !Flags::default().is_launch());
        for flags in [
            Flags {
                standalone: true,
                ..none.clone()
            },
            Flags {
                nnodes: Some(NNodes::from(1)),
                ..none.clone()
            },
            Flags {
                nproc_per_node: Some(NProc::Auto),
                ..none.clone()
            },
        ] {
            assert!(flags.is_launch());
        }
    }

    #[cfg(feature = "cli")]
    mod command_line {
        use super::*;
        use clap::Parser;

        #[derive(Parser)]
        struct Program {
            #[command(flatten)]
            launch: Flags,
            #[arg(long)]
            epochs: Option<usize>,
        }

        fn parse(line: &str) -> std::result::Result<Flags, clap::Error> {
            let words = std::iter::once("program").chain(line.split_whitespace());
            Ok(Program::try_parse_from(words)?.launch)
        }

        #[test]
        fn both_spellings_of_torchrun() {
            let old = "--nnodes=2 --nproc_per_node=2 --node_rank=0 --master_addr=10.0.0.1 \
                       --master_port=29501";
            let flags = parse(old).unwrap();
            let expected = Flags {
                nnodes: Some(NNodes::from(2)),
                nproc_per_node: Some(NProc::Count(2)),
                node_rank: Some(0),
                master_addr: Some("10.0.0.1".into()),
                master_port: Some(29501),
                ..Flags::default()
            };
            assert_eq!(flags, expected);
            assert_eq!(parse(&old.replace('_', "-")).unwrap(), expected);
            assert_eq!(parse(&old.replace('=', " ")).unwrap(), expected);

            let rest = "--standalone --max_restarts=3 --log_dir=/tmp/l --transport=shm \
                        --link=2.5gbit,40us --nproc_per_node=gpu --epochs=2";
            let flags = parse(rest).unwrap();
            assert_eq!(parse(&rest.replace('_', "-")).unwrap(), flags);
            let expected = Flags {
                standalone: true,
                nproc_per_node: Some(NProc::Gpu),
                max_restarts: Some(3),
                log_dir: Some("/tmp/l".into()),
                transport: Some(Transport::Shm),
                link: "2500mbit,40us".parse().ok(),
                ..Flags::default()
            };
            assert_eq!(flags, expected);
            assert_eq!(parse("").unwrap(), Flags::default());

            let elastic = parse("--nnodes=1:4 --nproc_per_node=2:3 --rejoin=1.5").unwrap();
            let expected = Flags {
                nnodes: Some(NNodes { least: 1, most: 4 }),
                nproc_per_node: Some(NProc::Range { least: 2, most: 3 }),
                rejoin: Some(Duration::from_millis(1500)),
                ..Flags::default()
            };
            assert_eq!(elastic, expected);
        }

        #[test]
        fn wrong_values_name_their_flag() {
            for (line, words) in [
                ("--nnodes=4:1", ["--nnodes", "MIN:MAX"]),
                ("--nnodes=0:1", ["--nnodes", "MIN:MAX"]),
                ("--nnodes=many", ["--nnodes", "MIN:MAX"]),
                ("--nproc-per-node=0", ["--nproc-per-node", "auto"]),
                ("--nproc-per-node=3:2", ["--nproc-per-node", "MIN:MAX"]),
                ("--nproc-per-node=0:2", ["--nproc-per-node", "MIN:MAX"]),
                ("--rejoin=soon", ["--rejoin", "seconds"]),
                ("--rejoin=0", ["--rejoin", "seconds"]),
                ("--nproc_per_node=many", ["--nproc-per-node", "auto"]),
                ("--master-port=70000", ["--master-port", "70000"]),
                ("--transport=udp", ["--transport", "shm"]),
                ("--link=0", ["--link", "1gbit,5ms"]),
                ("--link=1000,5ms", ["--link", "kbit, mbit or gbit"]),
                ("--link=1gbit,-5ms", ["--link", "us, ms or s"]),
            ] {
                let error = parse(line).unwrap_err().to_string();
                assert!(words.iter().all(|word| error.contains(word)), "{error}");
            }
        }

        #[test]
        fn help_is_one_line_each_under_its_heading() {
            use clap::CommandFactory;
            Program::command().debug_assert();
            let help = Program::command()
                .term_width(120)
                .render_long_help()
                .to_string();
            let (_, launch) = help.split_once("Launch:").unwrap();
            let described = launch
                .lines()
                .filter(|line| line.trim_start().starts_with("--"));
            assert_eq!(described.count(), 11, "{help}");
            assert!(!help.contains("clap"), "{help}");
        }
    }
}
