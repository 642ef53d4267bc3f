//! The driver's functions. A context's handle is its device's number and one.

use crate::context::{self, DEVICES};
use crate::knobs::{EVENTS, RETAINED, knob};
use crate::stream::Event;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::atomic::Ordering;

const INVALID_VALUE: c_uint = 1;
const INVALID_CONTEXT: c_uint = 201;
const NOT_READY: c_uint = 600;
const LAUNCH_FAILED: c_uint = 719;

/// Gives a function the driver's form: what it returns is 0 or a code.
macro_rules! export {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block)*) => {
        $(
            $(#[$meta])*
            /// As CUDA's function of this name.
            ///
            /// # Safety
            /// That of CUDA's.
            #[unsafe(no_mangle)]
            #[allow(non_snake_case)]
            pub unsafe extern "C" fn $name($($arg: $type),*) -> c_uint {
                let run = || -> Result<(), c_uint> { $body };
                run().err().unwrap_or(0)
            }
        )*
    };
}

/// Writes a result.
fn give<T>(to: *mut T, value: T) -> Result<(), c_uint> {
    if to.is_null() {
        return Err(INVALID_VALUE);
    }
    // SAFETY: the caller of the exported function gave a place for it.
    unsafe { to.write(value) };
    Ok(())
}

fn event<'a>(handle: *mut c_void) -> &'a Event {
    // SAFETY: a handle that `cuEventCreate` made and `cuEventDestroy_v2` has not freed.
    unsafe { &*handle.cast::<Event>() }
}

fn here() -> Result<usize, c_uint> {
    match context::current() {
        0 => Err(INVALID_CONTEXT),
        context => Ok(context),
    }
}

export! {
    fn cuInit(_flags: c_uint) {
        knob("no_device", 0).map_or(Ok(()), |_| Err(100))
    }

    fn cuDriverGetVersion(version: *mut c_int) {
        give(version, 13_000)
    }

    fn cuDeviceGetCount(count: *mut c_int) {
        give(count, DEVICES as c_int)
    }

    fn cuDeviceGetUuid_v2(id: *mut [u8; 16], device: c_int) {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&device.to_le_bytes());
        give(id, bytes)
    }

    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        give(device, ordinal)
    }

    fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, device: c_int) {
        RETAINED.fetch_add(1, Ordering::SeqCst);
        give(context, (device as usize + 1) as *mut c_void)
    }

    fn cuDevicePrimaryCtxRelease_v2(_device: c_int) {
        RETAINED.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }

    fn cuCtxSetCurrent(context: *mut c_void) {
        context::enter(context as usize);
        Ok(())
    }

    fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) {
        here()?;
        give(least, 0)?;
        give(greatest, -5)
    }

    fn cuStreamCreateWithPriority(stream: *mut *mut c_void, flags: c_uint, _priority: c_int) {
        if flags != 1 {
            return Err(INVALID_VALUE);
        }
        give(stream, context::open(here()?) as *mut c_void)
    }

    fn cuStreamDestroy_v2(stream: *mut c_void) {
        here()?;
        context::close(stream as usize).then_some(()).ok_or(INVALID_VALUE)
    }

    fn cuStreamSynchronize(stream: *mut c_void) {
        context::stream(stream as usize).ok_or(INVALID_VALUE)?.synchronize();
        Ok(())
    }

    fn cuStreamWaitEvent(stream: *mut c_void, waited: *mut c_void, _flags: c_uint) {
        let stream = context::stream(stream as usize).ok_or(INVALID_VALUE)?;
        event(waited).hold(&[stream]);
        Ok(())
    }

    fn cuEventCreate(made: *mut *mut c_void, flags: c_uint) {
        here()?;
        if flags != 2 {
            return Err(INVALID_VALUE);
        }
        EVENTS.fetch_add(1, Ordering::SeqCst);
        give(made, Box::into_raw(Box::<Event>::default()).cast())
    }

    fn cuEventDestroy_v2(gone: *mut c_void) {
        here()?;
        EVENTS.fetch_sub(1, Ordering::SeqCst);
        // SAFETY: nobody uses it any more.
        drop(unsafe { Box::from_raw(gone.cast::<Event>()) });
        Ok(())
    }

    fn cuEventRecord(recorded: *mut c_void, stream: *mut c_void) {
        here()?;
        let stream = context::stream(stream as usize).ok_or(INVALID_VALUE)?;
        event(recorded).record(&[stream]);
        Ok(())
    }

    fn cuEventQuery(asked: *mut c_void) {
        here()?;
        if knob("launch_failed", 0).is_some() {
            return Err(LAUNCH_FAILED);
        }
        event(asked).is_past().then_some(()).ok_or(NOT_READY)
    }

    fn cuCtxRecordEvent(context: *mut c_void, recorded: *mut c_void) {
        here()?;
        event(recorded).record(&context::streams(context as usize));
        Ok(())
    }

    fn cuCtxWaitEvent(context: *mut c_void, waited: *mut c_void) {
        here()?;
        event(waited).hold(&context::streams(context as usize));
        Ok(())
    }

    fn cuLaunchHostFunc(
        stream: *mut c_void,
        function: unsafe extern "C" fn(*mut c_void),
        data: *mut c_void,
    ) {
        let stream = context::stream(stream as usize).ok_or(INVALID_VALUE)?;
        let data = data as usize;
        // SAFETY: the caller gave what belongs together, and keeps it until the stream was here.
        stream.push(move || unsafe { function(data as *mut c_void) });
        Ok(())
    }

    fn cuGetErrorName(code: c_uint, name: *mut *const c_char) {
        give(name, match code {
            100 => c"CUDA_ERROR_NO_DEVICE".as_ptr(),
            INVALID_CONTEXT => c"CUDA_ERROR_INVALID_CONTEXT".as_ptr(),
            LAUNCH_FAILED => c"CUDA_ERROR_LAUNCH_FAILED".as_ptr(),
            _ => c"CUDA_ERROR_INVALID_VALUE".as_ptr(),
        })
    }

    fn cuGetErrorString(_code: c_uint, text: *mut *const c_char) {
        give(text, c"the mock was asked to".as_ptr())
    }
}
