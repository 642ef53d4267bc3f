//! Checkpoints of Python's transformers: theirs give the same outputs here, and exports equal theirs.
//!
//! `checkpoints` holds small files that `checkpoints.py` made once. Where `BURN_DIST_PYTHON` names a
//! Python with torch and transformers, files go both ways through the versions installed there.

mod models_of;

use burn_dist::weights::{Adapters, Export, Report, Weights};
use burn_dist::{Destination, Strategy, launch::Threads};
use burn_dist_models::Vit;
use burn_dist_models::bert::{Bert, BertClassifier, BertMaskedLm};
use burn_dist_models::hf::HfName;
use models_of::{Checked, Inputs};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn ours() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transformers")
}

/// Calls `$check::<Model>(folder)` for every checkpoint of a folder, each with its model.
macro_rules! each {
    ($check:ident, $folder:expr) => {
        let folder: PathBuf = $folder.into();
        for name in ["vit"] {
            $check::<Vit>(&folder.join(name));
        }
        for name in [
            "bert_classifier",
            "bert_divided",
            "bert_old_names",
            "distilbert_classifier",
        ] {
            $check::<BertClassifier>(&folder.join(name));
        }
        for name in ["bert_masked_lm", "bert_half", "distilbert_masked_lm"] {
            $check::<BertMaskedLm>(&folder.join(name));
        }
        $check::<Bert>(&folder.join("bert_encoder"));
    };
}

fn config(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("config.json")).unwrap()
}

fn open<M: Checked>(folder: &Path) -> Weights {
    let names = M::names(&config(folder));
    Weights::open(folder).unwrap().named(names)
}

/// The model on one device, with the weights of a folder.
fn load<M: Checked>(folder: &Path) -> (M, Report) {
    let model = M::of(&config(folder), &burn::tensor::Device::flex());
    open::<M>(folder).apply(model).unwrap()
}

fn assert_close(what: &Path, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{}", what.display());
    let largest = expected.iter().fold(1f32, |max, x| max.max(x.abs()));
    let pairs = found.iter().zip(expected);
    let difference = pairs.fold(0f32, |max, (a, b)| max.max((a - b).abs()));
    println!("{}: {difference:e} of {largest}", what.display());
    assert!(
        difference <= 2e-5 * largest,
        "{}: differs by {difference}",
        what.display()
    );
}

/// One device and two ranks give what transformers gave.
fn gives_the_same<M: Checked>(folder: &Path) {
    let inputs = Inputs::read(folder);
    let (model, report) = load::<M>(folder);
    assert!(report.missing.is_empty(), "{report}");
    let unused: Vec<_> = report.unused.iter().map(String::as_str).collect();
    if folder.ends_with("bert_encoder") {
        // Which a bare encoder does not have here.
        assert_eq!(unused, ["pooler.dense.bias", "pooler.dense.weight"])
    } else {
        assert!(unused.is_empty(), "{report}")
    }
    assert_close(folder, &model.outputs(&inputs), &inputs.expected);

    let sharded = Threads::new(2)
        .deadline(Duration::from_secs(30))
        .run(|world| {
            let model = M::of(&config(folder), &world.device());
            let (model, _) = Strategy::fsdp().shard_from(model, &world, &open::<M>(folder))?;
            let outputs = model.outputs(&inputs);
            Ok(outputs)
        })
        .unwrap();
    for outputs in sharded {
        assert_close(folder, &outputs, &inputs.expected);
    }
}

#[test]
fn checkpoints_of_transformers_give_the_same_outputs() {
    each!(gives_the_same, ours().join("checkpoints"));
}

/// Type, shape and bytes of every tensor of a folder's files.
fn tensors(folder: &Path) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for file in std::fs::read_dir(folder).unwrap().flatten() {
        let name = file.file_name().into_string().unwrap();
        if name.starts_with("model") && name.ends_with(".safetensors") {
            let bytes = std::fs::read(file.path()).unwrap();
            for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
                let dtype = format!("{:?}", view.dtype());
                let tensor = (dtype, view.shape().to_vec(), view.data().to_vec());
                assert!(
                    all.insert(name.to_owned(), tensor).is_none(),
                    "{name} twice"
                );
            }
        }
    }
    all
}

