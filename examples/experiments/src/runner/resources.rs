//! What a run needs that this machine may not have.

use crate::matrix::{Device, Experiment};

/// Why an experiment cannot run on this machine, if so.
pub fn lacking(one: &Experiment) -> Option<String> {
    let (nodes, ranks) = (one.setup.nodes, one.setup.ranks_per_node);
    match one.recipe.device {
        Device::Cpu => None,
        _ if nodes > 1 => Some(format!("it needs {nodes} hosts with GPUs")),
        Device::Cuda => {
            let found = nvidia_gpus();
            (found < ranks).then(|| format!("it needs {ranks} NVIDIA GPUs, and there are {found}"))
        }
        // What a driver offers is known to the program alone, which says so.
        Device::Wgpu => None,
    }
}

/// The devices of NVIDIA's driver.
fn nvidia_gpus() -> usize {
    let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let is_gpu = |name: &str| {
        let number = name.strip_prefix("nvidia");
        number.is_some_and(|n| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit()))
    };
    entries
        .filter(|entry| is_gpu(&entry.file_name().to_string_lossy()))
        .count()
}
