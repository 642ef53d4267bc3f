//! Whether NCCL can be used: on this machine, and on every rank alike.
//!
//! A rank without NCCL must not leave the others waiting in NCCL, so the ranks tell each other, through
//! the host, what they have found before any of them begins.

use super::Options;
use super::gpu::Gpu;
use super::library::Libraries;
use super::text::{Problem, check_cuda, nccl};
use crate::comm::{Call, Dtype, Engine, Label, Op, Order, SpanMut, odd_one_out};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The first version with everything that is used here, and no known hang in what is.
const OLDEST: Version = Version(21_800);
/// The first version that may connect ranks on one GPU, where `SHARING` asks for it.
const SHARES: Version = Version(23_000);
const BLOCKING: &str = "NCCL_COMM_BLOCKING";
const SHARING: &str = "NCCL_MULTI_RANK_GPU_ENABLE";
/// Bytes that a rank tells the others: what it has, and why it has not.
const ROOM: usize = 1024;
/// Of these, what is not text.
const HEAD: usize = 28;

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

/// Looks what this machine has, without ranks.
pub(super) fn available() -> Result<(Info, &'static Libraries)> {
    // It would win over what we ask for, and a call that blocks cannot be given up.
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
fn mine(ordinal: usize) -> Result<(Info, Arc<Gpu>)> {
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

/// What one rank tells the others.
#[derive(Debug, PartialEq)]
struct Word {
    version: Option<Version>,
    orders: bool,
    /// Whether NCCL lets it share its GPU with another rank.
    shares: bool,
    process: u32,
    gpu: [u8; 16],
    why: String,
}

impl Word {
    fn write(mine: &Result<(Info, Arc<Gpu>)>, place: &mut [u8]) {
        match mine {
            Ok((info, gpu)) => {
                let asked = std::env::var(SHARING).is_ok_and(|value| value.trim() == "1");
                place[..4].copy_from_slice(&info.version.0.to_le_bytes());
                place[4] = u8::from(info.orders_on_device);
                place[5] = u8::from(asked && info.version >= SHARES);
                place[8..12].copy_from_slice(&std::process::id().to_le_bytes());
                place[12..28].copy_from_slice(&gpu.id);
            }
            Err(error) => {
                let text = error.to_string();
                let len = text.floor_char_boundary(place.len() - HEAD);
                place[6..8].copy_from_slice(&(len as u16).to_le_bytes());
                place[HEAD..HEAD + len].copy_from_slice(&text.as_bytes()[..len]);
            }
        }
    }

    fn read(place: &[u8]) -> Self {
        let number = |at: usize| {
            let bytes = [place[at], place[at + 1], place[at + 2], place[at + 3]];
            u32::from_le_bytes(bytes)
        };
        let version = number(0);
        let len = usize::from(u16::from_le_bytes([place[6], place[7]]));
        let text = &place[HEAD..(HEAD + len).min(place.len())];
        Self {
            version: (version > 0).then_some(Version(version)),
            orders: place[4] != 0,
            shares: place[5] != 0,
            process: number(8),
            gpu: std::array::from_fn(|i| place[12 + i]),
            why: String::from_utf8_lossy(text).into_owned(),
        }
    }
}

/// What all ranks have: a GPU each and what they can do alike, or why NCCL is not for this world.
pub(super) fn everywhere(
    host: &dyn Engine,
    ordinal: usize,
    mut options: Options,
) -> Result<std::result::Result<(Arc<Gpu>, Options), Error>> {
    let (rank, members) = (host.rank(), host.members());
    let mine = mine(ordinal);
    let mut words = vec![0u8; ROOM * members.len()];
    Word::write(&mine, &mut words[ROOM * rank..ROOM * (rank + 1)]);
    if members.len() > 1 {
        let call = Call::new(Op::AllGather, &Label::from("NCCL"), Dtype::U8, ROOM);
        host.all_gather(&call, SpanMut::of(&mut words))?;
    }
    let words: Vec<Word> = words.chunks(ROOM).map(Word::read).collect();
    if let Some(place) = words.iter().position(|word| word.version.is_none()) {
        return Ok(Err(Error::PeerFailed {
            peer: members[place],
            cause: words[place].why.clone(),
        }));
    }
    let versions: Vec<_> = words.iter().filter_map(|word| word.version).collect();
    if let Some((usual, odd)) = odd_one_out(&versions) {
        return Err(Error::Mismatch {
            rank: members[usual],
            ours: format!("NCCL {}", versions[usual]),
            peer: members[odd],
            theirs: format!("NCCL {}", versions[odd]),
        });
    }
    let gpu = |word: &Word| word.gpu;
    if let Some((one, other)) = alike(&words, gpu)
        && !words.iter().all(|word| word.shares)
    {
        let what = format!("GPUs of ranks {} and {}", members[one], members[other]);
        let expected = format!("two, or {SHARING}=1 on every rank and NCCL {SHARES} or newer");
        let found = format!("one for both, and NCCL {}", versions[one]);
        return Ok(Err(Error::config(what, expected, found)));
    }
    let hinders = if !words.iter().all(|word| word.orders) {
        Some("a driver is older than CUDA 12.5")
    } else if alike(&words, |word| (word.gpu, word.process)).is_some() {
        // All of a process's work on a GPU would wait for one rank's collective, the other rank's part
        // in it included.
        Some("ranks of one process share a GPU")
    } else {
        None
    };
    if let (Order::Device, Some(why)) = (options.order, hinders) {
        options.order = Order::Host;
        if rank == 0 {
            log::warn!("the host waits for collectives between GPUs, not the device: {why}");
        }
    }
    mine.map(|(_, gpu)| Ok((gpu, options)))
}

/// The places of the first two ranks that are alike.
fn alike<K: Ord>(words: &[Word], by: impl Fn(&Word) -> K) -> Option<(usize, usize)> {
    let mut seen = BTreeMap::new();
    let mut places = words.iter().enumerate();
    places.find_map(|(place, word)| seen.insert(by(word), place).map(|other| (other, place)))
}
