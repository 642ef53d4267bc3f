//! The cores and GPUs of this host.

use super::super::variable::Environment;
use std::fs;

/// The numbers of cores and GPUs that ranks of this host may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hardware {
    pub(super) cores: usize,
    pub(super) gpus: usize,
}

impl Hardware {
    /// Counts what this process may use.
    pub(super) fn here(env: Environment<'_>) -> Self {
        let files = fs::read_dir("/dev").into_iter().flatten().flatten();
        let names = files.filter_map(|file| file.file_name().into_string().ok());
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            gpus: visible(env, names.filter(|name| is_gpu(name)).count()),
        }
    }
}

/// Whether a device file is a GPU's; `nvidiactl` and `nvidia-uvm` are not.
fn is_gpu(name: &str) -> bool {
    let number = name.strip_prefix("nvidia").unwrap_or_default();
    !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
}

/// How many of the host's GPUs the container runtime and CUDA show to a process.
fn visible(env: Environment<'_>, devices: usize) -> usize {
    let container = match env.variable("NVIDIA_VISIBLE_DEVICES") {
        None => devices,
        Some(list) => match list.value.as_str() {
            "all" => devices,
            "none" | "void" => 0,
            list => list.split(',').count().min(devices),
        },
    };
    // Set but empty hides all, so it must not pass for unset.
    let Some(list) = env.raw("CUDA_VISIBLE_DEVICES") else {
        return container;
    };
    // As CUDA reads it: the list ends before the first entry that is no device.
    let is_device = |entry: &&str| match entry.trim().parse::<i64>() {
        Ok(index) => usize::try_from(index).is_ok_and(|index| index < container),
        Err(_) => ["GPU-", "MIG-"]
            .iter()
            .any(|kind| entry.trim().starts_with(kind)),
    };
    match container {
        0 => 0,
        _ => list.split(',').take_while(is_device).count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(devices: usize, nvidia: Option<&str>, cuda: Option<&str>) -> usize {
        let lookup = |name: &str| match name {
            "NVIDIA_VISIBLE_DEVICES" => nvidia.map(String::from),
            "CUDA_VISIBLE_DEVICES" => cuda.map(String::from),
            _ => None,
        };
        visible(Environment::new(&lookup), devices)
    }

    #[test]
    fn gpus_that_a_process_may_use() {
        assert_eq!(count(8, None, None), 8);
        assert_eq!(count(8, Some("all"), Some("0,1,2,3")), 4);
        assert_eq!(count(8, Some("0,1"), None), 2);
        assert_eq!(count(2, Some("GPU-a,GPU-b,GPU-c"), None), 2);
        assert_eq!(count(8, Some("void"), None), 0);
        assert_eq!(count(8, None, Some("")), 0);
        assert_eq!(count(8, None, Some("-1")), 0);
        assert_eq!(count(8, None, Some("0, 1,-1,2")), 2);
        assert_eq!(count(2, None, Some("1,2")), 1);
        assert_eq!(count(8, None, Some("GPU-aa,MIG-bb")), 2);
        assert_eq!(count(0, None, Some("0")), 0);
    }

    #[test]
    fn device_files_of_gpus() {
        assert!(is_gpu("nvidia0") && is_gpu("nvidia12"));
        for other in [
            "nvidia",
            "nvidiactl",
            "nvidia-uvm",
            "nvidia-caps",
            "sda",
            "nvidia0p",
        ] {
            assert!(!is_gpu(other), "{other}");
        }
        assert!(Hardware::here(Environment::new(&|_| None)).cores > 0);
    }
}
