//! One rank's GPU: its context, the stream for communication, and events.
//!
//! The context is the device's primary one, which Burn computes in, so that events can order collectives
//! and Burn's kernels.

use super::errors::{Problem, check_cuda, cuda};
use super::library::Libraries;
use cudarc::driver::sys::{CUcontext, CUdevice, CUevent, CUevent_flags, CUstream, CUstream_flags};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

/// `CUDA_ERROR_NOT_READY`: the event has not passed yet.
const NOT_READY: u32 = 600;

/// A GPU as one rank uses it; all of the rank's groups share it.
pub(super) struct Gpu {
    pub(super) libraries: &'static Libraries,
    device: CUdevice,
    /// The GPU's UUID.
    pub(super) id: [u8; 16],
    context: CUcontext,
    stream: CUstream,
    nccl_lock: Mutex<()>,
}

// SAFETY: the driver's handles may be used from every thread; NCCL is called by the thread that holds the
// lock.
#[allow(unsafe_code)]
unsafe impl Send for Gpu {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Gpu {}

/// The lock for calls of NCCL on this GPU, on a thread that has entered the GPU's context.
pub(super) struct NcclLock<'a> {
    _lock: MutexGuard<'a, ()>,
}

impl Gpu {
    /// Enters the primary context of the process's device number `ordinal`.
    pub(super) fn open(
        libraries: &'static Libraries,
        ordinal: usize,
    ) -> Result<Arc<Self>, Problem> {
        let driver = &libraries.driver;
        let check = |function: &str, code| check_cuda(libraries, function, code);
        let ordinal = i32::try_from(ordinal).unwrap_or(i32::MAX);
        let (mut device, mut context, mut id) = (0, std::ptr::null_mut(), [0; 16]);
        // SAFETY: all write to what they are given the address of.
        #[allow(unsafe_code)]
        unsafe {
            check(
                "cuDeviceGet",
                (driver.cuDeviceGet)(&raw mut device, ordinal),
            )?;
            check(
                "cuDeviceGetUuid_v2",
                (driver.cuDeviceGetUuid_v2)(&raw mut id, device),
            )?;
            check(
                "cuDevicePrimaryCtxRetain",
                (driver.cuDevicePrimaryCtxRetain)(&raw mut context, device),
            )?;
        }
        let mut gpu = Self {
            libraries,
            device,
            id,
            context,
            stream: std::ptr::null_mut(),
            nccl_lock: Mutex::new(()),
        };
        gpu.enter()?;
        let (mut least, mut greatest) = (0, 0);
        // Communication should not wait for multiprocessors behind computation.
        // SAFETY: as above; the context is current.
        #[allow(unsafe_code)]
        unsafe {
            check(
                "cuCtxGetStreamPriorityRange",
                (driver.cuCtxGetStreamPriorityRange)(&raw mut least, &raw mut greatest),
            )?;
            let flags = CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
            check(
                "cuStreamCreateWithPriority",
                (driver.cuStreamCreateWithPriority)(&raw mut gpu.stream, flags, greatest),
            )?;
        }
        Ok(Arc::new(gpu))
    }

    /// Makes the context current on this thread.
    pub(super) fn enter(&self) -> Result<(), Problem> {
        // SAFETY: the context is retained as long as `self` lives.
        #[allow(unsafe_code)]
        let code = unsafe { (self.libraries.driver.cuCtxSetCurrent)(self.context) };
        check_cuda(self.libraries, "cuCtxSetCurrent", code)
    }

