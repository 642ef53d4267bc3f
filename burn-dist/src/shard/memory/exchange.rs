//! Collectives over flat buffers, wherever they lie.
//!
//! Memory of the process goes to the communicator as it is. Memory of a GPU goes from device to
//! device where the engine can do that, and through the host where it cannot.

#[cfg(feature = "cube")]
use super::device::{self, DeviceFlat};
use super::dtype::element;
use super::flat::Flat;
use super::host::HostFlat;
use crate::comm::{Arrival, Communicator, Label, Parts, Reduce, Span, SpanMut};
use crate::error::Result;
#[cfg(feature = "cube")]
use crate::warning::warn;
use burn::tensor::DType;
#[cfg(feature = "cube")]
use burn_cubecl::CubeDevice;
#[cfg(feature = "cube")]
use std::sync::Once;

/// A flat buffer that a collective fills, now or as soon as the device comes to it.
#[must_use = "its elements are there after `wait`"]
#[derive(Debug)]
pub(crate) struct PendingFlat {
    flat: Flat,
    arrival: Arrival,
}

impl PendingFlat {
    /// Lets what this thread computes from here on see the elements.
    pub(crate) fn wait(self) -> Result<Flat> {
        self.arrival.wait()?;
        Ok(self.flat)
    }

    /// The same numbers in another type.
    pub(crate) fn cast(self, dtype: DType) -> Result<Self> {
        if self.flat.dtype() == dtype {
            return Ok(self);
        }
        Ok(self.wait()?.cast(dtype).into())
    }
}

impl From<Flat> for PendingFlat {
    /// A buffer that is there.
    fn from(flat: Flat) -> Self {
        let arrival = Arrival::now();
        Self { flat, arrival }
    }
}

impl Flat {
    /// All ranks' shards in rank order; this rank's own is in its position already.
    pub(crate) fn all_gather(self, comm: &Communicator, label: &Label) -> Result<PendingFlat> {
        match self {
            Self::Host(flat) => Ok(Self::Host(flat.all_gather(comm, label)?).into()),
            #[cfg(feature = "cube")]
            Self::Device(flat) => {
                #[cfg(feature = "cuda")]
                if let Some(direct) = comm.on_device() {
                    let buffer = flat.submitted(direct.order())?;
                    let arrival = direct.all_gather_in_place(label, &buffer)?;
                    return Ok(pending(flat, arrival));
                }
                // Of the buffer only this rank's own shard is read.
                let len = flat.len() / comm.size();
                let start = comm.rank() * len;
                let mut all = HostFlat::zeros(flat.len(), flat.dtype());
                let own = device::download(&flat.part(start..start + len))?;
                all.put_bytes(start, own.bytes(), flat.dtype());
                through_host(comm, all, flat.device(), |all| all.all_gather(comm, label))
            }
        }
    }

    /// This rank's chunk, of `len` elements, of the sum over ranks.
    pub(crate) fn reduce_scatter(
        self,
        comm: &Communicator,
        label: &Label,
        len: usize,
    ) -> Result<PendingFlat> {
        match self {
            Self::Host(flat) => Ok(Self::Host(flat.reduce_scatter(comm, label, len)?).into()),
            #[cfg(feature = "cube")]
            Self::Device(flat) => {
                #[cfg(feature = "cuda")]
                if let Some(direct) = comm.on_device() {
                    let sum = DeviceFlat::empty(len, &flat);
                    let send = flat.submitted(direct.order())?;
                    let recv = sum.submitted(direct.order())?;
                    let arrival = direct.reduce_scatter(label, Reduce::Sum, &send, &recv)?;
                    return Ok(pending(sum, arrival));
                }
                let (own, device) = (flat.download()?, flat.device().clone());
                drop(flat);
                through_host(comm, own, &device, |own| {
                    own.reduce_scatter(comm, label, len)
                })
            }
        }
    }

