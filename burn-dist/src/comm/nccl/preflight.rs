//! Whether NCCL can be used: on this machine, and on every rank.
//!
//! A rank without NCCL would leave the others waiting in NCCL, so the ranks exchange through the host
//! what they have found before any of them connects.

use super::errors::{Problem, check_cuda, nccl};
use super::gpu::Gpu;
use super::library::Libraries;
use super::options::Options;
use crate::comm::{Call, Dtype, Engine, Label, Op, Order, SpanMut, odd_one_out};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The first version with everything that is used here, and no known hang in what is.
const OLDEST: Version = Version(21_800);
/// The first version that may connect ranks on one GPU, where `SHARING` asks for it.
const SHARES_FROM: Version = Version(23_000);
const BLOCKING: &str = "NCCL_COMM_BLOCKING";
const SHARING: &str = "NCCL_MULTI_RANK_GPU_ENABLE";
/// Bytes of a rank's report to the others: what it has, or what it lacks.
const REPORT_BYTES: usize = 1024;
/// The part of these before the text.
const REPORT_HEADER: usize = 28;

/// A version of NCCL, by its own number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor, patch) = (self.0 / 10_000, self.0 / 100 % 100, self.0 % 100);
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// What this machine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// NCCL's version.
    pub version: Version,
    /// The file it was opened from.
    pub library: String,
    /// The newest CUDA that the driver supports: 1000 times the major and 10 times the minor version.
    pub cuda: u32,
    /// Number of GPUs that this process may use.
    pub gpus: usize,
    /// Whether [`Order::Device`](crate::comm::Order::Device) is possible: from CUDA 12.5 on.
    pub orders_on_device: bool,
}

/// What this machine has, without ranks.
pub(super) fn available() -> Result<(Info, &'static Libraries)> {
    // It would override the configuration, and a blocking call cannot be aborted.
    if std::env::var(BLOCKING).is_ok_and(|value| value.trim() == "1") {
        return Err(Error::config(BLOCKING, "0, or no such variable", "1"));
    }
    let libraries = Libraries::get()?;
    let (driver, functions) = (&libraries.driver, &libraries.nccl);
    let (mut cuda, mut gpus, mut version) = (0, 0, 0);
    let check = |function: &str, code| {
        check_cuda(libraries, function, code)
            .map_err(|problem| Error::config("CUDA's driver", "one that works with a GPU", problem))
    };
    // SAFETY: each writes to what it is given the address of.
    #[allow(unsafe_code)]
    let code = unsafe {
        check("cuInit", (driver.cuInit)(0))?;
        check(
            "cuDriverGetVersion",
            (driver.cuDriverGetVersion)(&raw mut cuda),
        )?;
        check("cuDeviceGetCount", (driver.cuDeviceGetCount)(&raw mut gpus))?;
        (functions.ncclGetVersion)(&raw mut version)
    };
    if code != 0 {
        let problem = nccl(libraries, "ncclGetVersion", code, std::ptr::null_mut());
        return Err(Error::config("NCCL", "a version", problem));
    }
    let version = Version(u32::try_from(version).unwrap_or(0));
    if version < OLDEST {
        let expected = format!("version {OLDEST} or newer");
        let found = format!("{version} in {}", functions.name);
        return Err(Error::config("NCCL", expected, found));
    }
    let info = Info {
        version,
        library: functions.name.clone(),
        cuda: u32::try_from(cuda).unwrap_or(0),
        gpus: usize::try_from(gpus).unwrap_or(0),
        orders_on_device: Gpu::can_order(libraries),
    };
    Ok((info, libraries))
}

/// What this rank has: NCCL, and a GPU number `ordinal`.
fn probe(ordinal: usize) -> Result<(Info, Arc<Gpu>)> {
    let (info, libraries) = available()?;
    if ordinal >= info.gpus {
        let expected = format!("a number below {}, as many as there are", info.gpus);
        return Err(Error::config("the rank's GPU", expected, ordinal));
    }
    let gpu = Gpu::open(libraries, ordinal).map_err(|problem: Problem| {
        let what = format!("GPU {ordinal}");
        Error::config(what, "a context and a stream on it", problem)
    })?;
    Ok((info, gpu))
}

/// What one rank reports to the others.
#[derive(Debug, PartialEq)]
struct Report {
    version: Option<Version>,
    orders: bool,
    /// Whether NCCL lets it share its GPU with another rank.
    shares: bool,
    process: u32,
    gpu: [u8; 16],
    why: String,
}

