//! Reading the memory of another process of this host, as far as the system permits it.
//!
//! One copy by the kernel, from the pages of one process to those of the other: neither has to place its
//! buffers anywhere. Linux permits it between processes of one user, unless they are hardened (not
//! dumpable, a seccomp filter, another user namespace). Where the Yama module is on, as on Ubuntu, a process
//! must name who else may; see [`permit_siblings`].

use rustix::process::{PTracer, getppid, set_ptracer};
use std::io::{self, ErrorKind};
use std::sync::Once;

/// The setting of Yama by which a process must name those that may read its memory.
const YAMA: &str = "/proc/sys/kernel/yama/ptrace_scope";

/// Another process of this host.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProcessMemory {
    pid: u32,
}

impl ProcessMemory {
    pub(super) fn of(pid: u32) -> Self {
        Self { pid }
    }

    /// Whether exactly these bytes can be read at an address of the process.
    pub(super) fn holds(self, address: u64, expected: &[u8; 16]) -> io::Result<()> {
        let mut found = [0; 16];
        self.read(address, &mut found)?;
        if found == *expected {
            return Ok(());
        }
        let problem = "another process has that number";
        Err(io::Error::new(ErrorKind::NotFound, problem))
    }

    /// Copies what lies at an address of the process.
    pub(super) fn read(self, mut address: u64, mut into: &mut [u8]) -> io::Result<()> {
        while !into.is_empty() {
            let n = self.read_some(address, into)?;
            if n == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            address += n as u64;
            into = &mut into[n..];
        }
        Ok(())
    }

    #[allow(unsafe_code)]
    fn read_some(self, address: u64, into: &mut [u8]) -> io::Result<usize> {
        let out_of_range = |_| io::Error::from(ErrorKind::InvalidInput);
        let pid = i32::try_from(self.pid).map_err(out_of_range)?;
        let address = usize::try_from(address).map_err(out_of_range)?;
        let local = libc::iovec {
            iov_base: into.as_mut_ptr().cast(),
            iov_len: into.len(),
        };
        let remote = libc::iovec {
            iov_base: std::ptr::without_provenance_mut(address),
            iov_len: into.len(),
        };
        // SAFETY: the kernel writes at most `into.len()` bytes to `into`, which this borrow owns; the other
        // address is only ever used by the kernel, in the other process, which it checks.
        let n =
            unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }
}

/// Lets the other processes that were started by this one's parent read its memory, where Yama asks for it.
///
/// The parent is the launcher of the host's ranks. Where it is not, or the system refuses, ranks go on
/// with the memory that they share.
pub(super) fn permit_siblings() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let restricted = std::fs::read_to_string(YAMA).is_ok_and(|scope| scope.trim() == "1");
        if let Some(parent) = getppid().filter(|_| restricted)
            && let Err(e) = set_ptracer(PTracer::ProcessID(parent))
        {
            log::debug!("other ranks of this host cannot read this one's memory: {e}");
        }
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn this() -> ProcessMemory {
        ProcessMemory::of(std::process::id())
    }

    #[test]
    fn bytes_are_read_where_they_lie() {
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        let mut found = vec![0; bytes.len() - 7];
        let address = bytes.as_ptr().addr() as u64 + 7;
        this().read(address, &mut found).unwrap();
        assert_eq!(found, bytes[7..]);
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        assert!(this().read(8, &mut [0; 16]).is_err(), "no page is there");
        assert!(ProcessMemory::of(u32::MAX).read(0, &mut [0; 16]).is_err());
        let token = [7; 16];
        let address = token.as_ptr().addr() as u64;
        assert!(this().holds(address, &token).is_ok());
        assert!(this().holds(address, &[8; 16]).is_err());
    }
}