    /// Locks NCCL for this GPU.
    pub(super) fn lock_nccl(&self) -> NcclLock<'_> {
        let lock = self
            .nccl_lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // A context that cannot be entered makes the next call fail, which says why.
        let _ = self.enter();
        NcclLock { _lock: lock }
    }

    /// Locks NCCL for this GPU, unless another thread has.
    pub(super) fn try_lock_nccl(&self) -> Option<NcclLock<'_>> {
        let lock = match self.nccl_lock.try_lock() {
            Ok(lock) => lock,
            Err(TryLockError::Poisoned(lock)) => lock.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let _ = self.enter();
        Some(NcclLock { _lock: lock })
    }

    /// The stream for communication.
    pub(super) fn stream(&self) -> CUstream {
        self.stream
    }

    /// Whether events can be recorded and waited for in the whole context.
    pub(super) fn can_order(libraries: &Libraries) -> bool {
        let driver = &libraries.driver;
        driver.cuCtxRecordEvent.is_some() && driver.cuCtxWaitEvent.is_some()
    }

    /// Makes the stream wait for all work that was submitted to the device so far.
    pub(super) fn order_after_submitted(self: &Arc<Self>) -> Result<(), Problem> {
        self.enter()?;
        let ready = GpuEvent::new(self)?;
        let driver = &self.libraries.driver;
        let Some(record) = driver.cuCtxRecordEvent else {
            return Err("the driver has no cuCtxRecordEvent".into());
        };
        // SAFETY: context, stream and event live; the stream waits for what was recorded, so the event
        // may be destroyed afterwards.
        #[allow(unsafe_code)]
        unsafe {
            let code = record(self.context, ready.raw);
            check_cuda(self.libraries, "cuCtxRecordEvent", code)?;
            let code = (driver.cuStreamWaitEvent)(self.stream, ready.raw, 0);
            check_cuda(self.libraries, "cuStreamWaitEvent", code)
        }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        let _ = self.enter();
        // SAFETY: nobody else has a handle on either any more.
        #[allow(unsafe_code)]
        unsafe {
            if !self.stream.is_null() {
                (self.libraries.driver.cuStreamDestroy_v2)(self.stream);
            }
            (self.libraries.driver.cuDevicePrimaryCtxRelease_v2)(self.device);
        }
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpu({})", self.device)
    }
}

/// A CUDA event: a point in a stream's work.
pub(super) struct GpuEvent {
    raw: CUevent,
    gpu: Arc<Gpu>,
}

// SAFETY: the driver's handles may be used from every thread.
#[allow(unsafe_code)]
unsafe impl Send for GpuEvent {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for GpuEvent {}

impl GpuEvent {
    fn new(gpu: &Arc<Gpu>) -> Result<Self, Problem> {
        let mut raw = std::ptr::null_mut();
        let flags = CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: writes to what it is given the address of; the caller entered the context.
        #[allow(unsafe_code)]
        let code = unsafe { (gpu.libraries.driver.cuEventCreate)(&raw mut raw, flags) };
        check_cuda(gpu.libraries, "cuEventCreate", code)?;
        Ok(Self {
            raw,
            gpu: gpu.clone(),
        })
    }

    /// The end of what was submitted to the stream for communication so far.
    pub(super) fn now(gpu: &Arc<Gpu>, _lock: &NcclLock<'_>) -> Result<Self, Problem> {
        let event = Self::new(gpu)?;
        // SAFETY: stream and event live.
        #[allow(unsafe_code)]
        let code = unsafe { (gpu.libraries.driver.cuEventRecord)(event.raw, gpu.stream) };
        check_cuda(gpu.libraries, "cuEventRecord", code)?;
        Ok(event)
    }

    /// Whether the stream has reached it.
    pub(super) fn has_passed(&self) -> Result<bool, Problem> {
        let libraries = self.gpu.libraries;
        self.gpu.enter()?;
        // SAFETY: the event lives.
        #[allow(unsafe_code)]
        match unsafe { (libraries.driver.cuEventQuery)(self.raw) } {
            0 => Ok(true),
            NOT_READY => Ok(false),
            code => Err(cuda(libraries, "cuEventQuery", code)),
        }
    }

    /// Makes all work that is submitted to the device after this call wait for it.
    pub(super) fn order_later_work(&self) -> Result<(), Problem> {
        let Some(wait) = self.gpu.libraries.driver.cuCtxWaitEvent else {
            return Err("the driver has no cuCtxWaitEvent".into());
        };
        self.gpu.enter()?;
        // SAFETY: context and event live.
        #[allow(unsafe_code)]
        let code = unsafe { wait(self.gpu.context, self.raw) };
        check_cuda(self.gpu.libraries, "cuCtxWaitEvent", code)
    }
}

impl Drop for GpuEvent {
    fn drop(&mut self) {
        let _ = self.gpu.enter();
        // SAFETY: nobody else has the handle; the driver keeps an event that a stream still waits for.
        #[allow(unsafe_code)]
        unsafe {
            (self.gpu.libraries.driver.cuEventDestroy_v2)(self.raw);
        }
    }
}

impl fmt::Debug for GpuEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GpuEvent({:?})", self.raw)
    }
}
