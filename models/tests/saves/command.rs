//! What `burn-dist-save` does with saves that are whole.

use crate::fixture::{Fixture, Tiny, TinyBert, TinyVit};
use crate::tool::tool;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn_dist::Strategy;
use burn_dist::checkpoint::Save;
use burn_dist::launch::Threads;
use burn_dist_models::saves::AdamWSettings;
use safetensors::SafeTensors;
use safetensors::tensor::{TensorView, serialize_to_file};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Type, shape and bytes of each tensor of a file.
fn tensors(file: &Path) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let bytes = std::fs::read(file).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let all = read.tensors().into_iter();
    let facts = |t: TensorView<'_>| {
        (
            format!("{:?}", t.dtype()),
            t.shape().to_vec(),
            t.data().to_vec(),
        )
    };
    all.map(|(name, tensor)| (name, facts(tensor))).collect()
}

fn import(file: &Path, run: &Path) -> String {
    let words = ["import", file.to_str().unwrap(), "--step", "5"];
    let words: Vec<&str> = words.into_iter().chain(["--into"]).collect();
    tool(&words, &[run]).succeeds()
}

fn export(run: &Path, out: &Path, words: &[&str]) -> Vec<PathBuf> {
    let all: Vec<&str> = ["export", run.to_str().unwrap()]
        .into_iter()
        .chain(words.iter().copied())
        .chain(["--out"])
        .collect();
    let printed = tool(&all, &[out]).succeeds();
    printed.lines().map(PathBuf::from).collect()
}

fn comes_back<T: Tiny>(words: &str) {
    let fixture = Fixture::of::<T>();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (run, again) = (at("run"), at("again"));
    let said = import(&fixture.file, &run);
    assert!(said.contains(words), "{said}");
    assert!(said.contains("betas 0.9 and 0.98"), "{said}");

    // Under Hugging Face's names all is as PyTorch wrote it, bit for bit.
    let hf = ["--layout", "hf", "--with-optimizer"];
    let written = export(&run, &at("hf.safetensors"), &hf);
    assert_eq!(written, [at("hf.safetensors")]);
    let wanted = tensors(&fixture.file);
    assert!(tensors(&written[0]) == wanted, "{words}");
    // Without an optimizer, the model alone; in a folder, each has a file.
    let model = export(&run, &at("model.safetensors"), &["--layout", "hf"]);
    let only = tensors(&model[0]);
    let is_state = |name: &&String| name.starts_with("optimizer.");
    assert!(only.keys().eq(wanted.keys().filter(|name| !is_state(name))));
    let both = export(&run, &at("folder"), &hf);
    assert_eq!(both.len(), 2);
    assert_eq!(tensors(&both[0]), only);
    assert!(tensors(&both[1]).keys().eq(wanted.keys().filter(is_state)));

    // And with paths as names, into another save, which is equal.
    export(&run, &at("paths"), &["--with-optimizer"]);
    let adamw = ["--betas", "0.9", "0.98", "--weight-decay", "0.05"];
    let mut all = vec!["import", "--step", "5"];
    all.extend(adamw);
    all.extend(T::NO_DECAY.iter().flat_map(|name| ["--no-decay", name]));
    let paths = at("paths");
    all.extend([paths.to_str().unwrap(), "--into"]);
    let said = tool(&all, &[&again]).succeeds();
    assert!(said.contains("under the names of paths"), "{said}");
    let equal = tool(&["diff"], &[&run, &again]).succeeds();
    assert_eq!(equal, "");
    let manifest = |run: &Path| std::fs::read(run.join("step-00000005/manifest.json")).unwrap();
    assert_eq!(manifest(&run), manifest(&again));
}

#[test]
fn a_vit_comes_back_as_it_was() {
    comes_back::<TinyVit>("ViT");
}

#[test]
fn a_bert_comes_back_as_it_was() {
    comes_back::<TinyBert>("Hugging Face's BERT");
}

