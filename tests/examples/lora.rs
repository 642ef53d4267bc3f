//! Low-rank adapters of the examples, beside quantized weights.

use super::run::{Ended, Running, epochs};
use std::path::Path;

fn run(example: &str, args: &str, folders: &[(&str, &Path)]) -> Ended {
    let args = format!("--per-gpu-batch 4 --epochs 1 {args}");
    Running::start(example, &args, folders).end()
}

#[test]
fn quantized_weights_are_the_same_in_threads_and_processes() {
    for (example, base, name) in [
        ("vit_fsdp", "int4", "base Q4S in blocks of [64]"),
        ("bert_fsdp", "int8", "base Q8S in blocks of [64]"),
    ] {
        let args = format!("--steps 2 --lora 2 --quantize-base {base}");
        let ran = ["--ranks 2", "--nproc-per-node 2"].map(|ranks| {
            let folder = tempfile::tempdir().unwrap();
            let export = [("--export-adapters", folder.path())];
            let lines = run(example, &format!("{args} {ranks}"), &export).succeeded();
            assert!(lines.iter().any(|line| line.contains(name)), "{lines:?}");
            assert!(lines.iter().any(|line| line.contains("frozen quantized")));
            let adapters = folder.path().join("adapter_model.safetensors");
            // Processes name their rank before each line.
            let epochs = format!("{:?}", epochs(&lines)).replace("[0]: ", "");
            (epochs, std::fs::read(adapters).unwrap())
        });
        assert_eq!(ran[0], ran[1], "{example}");
    }
}

#[test]
fn a_run_with_quantized_weights_resumes_on_other_ranks() {
    let save = tempfile::tempdir().unwrap();
    let folders = [("--save", save.path())];
    let args = "--lora 2 --quantize-base int4";
    run("vit_fsdp", &format!("{args} --steps 2"), &folders).succeeded();
    let more = format!("{args} --steps 4 --resume --ranks 3 --strategy zero2");
    run("vit_fsdp", &more, &folders).succeeded();
    let wide = "--lora 2 --steps 6 --resume";
    let refused = run("vit_fsdp", wide, &folders).failed();
    for words in ["weight", "f32, frozen", "u8, frozen"] {
        assert!(refused.contains(words), "{refused}");
    }
}

#[test]
fn quantized_weights_need_adapters_and_whole_blocks() {
    for (args, words) in [
        (
            "--quantize-base int4",
            &["--quantize-base", "--lora RANK"][..],
        ),
        (
            "--lora 2 --quantize-base int8 --quantize-block 100",
            &["query.weight", "[100]", "divides"],
        ),
    ] {
        let refused = run("vit_fsdp", args, &[]).failed();
        for word in words {
            assert!(refused.contains(word), "{word}: {refused}");
        }
    }
    assert_eq!(
        run("vit_fsdp", "--lora 2 --quantize-base nf4", &[]).code,
        Some(2)
    );
}