/// Checks that two ranks export the tensors that were read, and an equal configuration.
fn is_written_alike<M: Checked>(folder: &Path) {
    let target = tempfile::tempdir().unwrap();
    let divided = folder.join("model.safetensors.index.json").exists();
    export::<M>(folder, target.path(), if divided { 8000 } else { u64::MAX });
    let (mut theirs, ours) = (tensors(folder), tensors(target.path()));
    // What this program does not have, or writes otherwise.
    theirs.retain(|name, _| !name.starts_with("pooler"));
    if folder.ends_with("bert_half") || folder.ends_with("bert_old_names") {
        let names = |all: &BTreeMap<String, _>| all.len();
        assert_eq!(names(&theirs), names(&ours));
    } else {
        assert!(theirs == ours, "{}: other tensors", folder.display());
    }
    let index = target.path().join("model.safetensors.index.json");
    assert_eq!(index.exists(), divided);

    let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let (theirs, ours) = (read(&config(folder)), read(&M::config(&config(folder))));
    for (field, value) in ours.as_object().unwrap() {
        // Fields that later versions dropped, and a rate that theirs leaves to another field.
        let optional = ["position_embedding_type", "classifier_dropout", "qkv_bias"];
        if !optional.contains(&field.as_str()) || theirs.get(field).is_some_and(|v| !v.is_null()) {
            assert_eq!(&theirs[field], value, "{}: {field}", folder.display());
        }
    }
}

fn export<M: Checked>(folder: &Path, target: &Path, most: u64) {
    Threads::new(2)
        .deadline(Duration::from_secs(30))
        .run(|world| {
            let text = config(folder);
            let model = M::of(&text, &world.device());
            let (model, _) = Strategy::fsdp().shard_from(model, &world, &open::<M>(folder))?;
            let export = Export::new().named(M::names(&text)).max_file_bytes(most);
            world.export(&model, target, &export)
        })
        .unwrap();
    std::fs::write(target.join("config.json"), M::config(&config(folder))).unwrap();
}

#[test]
fn exports_equal_checkpoints_of_transformers() {
    each!(is_written_alike, ours().join("checkpoints"));
}

#[test]
fn a_classifier_for_any_labels_loads_an_encoder() {
    let folder = ours().join("checkpoints/bert_encoder");
    let text = config(&folder);
    let (bert, _) = burn_dist_models::BertConfig::from_hf(&text).unwrap();
    let device = burn::tensor::Device::flex();
    let classifier = bert.init_classifier(7, &device).unwrap();
    let headless = open::<BertClassifier>(&folder);
    let error = headless.apply(classifier.clone()).unwrap_err();
    assert!(error.to_string().contains("head.weight"), "{error}");
    let headless = headless.may_differ(["head"]);
    let (classifier, report) = headless.apply(classifier).unwrap();
    assert_eq!(report.missing, ["head.weight", "head.bias"]);
    assert!(report.unused.is_empty(), "{report}");
    let inputs = Inputs::read(&folder);
    assert_close(&folder, &classifier.bert.outputs(&inputs), &inputs.expected);

    // From another classifier, all but the labels.
    let folder = ours().join("checkpoints/bert_classifier");
    let fresh = || bert.init_classifier(7, &device).unwrap();
    let strict = open::<BertClassifier>(&folder).apply(fresh()).unwrap_err();
    assert!(strict.to_string().contains("classifier.weight"), "{strict}");
    let weights = open::<BertClassifier>(&folder).may_differ(["head"]);
    let (_, report) = weights.apply(fresh()).unwrap();
    let said = report.to_string();
    assert!(
        said.contains("head.weight (classifier.weight is [3, 16], not [7, 16])"),
        "{said}"
    );
}

#[test]
fn a_checkpoint_of_another_model_is_refused() {
    let folder = ours().join("checkpoints/vit");
    let text = config(&ours().join("checkpoints/bert_masked_lm"));
    let names = BertMaskedLm::names(&text);
    let model = BertMaskedLm::of(&text, &burn::tensor::Device::flex());
    let weights = Weights::open(&folder).unwrap().named(names);
    let error = weights.apply(model).unwrap_err().to_string();
    assert!(
        error.contains("no parameter of this model is in"),
        "{error}"
    );
    assert!(
        error.contains("bert.embeddings.word_embeddings.weight"),
        "{error}"
    );
}

/// A Python with torch and transformers, if its variable is set.
fn python() -> Option<PathBuf> {
    let python = std::env::var_os("BURN_DIST_PYTHON").map(PathBuf::from);
    if python.is_none() {
        println!("skipped: BURN_DIST_PYTHON does not say where transformers is installed");
    }
    python
}

fn script(python: &Path, name: &str, command: &str, folders: &[PathBuf]) {
    let mut run = Command::new(python);
    run.env("PYTHONDONTWRITEBYTECODE", "1");
    run.arg(ours().join(name));
    let output = run.arg(command).args(folders).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command} {folders:?}: {said}");
    print!("{}", String::from_utf8_lossy(&output.stdout));
}

