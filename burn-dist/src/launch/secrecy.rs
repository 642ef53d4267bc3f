//! A warning if a world of several hosts can be joined by any program.

use super::identity::Identity;
use super::settings::Settings;
use std::io::Write;

/// A secret with fewer bytes can be guessed: whoever calls rank 0 gets a proof of it to try guesses
/// on, as many and as fast as it likes.
const MIN_SECRET_BYTES: usize = 16;

/// Warns once, on rank 0 of a world of several hosts, if its secret is missing or can be guessed.
pub(super) fn check(identity: &Identity, settings: &Settings) {
    if let Some(line) = warning(identity, settings.secret_length) {
        say(&line);
    }
}

/// On one host rank 0 listens on a loopback address alone.
fn warning(identity: &Identity, length: Option<usize>) -> Option<String> {
    let Identity {
        rank,
        world_size,
        local_world_size,
        master_addr,
        master_port,
        ..
    } = identity;
    if *rank != 0 || local_world_size == world_size {
        return None;
    }
    let problem = match length {
        None => "BURN_DIST_SECRET is not set (a job's number is no secret)".to_string(),
        Some(length) if length < MIN_SECRET_BYTES => {
            format!("BURN_DIST_SECRET has {length} bytes, which can be guessed")
        }
        Some(_) => return None,
    };
    Some(format!(
        "the ranks are on several hosts, and {problem}: whoever reaches {master_addr} port \
         {master_port} can join this run, end it, or change what it learns; give all ranks one \
         random text, such as BURN_DIST_SECRET=$(openssl rand -hex 16)"
    ))
}

/// Warns, also in a program that has set up no logger.
fn say(line: &str) {
    if log::max_level() == log::LevelFilter::Off {
        // Nobody may read it.
        let _ = writeln!(std::io::stderr(), "warning: {line}");
    } else {
        log::warn!("{line}");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn rank(rank: usize, local_world_size: usize) -> Identity {
        Identity {
            rank,
            world_size: 4,
            local_rank: rank % local_world_size,
            local_world_size,
            master_addr: "n1".into(),
            master_port: 29500,
        }
    }

    #[test]
    fn only_rank_0_of_several_hosts_without_a_secret_warns() {
        let line = warning(&rank(0, 2), None).unwrap();
        for words in [
            "BURN_DIST_SECRET is not set",
            "n1 port 29500",
            "$(openssl rand",
        ] {
            assert!(line.contains(words), "{line}");
        }
        let line = warning(&rank(0, 2), Some(4)).unwrap();
        assert!(line.contains("has 4 bytes"), "{line}");
        assert_eq!(warning(&rank(0, 2), Some(MIN_SECRET_BYTES)), None);
        assert_eq!(warning(&rank(0, 4), None), None);
        assert_eq!(warning(&rank(2, 2), None), None);
    }
}
