//! This process as one rank.

use super::error_file::ErrorFile;
use super::settings::Settings;
use super::start::Start;
use super::threads::threads_on;
use super::{Devices, Identity, host};
use crate::comm::mesh::{LinkShape, Mesh, Options, Transport};
use crate::comm::{Flight, Recorder};
use crate::error::{Error, Result};
use crate::rendezvous::{Seat, Server, Terms};
use crate::stop::Stop;
use crate::world::World;
use std::sync::Arc;
use std::time::Duration;

/// What a process needs to become a rank.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) identity: Identity,
    pub(super) settings: Settings,
    pub(super) transport: Transport,
    /// The bandwidth and latency between nodes.
    pub(super) link: Option<LinkShape>,
    /// Equal on processes that may share memory.
    pub(super) host: String,
    pub(super) deadline: Duration,
    pub(super) devices: Devices,
    pub(super) seed: u64,
    pub(super) stop: Stop,
}

impl Process {
    /// Joins the world, runs `f` in it, and leaves when all ranks are done.
    ///
    /// # Errors
    /// Those of joining ([`Seat::take`], [`Mesh::new`]), then those of `f`; what ends another
    /// rank ends this one with the same cause. The cause is also written to the files that the
    /// launcher has named.
    pub(super) fn run<T: Send>(&self, f: impl FnOnce(World) -> Result<T> + Send) -> Result<T> {
        let recorder = Recorder::default();
        let result = self.join_and_run(&recorder, f);
        if let Err(error) = &result {
            self.write_records(error, &recorder);
        }
        result
    }

    fn join_and_run<T: Send>(
        &self,
        recorder: &Recorder,
        f: impl FnOnce(World) -> Result<T> + Send,
    ) -> Result<T> {
        let mut terms = self.terms();
        // Dropped last: the others are told what happened before rank 0 ends.
        let server = match terms.rank {
            0 => Some(Server::start(&terms)?),
            _ => None,
        };
        if let Some(server) = &server {
            terms.port = server.port();
        }
        let seat = Arc::new(Seat::take(terms)?);
        let last = recorder.clone();
        seat.describe(move || last.last());
        let options = Options {
            transport: self.transport,
            deadline: self.deadline,
            host: self.host.clone(),
            link: self.link,
            advertise: None,
        };
        let mesh = Mesh::new(seat.clone(), options).map_err(|error| seat.abort(error))?;
        let cores = mesh.cores().map_err(|error| seat.abort(error))?;
        let start = Start {
            devices: self.devices.clone(),
            local_rank: self.identity.local_rank,
            threads: threads_on(cores, &self.identity),
            deadline: self.deadline,
            link: self.link,
            seed: self.seed,
            ranks_here: 1,
            restarts: self.settings.restarts,
            initial: self.settings.initial_world,
            stop: self.stop.clone(),
        };
        let value = start.run(mesh, recorder.clone(), |world| {
            self.note_ready();
            f(world)
        })?;
        seat.leave()?;
        Ok(value)
    }

    /// Tells the launcher that this rank has come up: it has joined, and has its device.
    fn note_ready(&self) {
        if let Some(path) = &self.settings.ready_file {
            // Without it the launcher may take a failure of this rank for one to come up.
            let _ = std::fs::write(path, "")
                .inspect_err(|e| log::warn!("cannot write {}: {e}", path.display()));
        }
    }

    fn terms(&self) -> Terms {
        let Identity {
            rank,
            world_size,
            local_world_size,
            ref master_addr,
            master_port,
            ..
        } = self.identity;
        Terms {
            rank,
            world: world_size,
            master: master_addr.clone(),
            port: master_port,
            several_hosts: local_world_size < world_size,
            more_ports: self.settings.more_ports,
            port_reserved: self.settings.port_reserved,
            secret: self.settings.secret.clone(),
            attempt: self.settings.attempt,
            heartbeat: self.settings.heartbeat,
            patience: self.settings.patience,
            host: host::name(),
        }
    }

    /// Writes the error file and the flight record; that it fails does not hide the error.
    fn write_records(&self, error: &Error, recorder: &Recorder) {
        let Identity {
            rank, world_size, ..
        } = self.identity;
        if let Some(path) = &self.settings.error_file {
            let blames = blames(error).filter(|blamed| *blamed != rank);
            let mut file = ErrorFile::new(error.to_string(), blames.is_some(), rank);
            file.blames = blames;
            let _ = file
                .write(path)
                .inspect_err(|e| log::warn!("rank {rank}: {e}"));
        }
        if let Some(folder) = &self.settings.flights {
            let flight = Flight {
                rank,
                world: world_size,
                host: host::name(),
                pid: std::process::id(),
                step: recorder.step(),
                error: error.to_string(),
                events: recorder.events(),
            };
            let _ = flight
                .write(folder)
                .inspect_err(|e| log::warn!("rank {rank}: {e}"));
        }
    }
}

/// The rank that an error is about, if it is about one.
fn blames(error: &Error) -> Option<usize> {
    match error {
        Error::PeerFailed { peer, .. }
        | Error::PeerLost { peer, .. }
        | Error::PeerLeft { peer, .. }
        | Error::Mismatch { peer, .. }
        | Error::Corrupt { peer, .. } => Some(*peer),
        Error::Timeout { missing, .. } => missing.first().copied(),
        Error::Join { rank, .. } | Error::Panicked { rank, .. } => Some(*rank),
        Error::GradientSet { without, .. } => Some(*without),
        _ => None,
    }
}
