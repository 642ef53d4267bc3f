//! A stream of bytes through memory that two processes share.
//!
//! One process writes and the other reads; two counters hold how many bytes each has moved. This file does
//! not wait: a side that goes to sleep sets a flag here, and the other side then sends a byte on the
//! pair's socket to wake it.

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// The distance of counters that different cores write, so that they do not share a cache line.
const CACHE_LINE: usize = 128;
/// The layout: the token, then the counters of each direction, then the data of each direction.
const COUNTERS: usize = 6;
const COUNTERS_BYTES: usize = COUNTERS * CACHE_LINE;
const DATA_OFFSET: usize = CACHE_LINE + 2 * COUNTERS_BYTES;

/// Memory of two rings, one for each direction.
#[derive(Debug)]
pub(super) struct Segment {
    map: MmapRaw,
    capacity: usize,
    /// Kept by the side that made it, so that the other can open it.
    file: Option<File>,
}

/// The writing side of one direction.
#[derive(Debug)]
pub(super) struct Writer {
    segment: Arc<Segment>,
    direction: usize,
    /// Bytes written so far.
    head: u64,
    /// Blocks lent so far: the reader gets their address and reads them where they are.
    lent: u64,
}

/// The reading side of one direction.
#[derive(Debug)]
pub(super) struct Reader {
    segment: Arc<Segment>,
    direction: usize,
    /// Bytes read so far.
    tail: u64,
    /// Lent blocks read so far.
    taken: u64,
}

impl Segment {
    /// New memory for rings of `capacity` bytes in each direction.
    ///
    /// It has no name: the system frees it when the last process that uses it ends.
    pub(super) fn new(capacity: usize, token: &[u8; 16]) -> io::Result<Self> {
        let file = File::from(memfd_create("burn-dist", MemfdFlags::CLOEXEC)?);
        ftruncate(&file, (DATA_OFFSET + 2 * capacity) as u64)?;
        let map = MmapOptions::new().map_raw(&file)?;
        // SAFETY: the first bytes of memory that nobody else has yet.
        #[allow(unsafe_code)]
        unsafe {
            std::ptr::copy_nonoverlapping(token.as_ptr(), map.as_mut_ptr(), token.len());
        }
        let file = Some(file);
        Ok(Self {
            map,
            capacity,
            file,
        })
    }

    /// The process and file descriptor by which another process of this host opens the memory.
    pub(super) fn descriptor(&self) -> Option<(u32, i32)> {
        self.file
            .as_ref()
            .map(|f| (std::process::id(), f.as_raw_fd()))
    }

    /// Closes the file, after the other side has opened it or has refused.
    pub(super) fn close_file(&mut self) {
        self.file = None;
    }

    /// The memory that another process made, if it is the one with this token.
    pub(super) fn open(
        (pid, fd): (u32, i32),
        capacity: usize,
        token: &[u8; 16],
    ) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/fd/{fd}"))?;
        let other = || io::Error::new(io::ErrorKind::NotFound, "the process is of another host");
        // An access beyond the end of the file would kill this process with SIGBUS.
        if file.metadata()?.len() != (DATA_OFFSET + 2 * capacity) as u64 {
            return Err(other());
        }
        let map = MmapOptions::new().map_raw(&file)?;
        let mut found = [0; 16];
        // SAFETY: inside the mapping, whose length was checked; written before it was announced.
        #[allow(unsafe_code)]
        unsafe {
            std::ptr::copy_nonoverlapping(map.as_ptr(), found.as_mut_ptr(), found.len());
        }
        if found != *token {
            return Err(other());
        }
        Ok(Self {
            map,
            capacity,
            file: None,
        })
    }

    /// The writer and reader of one side: it writes in `direction` 0 or 1 and reads in the other.
    pub(super) fn ends(self, direction: usize) -> (Writer, Reader) {
        let segment = Arc::new(self);
        let writer = Writer {
            segment: segment.clone(),
            direction,
            head: 0,
            lent: 0,
        };
        (
            writer,
            Reader {
                segment,
                direction: 1 - direction,
                tail: 0,
                taken: 0,
            },
        )
    }

    fn word(&self, direction: usize, number: usize) -> *mut u8 {
        let at = CACHE_LINE + direction * COUNTERS_BYTES + number * CACHE_LINE;
        assert!(direction < 2 && number < COUNTERS);
        self.map.as_mut_ptr().wrapping_add(at)
    }

    /// Bytes written to a direction so far.
    fn head(&self, direction: usize) -> &AtomicU64 {
        // SAFETY: inside the mapping, aligned to a line, and only ever used as this atomic.
        #[allow(unsafe_code)]
        unsafe {
            &*self.word(direction, 0).cast()
        }
    }

    /// Bytes read from a direction so far.
    fn tail(&self, direction: usize) -> &AtomicU64 {
        // SAFETY: as for `head`.
        #[allow(unsafe_code)]
        unsafe {
            &*self.word(direction, 1).cast()
        }
    }

    /// The flag that a side of a direction sleeps: side 0 is the reader, 1 the writer.
    fn sleep_flag(&self, direction: usize, side: usize) -> &AtomicU32 {
        // SAFETY: as for `head`.
        #[allow(unsafe_code)]
        unsafe {
            &*self.word(direction, 2 + side).cast()
        }
    }

    /// How many lent blocks the reader of a direction has read so far.
    fn taken(&self, direction: usize) -> &AtomicU64 {
        // SAFETY: as for `head`.
        #[allow(unsafe_code)]
        unsafe {
            &*self.word(direction, 4).cast()
        }
    }

    /// Not zero once the writer of a direction may change blocks that it has lent and that were not read.
    fn revoked(&self, direction: usize) -> &AtomicU32 {
        // SAFETY: as for `head`.
        #[allow(unsafe_code)]
        unsafe {
            &*self.word(direction, 5).cast()
        }
    }

    /// The address of a direction's byte number `at`, and how many follow before the ring's end.
    fn data(&self, direction: usize, at: u64) -> (*mut u8, usize) {
        let offset = (at % self.capacity as u64) as usize;
        let start = DATA_OFFSET + direction * self.capacity + offset;
        (
            self.map.as_mut_ptr().wrapping_add(start),
            self.capacity - offset,
        )
    }

    /// Bytes between the counters; an error if the other side has written impossible values.
    fn between(&self, head: u64, tail: u64) -> io::Result<usize> {
        let used = head.wrapping_sub(tail);
        if used > self.capacity as u64 {
            return Err(damaged());
        }
        Ok(used as usize)
    }
}

