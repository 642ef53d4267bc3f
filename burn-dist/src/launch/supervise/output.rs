//! The output of ranks: each line is printed after its rank, and never two ranks in one line.
//!
//! Bytes, not strings: what a rank prints need not be text, and arrives as it was.

use super::terminal::{Stream, Terminal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;

/// The longest line; the rest of it becomes lines of their own, so that memory stays bounded.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// The most that is still read once the rank is gone: what a pipe can hold.
const PIPE_CAPACITY: usize = 1 << 20;

/// Bytes to lines with a prefix.
#[derive(Debug)]
struct Lines {
    prefix: Vec<u8>,
    /// The beginning of a line whose end has not come yet.
    begun: Vec<u8>,
    /// Whether the last line ended with a carriage return.
    returned: bool,
}

impl Lines {
    fn new(rank: usize) -> Self {
        Self {
            prefix: format!("[{rank}]: ").into_bytes(),
            begun: Vec::new(),
            returned: false,
        }
    }

    /// Takes in bytes, and returns the lines that are complete now.
    fn push(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let mut lines = Vec::new();
        loop {
            if let Some((first, rest)) = bytes.split_first()
                && std::mem::take(&mut self.returned)
                && *first == b'\n'
            {
                bytes = rest;
            }
            let room = MAX_LINE_BYTES - self.begun.len();
            let end = bytes
                .iter()
                .take(room)
                .position(|&b| b == b'\n' || b == b'\r');
            let (taken, skipped) = match end {
                Some(end) => (end, 1),
                None if bytes.len() >= room => (room, 0),
                None => break,
            };
            // Progress bars go back to the beginning of their line: each state is a line here.
            self.returned = end.is_some_and(|end| bytes[end] == b'\r');
            self.begun.extend_from_slice(&bytes[..taken]);
            self.end_line(&mut lines);
            bytes = &bytes[taken + skipped..];
        }
        self.begun.extend_from_slice(bytes);
        lines
    }

    /// The last line, if its end never came.
    fn finish(mut self) -> Vec<u8> {
        let mut lines = Vec::new();
        if !self.begun.is_empty() {
            self.end_line(&mut lines);
        }
        lines
    }

    fn end_line(&mut self, lines: &mut Vec<u8>) {
        lines.extend_from_slice(&self.prefix);
        lines.append(&mut self.begun);
        lines.push(b'\n');
    }
}

/// One output of one rank, on its way to the terminal and to a file.
#[derive(Debug)]
pub(super) struct Output<R> {
    pub(super) rank: usize,
    pub(super) stream: Stream,
    pub(super) from: R,
    pub(super) log: Option<File>,
    pub(super) terminal: Terminal,
    /// Ends when only what the pipe holds is still to be read: another process may have it open for
    /// ever.
    pub(super) stop_reading: Arc<PipeReader>,
}

impl<R: Read + AsFd> Output<R> {
    /// Copies until the rank, and every other process with its pipe, has closed it.
    pub(super) fn copy(mut self) {
        let mut lines = Lines::new(self.rank);
        let mut buffer = vec![0; MAX_LINE_BYTES];
        let mut left = PIPE_CAPACITY;
        while let Ok(stop_reading) = self.wait() {
            if stop_reading && (left == 0 || !self.ready()) {
                break;
            }
            let read = match self.from.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            if stop_reading {
                left = left.saturating_sub(read);
            }
            self.log(&buffer[..read]);
            self.terminal
                .write(self.stream, &lines.push(&buffer[..read]));
        }
        self.terminal.write(self.stream, &lines.finish());
    }

    /// Waits for output, or for the end of `stop_reading`; returns whether that has ended.
    fn wait(&self) -> io::Result<bool> {
        let mut both = [
            PollFd::new(&self.from, PollFlags::IN),
            PollFd::new(&*self.stop_reading, PollFlags::IN),
        ];
        loop {
            match poll(&mut both, None) {
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
                Ok(_) => return Ok(!both[1].revents().is_empty()),
            }
        }
    }

    fn ready(&self) -> bool {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut pipe = [PollFd::new(&self.from, PollFlags::IN)];
        poll(&mut pipe, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// A log that cannot be written is given up, with one line about it.
    fn log(&mut self, bytes: &[u8]) {
        let Some(mut log) = self.log.as_ref() else {
            return;
        };
        if let Err(e) = log.write_all(bytes) {
            self.log = None;
            let rank = self.rank;
            let line = format!("burn-dist: the log of rank {rank} ends here: {e}\n");
            self.terminal.write(Stream::Err, line.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_get_their_rank_however_they_come() {
        let text = b"one\n\ntwo \xff\0\r\nthree";
        for piece in 1..text.len() {
            let mut lines = Lines::new(12);
            let mut found = Vec::new();
            for bytes in text.chunks(piece) {
                found.append(&mut lines.push(bytes));
            }
            found.append(&mut lines.finish());
            let expected = b"[12]: one\n[12]: \n[12]: two \xff\0\n[12]: three\n";
            assert_eq!(found, expected, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_line_without_end_takes_no_more_than_its_piece() {
        let mut lines = Lines::new(0);
        let mut found = Vec::new();
        for _ in 0..100 {
            found.append(&mut lines.push(&[b'x'; 10_000]));
            assert!(lines.begun.len() < MAX_LINE_BYTES);
        }
        found.append(&mut lines.push(b"\nnext\n"));
        assert_eq!(lines.finish(), b"");
        let pieces: Vec<_> = found.split(|&b| b == b'\n').collect();
        assert_eq!(pieces.len(), 1_000_000_usize.div_ceil(MAX_LINE_BYTES) + 2);
        let long = pieces
            .iter()
            .filter(|p| p.len() == MAX_LINE_BYTES + "[0]: ".len());
        assert_eq!(long.count(), 1_000_000 / MAX_LINE_BYTES);
        assert_eq!(pieces[pieces.len() - 2], b"[0]: next");
    }
}
