//! How many cores other programs use while a run goes on.

use std::fs;

/// Time of all cores since the machine has started, and of this process's children, in ticks.
#[derive(Debug, Clone, Copy)]
pub(super) struct CoreTime {
    /// Of all cores, busy or not.
    all: u64,
    /// Of all cores, busy.
    busy: u64,
    /// Of the children that have ended, and of theirs.
    children: u64,
}

impl CoreTime {
    /// Now, where the system tells it.
    pub(super) fn now() -> Option<Self> {
        let system = fs::read_to_string("/proc/stat").ok()?;
        let own = fs::read_to_string("/proc/self/stat").ok()?;
        Self::of(&system, &own)
    }

    fn of(system: &str, own: &str) -> Option<Self> {
        // User, nice, system, idle, waiting for disks, interrupts (two), other guests. Guests of this machine are in user.
        let line = system.lines().next()?.strip_prefix("cpu ")?;
        let times: Vec<u64> = line
            .split_whitespace()
            .take(8)
            .filter_map(|n| n.parse().ok())
            .collect();
        let idle = times.get(3)? + times.get(4)?;
        let all: u64 = times.iter().sum();
        // The name may hold spaces; the fields behind it do not.
        let fields: Vec<&str> = own.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number)?.parse::<u64>().ok();
        Some(Self {
            all,
            busy: all.checked_sub(idle)?,
            children: field(13)? + field(14)?,
        })
    }

    /// The cores that others have used since, on the mean, of so many.
    pub(super) fn used_by_others(self, now: Self, cores: usize) -> Option<f64> {
        let all = now.all.checked_sub(self.all).filter(|all| *all > 0)?;
        let busy = now.busy.checked_sub(self.busy)?;
        let children = now.children.checked_sub(self.children)?;
        // Both are rounded, and not at the same moment.
        let others = busy.saturating_sub(children);
        Some(others as f64 / all as f64 * cores as f64)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_busy_and_no_child_is_of_others() {
        let at = |user: u64, idle: u64, children: u64| {
            let system = format!("cpu  {user} 0 10 {idle} 5 0 0 0 0 0\ncpu0 1 2 3\n");
            let own =
                format!("42 (a (name) of) S 1 42 42 0 -1 0 0 0 0 0 7 8 {children} 3 20 0 1 0");
            CoreTime::of(&system, &own).unwrap()
        };
        let (before, after) = (at(100, 100, 0), at(250, 150, 100));
        // 200 ticks of two cores, 150 of them busy, 100 of these by children.
        assert_eq!(before.used_by_others(after, 2), Some(0.5));
        assert_eq!(before.used_by_others(before, 2), None);
        assert!(CoreTime::of("", "").is_none());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_machine_tells() {
        assert!(CoreTime::now().unwrap().all > 0);
    }
}
