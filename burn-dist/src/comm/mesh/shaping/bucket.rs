//! The token buckets of one node: one for each node that it sends to, shared by its processes.
//!
//! A bucket holds the time until which its link is busy, of the system's monotonic clock. Who sends takes the time
//! that follows, under a lock, so that the bytes of all processes go one after the other. An idle link saves up
//! nothing: no byte is ever faster than the bandwidth. The buckets lie in a file without a name; the system
//! gives a lock back when the process that holds it dies.

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::time::{ClockId, clock_gettime};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// Bytes of the token, which stands before the buckets.
pub(super) const TOKEN: usize = 16;
/// Bytes of a bucket.
const BUCKET: usize = 8;

/// A moment of the clock that all processes of a host share: nanoseconds since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(u64);

impl Moment {
    pub(super) fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        // Neither is ever negative.
        Self(now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs())
    }

    pub(super) fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(nanos(time)))
    }

    pub(super) fn before(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(time)))
    }

    /// How long it is from `earlier` to this one; zero if it is not earlier.
    pub(super) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The buckets of one node, as one of its processes has them open.
#[derive(Debug)]
pub(super) struct Buckets {
    file: File,
}

impl Buckets {
    /// New ones, for links to so many nodes.
    pub(super) fn create(nodes: usize, token: &[u8; TOKEN]) -> io::Result<Self> {
        let file = File::from(memfd_create("burn-dist-link", MemfdFlags::CLOEXEC)?);
        ftruncate(&file, length(nodes))?;
        file.write_all_at(token, 0)?;
        Ok(Self { file })
    }

    /// The process and file descriptor by which other processes of the node open them.
    pub(super) fn descriptor(&self) -> (u32, i32) {
        (std::process::id(), self.file.as_raw_fd())
    }

    /// Those that another process of the node has made, if they are the ones with this token.
    pub(super) fn open(
        (pid, fd): (u32, i32),
        nodes: usize,
        token: &[u8; TOKEN],
    ) -> io::Result<Self> {
        let path = format!("/proc/{pid}/fd/{fd}");
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut found = [0; TOKEN];
        let read = file.read_exact_at(&mut found, 0);
        if read.is_err() || found != *token || file.metadata()?.len() != length(nodes) {
            let problem = "another process has that number: it runs in another container";
            return Err(io::Error::new(ErrorKind::NotFound, problem));
        }
        Ok(Self { file })
    }

    /// Takes the next `time` of the link to a node; returns when that time ends.
    pub(super) fn take(&self, node: usize, time: Duration) -> io::Result<Moment> {
        let at = (TOKEN + BUCKET * node) as u64;
        while let Err(e) = self.file.lock() {
            if e.kind() != ErrorKind::Interrupted {
                return Err(e);
            }
        }
        let taken = || {
            let mut bytes = [0; BUCKET];
            self.file.read_exact_at(&mut bytes, at)?;
            let busy = Moment(u64::from_le_bytes(bytes));
            let end = busy.max(Moment::now()).after(time);
            self.file.write_all_at(&end.0.to_le_bytes(), at)?;
            Ok(end)
        };
        let end = taken();
        self.file.unlock()?;
        end
    }
}

fn length(nodes: usize) -> u64 {
    (TOKEN + BUCKET * nodes) as u64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_processes_of_a_node_take_turns_and_its_links_do_not() {
        let ours = Buckets::create(3, &[7; TOKEN]).unwrap();
        let theirs = Buckets::open(ours.descriptor(), 3, &[7; TOKEN]).unwrap();
        let start = Moment::now();
        let first = ours.take(1, 50 * MS).unwrap();
        let second = theirs.take(1, 20 * MS).unwrap();
        assert!(first >= start.after(50 * MS));
        assert_eq!(second, first.after(20 * MS));
        assert!(
            theirs.take(2, MS).unwrap() < first,
            "the link to another node"
        );
    }

    #[test]
    fn threads_that_take_at_once_get_times_that_do_not_overlap() {
        let made = Buckets::create(1, &[1; TOKEN]).unwrap();
        let start = Moment::now();
        let mut ends = std::thread::scope(|scope| {
            let take = || {
                let own = Buckets::open(made.descriptor(), 1, &[1; TOKEN]).unwrap();
                (0..200)
                    .map(|_| own.take(0, MS).unwrap())
                    .collect::<Vec<_>>()
            };
            let running = [scope.spawn(take), scope.spawn(take)];
            running.map(|thread| thread.join().unwrap()).concat()
        });
        ends.sort_unstable();
        assert!(ends.windows(2).all(|two| two[1].since(two[0]) >= MS));
        assert!(ends[399] >= start.after(400 * MS));
    }

    #[test]
    fn an_idle_link_saves_up_nothing() {
        let buckets = Buckets::create(1, &[0; TOKEN]).unwrap();
        buckets.take(0, Duration::ZERO).unwrap();
        std::thread::sleep(20 * MS);
        let now = Moment::now();
        assert!(buckets.take(0, 10 * MS).unwrap() >= now.after(10 * MS));
    }

    #[test]
    fn a_file_that_is_something_else_is_refused() {
        let made = Buckets::create(2, &[7; TOKEN]).unwrap();
        let (pid, fd) = made.descriptor();
        assert!(Buckets::open((pid, fd), 2, &[8; TOKEN]).is_err());
        assert!(Buckets::open((pid, fd), 3, &[7; TOKEN]).is_err());
        assert!(Buckets::open((pid, 999_999), 2, &[7; TOKEN]).is_err());
    }
}
