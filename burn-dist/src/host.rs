//! The name of this host, for messages.

/// The name that the system has, or that the environment gives.
pub(crate) fn name() -> String {
    let system = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let name = system.or_else(|_| std::env::var("HOSTNAME"));
    match name.as_deref().map(str::trim) {
        Ok(name) if !name.is_empty() => name.to_string(),
        _ => "this host".to_string(),
    }
}
