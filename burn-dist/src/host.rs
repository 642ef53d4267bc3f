//! The name of this host, for messages and records.

/// The name of this host that the system has, or that the environment gives (`HOSTNAME`); `this host` without one.
///
/// ```
/// assert!(!burn_dist::host_name().is_empty());
/// ```
pub fn name() -> String {
    let system = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let name = system.or_else(|_| std::env::var("HOSTNAME"));
    match name.as_deref().map(str::trim) {
        Ok(name) if !name.is_empty() => name.to_string(),
        _ => "this host".to_string(),
    }
}
