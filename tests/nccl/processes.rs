//! The host's engine that processes use: sockets and shared memory.

use crate::memory::{buffer, read, write};
use crate::mesh::World;
use crate::mock;
use crate::ranks::{FAR, ORDERS, options};
use burn_dist::comm::mesh::Transport;
use burn_dist::comm::nccl::Nccl;
use burn_dist::comm::{Communicator, Engine, Order, Reduce};
use burn_dist::rendezvous::Server;
use burn_dist::{Error, Result};
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The variable with a process's rank and the address of the rendezvous.
const RANK: &str = "BURN_DIST_TEST_NCCL_RANK";

/// A rank's GPU, added to its mesh.
fn with_gpu(mesh: impl Engine + 'static, order: Order) -> Communicator {
    let rank = mesh.rank();
    Communicator::new(Nccl::new(Arc::new(mesh), rank, options(order, FAR)).unwrap())
}

/// Sums over all ranks and over pairs.
fn sums(comm: &Communicator) -> Result<()> {
    let pair = comm.split(comm.rank() / 2, 0)?;
    for turn in 0..5 {
        for (group, first) in [(comm, 0), (&pair, comm.rank() / 2 * 2)] {
            let sum = buffer::<i64>(100);
            write(&sum, 0, &[(turn + comm.rank()) as i64; 100]);
            let device = group.on_device().unwrap();
            device
                .all_reduce(&"sum".into(), Reduce::Sum, &sum)?
                .wait()?;
            // The next collective's barrier does not show that this one is done; an empty stream does.
            while Arc::strong_count(sum.owner()) > 1 {
                std::thread::yield_now();
            }
            let total: usize = (first..first + group.size()).map(|rank| turn + rank).sum();
            assert_eq!(read::<i64>(&sum), [total as i64; 100]);
        }
    }
    // The pair outlives its world.
    comm.leave();
    drop(pair);
    Ok(())
}

pub(crate) fn over_a_mesh() {
    for (transport, order) in [(Transport::Shm, ORDERS[0]), (Transport::Tcp, ORDERS[1])] {
        let world = World::new(4, transport);
        let server = Server::start(&world.terms(0, 0)).unwrap();
        let (world, port) = (&world, server.port());
        std::thread::scope(|scope| {
            for rank in 0..4 {
                let make = move |mesh| with_gpu(mesh, order);
                scope.spawn(move || world.rank_as(rank, port, make, sums).unwrap());
            }
        });
        mock::assert_clean();
        let log = mock::log();
        assert!(!log.iter().any(|line| line.contains("Abort")), "{log:?}");
        mock::reset();
    }
}

/// With a heartbeat far beyond the test's limit: a death shows as a connection that closes.
fn world() -> World {
    World::new(2, Transport::Auto)
}

/// A rank of a world of processes, if this process is one.
pub(crate) fn is_rank() -> bool {
    let Ok(place) = std::env::var(RANK) else {
        return false;
    };
    let (rank, port) = place.split_once(' ').unwrap();
    let rank: usize = rank.parse().unwrap();
    let make = |mesh| with_gpu(mesh, Order::Host);
    let result = world().rank_as(rank, port.parse().unwrap(), make, |comm| {
        // Once this rank is inside NCCL, which no call here returns from to say so.
        std::thread::spawn(|| {
            let is_there = |line: &String| line.ends_with("ncclCommInitRankConfig");
            while !mock::log().iter().any(is_there) {
                std::thread::sleep(Duration::from_millis(5));
            }
            println!("ready");
        });
        // The mock's ranks meet in one process only, so this is NCCL waiting for a peer.
        let sum = buffer::<f32>(3);
        comm.on_device()
            .unwrap()
            .all_reduce(&"sum".into(), Reduce::Sum, &sum)?
            .wait()
    });
    println!("{}", serde_json::to_string(&result.unwrap_err()).unwrap());
    true
}

/// A process dies while its peer is inside NCCL.
pub(crate) fn a_killed_process_is_missed() {
    let server = Server::start(&world().terms(0, 0)).unwrap();
    let start = |rank: usize| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(RANK, format!("{rank} {}", server.port()));
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        (process, output)
    };
    let ((mut survivor, mut output), (mut victim, mut other)) = (start(0), start(1));
    for output in [&mut output, &mut other] {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
    }
    let since = Instant::now();
    victim.kill().unwrap();
    victim.wait().unwrap();
    let mut said = String::new();
    output.read_to_string(&mut said).unwrap();
    survivor.wait().unwrap();
    println!("- after {:?}: {said}", since.elapsed());
    assert!(since.elapsed() < Duration::from_secs(20));
    let error: Error = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert!(matches!(error, Error::PeerLost { peer: 1, .. }), "{error}");
}
