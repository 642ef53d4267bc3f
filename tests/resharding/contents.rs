//! A reader of saves that knows nothing but `docs/saves.md`, the oracle of what a save holds.

use safetensors::SafeTensors;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Type, shape and elements of each tensor, by its name in the files; and what else is global.
#[derive(Clone, PartialEq)]
pub struct Contents {
    pub tensors: BTreeMap<String, (String, Vec<usize>, Vec<u8>)>,
    /// The optimizers' numbers, and the counts of forwards, by model.
    pub numbers: BTreeMap<String, (Value, Value)>,
    pub states: Value,
}

/// The folder of the latest save of a run.
pub fn latest(run: &Path) -> PathBuf {
    let name = std::fs::read_to_string(run.join("latest")).unwrap();
    run.join(name.trim())
}

pub fn manifest(save: &Path) -> Value {
    let text = std::fs::read_to_string(save.join("manifest.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

impl Contents {
    /// Of the latest save of a run.
    pub fn of(run: &Path) -> Self {
        Self::of_save(&latest(run))
    }

    /// Fails with the first thing that differs.
    #[track_caller]
    pub fn expect(&self, other: &Self, case: &str) {
        let names = self.tensors.keys().chain(other.tensors.keys());
        for name in names {
            let (found, wanted) = (self.tensors.get(name), other.tensors.get(name));
            let facts =
                |t: Option<&(String, Vec<usize>, Vec<u8>)>| t.map(|t| (t.0.clone(), t.1.clone()));
            assert_eq!(facts(found), facts(wanted), "{case}: {name}");
            assert!(found == wanted, "{case}: {name} has other elements");
        }
        assert_eq!(self.numbers, other.numbers, "{case}");
        assert_eq!(self.states, other.states, "{case}");
    }

    pub fn of_save(save: &Path) -> Self {
        let manifest = manifest(save);
        let files = manifest["files"].as_array().unwrap().iter();
        let files: Vec<Vec<u8>> = files
            .map(|file| {
                let bytes = std::fs::read(save.join(file["name"].as_str().unwrap())).unwrap();
                let sums = bytes.chunks(1 << 20).map(crc32fast::hash);
                let sums: String = sums.map(|sum| format!("{sum:08x}")).collect();
                assert_eq!(sums, file["sums"]);
                bytes
            })
            .collect();
        let mut contents = Self {
            tensors: BTreeMap::new(),
            numbers: BTreeMap::new(),
            states: manifest["states"].clone(),
        };
        for (name, model) in manifest["models"].as_object().unwrap() {
            let optimizer = &model["optimizer"];
            let numbers = (optimizer["scalars"].clone(), model["forwards"].clone());
            contents.numbers.insert(name.clone(), numbers);
            for (kind, listed) in [("models", model), ("optimizers", optimizer)] {
                for tensor in listed["tensors"].as_array().into_iter().flatten() {
                    let own = tensor["name"].as_str().unwrap();
                    let full = format!("{kind}/{name}/{own}");
                    contents
                        .tensors
                        .insert(full.clone(), read(tensor, &full, &files));
                }
            }
        }
        contents
    }
}

fn read(tensor: &Value, name: &str, files: &[Vec<u8>]) -> (String, Vec<usize>, Vec<u8>) {
    let shape: Vec<usize> = serde_json::from_value(tensor["shape"].clone()).unwrap();
    let pieces: Vec<[usize; 3]> = serde_json::from_value(tensor["pieces"].clone()).unwrap();
    let (mut bytes, mut next) = (Vec::new(), 0);
    for [file, start, end] in pieces {
        assert_eq!(start, next, "{name}");
        let file = SafeTensors::deserialize(&files[file]).unwrap();
        let piece = file.tensor(name).unwrap();
        assert_eq!(piece.shape(), [end - start], "{name}");
        bytes.extend_from_slice(piece.data());
        next = end;
    }
    assert_eq!(next, shape.iter().product::<usize>(), "{name}");
    (tensor["dtype"].as_str().unwrap().to_string(), shape, bytes)
}