/// Two ranks export; transformers opens it without missing tensors, and gives the same outputs.
fn exports<M: Checked>(names: &[&str], targets: &Path) -> Vec<PathBuf> {
    let export_one = |name: &&str| {
        let (folder, target) = (ours().join("checkpoints").join(name), targets.join(name));
        export::<M>(&folder, &target, 8000);
        let inputs = Inputs::read(&folder);
        let (model, _) = load::<M>(&target);
        inputs.write(&target, &model.outputs(&inputs));
        target
    };
    names.iter().map(export_one).collect()
}

#[test]
fn transformers_opens_exports() {
    let Some(python) = python() else { return };
    let targets = tempfile::tempdir().unwrap();
    let targets = targets.path();
    let mut folders = exports::<Vit>(&["vit"], targets);
    let classifiers = ["bert_classifier", "distilbert_classifier"];
    folders.extend(exports::<BertClassifier>(&classifiers, targets));
    let masked = ["bert_masked_lm", "distilbert_masked_lm"];
    folders.extend(exports::<BertMaskedLm>(&masked, targets));
    // Not the bare encoder: it has no pooler here, which transformers would miss.
    script(&python, "checkpoints.py", "check", &folders);
}

#[test]
fn checkpoints_of_the_installed_transformers_give_the_same_outputs() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    script(
        &python,
        "checkpoints.py",
        "write",
        &[folder.path().to_path_buf()],
    );
    each!(gives_the_same, folder.path());
    each!(is_written_alike, folder.path());
}

/// The checkpoint that the adapters of a folder are for, as `adapters.py` lists them.
fn base_of(adapters: &Path) -> PathBuf {
    let name = match adapters.file_name().unwrap().to_str().unwrap() {
        "bert_attention" => "bert_classifier",
        _ => "vit",
    };
    ours().join("checkpoints").join(name)
}

/// A model with PEFT's adapters gives what PEFT gave, sharded and merged, and its adapters are written as they were.
/// Returns the folder that they are written to, with what the model made of the inputs.
fn has_adapters<M: Checked>(folder: &Path, target: &Path) {
    let (inputs, base) = (Inputs::read(folder), base_of(folder));
    let ran = Threads::new(3)
        .deadline(Duration::from_secs(30))
        .run(|world| {
            let text = config(&base);
            let adapters = Adapters::open(folder)?.named(M::names(&text));
            let model = M::of(&text, &world.device());
            let strategy = Strategy::fsdp().lora(adapters.config(&model)?);
            let (model, _) = strategy.shard_from(model, &world, &open::<M>(&base))?;
            let model = world.load_adapters(model, &adapters)?;
            let names = M::names(&text);
            let names = move |path: &str| names(path).map(HfName::in_model);
            let export = Export::new().named(names);
            world.export_adapters(&model, target, &export)?;
            let merged = world.full(&model, Destination::All)?.unwrap();
            Ok([model.outputs(&inputs), merged.outputs(&inputs)])
        })
        .unwrap();
    for outputs in ran.iter().flatten() {
        assert_close(folder, outputs, &inputs.expected);
    }
    inputs.write(target, &ran[0][0]);
}

/// The tensors of a folder's adapters.
fn adapters(folder: &Path) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let bytes = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.iter().map(|(name, view)| {
        let tensor = (view.shape().to_vec(), view.data().to_vec());
        (name.to_owned(), tensor)
    });
    tensors.collect()
}

#[test]
fn adapters_of_peft_give_the_same_outputs_and_are_written_alike() {
    let target = tempfile::tempdir().unwrap();
    let folder = ours().join("adapters");
    let (bert, vit) = ("bert_attention", "vit_all");
    has_adapters::<BertClassifier>(&folder.join(bert), &target.path().join(bert));
    has_adapters::<Vit>(&folder.join(vit), &target.path().join(vit));
    for name in [bert, vit] {
        let (theirs, written) = (folder.join(name), target.path().join(name));
        assert!(adapters(&written) == adapters(&theirs), "{name}");
    }
}

#[test]
fn peft_opens_exported_adapters() {
    let Some(python) = python() else { return };
    let installed = Command::new(&python).args(["-c", "import peft"]).output();
    if !installed.unwrap().status.success() {
        return println!("skipped: no PEFT beside torch and transformers");
    }
    let target = tempfile::tempdir().unwrap();
    let folder = ours().join("adapters");
    let folders = ["bert_attention", "vit_all"].map(|name| target.path().join(name));
    has_adapters::<BertClassifier>(&folder.join("bert_attention"), &folders[0]);
    has_adapters::<Vit>(&folder.join("vit_all"), &folders[1]);
    script(&python, "adapters.py", "check", &folders);
}