/// What several ranks have written, with an AdamW that keeps the largest moments too.
#[test]
fn pieces_of_ranks_come_together() {
    let fixture = Fixture::of::<TinyVit>();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let settings = AdamWSettings {
        amsgrad: true,
        ..AdamWSettings::default()
    };
    let run = Threads::new(3).run(|world| {
        let model = fixture.init::<TinyVit>(&world.device());
        let mut model = Strategy::fsdp().shard(model, &world)?;
        let mut optimizer = world.optimizer(settings.optimizer(None), &model)?;
        // All of a batch, on each rank.
        for batch in fixture.batches((0, 1), &world.device()) {
            let grads = world.backward(batch.loss::<TinyVit>(&model), &model)?;
            model = optimizer.step(0.01, model, grads.into_params());
        }
        let mut saves = world.checkpointer(at("run"))?;
        let save = Save::new(6).model("model", &model, &optimizer);
        saves.save(save.state("state", &()))
    });
    run.unwrap();
    let hf = ["--layout", "hf", "--with-optimizer"];
    export(&at("run"), &at("hf"), &hf);
    let words = ["import", "--step", "6", "--amsgrad", "--into"];
    tool(&words, &[&at("again"), &at("hf")]).succeeds();
    // A file does not say how often dropout has drawn.
    let ended = tool(&["diff"], &[&at("run"), &at("again")]);
    let ended = ended.fails(1, &["forwards/model/: 6 and 0"]);
    assert_eq!(ended.stdout.lines().count(), 1, "{}", ended.stdout);
    // Without AMSGrad, there is a state too many; without an optimizer, all of its numbers are missing.
    let words = ["import", "--into"];
    let odd = "max_exp_avg_sq";
    tool(&words, &[&at("other"), &at("hf")])
        .fails(1, &[odd, "nothing but exp_avg, exp_avg_sq and"]);
    let words = ["import", "--weights-only", "--into"];
    tool(&words, &[&at("other"), &at("hf")]).succeeds();
    let words = [
        "optimizers/model: yes and no",
        "head.bias/momentum.moment_1: [3] f64 and none",
    ];
    let ended = tool(&["diff"], &[&at("run"), &at("other")]).fails(1, &words);
    assert!(!ended.stdout.contains("models/model/"), "{}", ended.stdout);
}

#[test]
fn floats_are_converted() {
    let fixture = Fixture::of::<TinyVit>();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    import(&fixture.file, &at("f64"));
    let file = fixture.file.to_str().unwrap();
    tool(&["import", file, "--dtype", "f32", "--into"], &[&at("f32")]).succeeds();
    let ended = tool(&["diff"], &[&at("f64"), &at("f32")]).fails(1, &["f64 and f32, "]);
    let largest = ended.stdout.lines().map(|line| {
        let (_, by) = line.split_once("by up to ").unwrap();
        by.split_once(',').unwrap().0.parse::<f64>().unwrap()
    });
    let largest = largest.fold(0.0, f64::max);
    assert!(largest > 1e-9 && largest < 1e-6, "{largest}");
    // Burn would load the moments as f32.
    let words = ["import", file, "--dtype", "bf16", "--into"];
    tool(&words, &[&at("bf16")]).fails(1, &["is bf16", "would load its moments as f32"]);
    let words = [
        "import",
        file,
        "--dtype",
        "bf16",
        "--weights-only",
        "--into",
    ];
    tool(&words, &[&at("bf16")]).succeeds();
    let shown = tool(&["show"], &[&at("bf16")]).succeeds();
    assert!(shown.contains("bf16") && !shown.contains("f64"), "{shown}");
}

/// A model that is none of Hugging Face's, one of whose layers takes no gradients.
#[test]
fn other_models_have_their_paths() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let run = Threads::new(2).run(|world| {
        let layer = || LinearConfig::new(5, 3).init(&world.device());
        let layers: [Linear; 2] = [layer(), layer().no_grad()];
        let model = Strategy::fsdp().shard(layers, &world)?;
        let mut saves = world.checkpointer(at("run"))?;
        saves.save(Save::new(0).weights("teacher", &model).state("state", &()))
    });
    run.unwrap();
    let words = [
        "export",
        at("run").to_str().unwrap(),
        "--layout",
        "hf",
        "--out",
    ]
    .map(String::from);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    tool(&words, &[&at("hf")]).fails(1, &["has no name in Hugging Face's", "--layout paths"]);
    let words = [&words[..2], &["--with-optimizer", "--out"]].concat();
    tool(&words, &[&at("hf")]).fails(1, &["optimizer of teacher", "saved without one"]);
    export(&at("run"), &at("paths"), &[]);
    let words = ["import", "--model", "teacher", "--into"];
    tool(&words, &[&at("again"), &at("paths")]).succeeds();
    tool(&["diff"], &[&at("run"), &at("again")]).succeeds();
    let shown = tool(&["show"], &[&at("again")]).succeeds();
    let frozen = shown.lines().filter(|line| line.contains("frozen"));
    assert!(frozen.clone().all(|line| line.contains("  1.")), "{shown}");
    assert_eq!(frozen.count(), 2);
}