fn damaged() -> io::Error {
    let problem = "the counters of shared memory are damaged";
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

impl Writer {
    /// Writes as much of `bytes` as there is room for.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.room()?.min(bytes.len());
        let (first, until_end) = self.segment.data(self.direction, self.head);
        let n1 = n.min(until_end);
        let (second, _) = self.segment.data(self.direction, self.head + n1 as u64);
        // SAFETY: both ranges are inside this direction's data. The reader does not read beyond
        // `head`, and `room` has read its counter with Acquire: it has read this
        // part of the ring.
        #[allow(unsafe_code)]
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), first, n1);
            std::ptr::copy_nonoverlapping(bytes.as_ptr().add(n1), second, n - n1);
        }
        self.head += n as u64;
        self.segment
            .head(self.direction)
            .store(self.head, Ordering::Release);
        Ok(n)
    }

    /// Bytes that can be written now.
    pub(super) fn room(&self) -> io::Result<usize> {
        let tail = self.segment.tail(self.direction).load(Ordering::Acquire);
        Ok(self.segment.capacity - self.segment.between(self.head, tail)?)
    }

    /// Counts a block whose address was written; it must not change before [`all_taken`](Self::all_taken).
    pub(super) fn lend(&mut self) {
        self.lent += 1;
    }

    /// Whether the reader has read all lent blocks.
    pub(super) fn all_taken(&self) -> io::Result<bool> {
        let taken = self.segment.taken(self.direction).load(Ordering::Acquire);
        if taken > self.lent {
            return Err(damaged());
        }
        Ok(taken == self.lent)
    }

    /// Tells the reader that lent blocks may change from here on.
    pub(super) fn revoke(&self) {
        let revoked = self.segment.revoked(self.direction);
        revoked.store(1, Ordering::Relaxed);
        // Before anything that this thread writes to the blocks.
        fence(Ordering::SeqCst);
    }

    /// Sets the flag that this side sleeps until there is room, or until a lent block was read.
    pub(super) fn announce_sleep(&self) {
        announce_sleep(self.segment.sleep_flag(self.direction, 1));
    }

    /// Whether the reader sleeps and must be woken after a write; clears its flag.
    pub(super) fn take_sleeper(&self) -> bool {
        take_sleeper(self.segment.sleep_flag(self.direction, 0))
    }
}

impl Reader {
    /// Reads as much into `bytes` as is there.
    pub(super) fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = self.ready()?.min(bytes.len());
        let (first, until_end) = self.segment.data(self.direction, self.tail);
        let n1 = n.min(until_end);
        let (second, _) = self.segment.data(self.direction, self.tail + n1 as u64);
        // SAFETY: both ranges are inside this direction's data, written before `head` was set,
        // which `ready` has read with Acquire; the writer does not write them before `tail` passes them.
        #[allow(unsafe_code)]
        unsafe {
            std::ptr::copy_nonoverlapping(first, bytes.as_mut_ptr(), n1);
            std::ptr::copy_nonoverlapping(second, bytes.as_mut_ptr().add(n1), n - n1);
        }
        self.tail += n as u64;
        self.segment
            .tail(self.direction)
            .store(self.tail, Ordering::Release);
        Ok(n)
    }

    /// Bytes that can be read now.
    pub(super) fn ready(&self) -> io::Result<usize> {
        let head = self.segment.head(self.direction).load(Ordering::Acquire);
        self.segment.between(head, self.tail)
    }

    /// Counts a lent block that was read; `false` if the writer may have changed it meanwhile.
    pub(super) fn take(&mut self) -> bool {
        // After everything that this thread has read of the block.
        fence(Ordering::SeqCst);
        if self.segment.revoked(self.direction).load(Ordering::Relaxed) != 0 {
            return false;
        }
        self.taken += 1;
        let taken = self.segment.taken(self.direction);
        taken.store(self.taken, Ordering::Release);
        true
    }

    /// Sets the flag that this side sleeps until there are bytes.
    pub(super) fn announce_sleep(&self) {
        announce_sleep(self.segment.sleep_flag(self.direction, 0));
    }

    /// Whether the writer sleeps and must be woken after a read; clears its flag.
    pub(super) fn take_sleeper(&self) -> bool {
        take_sleeper(self.segment.sleep_flag(self.direction, 1))
    }
}

