//! The launcher's own standard output and error, which all ranks share.
//!
//! They may be closed (a closed terminal, a reader such as `head` that has ended) or not read (a pager).
//! Neither may end the ranks or keep the launcher from supervising them: what cannot be written is
//! dropped, and the launcher's own messages are written by a thread of their own.

use std::io;
use std::os::fd::AsFd;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Which of a process's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Out,
    Err,
}

/// Where whole lines are written, one writer at a time; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Terminal {
    /// Whether the outputs are closed. One lock for both: they may be the same file.
    closed: Arc<Mutex<[bool; 2]>>,
}

impl Terminal {
    /// Writes whole lines, or nothing if the output is closed.
    pub(super) fn write(&self, stream: Stream, lines: &[u8]) {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = &mut closed[stream as usize];
        if *closed || lines.is_empty() {
            return;
        }
        let result = match stream {
            Stream::Out => write_all(&io::stdout(), lines),
            Stream::Err => write_all(&io::stderr(), lines),
        };
        *closed = result.is_err();
    }
}

/// Past the buffers of the standard library, which keep what they could not write.
fn write_all(to: &impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes).map_err(io::Error::from) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // Another program with the same terminal has made it non-blocking.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// The launcher's own messages, written to standard error by a thread.
#[derive(Debug)]
pub(super) struct Stderr {
    lines: Sender<Vec<u8>>,
    writer: Option<JoinHandle<()>>,
}

impl Stderr {
    pub(super) fn new(terminal: &Terminal) -> Self {
        let (lines, queued) = channel::<Vec<u8>>();
        let terminal = terminal.clone();
        let write = move || {
            for lines in queued {
                terminal.write(Stream::Err, &lines);
            }
        };
        let thread = std::thread::Builder::new().name("launcher's stderr".into());
        // Without a thread nothing is printed.
        let writer = thread.spawn(write).ok();
        Self { lines, writer }
    }

    /// Prints `text`, each line marked as the launcher's. Returns at once.
    pub(super) fn print(&self, text: &str) {
        let mark = |line: &str| match line {
            "" => "burn-dist:\n".to_string(),
            line => format!("burn-dist: {line}\n"),
        };
        let lines: String = text.lines().map(mark).collect();
        let _ = self.lines.send(lines.into_bytes());
    }

    /// Returns when everything is written.
    pub(super) fn end(self) {
        drop(self.lines);
        if let Some(writer) = self.writer {
            let _ = writer.join();
        }
    }
}
