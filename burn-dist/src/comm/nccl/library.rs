//! CUDA's driver and NCCL, opened at run time.
//!
//! A program built with this feature must start on machines without either, so neither is linked.
//! `cudarc` has the types; its own loader panics where a library or a symbol is missing, does not
//! look for `libnccl.so.2` (the name that all packages without headers install), and returns codes
//! as closed enums, which a newer library's code would break. So the few functions needed are looked
//! up here, and their codes stay numbers.

use crate::error::{Error, Result};
use cudarc::driver::sys::{CUcontext, CUdevice, CUevent, CUstream};
use cudarc::nccl::sys::{ncclComm_t, ncclConfig_t, ncclUniqueId};
use libloading::Library;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::OnceLock;

/// The variable that names NCCL's file, where the system does not find it by itself.
const LIBRARY_VARIABLE: &str = "BURN_DIST_NCCL_LIB";

/// A library that stays open until the process ends.
struct Open {
    library: ManuallyDrop<Library>,
    name: String,
}

impl Open {
    /// The first of `names` that can be opened.
    fn first(names: &[String]) -> std::result::Result<Self, String> {
        let mut why = Vec::new();
        for name in names {
            // SAFETY: the library's initialisers are trusted as those of any installed library.
            #[allow(unsafe_code)]
            match unsafe { Library::new(name) } {
                Ok(library) => {
                    return Ok(Self {
                        library: ManuallyDrop::new(library),
                        name: name.clone(),
                    });
                }
                Err(error) => why.push(error.to_string()),
            }
        }
        Err(why.join("; "))
    }

    /// A function of the library.
    ///
    /// # Safety
    /// `F` is the function's type.
    #[allow(unsafe_code)]
    unsafe fn function<F: Copy>(&self, name: &str) -> Option<F> {
        // SAFETY: the caller's promise; the library is never closed, so what is copied stays valid.
        unsafe { self.library.get::<F>(name) }
            .ok()
            .map(|found| *found)
    }
}

/// The text at an address that C returned.
///
/// # Safety
/// Null, or a string that ends with a zero.
#[allow(unsafe_code)]
pub(super) unsafe fn text_at(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_string_lossy().into_owned()
}

