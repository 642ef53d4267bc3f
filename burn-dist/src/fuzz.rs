//! What bytes from outside reach, for the fuzzer in `burn-dist/fuzz`; not part of the library.

use crate::comm::mesh::frame::{self, Header};
use crate::launch::{Detected, Hostlist, tasks_on};

/// A frame between two ranks: its header, then the description of a collective.
pub fn frame(bytes: &[u8]) {
    if let Some((header, body)) = bytes.split_first_chunk::<28>() {
        let _ = Header::decode(header);
        let _ = frame::decode(body);
        // The fuzzer does not find these two by itself.
        let mut header = *header;
        header[..4].copy_from_slice(b"bdF1");
        let checksum = crc32fast::hash(&header[..24]).to_le_bytes();
        header[24..].copy_from_slice(&checksum);
        if let Err(problem) = Header::decode(&header) {
            assert!(!problem.contains("checksum") && !problem.contains("starts"));
        }
    }
    let _ = frame::decode(bytes);
}

/// What somebody sends to the rendezvous, or the rendezvous to a rank.
pub fn messages(bytes: &[u8]) {
    crate::rendezvous::fuzz(bytes);
}

/// SLURM's lists of hosts and of tasks.
pub fn hosts(text: &str) {
    if let Ok(hosts) = Hostlist::parse(text) {
        assert!(hosts.count() <= 65_536);
        assert_eq!(hosts.names().take(99).count(), hosts.count().min(99));
    }
    let _ = tasks_on(3, text);
}

/// What must hold for whatever is found in an environment.
pub fn check(found: &Detected) {
    let id = &found.identity;
    assert!(id.rank < id.world_size && id.local_rank < id.local_world_size);
    assert!(id.local_world_size <= id.world_size && !id.master_addr.is_empty());
    assert!(id.master_port > 0 || id.world_size == 1);
}
