//! Pretrained weights and exports of both examples.

use super::run::{Ended, Running, row};
use std::path::Path;

fn run(example: &str, args: &str, folders: &[(&str, &Path)]) -> Ended {
    let args = format!("--per-gpu-batch 16 {args}");
    Running::start(example, &args, folders).end()
}

#[test]
fn exported_weights_start_another_run() {
    for (example, parameters) in [("vit_fsdp", 72), ("bert_fsdp", 41)] {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path();
        let args = "--steps 12 --ranks 2";
        let first = run(example, args, &[("--export", left)]).succeeded();
        assert!(left.join("config.json").is_file() && left.join("model.safetensors").is_file());
        // Other ranks, another strategy, and no step: the accuracy is that of the export.
        let args = "--steps 0 --ranks 3 --strategy zero2";
        let ended = run(example, args, &[("--from", left)]);
        let said = format!("{parameters} of {parameters} parameters from ");
        assert!(ended.stderr.contains(&said), "{}", ended.stderr);
        let second = ended.succeeded();
        assert_eq!(row(&second, "test accuracy"), row(&first, "test accuracy"));
    }
}

#[test]
fn missing_weights_are_a_short_error() {
    let vit = tempfile::tempdir().unwrap();
    std::fs::write(vit.path().join("config.json"), r#"{"model_type": "vit"}"#).unwrap();
    let bert = tempfile::tempdir().unwrap();
    std::fs::write(bert.path().join("config.json"), r#"{"model_type": "bert"}"#).unwrap();
    let vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n";
    std::fs::write(bert.path().join("vocab.txt"), vocabulary).unwrap();
    // A line would be logged if the files left the case open.
    let settings = r#"{"do_lower_case": true}"#;
    std::fs::write(bert.path().join("tokenizer_config.json"), settings).unwrap();
    let message = |example, from: &Path| run(example, "", &[("--from", from)]).failed();
    for (example, own) in [("vit_fsdp", &vit), ("bert_fsdp", &bert)] {
        let nowhere = message(example, Path::new("/no/such/folder"));
        assert!(nowhere.contains("no folder here"), "{nowhere}");
        let empty = message(example, own.path());
        assert!(empty.contains("model.safetensors"), "{empty}");
    }
    let other = message("vit_fsdp", bert.path());
    assert!(other.contains("`model_type` is \"bert\""), "{other}");
}