/// A table of functions by their names in a library; those under `maybe` may be missing.
macro_rules! functions {
    (
        $(#[$meta:meta])* $table:ident of $library:literal;
        always { $($name:ident($($arg:ty),*) -> $ret:ty;)* }
        maybe { $($maybe:ident($($maybe_arg:ty),*) -> $maybe_ret:ty;)* }
    ) => {
        $(#[$meta])*
        #[allow(non_snake_case)]
        pub(super) struct $table {
            /// The file, as it was opened.
            pub(super) name: String,
            $(pub(super) $name: unsafe extern "C" fn($($arg),*) -> $ret,)*
            $(pub(super) $maybe: Option<unsafe extern "C" fn($($maybe_arg),*) -> $maybe_ret>,)*
        }

        impl $table {
            fn of(library: &Open) -> Result<Self> {
                Ok(Self {
                    name: library.name.clone(),
                    $($name: {
                        let name = stringify!($name);
                        // SAFETY: the functions have these types in every version of the library that
                        // has functions of these names.
                        #[allow(unsafe_code)]
                        let found = unsafe { library.function(name) };
                        found.ok_or_else(|| {
                            let found = format!("none in {}: update it", library.name);
                            Error::config($library, format!("the function {name}"), found)
                        })?
                    },)*
                    $($maybe: {
                        // SAFETY: as above.
                        #[allow(unsafe_code)]
                        let found = unsafe { library.function(stringify!($maybe)) };
                        found
                    },)*
                })
            }
        }
    };
}

functions! {
    /// The functions of CUDA's driver; the codes they return are `CUresult`.
    Driver of "CUDA's driver";
    always {
        cuInit(c_uint) -> c_uint;
        cuDriverGetVersion(*mut c_int) -> c_uint;
        cuDeviceGetCount(*mut c_int) -> c_uint;
        cuDeviceGet(*mut CUdevice, c_int) -> c_uint;
        cuDeviceGetUuid_v2(*mut [u8; 16], CUdevice) -> c_uint;
        cuDevicePrimaryCtxRetain(*mut CUcontext, CUdevice) -> c_uint;
        cuDevicePrimaryCtxRelease_v2(CUdevice) -> c_uint;
        cuCtxSetCurrent(CUcontext) -> c_uint;
        cuCtxGetStreamPriorityRange(*mut c_int, *mut c_int) -> c_uint;
        cuStreamCreateWithPriority(*mut CUstream, c_uint, c_int) -> c_uint;
        cuStreamDestroy_v2(CUstream) -> c_uint;
        cuStreamWaitEvent(CUstream, CUevent, c_uint) -> c_uint;
        cuEventCreate(*mut CUevent, c_uint) -> c_uint;
        cuEventDestroy_v2(CUevent) -> c_uint;
        cuEventRecord(CUevent, CUstream) -> c_uint;
        cuEventQuery(CUevent) -> c_uint;
        cuGetErrorName(c_uint, *mut *const c_char) -> c_uint;
        cuGetErrorString(c_uint, *mut *const c_char) -> c_uint;
    }
    maybe {
        cuCtxRecordEvent(CUcontext, CUevent) -> c_uint;
        cuCtxWaitEvent(CUcontext, CUevent) -> c_uint;
    }
}

functions! {
    /// The functions of NCCL; the codes they return are `ncclResult_t`.
    Functions of "NCCL";
    always {
        ncclGetVersion(*mut c_int) -> c_uint;
        ncclGetUniqueId(*mut ncclUniqueId) -> c_uint;
        ncclCommInitRankConfig(*mut ncclComm_t, c_int, ncclUniqueId, c_int, *mut ncclConfig_t) -> c_uint;
        ncclCommGetAsyncError(ncclComm_t, *mut c_uint) -> c_uint;
        ncclCommFinalize(ncclComm_t) -> c_uint;
        ncclCommDestroy(ncclComm_t) -> c_uint;
        ncclCommAbort(ncclComm_t) -> c_uint;
        ncclGetErrorString(c_uint) -> *const c_char;
        ncclGetLastError(ncclComm_t) -> *const c_char;
        ncclAllGather(*const c_void, *mut c_void, usize, c_uint, ncclComm_t, CUstream) -> c_uint;
        ncclReduceScatter(*const c_void, *mut c_void, usize, c_uint, c_uint, ncclComm_t, CUstream) -> c_uint;
        ncclAllReduce(*const c_void, *mut c_void, usize, c_uint, c_uint, ncclComm_t, CUstream) -> c_uint;
        ncclGroupStart() -> c_uint;
        ncclGroupEnd() -> c_uint;
        ncclSend(*const c_void, usize, c_uint, c_int, ncclComm_t, CUstream) -> c_uint;
        ncclRecv(*mut c_void, usize, c_uint, c_int, ncclComm_t, CUstream) -> c_uint;
        ncclBroadcast(*const c_void, *mut c_void, usize, c_uint, c_int, ncclComm_t, CUstream) -> c_uint;
    }
    maybe {}
}

/// Both libraries.
pub(super) struct Libraries {
    pub(super) driver: Driver,
    pub(super) nccl: Functions,
}

impl fmt::Debug for Libraries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Libraries({}, {})", self.driver.name, self.nccl.name)
    }
}

impl Libraries {
    /// The libraries of this process; the first call opens them, and later ones return its result.
    ///
    /// # Errors
    /// [`Error::Config`] names the missing library or function, and what to do.
    pub(super) fn get() -> Result<&'static Self> {
        static LIBRARIES: OnceLock<Result<Libraries>> = OnceLock::new();
        LIBRARIES
            .get_or_init(Self::open)
            .as_ref()
            .map_err(Clone::clone)
    }

    fn open() -> Result<Self> {
        let driver = ["libcuda.so.1", "libcuda.so"].map(String::from);
        let driver = Open::first(&driver).map_err(|why| {
            let expected = "libcuda.so.1, which comes with NVIDIA's driver";
            Error::config("CUDA's driver", expected, why)
        })?;
        // An empty path would open the program itself.
        let named = std::env::var(LIBRARY_VARIABLE)
            .ok()
            .filter(|path| !path.is_empty());
        let names = match named {
            Some(path) => vec![path],
            // The name that `cudarc`, and with it Burn, would open first: one copy for all.
            None => ["libnccl.so", "libnccl.so.2"].map(String::from).into(),
        };
        let nccl = Open::first(&names).map_err(|why| {
            let expected = format!(
                "libnccl.so.2 where the system finds libraries: install NCCL, or name its file in {LIBRARY_VARIABLE}"
            );
            Error::config("NCCL", expected, why)
        })?;
        Ok(Self {
            driver: Driver::of(&driver)?,
            nccl: Functions::of(&nccl)?,
        })
    }
}