#[test]
fn saves_are_listed_shown_and_verified() {
    let fixture = Fixture::of::<TinyVit>();
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let words = ["import", "--state", r#"{"epoch": 3}"#, "--into"];
    tool(&words, &[&run, &fixture.file]).succeeds();
    let listed = tool(&["list"], &[&run]).succeeds();
    assert!(listed.starts_with("step-00000000  step 0") && listed.contains("latest"));
    let shown = tool(&["show"], &[&run]).succeeds();
    for words in [
        "written by 1 ranks",
        "rank-00000-of-00001.safetensors",
        "head.weight",
        // Burn's, `[inputs, outputs]`.
        "[8, 3]",
        "0: 0..24",
        "blocks.1.mlp.linear_outer.weight/momentum.moment_2",
        "/momentum.time",
        r#"{"epoch":3}"#,
    ] {
        assert!(shown.contains(words), "no {words:?} in {shown}");
    }
    assert!(!shown.contains("__rank"));
    let of_step = format!("{}@0", run.display());
    let verified = tool(&["verify", &of_step], &[]).succeeds();
    assert!(
        verified.contains("step-00000000 is whole: 1 files"),
        "{verified}"
    );
}

/// A file with another number at the end of a tensor.
fn changed(from: &Path, to: &Path, tensor: &str, by: f64) {
    let bytes = std::fs::read(from).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let data = read.tensor(tensor).unwrap().data().to_vec();
    let (start, last) = data.split_at(data.len() - 8);
    let last = f64::from_le_bytes(last.try_into().unwrap()) + by;
    let data = [start, &last.to_le_bytes()].concat();
    let all = read.tensors().into_iter().map(|(name, view)| {
        let data = if name == tensor { &data } else { view.data() };
        let view = TensorView::new(view.dtype(), view.shape().to_vec(), data).unwrap();
        (name, view)
    });
    let metadata = SafeTensors::read_metadata(&bytes).unwrap().1;
    serialize_to_file(all, metadata.metadata().clone(), to).unwrap();
}

#[test]
fn differences_are_named_and_measured() {
    let fixture = Fixture::of::<TinyBert>();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    import(&fixture.file, &at("run"));
    for (tensor, by, words) in [
        (
            "classifier.weight",
            0.25,
            // The last of the file is the last of its row there.
            "models/model/head.weight: 1 of 24 elements differ, by up to 2.500e-1, at [7, 2]",
        ),
        (
            "optimizer.exp_avg_sq.classifier.bias",
            1e-3,
            "optimizers/model/head.bias/momentum.moment_2: 1 of 3 elements differ, by up to 1.000e-3",
        ),
        ("classifier.bias", f64::NAN, "by up to NaN, at [2]"),
    ] {
        let (file, other) = (at("changed.safetensors"), at(tensor));
        changed(&fixture.file, &file, tensor, by);
        if by.is_nan() {
            // No save has one in what trains.
            let words = ["import", file.to_str().unwrap(), "--into"];
            tool(&words, &[&other]).fails(1, &["head.bias"]);
            continue;
        }
        import(&file, &other);
        let ended = tool(&["diff"], &[&at("run"), &other]).fails(1, &[words]);
        assert_eq!(ended.stdout.lines().count(), 1, "{}", ended.stdout);
        assert_eq!(ended.stderr, "");
    }
    let vit = Fixture::of::<TinyVit>();
    import(&vit.file, &at("vit"));
    let words = [
        "models/model/head.bias: ",
        "models/model/embeddings.class_token: none and [1, 1, 8] f64",
    ];
    tool(&["diff"], &[&at("run"), &at("vit")]).fails(1, &words);
}
