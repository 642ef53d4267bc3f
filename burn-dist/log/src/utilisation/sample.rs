//! One sample, and its lines in `utilisation.csv`.

use serde::{Deserialize, Serialize};
use std::io::{self, Write};

/// What a process and its host did in the time since the sample before.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds since 1970.
    pub time: f64,
    /// Time on CPUs by time passed, of this process with all its threads: 100 is one core in full.
    pub cpu_percent: f64,
    /// Resident memory of this process.
    pub memory_bytes: u64,
    /// Bytes per second that the interfaces of the host sent, loopback and virtual ones among them.
    ///
    /// No system counts a process's own. What passes several interfaces, such as a bridge and a card, is counted at
    /// each; processes of one host report the same bytes. The numbers of `psutil.net_io_counters` are these.
    pub net_sent_bytes_per_s: f64,
    /// Bytes per second that they received, counted likewise.
    pub net_received_bytes_per_s: f64,
    /// The GPUs of the host, where they are sampled.
    pub gpus: Vec<GpuSample>,
}

/// What a GPU did, whichever process made it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GpuSample {
    /// Its number in NVML and `nvidia-smi`, which `CUDA_VISIBLE_DEVICES` does not change.
    pub gpu: u32,
    /// The share of NVML's last sample period, up to a second, in which a kernel ran; `None` where NVML cannot tell.
    pub gpu_percent: Option<f64>,
    /// Memory that all processes use on it; `None` where NVML cannot tell.
    pub gpu_memory_bytes: Option<u64>,
}

impl Sample {
    /// The first line of `utilisation.csv`.
    pub const HEADER: &str = "time,rank,host,cpu_percent,memory_bytes,net_sent_bytes_per_s,\
        net_received_bytes_per_s,gpu,gpu_percent,gpu_memory_bytes";

    /// Appends its lines to a CSV file: one for each GPU, with the process's columns repeated; without GPUs one whose
    /// last three columns are empty.
    ///
    /// The rank is the process's, the first of several, and stands beside GPUs too, though they are the host's.
    ///
    /// ```
    /// use burn_dist_log::Sample;
    ///
    /// let mut lines = Vec::new();
    /// Sample::default().write_csv(&mut lines, 3, "node 1, rack 2")?;
    /// assert_eq!(lines, b"0.000,3,\"node 1, rack 2\",0.0,0,0,0,,,\n");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// Those of `to`.
    pub fn write_csv(&self, to: &mut impl Write, rank: usize, host: &str) -> io::Result<()> {
        let process = format!(
            "{:.3},{rank},{},{:.1},{},{:.0},{:.0}",
            self.time,
            quoted(host),
            self.cpu_percent,
            self.memory_bytes,
            self.net_sent_bytes_per_s,
            self.net_received_bytes_per_s,
        );
        if self.gpus.is_empty() {
            writeln!(to, "{process},,,")?;
        }
        for gpu in &self.gpus {
            let percent = gpu.gpu_percent.map(|percent| format!("{percent:.0}"));
            let bytes = gpu.gpu_memory_bytes.map(|bytes| bytes.to_string());
            let (percent, bytes) = (percent.unwrap_or_default(), bytes.unwrap_or_default());
            writeln!(to, "{process},{},{percent},{bytes}", gpu.gpu)?;
        }
        Ok(())
    }
}

/// A field as RFC 4180 has it: in quotes where it holds what else would end it.
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        return format!("\"{}\"", field.replace('"', "\"\""));
    }
    field.into()
}
