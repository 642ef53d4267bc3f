//! Values that serde can write, from rank to rank, and work that rank 0 does for all.

use crate::comm::{Communicator, Label, Span, SpanMut};
use crate::error::{Error, Result};
use crate::world::World;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;

/// How a rank's part went, in a message's first word.
const GIVEN: u64 = 0;
const FAILED: u64 = 1;

impl World {
    /// The value of rank `root`, on every rank. Collective.
    ///
    /// # Cost
    /// Two broadcasts: of 16 bytes, and of the value as serde writes it (CBOR).
    ///
    /// # Errors
    /// [`Error::Config`] if there is no such rank, or serde cannot write the value;
    /// the other ranks get [`Error::PeerFailed`] then. What a collective returns.
    ///
    /// ```
    /// use burn_dist::prelude::*;
    ///
    /// let words = Threads::new(3).run(|world| {
    ///     let word = format!("from rank {}", world.rank());
    ///     world.broadcast(1, &word)
    /// })?;
    /// assert_eq!(words, ["from rank 1"; 3]);
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    ///
    /// # Source
    /// PyTorch: `broadcast_object_list`.
    pub fn broadcast<T: Serialize + DeserializeOwned>(&self, root: usize, value: &T) -> Result<T> {
        let mine = (self.rank() == root).then(|| encoded(value));
        decoded(&self.shared(&"broadcast".into(), root, mine)?)
    }

    /// What `make` returns on rank 0, on every rank; the others do not call it. Collective.
    ///
    /// For what is read or drawn once: a vocabulary, a configuration, a decision.
    ///
    /// # Cost
    /// As [`broadcast`](Self::broadcast); the others wait for `make`, no longer than a collective may
    /// ([`deadline`](crate::launch::Launch::deadline)).
    ///
    /// # Errors
    /// What `make` returns; the other ranks get [`Error::PeerFailed`] with its text.
    ///
    /// ```
    /// use burn_dist::prelude::*;
    ///
    /// let words = Threads::new(2).run(|world| world.from_chief(|| Ok(std::env::current_dir()?)))?;
    /// assert_eq!(words[0], words[1]);
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    #[allow(clippy::wrong_self_convention)] // From the chief to this rank.
    pub fn from_chief<T: Serialize + DeserializeOwned>(
        &self,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let mine = self
            .is_chief()
            .then(|| make().and_then(|value| encoded(&value)));
        decoded(&self.shared(&"from chief".into(), 0, mine)?)
    }

    /// Runs `f` on rank 0, and returns when it has: its value there, nothing elsewhere. Collective.
    ///
    /// For reports, folders and files that are written once. If it fails, all ranks fail.
    ///
    /// # Cost
    /// As [`from_chief`](Self::from_chief).
    ///
    /// # Errors
    /// What `f` returns; the other ranks get [`Error::PeerFailed`] with its text.
    ///
    /// ```
    /// use burn_dist::prelude::*;
    ///
    /// let folder = std::env::temp_dir();
    /// let found = Threads::new(2).run(|world| {
    ///     world.chief(|| Ok(std::fs::read(folder.join("no such file"))?))?;
    ///     Ok(())
    /// });
    /// assert!(found.unwrap_err().to_string().contains("No such file"));
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn chief<T>(&self, f: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
        let mut value = None;
        let mine = self.is_chief().then(|| {
            value = Some(f()?);
            Ok(Vec::new())
        });
        self.shared(&"chief".into(), 0, mine)?;
        Ok(value)
    }

    /// Makes a folder on rank 0, if it is not there, and writes a file to it that is removed again: what a
    /// run will write at its end is tried before it begins. Collective.
    ///
    /// # Errors
    /// [`Error::File`] on rank 0 if that fails, [`Error::Config`] for a URL; the other ranks get
    /// [`Error::PeerFailed`] with its text.
    pub fn try_folder(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        let refused =
            |expected: &'static str| move |e: std::io::Error| Error::file(folder, expected, e);
        let tried = self.chief(|| {
            if folder.to_string_lossy().contains("://") {
                let expected = "a folder; a URL is for saves alone";
                return Err(Error::config(
                    "a folder to write to",
                    expected,
                    folder.display(),
                ));
            }
            std::fs::create_dir_all(folder).map_err(refused("a folder that can be made"))?;
            let file = tempfile::NamedTempFile::new_in(folder);
            let file = file.map_err(refused("a folder that can be written to"))?;
            file.close()
                .map_err(refused("a folder that can be written to"))
        });
        tried.map(drop)
    }