    /// What all ranks have for this one, in rank order, of buffers in which each has what it gives to
    /// each: `counts` says how much.
    pub(crate) fn all_to_all(
        self,
        comm: &Communicator,
        label: &Label,
        counts: &[usize],
    ) -> Result<PendingFlat> {
        match self {
            Self::Host(flat) => Ok(Self::Host(flat.all_to_all(comm, label, counts)?).into()),
            #[cfg(feature = "cube")]
            Self::Device(flat) => {
                #[cfg(feature = "cuda")]
                if let Some(direct) = comm.on_device() {
                    let len = Parts::new(counts, comm.size()).received(comm.rank());
                    let received = DeviceFlat::empty(len, &flat);
                    let send = flat.submitted(direct.order())?;
                    let recv = received.submitted(direct.order())?;
                    let arrival = direct.all_to_all(label, counts, &send, &recv)?;
                    return Ok(pending(received, arrival));
                }
                let (own, device) = (flat.download()?, flat.device().clone());
                drop(flat);
                through_host(comm, own, &device, |own| {
                    own.all_to_all(comm, label, counts)
                })
            }
        }
    }

    /// The sum over ranks.
    pub(crate) fn all_reduce(self, comm: &Communicator, label: &Label) -> Result<PendingFlat> {
        if comm.size() == 1 {
            return Ok(self.into());
        }
        match self {
            Self::Host(flat) => Ok(Self::Host(flat.all_reduce(comm, label)?).into()),
            #[cfg(feature = "cube")]
            Self::Device(flat) => {
                #[cfg(feature = "cuda")]
                if let Some(direct) = comm.on_device() {
                    let buffer = flat.submitted(direct.order())?;
                    let arrival = direct.all_reduce(label, Reduce::Sum, &buffer)?;
                    return Ok(pending(flat, arrival));
                }
                let (own, device) = (flat.download()?, flat.device().clone());
                drop(flat);
                through_host(comm, own, &device, |own| own.all_reduce(comm, label))
            }
        }
    }
}

impl HostFlat {
    fn all_gather(mut self, comm: &Communicator, label: &Label) -> Result<Self> {
        comm.all_gather_in_place(label, self.span_mut()?)?;
        Ok(self)
    }

    fn reduce_scatter(self, comm: &Communicator, label: &Label, len: usize) -> Result<Self> {
        let mut sum = Self::zeros(len, self.dtype());
        comm.reduce_scatter(label, Reduce::Sum, self.span()?, sum.span_mut()?)?;
        Ok(sum)
    }

    fn all_to_all(self, comm: &Communicator, label: &Label, counts: &[usize]) -> Result<Self> {
        let len = Parts::new(counts, comm.size()).received(comm.rank());
        let mut received = Self::zeros(len, self.dtype());
        comm.all_to_all(label, counts, self.span()?, received.span_mut()?)?;
        Ok(received)
    }

    fn all_reduce(mut self, comm: &Communicator, label: &Label) -> Result<Self> {
        comm.all_reduce(label, Reduce::Sum, self.span_mut()?)?;
        Ok(self)
    }

    fn span(&self) -> Result<Span<'_>> {
        Ok(Span::new(self.bytes(), element(self.dtype())?))
    }

    fn span_mut(&mut self) -> Result<SpanMut<'_>> {
        let dtype = element(self.dtype())?;
        Ok(SpanMut::new(self.bytes_mut(), dtype))
    }
}

#[cfg(feature = "cuda")]
fn pending(flat: DeviceFlat, arrival: Arrival) -> PendingFlat {
    let flat = Flat::Device(flat);
    PendingFlat { flat, arrival }
}

/// Does on the host what is to be done with elements of a GPU, and brings the result there.
#[cfg(feature = "cube")]
fn through_host(
    comm: &Communicator,
    elements: HostFlat,
    device: &CubeDevice,
    collective: impl FnOnce(HostFlat) -> Result<HostFlat>,
) -> Result<PendingFlat> {
    static SAID: Once = Once::new();
    let is_chief = comm.members()[comm.rank()] == 0;
    // Of NVIDIA's GPUs the launcher has said why, unless somebody wanted it so.
    if is_chief && !matches!(device, CubeDevice::Cuda(_)) {
        SAID.call_once(|| {
            let text =
                "collectives between GPUs go through the memory of the host: right, but slow";
            warn(format_args!("{text}"));
        });
    }
    let done = DeviceFlat::upload(collective(elements)?, device);
    Ok(Flat::Device(done).into())
}
