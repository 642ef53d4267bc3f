//! Error messages from the codes of CUDA's driver and NCCL.

use super::library::{Libraries, text_at};
use cudarc::nccl::sys::ncclComm_t;
use std::ffi::c_uint;

/// NCCL's codes by number.
const CODES: [&str; 9] = [
    "ncclSuccess",
    "ncclUnhandledCudaError",
    "ncclSystemError",
    "ncclInternalError",
    "ncclInvalidArgument",
    "ncclInvalidUsage",
    "ncclRemoteError",
    "ncclInProgress",
    "ncclTimeout",
];

/// The message of a failed call of one of the libraries.
pub(super) type Problem = String;

/// The message for code `code` of NCCL's function `function`; `comm` may be null.
pub(super) fn nccl(
    libraries: &Libraries,
    function: &str,
    code: c_uint,
    comm: ncclComm_t,
) -> Problem {
    let name = CODES.get(code as usize).unwrap_or(&"an unknown code");
    // SAFETY: both functions accept every code and a communicator that is alive or null, and
    // return strings that live longer than this call.
    #[allow(unsafe_code)]
    let (meaning, last) = unsafe {
        (
            text_at((libraries.nccl.ncclGetErrorString)(code)),
            text_at((libraries.nccl.ncclGetLastError)(comm)),
        )
    };
    let last = last.trim();
    let last = if last.is_empty() {
        "look at NCCL_DEBUG=INFO's output"
    } else {
        last
    };
    format!("{function} returned {name} ({code}): {meaning}: {last}")
}

/// The message for code `code` of the driver's function `function`.
pub(super) fn cuda(libraries: &Libraries, function: &str, code: c_uint) -> Problem {
    let (mut name, mut meaning) = (std::ptr::null(), std::ptr::null());
    // SAFETY: both functions accept every code, and leave null or a string that is never freed.
    #[allow(unsafe_code)]
    let (name, meaning) = unsafe {
        (libraries.driver.cuGetErrorName)(code, &raw mut name);
        (libraries.driver.cuGetErrorString)(code, &raw mut meaning);
        (text_at(name), text_at(meaning))
    };
    format!("{function} returned {name} ({code}): {meaning}")
}

/// `Ok` for the code 0 of a driver's function.
pub(super) fn check_cuda(
    libraries: &Libraries,
    function: &str,
    code: c_uint,
) -> Result<(), Problem> {
    if code == 0 {
        Ok(())
    } else {
        Err(cuda(libraries, function, code))
    }
}
