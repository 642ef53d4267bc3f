//! Data files in a folder.

use crate::checkpoint::format::{ReadData, WriteData};
use crate::error::{Error, Result};
use memmap2::Mmap;
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Bytes that are collected for one write.
const BUFFER: usize = 1 << 20;
/// Bytes after which the system is asked to begin writing to disk.
const WRITE_BACK: u64 = 16 << 20;

/// A file that is being written, its header last.
#[derive(Debug)]
pub(super) struct FileWriter {
    path: PathBuf,
    out: BufWriter<File>,
    position: u64,
    /// Up to where the system was asked to begin writing to disk.
    begun: u64,
}

impl FileWriter {
    /// Begins the file anew, with room for a header of so many bytes.
    pub(super) fn create(path: PathBuf, room: usize) -> Result<Self> {
        let open = || {
            let mut file = File::create(&path)?;
            file.seek(io::SeekFrom::Start(room as u64))?;
            Ok(file)
        };
        let file = open().map_err(|e| unwritten(&path, e))?;
        Ok(Self {
            path,
            out: BufWriter::with_capacity(BUFFER, file),
            position: room as u64,
            begun: 0,
        })
    }
}

impl WriteData for FileWriter {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.out.write_all(bytes);
        written.map_err(|e| unwritten(&self.path, e))?;
        self.position += bytes.len() as u64;
        if self.position - self.begun >= WRITE_BACK {
            // So little is left to wait for at the end.
            start_writing(self.out.get_ref(), self.begun, self.position - self.begun);
            self.begun = self.position;
        }
        Ok(())
    }

    fn finish(self: Box<Self>, header: &[u8]) -> Result<bool> {
        let Self { path, out, .. } = *self;
        let end = || -> io::Result<()> {
            let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            // A file without tensors ends before the position that was sought.
            file.write_all_at(header, 0)?;
            file.sync_all()
        };
        end().map_err(|e| unwritten(&path, e))?;
        // The name of the file is in the save's folder, and that one's in the run's; the folders of several hosts
        // need not be one, so each rank syncs what it wrote to.
        for folder in path.ancestors().skip(1).take(2) {
            sync(folder)?;
        }
        Ok(true)
    }
}

/// Syncs a folder, so that renames and new files in it survive a power cut.
pub(super) fn sync(folder: &Path) -> Result<()> {
    let synced = File::open(folder).and_then(|f| f.sync_all());
    synced.map_err(|e| Error::file(folder, "a folder that can be synced", e))
}

/// Begins to write a part of a file to disk, and does not wait; a hint, which may fail.
#[cfg(target_os = "linux")]
fn start_writing(file: &File, from: u64, bytes: u64) {
    let flags = libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: the descriptor is open as long as the file is borrowed, and no memory is passed.
    #[allow(unsafe_code)]
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), from as i64, bytes as i64, flags);
    }
}

#[cfg(not(target_os = "linux"))]
fn start_writing(_: &File, _: u64, _: u64) {}

/// The error of a file that cannot be written.
fn unwritten(path: &Path, error: io::Error) -> Error {
    Error::file(path, "to be written", error)
}

/// A file that is mapped to memory.
#[derive(Debug)]
pub(super) struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    pub(super) fn open(path: PathBuf, expected: &str) -> Result<Self> {
        let map = || {
            let file = File::open(&path)?;
            // SAFETY: the bytes are only read. A file that others change or cut meanwhile gives wrong
            // bytes, which the checksums find, or ends the process; saves are never written to again.
            #[allow(unsafe_code)]
            unsafe {
                Mmap::map(&file)
            }
        };
        match map() {
            Ok(map) => Ok(Self { path, map }),
            Err(e) => Err(Error::file(&path, expected, e)),
        }
    }
}

impl ReadData for MappedFile {
    fn len(&self) -> u64 {
        self.map.len() as u64
    }

    fn bytes(&mut self, range: Range<u64>, _: Range<u64>) -> Result<&[u8]> {
        let (start, end) = (range.start, range.end);
        let bytes = self.map.get(start as usize..end as usize);
        bytes.ok_or_else(|| {
            let expected = format!("bytes {start} to {end}");
            Error::file(&self.path, expected, format!("{} bytes", self.map.len()))
        })
    }

    fn is_mapped(&self) -> bool {
        true
    }
}