    /// The values of all ranks, on every rank, in rank order. Collective.
    ///
    /// # Cost
    /// Two all-gathers: of 16 bytes a rank, and of the longest value for each rank, as serde writes it
    /// (CBOR).
    ///
    /// # Errors
    /// [`Error::Config`] on a rank whose value serde cannot write; the others get
    /// [`Error::PeerFailed`] then. What a collective returns.
    ///
    /// ```
    /// use burn_dist::prelude::*;
    ///
    /// let all = Threads::new(3).run(|world| world.gather(&"x".repeat(world.rank())))?;
    /// assert_eq!(all[2], ["", "x", "xx"]);
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    ///
    /// # Source
    /// PyTorch: `all_gather_object`.
    pub fn gather<T: Serialize + DeserializeOwned>(&self, value: &T) -> Result<Vec<T>> {
        self.comm().exchange(&"gather".into(), Ok(value))
    }

    /// The bytes of rank `root`, or its failure, on every rank. `mine` is there on that rank alone.
    fn shared(&self, label: &Label, root: usize, mine: Option<Result<Vec<u8>>>) -> Result<Vec<u8>> {
        let mine = mine.unwrap_or_else(|| Ok(Vec::new()));
        let (status, bytes) = parts(&mine);
        let (mut head, mut bytes) = ([status, bytes.len() as u64], bytes.to_vec());
        let comm = self.comm();
        comm.broadcast(label, root, SpanMut::of(&mut head))?;
        bytes.resize(head[1] as usize, 0);
        comm.broadcast(label, root, SpanMut::of(&mut bytes))?;
        mine?;
        match head[0] {
            GIVEN => Ok(bytes),
            _ => Err(failed(root, &bytes)),
        }
    }
}

impl Communicator {
    /// The values of all ranks in rank order; if a rank has none, an error on every rank: on that one its own, on
    /// the others [`Error::PeerFailed`] with its text. Collective.
    pub(crate) fn exchange<T: Serialize, U: DeserializeOwned>(
        &self,
        label: &Label,
        mine: Result<&T>,
    ) -> Result<Vec<U>> {
        let mine = mine.and_then(encoded);
        let (status, bytes) = parts(&mine);
        let head = [status, bytes.len() as u64];
        let mut heads = vec![0; 2 * self.size()];
        self.all_gather(label, Span::of(&head), SpanMut::of(&mut heads))?;
        let longest = heads.chunks(2).map(|head| head[1]).max().unwrap_or(0) as usize;
        let mut padded = bytes.to_vec();
        padded.resize(longest, 0);
        let mut all = vec![0u8; longest * self.size()];
        self.all_gather(label, Span::of(&padded), SpanMut::of(&mut all))?;
        mine?;
        let texts = heads.chunks(2).enumerate().map(|(rank, head)| {
            let bytes = &all[rank * longest..rank * longest + head[1] as usize];
            (rank, head[0], bytes)
        });
        // A failure comes first: what the others have is of no use then.
        let mut failures = texts.clone().filter(|(_, status, _)| *status != GIVEN);
        if let Some((rank, _, bytes)) = failures.next() {
            return Err(failed(rank, bytes));
        }
        texts.map(|(.., bytes)| decoded(bytes)).collect()
    }
}

/// The first word of a message, and its bytes: a value, or what failed.
fn parts(mine: &Result<Vec<u8>>) -> (u64, std::borrow::Cow<'_, [u8]>) {
    match mine {
        Ok(bytes) => (GIVEN, bytes.as_slice().into()),
        Err(error) => (FAILED, error.to_string().into_bytes().into()),
    }
}

fn failed(peer: usize, text: &[u8]) -> Error {
    let cause = String::from_utf8_lossy(text).into_owned();
    Error::PeerFailed { peer, cause }
}

fn encoded<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).map_err(|e| {
        let expected = "a value that serde can write";
        Error::config("a value for other ranks", expected, e)
    })?;
    Ok(bytes)
}

fn decoded<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    ciborium::from_reader(bytes).map_err(|e| {
        let expected = "a value of the same type on every rank, that serde reads as it writes it";
        Error::config("a value from another rank", expected, e)
    })
}
