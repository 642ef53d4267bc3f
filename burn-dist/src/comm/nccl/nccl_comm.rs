//! One NCCL communicator, called so that no call blocks.
//!
//! It is non-blocking, because only then may it be aborted while a call hangs: every call may leave work in
//! progress, and the next call must wait until that has settled.

use super::errors::{Problem, nccl};
use super::gpu::{Gpu, NcclLock};
use super::library::Libraries;
use crate::comm::{DeviceBuffer, Dtype, Parts, Reduce};
use cudarc::nccl::sys::{ncclComm_t, ncclConfig_t, ncclDataType_t, ncclRedOp_t, ncclUniqueId};
use std::ffi::{c_int, c_uint, c_void};
use std::fmt;
use std::mem::size_of;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// NCCL's code for work in progress.
const IN_PROGRESS: c_uint = 7;
/// The first field of a valid configuration (`NCCL_CONFIG_INITIALIZER`).
const CONFIG_MAGIC: c_uint = 0xcafe_beef;
/// The version whose configuration `cudarc` has.
const CONFIG_VERSION: c_uint = 23_000;
/// How long an abort waits for NCCL.
const ABORT_WAIT: Duration = Duration::from_secs(5);
/// An option of a configuration that is left to NCCL (`NCCL_CONFIG_UNDEF_INT`).
const UNDEFINED: c_int = c_int::MIN;

/// NCCL's unique id, by which the ranks of a communicator find each other.
pub(super) type Id = [u8; 128];

/// An NCCL communicator that is neither destroyed nor aborted.
pub(super) struct NcclComm {
    comm: ncclComm_t,
    libraries: &'static Libraries,
}

// SAFETY: NCCL's communicators may be used from every thread, by one at a time: the one that holds the
// lock, or the thread that it has passed them to for the abort.
#[allow(unsafe_code)]
unsafe impl Send for NcclComm {}

impl fmt::Debug for NcclComm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NcclComm({:?})", self.comm)
    }
}

