//! A warning if ranks of other hosts save to folders that rank 0 cannot see.

use crate::error::Result;
use crate::warning::warn;
use crate::world::World;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Warns once, on rank 0, if the first rank of another host writes to a folder of its own under this path: a save
/// is then spread over the hosts, and lost with any of them. Collective.
///
/// Each of those ranks makes a small file in the folder, which must exist on rank 0's host, and removes it again.
///
/// # Errors
/// What a collective returns. That a file cannot be made is none: saving will say so.
pub(super) fn warn_of_private_folders(world: &World, folder: &Path) -> Result<()> {
    let private = private_folders(world, folder, &crate::host::name())?;
    if !private.is_empty() {
        warn(format_args!(
            "rank 0 does not see in {} what is written there on {}: each host keeps the files of its own ranks, \
             and a save cannot be loaded without all of them; give --save a folder that all hosts share",
            folder.display(),
            private.join(", ")
        ));
    }
    Ok(())
}

/// The hosts whose folder is not rank 0's; empty on the other ranks. `host` is this rank's.
fn private_folders(world: &World, folder: &Path, host: &str) -> Result<Vec<String>> {
    let names = world.gather(&host.to_owned())?;
    let mut firsts = BTreeMap::new();
    for (rank, name) in names.iter().enumerate().rev() {
        firsts.insert(name, rank);
    }
    firsts.remove(&names[0]);
    let number = world.broadcast(0, &rand::random::<u64>())?;
    let file = |rank: usize| folder.join(format!("seen-from-rank-0-{number:016x}-{rank}"));
    let mine = firsts.values().any(|rank| *rank == world.rank());
    let mine: Option<PathBuf> = mine.then(|| file(world.rank()));
    if let Some(mine) = &mine {
        let made = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(mine, ""));
        let _ = made.inspect_err(|e| log::debug!("{}: {e}", mine.display()));
    }
    let label = "shared folder".into();
    world.comm().barrier(&label)?;
    let mut private = Vec::new();
    if world.is_chief() {
        // A network file system may keep an old list of names for a while; it is read again by this.
        drop(std::fs::read_dir(folder));
        let unseen = firsts.iter().filter(|(_, rank)| !file(**rank).exists());
        private.extend(unseen.map(|(name, _)| (*name).clone()));
    }
    world.comm().barrier(&label)?;
    if let Some(mine) = &mine {
        let _ = std::fs::remove_file(mine);
    }
    Ok(private)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::launch::Threads;

    #[test]
    fn folders_that_rank_0_does_not_see_are_named_by_their_hosts() {
        let shared = tempfile::tempdir().unwrap();
        let own = tempfile::tempdir().unwrap();
        let found = |folders: [&Path; 4]| {
            let hosts = ["a", "b", "c", "b"];
            let all = Threads::new(4).run(|world| {
                let rank = world.rank();
                private_folders(&world, folders[rank], hosts[rank])
            });
            let left = std::fs::read_dir(&shared).unwrap().count();
            assert_eq!(left + std::fs::read_dir(&own).unwrap().count(), 0);
            let all = all.unwrap();
            assert!(all[1..].iter().all(Vec::is_empty));
            all[0].clone()
        };
        let (shared, own) = (shared.path(), own.path());
        assert_eq!(found([shared; 4]), [""; 0]);
        assert_eq!(found([shared, own, shared, own]), ["b"]);
        assert_eq!(found([shared, own, own, own]), ["b", "c"]);
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let all = Threads::new(2).run(|world| {
            let host = ["a", "b"][world.rank()];
            private_folders(&world, &file, host)
        });
        assert_eq!(all.unwrap()[0], ["b"]);
        Threads::new(2)
            .run(|world| warn_of_private_folders(&world, &file))
            .unwrap();
    }
}
