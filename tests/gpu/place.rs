//! The device under test.

use burn::tensor::Device;
use burn_dist::launch::{DeviceKind, Threads};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One test at a time: ranks of several would share one GPU, and Burn's random numbers.
static ALONE: Mutex<()> = Mutex::new(());

/// The GPU, or `None` with a note where the machine has none.
pub fn gpu() -> Option<(DeviceKind, MutexGuard<'static, ()>)> {
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Ok(told) = std::env::var("BURN_DIST_TEST_DEVICE") {
        let kind: DeviceKind = told.parse().unwrap();
        // If a device is named and missing, the test fails.
        kind.device(0).unwrap();
        return Some((kind, alone));
    }
    let found = [DeviceKind::Cuda, DeviceKind::Wgpu]
        .into_iter()
        .find(|kind| kind.device(0).is_ok());
    if found.is_none() {
        eprintln!("skipped: this machine has no GPU that this build knows");
    }
    found.map(|kind| (kind, alone))
}

/// Ranks that share the GPU, with a long deadline, because the first run of a kernel compiles it.
pub fn ranks(size: usize, kind: DeviceKind) -> Threads {
    let device = kind.device(0).unwrap();
    Threads::new(size)
        .seed(3)
        .deadline(Duration::from_secs(120))
        .device(device)
}

pub fn cpu() -> Device {
    Device::flex().autodiff()
}