/// The fence makes the flag visible before the caller checks the counters a last time.
fn announce_sleep(flag: &AtomicU32) {
    flag.store(1, Ordering::Relaxed);
    fence(Ordering::SeqCst);
}

/// The fence makes the counters visible before the flag is read: so at least one side sees the other.
fn take_sleeper(flag: &AtomicU32) -> bool {
    fence(Ordering::SeqCst);
    flag.load(Ordering::Relaxed) == 1 && flag.swap(0, Ordering::Relaxed) == 1
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pair(capacity: usize) -> ((Writer, Reader), (Writer, Reader)) {
        let ours = Segment::new(capacity, &[7; 16]).unwrap();
        let theirs = Segment::open(ours.descriptor().unwrap(), capacity, &[7; 16]).unwrap();
        (ours.ends(0), theirs.ends(1))
    }

    #[test]
    fn bytes_come_out_as_they_went_in_at_every_size_and_wrap() {
        let ((mut writer, _), (_, mut reader)) = pair(1000);
        let stream: Vec<u8> = (0..100_000u32).map(|i| ((i * 31) >> 3) as u8).collect();
        let (mut sent, mut back) = (0, Vec::<u8>::new());
        for size in (1..=700).cycle() {
            sent += writer
                .write(&stream[sent..stream.len().min(sent + size)])
                .unwrap();
            let mut some = vec![0; (size * 7) % 900 + 1];
            let n = reader.read(&mut some).unwrap();
            back.extend(&some[..n]);
            if back.len() == stream.len() {
                break;
            }
        }
        assert_eq!(back, stream);
    }

    #[test]
    fn a_full_ring_takes_nothing_and_an_empty_one_gives_nothing() {
        let ((mut writer, mut own), (_, mut reader)) = pair(64);
        assert_eq!(writer.write(&[1; 100]).unwrap(), 64);
        assert_eq!(writer.write(&[1; 100]).unwrap(), 0);
        assert_eq!(reader.read(&mut [0; 100]).unwrap(), 64);
        assert_eq!(reader.read(&mut [0; 100]).unwrap(), 0);
        assert_eq!(
            own.read(&mut [0; 100]).unwrap(),
            0,
            "the other direction is another ring"
        );
    }

    #[test]
    fn memory_with_another_token_is_not_taken() {
        let ours = Segment::new(64, &[7; 16]).unwrap();
        let descriptor = ours.descriptor().unwrap();
        assert!(Segment::open(descriptor, 64, &[8; 16]).is_err());
        assert!(Segment::open(descriptor, 128, &[7; 16]).is_err());
        assert!(Segment::open((descriptor.0, 999_999), 64, &[7; 16]).is_err());
    }

    #[test]
    fn broken_counters_are_an_error() {
        let ((mut writer, _), (_, mut reader)) = pair(64);
        writer.segment.head(0).store(1 << 40, Ordering::Release);
        assert!(reader.read(&mut [0; 8]).is_err());
        writer.segment.tail(0).store(5, Ordering::Release);
        assert!(writer.write(&[0; 8]).is_err());
        writer.segment.taken(0).store(5, Ordering::Release);
        assert!(writer.all_taken().is_err());
    }

    #[test]
    fn a_lent_block_is_the_writers_again_once_it_was_read() {
        let ((mut writer, _), (_, mut reader)) = pair(64);
        assert!(writer.all_taken().unwrap());
        writer.lend();
        assert!(!writer.all_taken().unwrap());
        assert!(reader.take());
        assert!(writer.all_taken().unwrap());
        writer.lend();
        writer.revoke();
        assert!(!reader.take(), "it may have changed");
        assert!(!writer.all_taken().unwrap());
    }

    #[test]
    fn a_sleeper_is_woken_once() {
        let ((writer, _), (_, reader)) = pair(64);
        assert!(!writer.take_sleeper());
        reader.announce_sleep();
        assert!(writer.take_sleeper());
        assert!(!writer.take_sleeper());
        writer.announce_sleep();
        assert!(reader.take_sleeper());
    }
}
