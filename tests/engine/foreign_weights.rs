//! Checkpoints of other programs that do not fit: missing parameters, index entries without a tensor, long
//! names.

use crate::oracle::Mlp;
use burn::module::Module;
use burn::nn::LinearConfig;
use burn::tensor::Device;
use burn_dist::launch::Threads;
use burn_dist::weights::{Export, Name, Weights};
use burn_dist::{Error, Strategy};
use std::fs;
use std::path::Path;
use std::sync::Mutex;

fn mlp(blocks: usize) -> Mlp {
    Mlp::new(blocks, &Device::flex())
}

/// A folder with the weights of such a model, in several files if they are larger than `most`.
fn written(blocks: usize, most: u64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let export = Export::new().max_file_bytes(most);
    export.write(&mlp(blocks), folder.path()).unwrap();
    folder
}

#[test]
fn missing_body_weights_are_refused_on_every_rank_unless_allowed() {
    let folder = written(1, u64::MAX);
    let outcomes = Mutex::new(Vec::new());
    let load = |allowed: &[&str]| {
        outcomes.lock().unwrap().clear();
        let _ = Threads::new(2).run(|world| {
            let weights = Weights::open(folder.path())?.may_differ(allowed.iter().copied());
            let model = Mlp::new(3, &world.device());
            let outcome = Strategy::fsdp().shard_from(model, &world, &weights);
            let outcome = outcome.map(|(_, report)| report);
            outcomes.lock().unwrap().push(outcome.clone());
            outcome
        });
        outcomes.lock().unwrap().clone()
    };
    for allowed in [&[][..], &["first", "blocks.1.weight"]] {
        let all = load(allowed);
        assert_eq!(all.len(), 2);
        for outcome in all {
            let Err(error @ Error::Model { .. }) = outcome else {
                panic!("{outcome:?}");
            };
            let message = error.to_string();
            assert!(
                message.contains("more parameter(s) are not in"),
                "{message}"
            );
            assert!(message.contains("looked for blocks."), "{message}");
            assert!(message.contains("Weights::may_differ"), "{message}");
        }
    }
    for allowed in [&["blocks"][..], &["blocks.1", "blocks.2"]] {
        for outcome in load(allowed) {
            let report = outcome.unwrap();
            let missing = [
                "blocks.1.weight",
                "blocks.1.bias",
                "blocks.2.weight",
                "blocks.2.bias",
            ];
            assert_eq!(report.missing, missing);
        }
    }
    let alone = Weights::open(folder.path()).unwrap().apply(mlp(3));
    let message = alone.unwrap_err().to_string();
    assert!(message.starts_with("blocks.1.weight: "), "{message}");
    assert!(message.contains("and 3 more"), "{message}");
}

#[test]
fn a_message_lists_only_the_first_missing_parameters() {
    let folder = written(1, u64::MAX);
    let error = Weights::open(folder.path()).unwrap().apply(mlp(2000));
    let message = error.unwrap_err().to_string();
    assert!(message.contains("and 3997 more"), "{message}");
    assert!(message.len() < 1000, "{message}");
}

/// Names a tensor in the index, in a file of that name.
fn add_to_index(folder: &Path, tensor: &str, file: &str) {
    let path = folder.join("model.safetensors.index.json");
    let mut index: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    index["weight_map"][tensor] = file.into();
    fs::write(&path, index.to_string()).unwrap();
}

#[test]
fn index_entries_without_a_tensor_matter_only_if_needed() {
    let folder = written(2, 700);
    let names = fs::read_dir(folder.path()).unwrap();
    let names = names.map(|file| file.unwrap().file_name().into_string().unwrap());
    let first = names
        .filter(|name| name.starts_with("model-00001-of-"))
        .last();
    let first = first.unwrap();
    let file = first.as_str();
    // A tensor that its file lacks, and one whose file is missing; the model needs neither.
    add_to_index(folder.path(), "vision.rotary.inv_freq", file);
    add_to_index(folder.path(), "ema.weight", "ema.safetensors");
    let read = |blocks| Weights::open(folder.path()).unwrap().apply(mlp(blocks));
    let (_, report) = read(2).unwrap();
    assert!(
        report.missing.is_empty() && report.unused.is_empty(),
        "{report}"
    );
    let sharded = Threads::new(2).run(|world| {
        let weights = Weights::open(folder.path())?;
        let model = Mlp::new(2, &world.device());
        Ok(Strategy::fsdp().shard_from(model, &world, &weights)?.1)
    });
    assert!(sharded.is_ok(), "{sharded:?}");
    // If the model needs them, it is an error, whether they may be drawn anew or not.
    for (at, found) in [
        (file, "no such tensor"),
        ("none.safetensors", "no such file"),
    ] {
        add_to_index(folder.path(), "blocks.2.weight", at);
        for weights in [Weights::open(folder.path()).unwrap(), {
            Weights::open(folder.path()).unwrap().may_differ(["blocks"])
        }] {
            let message = weights.apply(mlp(3)).unwrap_err().to_string();
            assert!(message.contains("the tensor blocks.2.weight"), "{message}");
            assert!(message.contains(at) && message.contains(found), "{message}");
        }
    }
}

/// A tensor's name may be as long as its file.
#[test]
fn long_names_are_shortened_in_messages() {
    let folder = tempfile::tempdir().unwrap();
    let long = "n".repeat(5_000_000);
    let named = move |path: &str| Some(Name::new(format!("{long}{path}")));
    let model = LinearConfig::new(6, 4).init(&Device::flex());
    Export::new()
        .named(named)
        .write(&model, folder.path())
        .unwrap();
    let error = Weights::open(folder.path()).unwrap().apply(model.clone());
    let message = error.unwrap_err().to_string();
    assert!(message.contains("bytes in all"), "{}", message.len());
    assert!(message.len() < 10_000, "{}", message.len());
    assert_eq!(model.num_params(), 28);
}