impl Report {
    fn write(found: &Result<(Info, Arc<Gpu>)>, bytes: &mut [u8]) {
        match found {
            Ok((info, gpu)) => {
                let asked = std::env::var(SHARING).is_ok_and(|value| value.trim() == "1");
                bytes[..4].copy_from_slice(&info.version.0.to_le_bytes());
                bytes[4] = u8::from(info.orders_on_device);
                bytes[5] = u8::from(asked && info.version >= SHARES_FROM);
                bytes[8..12].copy_from_slice(&std::process::id().to_le_bytes());
                bytes[12..28].copy_from_slice(&gpu.id);
            }
            Err(error) => {
                let text = error.to_string();
                let len = text.floor_char_boundary(bytes.len() - REPORT_HEADER);
                bytes[6..8].copy_from_slice(&(len as u16).to_le_bytes());
                bytes[REPORT_HEADER..REPORT_HEADER + len].copy_from_slice(&text.as_bytes()[..len]);
            }
        }
    }

    fn read(bytes: &[u8]) -> Self {
        let number = |at: usize| {
            let word = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
            u32::from_le_bytes(word)
        };
        let version = number(0);
        let len = usize::from(u16::from_le_bytes([bytes[6], bytes[7]]));
        let text = &bytes[REPORT_HEADER..(REPORT_HEADER + len).min(bytes.len())];
        Self {
            version: (version > 0).then_some(Version(version)),
            orders: bytes[4] != 0,
            shares: bytes[5] != 0,
            process: number(8),
            gpu: std::array::from_fn(|i| bytes[12 + i]),
            why: String::from_utf8_lossy(text).into_owned(),
        }
    }
}

/// A GPU for this rank and the options that all ranks can follow, or why NCCL cannot be used in this
/// world.
pub(super) fn on_all_ranks(
    host: &dyn Engine,
    ordinal: usize,
    mut options: Options,
) -> Result<std::result::Result<(Arc<Gpu>, Options), Error>> {
    let (rank, members) = (host.rank(), host.members());
    let found = probe(ordinal);
    let mut reports = vec![0u8; REPORT_BYTES * members.len()];
    Report::write(
        &found,
        &mut reports[REPORT_BYTES * rank..REPORT_BYTES * (rank + 1)],
    );
    if members.len() > 1 {
        let call = Call::new(Op::AllGather, &Label::from("NCCL"), Dtype::U8, REPORT_BYTES);
        host.all_gather(&call, SpanMut::of(&mut reports))?;
    }
    let reports: Vec<Report> = reports.chunks(REPORT_BYTES).map(Report::read).collect();
    if let Some(index) = reports.iter().position(|report| report.version.is_none()) {
        return Ok(Err(Error::PeerFailed {
            peer: members[index],
            cause: reports[index].why.clone(),
        }));
    }
    let versions: Vec<_> = reports.iter().filter_map(|report| report.version).collect();
    if let Some((usual, odd)) = odd_one_out(&versions) {
        return Err(Error::Mismatch {
            rank: members[usual],
            ours: format!("NCCL {}", versions[usual]),
            peer: members[odd],
            theirs: format!("NCCL {}", versions[odd]),
            labels: None,
        });
    }
    let gpu = |report: &Report| report.gpu;
    if let Some((one, other)) = first_equal(&reports, gpu)
        && !reports.iter().all(|report| report.shares)
    {
        let what = format!("GPUs of ranks {} and {}", members[one], members[other]);
        let expected = format!("two, or {SHARING}=1 on every rank and NCCL {SHARES_FROM} or newer");
        let found = format!("one for both, and NCCL {}", versions[one]);
        return Ok(Err(Error::config(what, expected, found)));
    }
    let why_host = if !reports.iter().all(|report| report.orders) {
        Some("a driver is older than CUDA 12.5")
    } else if first_equal(&reports, |report| (report.gpu, report.process)).is_some() {
        // All of a process's work on a GPU would wait for one rank's collective, and that includes the other
        // rank's part of it.
        Some("ranks of one process share a GPU")
    } else {
        None
    };
    if let (Order::Device, Some(why)) = (options.order, why_host) {
        options.order = Order::Host;
        if rank == 0 {
            log::warn!("the host waits for collectives between GPUs, not the device: {why}");
        }
    }
    found.map(|(_, gpu)| Ok((gpu, options)))
}

/// The indices of the first two reports with equal keys.
fn first_equal<K: Ord>(reports: &[Report], by: impl Fn(&Report) -> K) -> Option<(usize, usize)> {
    let mut seen = BTreeMap::new();
    let mut indexed = reports.iter().enumerate();
    indexed.find_map(|(index, report)| seen.insert(by(report), index).map(|other| (other, index)))
}
