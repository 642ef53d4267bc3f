//! The variables of this process, and two facts about it that are looked up like variables.

/// The process id of the parent process, which [`process_variable`] answers; no launcher sets it.
pub(super) const PARENT: &str = "BURN_DIST_PARENT_PID";
/// Set if this process has a terminal, as [`process_variable`] answers; no launcher sets it.
pub(super) const TERMINAL: &str = "BURN_DIST_TERMINAL";

/// A variable of this process, as [`detect`](super::detect) and
/// [`Flags`](crate::launch::Flags) look it up in a program.
pub fn process_variable(name: &str) -> Option<String> {
    // Not `var`: a value that is no Unicode shall be an error, not look as if it were not set.
    let value = std::env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    #[cfg(unix)]
    if name == PARENT && value.is_none() {
        return Some(std::os::unix::process::parent_id().to_string());
    }
    #[cfg(unix)]
    if name == TERMINAL && value.is_none() {
        // Only a process with a terminal can open this, wherever its output goes.
        return std::fs::File::open("/dev/tty").ok().map(|_| "1".into());
    }
    value
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_this_process_has_is_read() {
        assert!(process_variable("PATH").is_some());
        assert_eq!(process_variable("BURN_DIST_NO_SUCH_VARIABLE"), None);
        #[cfg(unix)]
        assert!(process_variable(PARENT).unwrap().parse::<u32>().is_ok());
    }
}