/// A collective and its buffers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Transfer<'a> {
    /// Concatenates every rank's shard in the buffer; with this rank and the number of ranks.
    AllGather(&'a DeviceBuffer, (usize, usize)),
    /// Reduces the first buffer, and leaves each rank its chunk in the second.
    ReduceScatter(Reduce, &'a DeviceBuffer, &'a DeviceBuffer),
    /// Replaces the buffer by its reduction.
    AllReduce(Reduce, &'a DeviceBuffer),
    /// Replaces the buffer by that of the rank.
    Broadcast(usize, &'a DeviceBuffer),
    /// Gives each rank its part of the first buffer, and collects every rank's part for this one in the
    /// second; with this rank and the number of ranks.
    AllToAll(
        Parts<'a>,
        &'a DeviceBuffer,
        &'a DeviceBuffer,
        (usize, usize),
    ),
}

impl Transfer<'_> {
    /// The buffers it reads or writes.
    pub(super) fn buffers(&self) -> Vec<DeviceBuffer> {
        match self {
            Self::AllGather(buffer, _)
            | Self::AllReduce(_, buffer)
            | Self::Broadcast(_, buffer) => {
                vec![(*buffer).clone()]
            }
            Self::ReduceScatter(_, send, recv) | Self::AllToAll(_, send, recv, _) => {
                vec![(*send).clone(), (*recv).clone()]
            }
        }
    }
}

impl NcclComm {
    /// Makes the unique id of a new communicator.
    pub(super) fn id(gpu: &Gpu, _lock: &NcclLock<'_>) -> Result<Id, Problem> {
        let mut id = ncclUniqueId { internal: [0; 128] };
        // SAFETY: writes to what it is given the address of.
        #[allow(unsafe_code)]
        match unsafe { (gpu.libraries.nccl.ncclGetUniqueId)(&raw mut id) } {
            0 => Ok(id.internal.map(|c| c as u8)),
            code => Err(nccl(
                gpu.libraries,
                "ncclGetUniqueId",
                code,
                std::ptr::null_mut(),
            )),
        }
    }

    /// Begins to connect; done when it has [settled](Self::is_settled).
    pub(super) fn connect(
        gpu: &Arc<Gpu>,
        lock: &NcclLock<'_>,
        (rank, size): (usize, usize),
        id: &Id,
    ) -> Result<Self, Problem> {
        let libraries = gpu.libraries;
        let mut comm = std::ptr::null_mut();
        let internal = id.map(|byte| byte as std::ffi::c_char);
        let mut config = config();
        // SAFETY: the configuration lives through the call, which copies it; the handle is written.
        #[allow(unsafe_code)]
        let code = unsafe {
            let id = ncclUniqueId { internal };
            (libraries.nccl.ncclCommInitRankConfig)(
                &raw mut comm,
                size as c_int,
                id,
                rank as c_int,
                &raw mut config,
            )
        };
        if matches!(code, 0 | IN_PROGRESS) && !comm.is_null() {
            return Ok(Self { comm, libraries });
        }
        let problem = nccl(
            libraries,
            "ncclCommInitRankConfig",
            code,
            std::ptr::null_mut(),
        );
        if !comm.is_null() {
            Self::abort(vec![Self { comm, libraries }], gpu, lock);
        }
        Err(problem)
    }

    /// Whether nothing is in progress; after an error the communicator must be aborted.
    pub(super) fn is_settled(&self, _lock: &NcclLock<'_>) -> Result<bool, Problem> {
        let mut state = 0;
        // SAFETY: the communicator lives, and the state is written.
        #[allow(unsafe_code)]
        let code =
            unsafe { (self.libraries.nccl.ncclCommGetAsyncError)(self.comm, &raw mut state) };
        self.check("ncclCommGetAsyncError", code)?;
        match state {
            0 => Ok(true),
            IN_PROGRESS => Ok(false),
            state => Err(nccl(
                self.libraries,
                "ncclCommGetAsyncError",
                state,
                self.comm,
            )),
        }
    }

    /// Submits the transfer to the GPU's stream for communication.
    pub(super) fn submit(
        &self,
        gpu: &Gpu,
        _lock: &NcclLock<'_>,
        transfer: Transfer<'_>,
    ) -> Result<(), Problem> {
        let (comm, stream, functions) = (self.comm, gpu.stream(), &self.libraries.nccl);
        let at = |buffer: &DeviceBuffer| buffer.address() as *mut c_void;
        if let Transfer::AllToAll(parts, send, recv, (rank, size)) = transfer {
            return self.exchange(gpu, parts, send, recv, (rank, size));
        }
        let dtype = |buffer: &DeviceBuffer| dtype(buffer.dtype());
        // SAFETY: the buffers have the lengths that `Communicator` has checked, are on this device, and
        // stay allocated until the stream has run the collective: see `Submitted`.
        #[allow(unsafe_code)]
        let (function, code) = unsafe {
            match transfer {
                Transfer::AllGather(buffer, (rank, size)) => {
                    let piece = buffer.len() / size;
                    let own = buffer.address() + (piece * rank * buffer.dtype().size()) as u64;
                    let own = own as *const c_void;
                    let code = (functions.ncclAllGather)(
                        own,
                        at(buffer),
                        piece,
                        dtype(buffer),
                        comm,
                        stream,
                    );
                    ("ncclAllGather", code)
                }
                Transfer::ReduceScatter(op, send, recv) => {
                    let code = (functions.ncclReduceScatter)(
                        at(send),
                        at(recv),
                        recv.len(),
                        dtype(recv),
                        reduction(op),
                        comm,
                        stream,
                    );
                    ("ncclReduceScatter", code)
                }
                Transfer::AllReduce(op, buffer) => {
                    let code = (functions.ncclAllReduce)(
                        at(buffer),
                        at(buffer),
                        buffer.len(),
                        dtype(buffer),
                        reduction(op),
                        comm,
                        stream,
                    );
                    ("ncclAllReduce", code)
                }
                Transfer::Broadcast(root, buffer) => {
                    let code = (functions.ncclBroadcast)(
                        at(buffer),
                        at(buffer),
                        buffer.len(),
                        dtype(buffer),
                        root as c_int,
                        comm,
                        stream,
                    );
                    ("ncclBroadcast", code)
                }
                Transfer::AllToAll(..) => ("ncclGroupEnd", 0),
            }
        };
        self.check(function, code)
    }

    /// Submits sends and receives of one group, which run together; parts without elements are left out.
    fn exchange(
        &self,
        gpu: &Gpu,
        parts: Parts<'_>,
        send: &DeviceBuffer,
        recv: &DeviceBuffer,
        (rank, size): (usize, usize),
    ) -> Result<(), Problem> {
        let (comm, stream, functions) = (self.comm, gpu.stream(), &self.libraries.nccl);
        let (width, kind) = (send.dtype().size(), dtype(send.dtype()));
        let at = |buffer: &DeviceBuffer, start: usize| buffer.address() + (start * width) as u64;
        let submit = || -> Result<(), Problem> {
            for peer in 0..size {
                let (out, into) = (parts.in_sent(rank, peer), parts.in_received(peer, rank));
                if !out.is_empty() {
                    let from = at(send, out.start) as *const c_void;
                    // SAFETY: as for the other collectives: `Communicator` has checked that the parts lie
                    // in the buffers, and `Submitted` keeps them.
                    #[allow(unsafe_code)]
                    let code = unsafe {
                        (functions.ncclSend)(from, out.len(), kind, peer as c_int, comm, stream)
                    };
                    self.check("ncclSend", code)?;
                }
                if !into.is_empty() {
                    let to = at(recv, into.start) as *mut c_void;
                    // SAFETY: as above.
                    #[allow(unsafe_code)]
                    let code = unsafe {
                        (functions.ncclRecv)(to, into.len(), kind, peer as c_int, comm, stream)
                    };
                    self.check("ncclRecv", code)?;
                }
            }
            Ok(())
        };
        // SAFETY: needs nothing; the group ends below, on this thread, whatever happens between.
        #[allow(unsafe_code)]
        let code = unsafe { (functions.ncclGroupStart)() };
        self.check("ncclGroupStart", code)?;
        let submitted = submit();
        // SAFETY: as above.
        #[allow(unsafe_code)]
        let code = unsafe { (functions.ncclGroupEnd)() };
        submitted?;
        self.check("ncclGroupEnd", code)
    }

    /// Begins the orderly end; done when it has [settled](Self::is_settled).
    pub(super) fn finalize(&self, _lock: &NcclLock<'_>) -> Result<(), Problem> {
        // SAFETY: the communicator lives.
        #[allow(unsafe_code)]
        let code = unsafe { (self.libraries.nccl.ncclCommFinalize)(self.comm) };
        self.check("ncclCommFinalize", code)
    }

    /// Frees what was finalized.
    pub(super) fn destroy(self, _lock: &NcclLock<'_>) {
        // SAFETY: the communicator lives, and this is its last use.
        #[allow(unsafe_code)]
        unsafe {
            (self.libraries.nccl.ncclCommDestroy)(self.comm);
        }
    }

    /// Aborts what is in progress in the communicators, and frees them.
    ///
    /// `ncclCommAbort` waits for the GPU, where one communicator's collectives may be queued behind another's
    /// that must be aborted too; so each call has a thread. A thread that has not ended after `ABORT_WAIT`,
    /// because the GPU hangs, is left running.
    pub(super) fn abort(comms: Vec<Self>, gpu: &Arc<Gpu>, _lock: &NcclLock<'_>) {
        let (done, ended) = channel();
        let abort = |nccl_comm: Self| {
            let (gpu, done) = (gpu.clone(), done.clone());
            let thread = std::thread::Builder::new().name("nccl abort".into());
            thread.spawn(move || {
                let _ = gpu.enter();
                nccl_comm.abort_alone();
                drop(gpu);
                let _ = done.send(());
            })
        };
        let threads: Vec<_> = comms.into_iter().map(abort).collect();
        let until = Instant::now() + ABORT_WAIT;
        for _ in threads.iter().filter(|thread| thread.is_ok()) {
            let left = until.saturating_duration_since(Instant::now());
            if ended.recv_timeout(left).is_err() {
                return;
            }
        }
    }

    fn abort_alone(self) {
        // SAFETY: the communicator lives, no other call on it is running, and this is its last use.
        #[allow(unsafe_code)]
        unsafe {
            (self.libraries.nccl.ncclCommAbort)(self.comm);
        }
    }

    fn check(&self, function: &str, code: c_uint) -> Result<(), Problem> {
        match code {
            0 | IN_PROGRESS => Ok(()),
            code => Err(nccl(self.libraries, function, code, self.comm)),
        }
    }
}

/// A configuration that sets only that no call may block.
///
/// The library copies the fields that its version knows, and ignores newer ones.
fn config() -> ncclConfig_t {
    ncclConfig_t {
        size: size_of::<ncclConfig_t>(),
        magic: CONFIG_MAGIC,
        version: CONFIG_VERSION,
        blocking: 0,
        cgaClusterSize: UNDEFINED,
        minCTAs: UNDEFINED,
        maxCTAs: UNDEFINED,
        netName: std::ptr::null(),
        splitShare: UNDEFINED,
        trafficClass: UNDEFINED,
        commName: std::ptr::null(),
        collnetEnable: UNDEFINED,
        CTAPolicy: UNDEFINED,
        shrinkShare: UNDEFINED,
        nvlsCTAs: UNDEFINED,
        nChannelsPerNetPeer: UNDEFINED,
        nvlinkCentricSched: UNDEFINED,
        graphUsageMode: UNDEFINED,
        numRmaCtx: UNDEFINED,
        maxP2pPeers: UNDEFINED,
    }
}

fn dtype(dtype: Dtype) -> c_uint {
    let dtype = match dtype {
        Dtype::F64 => ncclDataType_t::ncclFloat64,
        Dtype::F32 => ncclDataType_t::ncclFloat32,
        Dtype::F16 => ncclDataType_t::ncclFloat16,
        Dtype::Bf16 => ncclDataType_t::ncclBfloat16,
        Dtype::I64 => ncclDataType_t::ncclInt64,
        Dtype::I32 => ncclDataType_t::ncclInt32,
        Dtype::I8 => ncclDataType_t::ncclInt8,
        Dtype::U64 => ncclDataType_t::ncclUint64,
        Dtype::U32 => ncclDataType_t::ncclUint32,
        Dtype::U8 => ncclDataType_t::ncclUint8,
    };
    dtype as c_uint
}

fn reduction(op: Reduce) -> c_uint {
    let op = match op {
        Reduce::Sum => ncclRedOp_t::ncclSum,
        Reduce::Mean => ncclRedOp_t::ncclAvg,
        Reduce::Max => ncclRedOp_t::ncclMax,
    };
    op as c_uint
}
