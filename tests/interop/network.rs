//! Two hosts: network namespaces connected by a virtual cable, or two names for this host.

use super::process::{command, installed};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Two hosts that reach each other.
pub(crate) struct Hosts {
    /// `ip` and the namespaces' names; without them both hosts are this one.
    namespaces: Option<(PathBuf, [String; 2])>,
    /// The first host's address, as the second one reaches it.
    pub(crate) address: &'static str,
}

impl Hosts {
    /// Two hosts, if this process may create namespaces; else two names for this host, and a note.
    pub(crate) fn new() -> Self {
        Self::apart().unwrap_or_else(|why| {
            eprintln!("note: both hosts are this one, on loopback addresses: {why}");
            Self {
                namespaces: None,
                address: "127.0.0.2",
            }
        })
    }

    /// Two hosts, or the reason why they cannot be created.
    pub(crate) fn apart() -> Result<Self, String> {
        static HOSTS: AtomicUsize = AtomicUsize::new(0);
        let ip = installed("ip").ok_or("the program ip is not installed")?;
        let number = HOSTS.fetch_add(1, Ordering::Relaxed);
        let name = |end| format!("burn-dist-{}-{number}{end}", std::process::id());
        let names @ [a, b] = &["a", "b"].map(name);
        // Dropped on the way out if a step fails.
        let hosts = Self {
            namespaces: Some((ip.clone(), names.clone())),
            address: "10.77.0.1",
        };
        for line in [
            format!("netns add {a}"),
            format!("netns add {b}"),
            format!("-n {a} link add cable type veth peer name cable netns {b}"),
            format!("-n {a} address add 10.77.0.1/24 dev cable"),
            format!("-n {b} address add 10.77.0.2/24 dev cable"),
            format!("-n {a} link set lo up"),
            format!("-n {b} link set lo up"),
            format!("-n {a} link set cable up"),
            format!("-n {b} link set cable up"),
        ] {
            let made = Command::new(&ip).args(line.split_whitespace()).output();
            let made = made.map_err(|e| e.to_string())?;
            if !made.status.success() {
                let why = String::from_utf8_lossy(&made.stderr);
                return Err(format!("ip {line}: {}", why.trim()));
            }
        }
        Ok(hosts)
    }

    /// A command on one of the hosts, with a host name of its own.
    pub(crate) fn command(&self, host: usize, program: PathBuf, variables: &str) -> Command {
        let variables = format!("BURN_DIST_HOST_ID=host-{host} {variables}");
        match &self.namespaces {
            None => command(program, &variables),
            Some((ip, names)) => {
                let mut command = command(ip, &variables);
                command.args(["netns", "exec", &names[host]]).arg(program);
                command
            }
        }
    }

    /// Bytes that a host has sent: over loopback, and over the cable.
    pub(crate) fn sent(&self, host: usize) -> Option<[u64; 2]> {
        self.namespaces.as_ref()?;
        let mut cat = self.command(host, "cat".into(), "");
        let text = cat.arg("/proc/net/dev").output().unwrap().stdout;
        let text = String::from_utf8(text).unwrap();
        let of = |name: &str| {
            let mut lines = text.lines();
            let numbers = lines
                .find_map(|line| line.trim().strip_prefix(name))
                .unwrap();
            numbers.split_whitespace().nth(8).unwrap().parse().unwrap()
        };
        Some(["lo:", "cable:"].map(of))
    }

    /// Shapes what both hosts send over the cable, with a queueing discipline in `tc`'s words.
    pub(crate) fn shape(&self, qdisc: &str) -> Result<(), String> {
        let tc = installed("tc").ok_or("the program tc is not installed")?;
        let names = self.namespaces.iter().flat_map(|(_, names)| names);
        for name in names {
            let line = format!("-n {name} qdisc replace dev cable root {qdisc}");
            let made = Command::new(&tc).args(line.split_whitespace()).output();
            let made = made.map_err(|e| e.to_string())?;
            if !made.status.success() {
                let why = String::from_utf8_lossy(&made.stderr);
                return Err(format!("tc {line}: {}", why.trim()));
            }
        }
        Ok(())
    }

    /// Lets both hosts send as fast as they can again.
    pub(crate) fn unshape(&self) {
        let names = self.namespaces.iter().flat_map(|(_, names)| names);
        for name in names {
            let line = format!("-n {name} qdisc delete dev cable root");
            let done = Command::new("tc").args(line.split_whitespace()).status();
            assert!(done.unwrap().success(), "tc {line}");
        }
    }

    /// Takes the second host's end of the cable down.
    pub(crate) fn cut(&self) {
        let (ip, names) = self.namespaces.as_ref().unwrap();
        let line = format!("-n {} link set cable down", names[1]);
        let done = Command::new(ip).args(line.split_whitespace()).status();
        assert!(done.unwrap().success());
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let Some((ip, names)) = &self.namespaces else {
            return;
        };
        for name in names {
            let mut delete = Command::new(ip);
            delete.args(["netns", "delete", name]);
            // It may not have been created.
            let _ = delete.stderr(Stdio::null()).status();
        }
    }
}
