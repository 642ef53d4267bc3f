//! Collectives between the memories of devices.
//!
//! A device runs work after its host has submitted it, so a collective on it ends twice: the call
//! returns when the work is submitted, and the elements are there when the device has run it. An
//! [`Arrival`] is the pending end of the second kind.

use super::{Call, Dtype, Reduce};
use crate::error::{Error, Result};
use std::any::Any;
use std::fmt::{self, Debug};
use std::sync::Arc;

/// Contiguous elements in a device's memory, kept alive by their owner.
#[derive(Clone)]
pub struct DeviceBuffer {
    address: u64,
    len: usize,
    dtype: Dtype,
    owner: Arc<dyn Any + Send + Sync>,
}

impl DeviceBuffer {
    /// `len` elements at `address`.
    ///
    /// Clones are handles on the same elements, and collectives write through them.
    ///
    /// # Safety
    /// While `owner` lives, the memory is allocated on the device that collectives are made for and
    /// aligned for `dtype`; nobody else writes what a pending collective reads, or reads or writes what
    /// one writes.
    #[allow(unsafe_code)]
    pub unsafe fn new(
        address: u64,
        len: usize,
        dtype: Dtype,
        owner: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        Self {
            address,
            len,
            dtype,
            owner,
        }
    }

    /// Where the elements start.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to move.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Size in bytes.
    pub fn size(&self) -> usize {
        self.len * self.dtype.size()
    }

    /// What keeps the memory alive.
    pub fn owner(&self) -> &Arc<dyn Any + Send + Sync> {
        &self.owner
    }
}

impl Debug for DeviceBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            address,
            len,
            dtype,
            owner: _,
        } = self;
        write!(f, "DeviceBuffer({len} {dtype} at {address:#x})")
    }
}

/// Whether the host or the device waits for a collective's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// The host, before and after each collective.
    ///
    /// The caller passes buffers whose work is done, and the collective is done when it returns.
    #[default]
    Host,
    /// The device.
    ///
    /// The caller passes buffers whose work is submitted to the device; work that is submitted after
    /// [`Arrival::wait`] sees the elements. If the collective fails after that, such work sees undefined
    /// elements, and [`Communicator::fault`](super::Communicator::fault) returns the cause before it runs.
    Device,
}

/// The pending end of a collective on a device.
#[must_use = "elements must not be read before they are there"]
#[derive(Debug, Clone, Default)]
pub struct Arrival(Option<Arc<dyn Await>>);

/// An event that an [`Arrival`] waits for.
pub trait Await: Debug + Send + Sync {
    /// Makes work that this rank submits to its device after this call run after the collective.
    ///
    /// # Errors
    /// Why the collective failed, as far as that is known at this time.
    fn wait(&self) -> Result<()>;
}

impl Arrival {
    /// The elements are there already.
    pub fn now() -> Self {
        Self(None)
    }

    /// The elements are there once `event` has been waited for.
    pub fn after(event: Arc<dyn Await>) -> Self {
        Self(Some(event))
    }

    /// Makes work that this rank submits to its device after this call see the elements.
    ///
    /// # Errors
    /// Why the collective failed, as far as that is known at this time.
    pub fn wait(&self) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |event| event.wait())
    }
}

/// Moves elements between the memories of the devices of one group's ranks.
///
/// It has the duties of an [`Engine`](super::Engine): it compares the `call` of all ranks before anything
/// moves, ends within the deadline, and fails for good after the first error. Only the order of
/// additions and the type of the sum are not prescribed.
pub trait DeviceEngine: Debug + Send + Sync {
    /// Whether the host or the device waits.
    fn order(&self) -> Order;

    /// `buffer` becomes the concatenation of every rank's shard, in rank order; this rank has
    /// written its own already.
    ///
    /// # Errors
    /// As the host's; later failures come with the [`Arrival`].
    fn all_gather(&self, call: &Call, buffer: &DeviceBuffer) -> Result<Arrival>;

    /// `recv` is the reduction of every rank's chunk number [`rank`](super::Engine::rank) of `send`.
    ///
    /// # Errors
    /// As [`all_gather`](Self::all_gather).
    fn reduce_scatter(
        &self,
        call: &Call,
        op: Reduce,
        send: &DeviceBuffer,
        recv: &DeviceBuffer,
    ) -> Result<Arrival>;

    /// `buffer` becomes the reduction of every rank's `buffer`.
    ///
    /// # Errors
    /// As [`all_gather`](Self::all_gather).
    fn all_reduce(&self, call: &Call, op: Reduce, buffer: &DeviceBuffer) -> Result<Arrival>;

    /// Each rank's part of `send` goes to that rank; `recv` has every rank's part for this one, as
    /// [`Engine::all_to_all`](super::Engine::all_to_all) says.
    ///
    /// # Errors
    /// As [`all_gather`](Self::all_gather); [`Error::Config`](crate::Error::Config) on an engine that has none.
    fn all_to_all(
        &self,
        call: &Call,
        counts: &[usize],
        send: &DeviceBuffer,
        recv: &DeviceBuffer,
    ) -> Result<Arrival> {
        let _ = (counts, send, recv);
        let expected = "an engine that implements DeviceEngine::all_to_all";
        Err(Error::config(
            call.to_string(),
            expected,
            format!("{self:?}"),
        ))
    }

    /// `buffer` becomes `root`'s `buffer`.
    ///
    /// # Errors
    /// As [`all_gather`](Self::all_gather).
    fn broadcast(&self, call: &Call, root: usize, buffer: &DeviceBuffer) -> Result<Arrival>;
}
