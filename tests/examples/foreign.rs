//! Both examples with files of other programs that do not fit exactly.

use super::run::{Ended, Running, row};
use safetensors::{Dtype, SafeTensors, serialize_to_file, tensor::TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn run(example: &str, args: &str, folders: &[(&str, &Path)]) -> Ended {
    let args = format!("--per-gpu-batch 16 {args}");
    Running::start(example, &args, folders).end()
}

/// The export of a short run.
fn left(example: &str) -> (TempDir, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let ended = run(example, "--steps 12", &[("--export", folder.path())]);
    (folder, ended.succeeded())
}

/// A run that begins with that export and does not train.
fn looked_at(example: &str, folder: &Path) -> Ended {
    run(example, "--steps 0", &[("--from", folder)])
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn tensors(folder: &Path) -> Tensors {
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let tensor =
        |view: &TensorView<'_>| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
    let all = read
        .iter()
        .map(|(name, view)| (name.to_owned(), tensor(&view)));
    all.collect()
}

fn write_tensors(folder: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
        (name.as_str(), view)
    });
    serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

/// The rows of a classifier's tensors in this order; fewer, if the order is shorter.
fn reorder(folder: &Path, order: &[usize]) {
    let mut all = tensors(folder);
    for name in ["classifier.weight", "classifier.bias"] {
        let (_, shape, bytes) = all.get_mut(name).unwrap();
        let row = bytes.len() / shape[0];
        *bytes = order
            .iter()
            .flat_map(|at| bytes[at * row..][..row].to_vec())
            .collect();
        shape[0] = order.len();
    }
    write_tensors(folder, &all);
}

fn config(folder: &Path) -> Value {
    let text = fs::read_to_string(folder.join("config.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn set(folder: &Path, field: &str, value: Value) {
    let mut config = config(folder);
    config[field] = value;
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let labels = config(folder)["id2label"].clone();
    let name = |at: usize| labels[at.to_string()].as_str().unwrap().to_owned();
    (0..labels.as_object().unwrap().len()).map(name).collect()
}

fn name(folder: &Path, names: &[String]) {
    let labels = names.iter().enumerate();
    let labels: BTreeMap<_, _> = labels.map(|(at, name)| (at.to_string(), name)).collect();
    set(folder, "id2label", json!(labels));
}

/// Each class and the bytes of its row.
fn by_name(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let all = tensors(folder);
    let (_, shape, weight) = &all["classifier.weight"];
    let row = weight.len() / shape[0];
    let bias = &all["classifier.bias"].2;
    let whole = |at: usize| [&weight[at * row..][..row], &bias[at * 4..][..4]].concat();
    let names = names(folder).into_iter().enumerate();
    names.map(|(at, name)| (name, whole(at))).collect()
}

const EXAMPLES: [&str; 2] = ["vit_fsdp", "bert_fsdp"];

#[test]
fn classes_in_another_order_are_matched_by_name() {
    for example in EXAMPLES {
        let (folder, trained) = left(example);
        let folder = folder.path();
        let (usual, rows) = (names(folder), by_name(folder));
        assert!(!usual[0].starts_with("LABEL_"), "{usual:?}");
        // Another order, in which no class keeps its number.
        let order: Vec<usize> = (0..usual.len()).map(|at| (at + 1) % usual.len()).collect();
        reorder(folder, &order);
        let other: Vec<_> = order.iter().map(|at| usual[*at].to_uppercase()).collect();
        name(folder, &other);
        let again = tempfile::tempdir().unwrap();
        let folders = [("--from", folder), ("--export", again.path())];
        let ended = run(example, "--steps 0 --ranks 3", &folders);
        let said = ended
            .stderr
            .matches("numbered as the checkpoint numbers them")
            .count();
        assert_eq!(said, 1, "{}", ended.stderr);
        let output = ended.succeeded();
        assert_eq!(
            row(&output, "test accuracy"),
            row(&trained, "test accuracy")
        );
        // The export has that order, and each name its row.
        assert_eq!(names(again.path()), other);
        let upper = rows
            .into_iter()
            .map(|(name, row)| (name.to_uppercase(), row));
        assert_eq!(by_name(again.path()), upper.collect());
    }
}

/// A save holds the model with its classes numbered as the checkpoint numbered them.
#[test]
fn resuming_with_other_class_numbers_is_refused() {
    for example in EXAMPLES {
        let (folder, _) = left(example);
        let folder = folder.path();
        let mut other = names(folder);
        other.reverse();
        let order: Vec<usize> = (0..other.len()).rev().collect();
        reorder(folder, &order);
        name(folder, &other);
        let save = tempfile::tempdir().unwrap();
        let saves = ("--save", save.path());
        let begun = [("--from", folder), saves];
        run(example, "--epochs 1 --steps 2", &begun).succeeded();
        let message = run(example, "--epochs 1 --steps 4 --resume", &[saves]).failed();
        let expected = "classes of the save, by number: expected ";
        assert!(message.contains(expected), "{message}");
        assert!(message.contains("same --from"), "{message}");
        run(example, "--epochs 1 --steps 4 --resume", &begun).succeeded();
    }
}

#[test]
fn classes_of_other_names_keep_their_order_with_a_warning() {
    let (folder, trained) = left("bert_fsdp");
    let accuracy = |ended: Ended| row(&ended.succeeded(), "test accuracy").to_owned();
    let usual = names(folder.path());
    let other = ["one", "two", "three", "four"].map(String::from);
    name(folder.path(), &other);
    let ended = looked_at("bert_fsdp", folder.path());
    let lines = ended
        .stderr
        .lines()
        .filter(|line| line.contains("other names"));
    let lines: Vec<_> = lines.collect();
    assert_eq!(lines.len(), 1, "{}", ended.stderr);
    assert!(lines[0].contains("WARN"), "{}", lines[0]);
    for name in usual.iter().chain(&other) {
        assert!(lines[0].contains(name), "{}", lines[0]);
    }
    assert_eq!(accuracy(ended), row(&trained, "test accuracy"));
    // The default names LABEL_0 and so on are not compared.
    let nameless: Vec<_> = (0..4).map(|at| format!("LABEL_{at}")).collect();
    name(folder.path(), &nameless);
    let ended = looked_at("bert_fsdp", folder.path());
    assert!(!ended.stderr.contains("classes"), "{}", ended.stderr);
    assert_eq!(accuracy(ended), row(&trained, "test accuracy"));
    // Another number is another classifier.
    name(folder.path(), &other[..3]);
    reorder(folder.path(), &[0, 1, 2]);
    let ended = looked_at("bert_fsdp", folder.path());
    let said = "has 3 classes and the data 4: the head is a new one";
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
    ended.succeeded();
}

#[test]
fn missing_body_weights_are_refused_unless_allowed() {
    for (example, tensor, path) in [
        (
            "vit_fsdp",
            "vit.encoder.layer.1.output.dense.weight",
            "blocks.1.mlp.linear_outer.weight",
        ),
        (
            "bert_fsdp",
            "bert.encoder.layer.1.output.dense.weight",
            "bert.blocks.1.mlp.linear_outer.weight",
        ),
    ] {
        let (folder, _) = left(example);
        let mut all = tensors(folder.path());
        assert!(all.remove(tensor).is_some());
        write_tensors(folder.path(), &all);
        let message = looked_at(example, folder.path()).failed();
        assert!(message.contains(&format!("{path}: ")), "{message}");
        assert!(
            message.contains(tensor) && message.contains("more parameter(s) are not in"),
            "{message}"
        );
        let ended = run(
            example,
            "--steps 0 --allow-missing",
            &[("--from", folder.path())],
        );
        assert!(
            ended.stderr.contains("drawn anew, not in the files (1)"),
            "{}",
            ended.stderr
        );
        ended.succeeded();
    }
}

#[test]
fn invalid_sizes_are_one_short_sentence() {
    let (folder, _) = left("bert_fsdp");
    let usual = config(folder.path());
    let cases = [
        (
            "type_vocab_size",
            json!(1),
            "type_vocab_size in config.json): expected at most 1",
        ),
        (
            "num_hidden_layers",
            json!(1_000_000_000_000_u64),
            "`num_hidden_layers` is 1000000000000: it must be at most 4096",
        ),
        (
            "num_hidden_layers",
            json!(4000),
            "looked for bert.encoder.layer.2.",
        ),
        (
            "hidden_size",
            json!(1_u64 << 40),
            "`hidden_size` is 1099511627776: it must be at most 16777216",
        ),
        (
            "hidden_act",
            json!("x".repeat(20_000_000)),
            "(20000002 bytes in all)",
        ),
    ];
    for (field, value, expected) in cases {
        fs::write(folder.path().join("config.json"), usual.to_string()).unwrap();
        set(folder.path(), field, value);
        let message = looked_at("bert_fsdp", folder.path()).failed();
        assert!(message.contains(expected), "{field}: {}", message.len());
        assert!(message.len() < 5000, "{field}: {}", message.len());
    }
    let message = run("bert_fsdp", "--vocab 99999999999999", &[]).failed();
    assert!(
        message.contains("expected at most 1048576 word pieces, found 99999999999999"),
        "{message}"
    );
}

#[test]
fn an_own_image_size_that_the_weights_are_not_for_is_refused() {
    let (folder, _) = left("vit_fsdp");
    set(folder.path(), "image_size", json!(48));
    let message = looked_at("vit_fsdp", folder.path()).failed();
    let expected = "error: image_size in config.json: expected 32, for vit.embeddings.position_embeddings \
                    has 65 rows, found 48, which needs 145 rows: correct it; another size for the images is \
                    --image-size";
    assert_eq!(message, expected);
}

/// As a file of a masked language model has it: no classifier, and no pooler.
#[test]
fn a_checkpoint_without_a_classifier_may_lack_the_pooler() {
    let (folder, _) = left("bert_fsdp");
    let mut all = tensors(folder.path());
    all.retain(|name, _| !name.contains("pooler"));
    write_tensors(folder.path(), &all);
    let message = looked_at("bert_fsdp", folder.path()).failed();
    assert!(message.contains("pooler.weight: "), "{message}");
    all.retain(|name, _| !name.contains("classifier"));
    write_tensors(folder.path(), &all);
    let ended = looked_at("bert_fsdp", folder.path());
    let said = "drawn anew, not in the files (4)";
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
    ended.succeeded();
}

#[test]
fn the_case_of_an_undecided_vocabulary_is_logged() {
    let folder = tempfile::tempdir().unwrap();
    let letters: Vec<String> = ('a'..='z').map(|c| format!("{c}\n##{c}\n")).collect();
    let pieces = format!(
        "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nBank\n{}",
        letters.concat()
    );
    fs::write(folder.path().join("vocab.txt"), pieces).unwrap();
    let run = |args: &str| {
        run(
            "bert_fsdp",
            &format!("--steps 0 {args}"),
            &[("--tokenizer", folder.path())],
        )
    };
    let said = |ended: Ended| {
        let lines = ended
            .stderr
            .lines()
            .filter(|line| line.contains("is read as"));
        let lines: Vec<_> = lines.map(String::from).collect();
        ended.succeeded();
        lines
    };
    let lines = said(run(""));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("for it has \"Bank\""), "{lines:?}");
    for lower in ["true", "false"] {
        assert!(said(run(&format!("--lower-case {lower}"))).is_empty());
    }
    let message = Running::start("bert_fsdp", "--lower-case false", &[])
        .end()
        .failed();
    assert!(
        message.contains("--lower-case: expected a vocab.txt to read"),
        "{message}"
    );
}
