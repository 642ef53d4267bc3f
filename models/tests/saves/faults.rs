//! What `burn-dist-save` says of arguments that cannot be, of what is not there, and of damage.

use crate::fixture::{Fixture, Tiny, TinyBert, TinyVit};
use crate::tool::tool;
use safetensors::SafeTensors;
use safetensors::tensor::serialize_to_file;
use std::path::{Path, PathBuf};

fn imported<T: Tiny>(folder: &Path) -> PathBuf {
    let run = folder.join("run");
    let file = Fixture::of::<T>().file;
    tool(&["import", "--into"], &[&run, &file]).succeeds();
    run
}

#[test]
fn usage_is_2() {
    for words in [
        &[][..],
        &["frobnicate"],
        &["list"],
        &["list", "a", "b"],
        &["show", "a", "--deep"],
        &["show", "@best"],
        &["export", "a"],
        &["export", "a", "--out", "b", "--layout", "flax"],
        &["import", "a"],
        &["import", "a", "--into", "b", "--state", "{"],
        &["import", "a", "--into", "b", "--betas", "0.9"],
        &["diff", "a"],
    ] {
        let ended = tool(words, &[]).fails(2, &[]);
        assert!(ended.stderr.contains("Usage") || ended.stderr.contains("error:"));
    }
    let help = tool(&["--help"], &[]).succeeds();
    for command in ["list", "show", "verify", "export", "import", "diff"] {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
    }
}

#[test]
fn what_is_not_there_is_1() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("nowhere");
    for command in ["list", "show", "verify"] {
        tool(&[command], &[&nowhere]).fails(1, &["burn-dist-save: ", "nowhere", "expected"]);
    }
    tool(&["list"], &[folder.path()]).fails(1, &["expected the folder of a run", "found none"]);
    let run = imported::<TinyVit>(folder.path());
    let of = |which: &str| format!("{}@{which}", run.display());
    tool(&["show", &of("7")], &[]).fails(1, &["expected a save of step 7, found steps 0"]);
    // A damaged manifest may be the one that is wanted.
    let copy = run.join("step-00000007");
    std::fs::create_dir(&copy).unwrap();
    std::fs::write(copy.join("manifest.json"), "{").unwrap();
    let damaged = [
        "found steps 0, and one that cannot be read",
        "step-00000007",
    ];
    tool(&["show", &of("7")], &[]).fails(1, &damaged);
    std::fs::remove_dir_all(&copy).unwrap();
    tool(&["show", &of("best")], &[]).fails(1, &["expected a best save"]);
    let into = ["import", nowhere.to_str().unwrap(), "--into"];
    tool(&into, &[&folder.path().join("other")]).fails(1, &["nowhere", "safetensors file"]);
    // A run that has saves keeps them.
    let file = Fixture::of::<TinyVit>().file;
    tool(&["import", "--into"], &[&run, &file]).fails(1, &["another run"]);
    let out = nowhere.join("model.safetensors");
    let export = ["export", run.to_str().unwrap(), "--out"];
    tool(&export, &[&out]).fails(1, &["model.safetensors", "No such file"]);
    let export = [
        "export",
        run.to_str().unwrap(),
        "--model",
        "teacher",
        "--out",
    ];
    tool(&export, &[&out]).fails(1, &["expected \"teacher\", found model"]);
}

#[test]
fn a_flipped_bit_is_1() {
    let folder = tempfile::tempdir().unwrap();
    let run = imported::<TinyBert>(folder.path());
    let file = run.join("step-00000000/rank-00000-of-00001.safetensors");
    let whole = std::fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    let middle = whole.len() / 2;
    flipped[middle] ^= 1;
    let out = folder.path().join("out.safetensors");
    let export = ["export", run.to_str().unwrap(), "--out"];
    tool(&export, &[&out]).succeeds();
    let exported = std::fs::read(&out).unwrap();
    std::fs::write(&file, &flipped).unwrap();
    // The file is smaller than a block of checksums, and so several tensors are named.
    let words = [
        "rank-00000-of-00001.safetensors",
        "checksum",
        "models/model/",
        "more",
    ];
    tool(&["verify"], &[&run]).fails(1, &words);
    tool(&export, &[&out]).fails(1, &words[..2]);
    // What was exported before is still there, and nothing beside it.
    assert_eq!(std::fs::read(&out).unwrap(), exported);
    let names = std::fs::read_dir(folder.path()).unwrap();
    assert_eq!(names.count(), 2);
    tool(&["diff"], &[&run, &run]).fails(1, &words[..2]);
    // What needs the manifest alone still works.
    tool(&["show"], &[&run]).succeeds();
    std::fs::write(&file, &whole[..middle]).unwrap();
    tool(&["verify"], &[&run]).fails(1, &[&format!("found {middle} bytes")]);
    let manifest = run.join("step-00000000/manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replacen("\"step\":0", "\"step\":1", 1)).unwrap();
    let words = ["damaged: ", "manifest.json", "nobody has changed"];
    tool(&["list"], &[&run]).fails(1, &words);
}

#[test]
fn states_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Fixture::of::<TinyVit>();
    let bytes = std::fs::read(&fixture.file).unwrap();
    let all = SafeTensors::deserialize(&bytes).unwrap().tensors();
    let file = folder.path().join("state.safetensors");
    let run = folder.path().join("run");
    let bias = "classifier.bias";
    for (from, to, words) in [
        (
            format!("optimizer.exp_avg_sq.{bias}"),
            None,
            "expected optimizer.exp_avg_sq.classifier.bias beside optimizer.exp_avg.classifier.bias",
        ),
        (
            format!("optimizer.exp_avg.{bias}"),
            Some("optimizer.exp_avg.strange.bias".to_string()),
            "optimizer.exp_avg.classifier.bias beside",
        ),
        (
            bias.to_string(),
            Some("strange.bias".to_string()),
            "3 more, of parameters that it has not",
        ),
        (
            format!("optimizer.exp_avg.{bias}"),
            Some(format!("optimizer.momentum_buffer.{bias}")),
            "exp_avg.classifier.bias beside",
        ),
    ] {
        let kept = all
            .iter()
            .filter_map(|(name, view)| match (name == &from, &to) {
                (false, _) => Some((name.clone(), view.clone())),
                (true, to) => Some((to.clone()?, view.clone())),
            });
        serialize_to_file(kept, None, &file).unwrap();
        tool(&["import", "--into"], &[&run, &file]).fails(1, &["state.safetensors", words]);
    }
    // Moments of another shape: two parameters of which each has the other's.
    let weight = "vit.encoder.layer.0.intermediate.dense.weight";
    let other = "classifier.weight";
    let swapped = all.iter().map(|(name, view)| {
        let name = match name.strip_prefix("optimizer.exp_avg.") {
            Some(n) if n == weight => format!("optimizer.exp_avg.{other}"),
            Some(n) if n == other => format!("optimizer.exp_avg.{weight}"),
            _ => name.clone(),
        };
        (name, view.clone())
    });
    serialize_to_file(swapped, None, &file).unwrap();
    let words = ["of shape [", "found ["];
    tool(&["import", "--into"], &[&run, &file]).fails(1, &words);
    let vit = fixture.file.to_str().unwrap();
    let words = ["import", vit, "--no-decay", "gain", "--into"];
    tool(&words, &[&run]).fails(1, &["expected a parameter \"gain\""]);
    // None of these has left a save.
    tool(&["list"], &[&run]).fails(1, &["found none"]);
    std::fs::write(&file, &bytes[..1000]).unwrap();
    tool(&["import", "--into"], &[&run, &file]).fails(1, &["a whole safetensors file"]);
}
