//! Collectives: what ranks do together.
//!
//! A [`Communicator`] is one rank's handle on a group of ranks. Every rank of the group calls every
//! collective, in the same order, with equal lengths and types. The ranks compare their calls before
//! a byte moves, so a program that differs between ranks is an error on all of them and never a hang
//! or a wrong sum. After such an error the group cannot be used any more. Only an error in a rank's
//! own arguments ([`Error::Config`](crate::Error::Config)) does not concern the other ranks: they have
//! not been told of the call, and the rank may still issue the one that they wait for. An [`Engine`]
//! moves the bytes: [`local`] between threads of one process, [`mesh`] between processes of one or many
//! hosts, and, with the feature `mpi`, the module `mpi` between processes that `mpirun` has started.
//! With the feature `nccl`, the module `nccl` adds collectives on the memory of GPUs to any of these.

mod call;
mod checks;
mod communicator;
mod device;
mod engine;
mod ledger;
pub mod local;
pub mod mesh;
#[cfg(feature = "mpi")]
pub mod mpi;
#[cfg(feature = "nccl")]
pub mod nccl;
mod on_device;
mod parts;
mod queue;
mod recorder;
mod reduce;
mod span;
mod thread_group;

pub(crate) use call::odd_one_out;
pub use call::{Call, Label, Op, Reduce, agree};
pub use communicator::Communicator;
pub use device::{Arrival, Await, DeviceBuffer, DeviceEngine, Order};
pub use engine::Engine;
pub use ledger::{Entry, Ledger};
pub use on_device::OnDevice;
pub use parts::Parts;
pub use queue::{Queue, Ticket};
pub use recorder::{Event, Flight, Recorder, State};
pub use reduce::reduce_into;
pub use span::{Dtype, Element, Span, SpanMut};
