//! Collectives over flat buffers, wherever they lie.
//!
//! Memory of the process goes to the communicator as it is. Memory of a GPU goes from device to
//! device where the engine can do that, and through the host where it cannot.

use super::flat::{Flat, element};
use super::host;
use crate::comm::{Communicator, Label, Reduce, Span, SpanMut};
use crate::error::Result;
#[cfg(feature = "cube")]
use std::sync::Once;

impl host::Flat {
    fn span(&self) -> Result<Span<'_>> {
        Ok(Span::new(self.bytes(), element(self.dtype())?))
    }

    fn span_mut(&mut self) -> Result<SpanMut<'_>> {
        let dtype = element(self.dtype())?;
        Ok(SpanMut::new(self.bytes_mut(), dtype))
    }
}

impl Flat {
    /// Every rank's piece, in rank order; this rank's own lies in its place already.
    pub(super) fn all_gather(self, comm: &Communicator, label: &Label) -> Result<Self> {
        match self {
            Self::Host(mut flat) => {
                comm.all_gather_in_place(label, flat.span_mut()?)?;
                Ok(Self::Host(flat))
            }
            #[cfg(feature = "cube")]
            Self::Device(flat) => {
                #[cfg(feature = "cuda")]
                if let Some(direct) = comm.on_device() {
                    let buffer = flat.submitted(direct.order())?;
                    let arrival = direct.all_gather_in_place(label, &buffer)?;
                    return Ok(Self::Device(flat.arriving(arrival)));
                }
                let len = flat.len() / comm.size();
                let mine = comm.rank() * len..(comm.rank() + 1) * len;
                let mut all = host::Flat::zeros(flat.len(), flat.dtype());
                let device = flat.device().clone();
                all.put_bytes(mine.start, staged(&flat.part(mine))?.bytes(), flat.dtype());
                comm.all_gather_in_place(label, all.span_mut()?)?;
                Ok(Self::Device(super::device::Flat::upload(&all, &device)))
            }
        }
    }

    /// This rank's chunk, of `len` elements, of the sum over ranks.
    pub(super) fn reduce_scatter(
        self,
        comm: &Communicator,
        label: &Label,
        len: usize,
    ) -> Result<Self> {
        match self {
            Self::Host(flat) => {
                let mut sum = host::Flat::zeros(len, flat.dtype());
                comm.reduce_scatter(label, Reduce::Sum, flat.span()?, sum.span_mut()?)?;
                Ok(Self::Host(sum))
            }
            #[cfg(feature = "cube")]
            Self::Device(flat) => {
                #[cfg(feature = "cuda")]
                if let Some(direct) = comm.on_device() {
                    let sum = super::device::Flat::empty(len, &flat);
                    let send = flat.submitted(direct.order())?;
                    let recv = sum.submitted(direct.order())?;
                    let arrival = direct.reduce_scatter(label, Reduce::Sum, &send, &recv)?;
                    return Ok(Self::Device(sum.arriving(arrival)));
                }
                let device = flat.device().clone();
                let mine = staged(flat.tensor())?;
                drop(flat);
                let mut sum = host::Flat::zeros(len, mine.dtype());
                comm.reduce_scatter(label, Reduce::Sum, mine.span()?, sum.span_mut()?)?;
                Ok(Self::Device(super::device::Flat::upload(&sum, &device)))
            }
        }
    }

    /// The sum over ranks.
    pub(super) fn all_reduce(self, comm: &Communicator, label: &Label) -> Result<Self> {
        if comm.size() == 1 {
            return Ok(self);
        }
        match self {
            Self::Host(mut flat) => {
                comm.all_reduce(label, Reduce::Sum, flat.span_mut()?)?;
                Ok(Self::Host(flat))
            }
            #[cfg(feature = "cube")]
            Self::Device(flat) => {
                #[cfg(feature = "cuda")]
                if let Some(direct) = comm.on_device() {
                    let buffer = flat.submitted(direct.order())?;
                    let arrival = direct.all_reduce(label, Reduce::Sum, &buffer)?;
                    return Ok(Self::Device(flat.arriving(arrival)));
                }
                let device = flat.device().clone();
                let mut sum = staged(flat.tensor())?;
                drop(flat);
                comm.all_reduce(label, Reduce::Sum, sum.span_mut()?)?;
                Ok(Self::Device(super::device::Flat::upload(&sum, &device)))
            }
        }
    }
}

/// Elements of a GPU, on their way through the host.
#[cfg(feature = "cube")]
fn staged(tensor: &burn_cubecl::tensor::CubeTensor) -> Result<host::Flat> {
    static SAID: Once = Once::new();
    // Of NVIDIA's GPUs the launcher has said why, unless somebody wanted it so.
    if !matches!(tensor.device, burn_cubecl::CubeDevice::Cuda(_)) {
        SAID.call_once(|| {
            log::warn!(
                "collectives between GPUs go through the memory of the host: right, but slow"
            );
        });
    }
    super::device::download(tensor)
}
