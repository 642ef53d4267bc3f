//! NVML by a library that stands in for the driver's, since no GPU need be there.

use crate::utilisation::gpus::Gpus;
use std::process::Command;

/// Three GPUs: one that tells everything, one that knows no memory of its own, one that has fallen off the bus.
const LIBRARY: &str = "
#include <stdint.h>
#include <string.h>
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    *device = (void *)(uintptr_t)(index + 1);
    return index == 2 ? 15 : 0;
}
int nvmlDeviceGetUtilizationRates(void *device, unsigned *rates) {
    rates[0] = 40 + (unsigned)(uintptr_t)device;
    rates[1] = 7;
    return 0;
}
int nvmlDeviceGetMemoryInfo_v2(void *device, unsigned long long *info) {
    if ((uintptr_t)device == 2) return 3;
    memcpy(info + 1, (unsigned long long[]){80ull << 30, 1 << 20, 70ull << 30, 10ull << 30}, 32);
    return 0;
}
";

/// The name of the variable by which the test starts itself with the library in its path.
const CHILD: &str = "BURN_DIST_LOG_TEST_NVML";

#[test]
fn gpus_are_sampled_and_those_that_do_not_answer_are_left_out() {
    if std::env::var_os(CHILD).is_some() {
        let mut gpus = Gpus::open().unwrap();
        for _ in 0..2 {
            for gpu in gpus.sample() {
                println!(
                    "{} {:?} {:?}",
                    gpu.gpu, gpu.gpu_percent, gpu.gpu_memory_bytes
                );
            }
        }
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("nvml.c");
    std::fs::write(&source, LIBRARY).unwrap();
    let library = folder.path().join("libnvidia-ml.so.1");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .status();
    if !built.is_ok_and(|built| built.success()) {
        return println!("skipped: there is no C compiler for the library that stands in for NVML");
    }
    let name =
        "utilisation::tests::nvml::gpus_are_sampled_and_those_that_do_not_answer_are_left_out";
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .env("LD_LIBRARY_PATH", folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let sample = "0 Some(41.0) Some(10737418240)\n1 Some(42.0) None\n";
    assert!(text.contains(&sample.repeat(2)), "{text}");
}

#[test]
fn a_host_without_nvml_has_no_gpus() {
    // On a host with one it has what it says; either way nothing fails.
    let gpus = Gpus::open().map(|mut gpus| gpus.sample());
    println!("{gpus:?}");
    for gpu in gpus.into_iter().flatten() {
        assert!(gpu.gpu_percent.is_none_or(|percent| percent <= 100.0));
    }
}
