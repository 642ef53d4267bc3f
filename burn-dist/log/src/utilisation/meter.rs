//! Reads what the system counts of this process and of the host's interfaces.

use super::sample::Sample;
use std::io;
use std::time::{Instant, SystemTime};
use sysinfo::{Networks, Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// Counters, all of which only rise.
#[derive(Debug, Clone, Copy)]
struct Counters {
    at: Instant,
    /// Milliseconds on CPUs.
    cpu: u64,
    sent: u64,
    received: u64,
}

/// Turns counters into samples of the time between two readings.
#[derive(Debug)]
pub(crate) struct Meter {
    process: Pid,
    system: System,
    networks: Option<Networks>,
    before: Counters,
}

impl Meter {
    /// Reads the counters for the first time.
    pub(crate) fn new() -> io::Result<Self> {
        let process = sysinfo::get_current_pid().map_err(io::Error::other)?;
        let networks = Networks::new().map_err(|error| {
            log::debug!("the interfaces of the host are not counted: {error}");
        });
        let mut meter = Self {
            process,
            system: System::new().map_err(io::Error::other)?,
            networks: networks.ok(),
            before: Counters {
                at: Instant::now(),
                cpu: 0,
                sent: 0,
                received: 0,
            },
        };
        (meter.before, _) = meter.read()?;
        Ok(meter)
    }

    /// What was done since the reading before, at least a clock tick (10 ms) ago.
    pub(crate) fn sample(&mut self) -> io::Result<Sample> {
        let (now, memory_bytes) = self.read()?;
        let before = std::mem::replace(&mut self.before, now);
        let seconds = (now.at - before.at).as_secs_f64();
        // An interface may vanish, and its bytes with it.
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Ok(Sample {
            time: since.unwrap_or_default().as_secs_f64(),
            // Milliseconds by seconds are thousandths; sysinfo's own percentage is of what the system counts as passed.
            cpu_percent: rate(now.cpu, before.cpu) / 10.0,
            memory_bytes,
            net_sent_bytes_per_s: rate(now.sent, before.sent),
            net_received_bytes_per_s: rate(now.received, before.received),
            gpus: Vec::new(),
        })
    }

    fn read(&mut self) -> io::Result<(Counters, u64)> {
        // Of this process alone, and not of each of its threads.
        let what = ProcessRefreshKind::nothing().with_cpu().with_memory();
        let which = ProcessesToUpdate::Some(&[self.process]);
        self.system.refresh_processes_specifics(which, false, what);
        let process = self.system.process(self.process).ok_or_else(|| {
            let text = format!("the system does not tell of process {}", self.process);
            io::Error::new(io::ErrorKind::NotFound, text)
        })?;
        let (mut sent, mut received) = (0, 0);
        if let Some(networks) = &mut self.networks {
            networks.refresh(true);
            for interface in networks.values() {
                sent += interface.total_transmitted();
                received += interface.total_received();
            }
        }
        let counters = Counters {
            at: Instant::now(),
            cpu: process.accumulated_cpu_time(),
            sent,
            received,
        };
        Ok((counters, process.memory()))
    }
}
