//! Collectives between the memories of devices.
//!
//! A device computes long after its host asked it to, so a collective on it has two ends: the
//! moment when the host has told the device, which is when the call returns, and the moment when the
//! elements are there. The second one is an [`Arrival`].

use super::{Call, Dtype, Reduce};
use crate::error::Result;
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
    /// While `owner` lives, the memory is allocated on the device that collectives are made for,
    /// aligned for `dtype`, and nobody else writes what a collective under way reads, or touches
    /// what one writes.
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

/// Who waits for the elements: the host, or the device itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// The host, before and after each collective.
    ///
    /// The caller hands in buffers on which all work is done, and gets them back done.
    #[default]
    Host,
    /// The device.
    ///
    /// The caller hands in buffers whose work was submitted to the device; work that is
    /// submitted after [`Arrival::wait`] sees the elements. Where a collective fails after that, it
    /// sees whatever is there, and [`Communicator::fault`](super::Communicator::fault) says so from
    /// before that moment on.
    Device,
}

/// When a collective's elements are there.
#[must_use = "elements must not be read before they are there"]
#[derive(Debug, Clone, Default)]
pub struct Arrival(Option<Arc<dyn Await>>);

/// What an [`Arrival`] waits for.
pub trait Await: Debug + Send + Sync {
    /// Lets work that this rank submits to its device from here on run after the collective.
    ///
    /// # Errors
    /// Why the collective failed, as far as that is known by now.
    fn wait(&self) -> Result<()>;
}

impl Arrival {
    /// They are there.
    pub fn now() -> Self {
        Self(None)
    }

    /// They are there once `event` has been waited for.
    pub fn after(event: Arc<dyn Await>) -> Self {
        Self(Some(event))
    }

    /// Lets work that this rank submits to its device from here on see the elements.
    ///
    /// # Errors
    /// Why the collective failed, as far as that is known by now.
    pub fn wait(&self) -> Result<()> {
        self.0.as_ref().map_or(Ok(()), |event| event.wait())
    }
}

/// Moves elements between the memories of the devices of one group's ranks.
///
/// Beside [`Engine`](super::Engine), whose duties it shares: it compares the `call` of all ranks
/// before anything moves, ends within the deadline, and fails for good after the first error. Only
/// the order and the type in which it adds are its own.
pub trait DeviceEngine: Debug + Send + Sync {
    /// Who waits.
    fn order(&self) -> Order;

    /// `buffer` becomes the concatenation of every rank's piece, in rank order; this rank's own
    /// lies in its place already.
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

    /// `buffer` becomes `root`'s `buffer`.
    ///
    /// # Errors
    /// As [`all_gather`](Self::all_gather).
    fn broadcast(&self, call: &Call, root: usize, buffer: &DeviceBuffer) -> Result<Arrival>;
}
