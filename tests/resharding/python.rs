//! The reader in Python, where `BURN_DIST_PYTHON` names one with numpy and safetensors.

use crate::contents::Contents;
use crate::model::{ranks, save, start, train};
use burn_dist::Strategy;
use std::collections::BTreeMap;
use std::process::Command;

/// Prints the checksum of each tensor's elements.
const PROGRAM: &str = "
import sys, zlib
sys.path.insert(0, sys.argv[1])
import read_save
for name, array in read_save.load(sys.argv[2]).items():
    print(name, list(array.shape), zlib.crc32(array.tobytes()), sep='|')
";

#[test]
fn the_reader_in_python_reads_what_ranks_have_written() {
    let Some(python) = std::env::var_os("BURN_DIST_PYTHON") else {
        return println!("skipped: BURN_DIST_PYTHON names no Python with numpy and safetensors");
    };
    for (size, strategy) in [
        (1, Strategy::single()),
        (3, Strategy::fsdp()),
        (2, Strategy::ddp()),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let run = ranks(size).run(|world| {
            let run = train(&world, start(&world, &strategy)?, 0..2)?;
            save(&world, folder.path(), &run, 2)
        });
        run.unwrap();
        let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts");
        let mut command = Command::new(&python);
        let read = command
            .args(["-c", PROGRAM, scripts])
            .arg(folder.path())
            .output()
            .unwrap();
        let text = String::from_utf8(read.stdout).unwrap();
        assert!(
            read.status.success(),
            "{}",
            String::from_utf8_lossy(&read.stderr)
        );
        let found: BTreeMap<&str, &str> = text
            .lines()
            .map(|line| line.split_once('|').unwrap())
            .collect();
        let contents = Contents::of(folder.path());
        assert_eq!(found.len(), contents.tensors.len());
        for (name, (_, shape, bytes)) in &contents.tensors {
            let expected = format!("{shape:?}|{}", crc32fast::hash(bytes));
            assert_eq!(found[name.as_str()], expected, "{name}");
        }
    }
}
