//! Writes an event file.

use super::event;
use super::histogram::Histogram;
use super::protobuf::Message;
use super::record_file::RecordFile;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

/// Files that this process has begun, for names that differ.
static BEGUN: AtomicUsize = AtomicUsize::new(0);

/// Writes scalars, texts and histograms to a new event file in a folder, which `tensorboard --logdir` shows.
///
/// A tag names a series, such as `loss/train`: TensorBoard puts what stands before the slash together. A step is
/// counted from the begin of the run, a time in seconds since 1970.
///
/// Records are buffered, up to 64 KiB; [`flush`](Self::flush) hands them to the system, as does the end of the value.
/// A process that is killed leaves what was flushed.
///
/// ```
/// use burn_dist_log::{EventWriter, Histogram};
///
/// # fn main() -> std::io::Result<()> {
/// let folder = tempfile::tempdir()?;
/// let mut events = EventWriter::create(folder.path())?;
/// let mut weights = Histogram::new();
/// weights.add(&[0.1, -0.2, 0.3]);
/// events.text("config", 0, 1.7e9, "| lr |\n|---|\n| 1e-3 |")?;
/// events.scalar("loss/train", 1, 1.7e9, 0.5)?;
/// events.histogram("weights/block0", 1, 1.7e9, &weights)?;
/// events.flush()?;
/// # Ok(())
/// # }
/// ```
///
/// # Source
///
/// `torch.utils.tensorboard.SummaryWriter`.
#[derive(Debug)]
pub struct EventWriter {
    file: RecordFile,
}

impl EventWriter {
    /// Begins a file in `folder`, which is made where it is missing; files of earlier runs stay.
    ///
    /// It is named `events.out.tfevents.<seconds>.<host>.<process>.<number>`; TensorBoard reads files of a folder in
    /// the order of their names.
    ///
    /// # Errors
    ///
    /// If the folder or the file cannot be written.
    pub fn create(folder: impl AsRef<Path>) -> io::Result<Self> {
        let folder = folder.as_ref();
        std::fs::create_dir_all(folder).map_err(|error| {
            let text = format!("cannot create the folder {}: {error}", folder.display());
            io::Error::new(error.kind(), text)
        })?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seconds = now.unwrap_or_default().as_secs_f64();
        let mut file = loop {
            let number = BEGUN.fetch_add(1, Ordering::Relaxed);
            let name = format!(
                "events.out.tfevents.{seconds:010.0}.{}.{}.{number}",
                host(),
                std::process::id(),
                seconds = seconds.floor(),
            );
            match RecordFile::create(folder.join(name)) {
                // Of a process with the same number, on a host of the same name.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                file => break file?,
            }
        };
        file.append(&event::version(seconds))?;
        file.flush()?;
        Ok(Self { file })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Appends a number, NaN and infinities too; it is stored in 32 bits, as TensorFlow and PyTorch do.
    ///
    /// # Errors
    ///
    /// If the tag is empty, the step is above `i64::MAX`, or the file cannot be written.
    pub fn scalar(&mut self, tag: &str, step: u64, time: f64, value: f64) -> io::Result<()> {
        self.append(tag, step, time, event::scalar(tag, value))
    }

    /// Appends a text in Markdown.
    ///
    /// # Errors
    ///
    /// As of [`scalar`](Self::scalar).
    pub fn text(&mut self, tag: &str, step: u64, time: f64, markdown: &str) -> io::Result<()> {
        self.append(tag, step, time, event::text(tag, markdown))
    }

    /// Appends a histogram: 16 bytes for each bucket in use, 25 kB at most.
    ///
    /// An event has no place for numbers that are not finite. Where there are any, their count is appended as the
    /// scalar `<tag>/not_finite`, so that a page shows them.
    ///
    /// # Errors
    ///
    /// As of [`scalar`](Self::scalar).
    pub fn histogram(
        &mut self,
        tag: &str,
        step: u64,
        time: f64,
        histogram: &Histogram,
    ) -> io::Result<()> {
        self.append(tag, step, time, event::histogram(tag, histogram))?;
        match histogram.nan() + histogram.infinite() {
            0 => Ok(()),
            count => self.scalar(&format!("{tag}/not_finite"), step, time, count as f64),
        }
    }

    /// Hands all records to the system, which has them even if this process is killed.
    ///
    /// # Errors
    ///
    /// If the file cannot be written, as on a full disk; what is left is written by the next call.
    pub fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }

    fn append(&mut self, tag: &str, step: u64, time: f64, value: Message) -> io::Result<()> {
        let odd = |text: &str| {
            let text = format!("{text}, step {step} of {}", self.file.path().display());
            io::Error::new(ErrorKind::InvalidInput, text)
        };
        if tag.is_empty() {
            return Err(odd("an event has an empty tag"));
        }
        let number = i64::try_from(step);
        let step = number.map_err(|_| odd("an event has a step above 2^63 - 1"))?;
        self.file.append(&event::summary(time, step, value))
    }
}

/// The name of this host, as part of a file's name.
fn host() -> String {
    let odd = |c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '.';
    burn_dist::host_name().replace(odd, "_")
}
