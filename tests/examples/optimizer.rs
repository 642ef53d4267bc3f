//! Options of the optimizer of both examples: which one, groups, averages, states in few bits.

use super::run::{Ended, Running, epochs, megabytes, sent};
use std::path::Path;

fn run(example: &str, args: &str, folders: &[(&str, &Path)]) -> Ended {
    let args = format!("--per-gpu-batch 4 --epochs 1 {args}");
    Running::start(example, &args, folders).end()
}

#[test]
fn groups_averages_and_few_bits_train_and_resume() {
    for example in ["vit_fsdp", "bert_fsdp"] {
        let save = tempfile::tempdir().unwrap();
        let folders = [("--save", save.path())];
        let all = "--weight-decay 0.1 --layer-decay 0.75 --no-decay-embeddings --ema 0.9 \
                   --optimizer-state int8";
        let output = run(example, &format!("--steps 3 {all}"), &folders).succeeded();
        assert!(
            output[0].starts_with("fsdp, blocks of 256 over 2 rank(s)"),
            "{}",
            output[0]
        );
        let plan = output.iter().find(|line| line.contains("memory per rank"));
        assert!(plan.unwrap().contains("AdamW in int8"), "{plan:?}");
        let manifest = save.path().join("step-00000003/manifest.json");
        let manifest = std::fs::read_to_string(manifest).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        assert_eq!(manifest["states"]["ema"]["json"]["updates"], 3);
        assert!(manifest["models"]["ema"]["tensors"].is_array());
        // On another number of ranks, in the same blocks.
        let more = format!("--steps 5 --resume --ranks 3 {all}");
        run(example, &more, &folders).succeeded();
        for (other, words) in [
            ("--ema 0.9 --optimizer-state int8", "load_record"),
            (&all.replace("--ema 0.9", ""), "go on with the --ema"),
        ] {
            let more = format!("--steps 6 --resume {other}");
            let message = run(example, &more, &folders).failed();
            assert!(message.contains(words), "{message}");
        }
    }
}

#[test]
fn every_optimizer_trains_and_resumes_and_only_on_its_own_save() {
    let all = "--weight-decay 0.1 --layer-decay 0.75 --ema 0.9";
    for (example, optimizer, name) in [
        ("vit_fsdp", "muon", "Muon and AdamW"),
        ("bert_fsdp", "muon", "Muon and AdamW"),
        ("vit_fsdp", "lamb", "LAMB"),
        ("vit_fsdp", "adafactor", "Adafactor"),
    ] {
        let save = tempfile::tempdir().unwrap();
        let folders = [("--save", save.path())];
        let args =
            |steps, ranks| format!("--optimizer {optimizer} --steps {steps} --ranks {ranks} {all}");
        let what = format!("{example} by {optimizer}");
        let output = run(example, &args(3, 2), &folders).succeeded();
        let plan = output.iter().find(|line| line.contains("memory per rank"));
        assert!(plan.unwrap().contains(name), "{what}: {plan:?}");
        let owned = |line: &&String| line.contains("stepped whole by owners");
        assert_eq!(output.iter().filter(owned).count(), 1, "{what}");
        // Owners' transfers are counted and planned.
        let (counted, planned) = sent(&output);
        assert_eq!(counted, planned, "{what}");
        assert!(megabytes(&output, "held between steps").0 > 0.0);
        let more = args(5, 3) + " --resume";
        run(example, &more, &folders).succeeded();
        for other in ["adamw", "muon", "lamb", "adafactor"] {
            if other != optimizer {
                let args = format!("--optimizer {other} --steps 6 --resume {all}");
                let message = run(example, &args, &folders).failed();
                assert!(
                    message.contains("load_record"),
                    "{what}, {other}: {message}"
                );
            }
        }
    }
}

#[test]
fn a_run_by_muon_that_is_interrupted_goes_on_with_the_same_digits() {
    let exported = |steps: &[&str]| {
        let (save, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folders = [("--save", save.path()), ("--export", out.path())];
        for more in steps {
            let args = format!("--optimizer muon --schedule constant --warmup 0 {more}");
            run("vit_fsdp", &args, &folders).succeeded();
        }
        std::fs::read(out.path().join("model.safetensors")).unwrap()
    };
    let straight = exported(&["--steps 4"]);
    let resumed = exported(&["--steps 2", "--steps 4 --resume"]);
    assert!(straight == resumed);
}

#[test]
fn muon_steps_adapters_and_goes_with_every_option() {
    for args in [
        "--lora 4",
        "--precision bf16 --recompute",
        "--precision f16",
        "--strategy zero1 --accumulate 2",
        "--strategy hybrid:2 --ranks 4",
        "--strategy ddp",
        "--no-sync --accumulate 2 --persistence-threshold 1000",
        "--shadow 2",
    ] {
        // The scaler skips the first steps in f16, in which owners have nothing to send.
        let skips = args.contains(" f16");
        let args = format!("--optimizer muon --steps 2 {args}");
        let output = run("vit_fsdp", &args, &[]).succeeded();
        let (counted, planned) = sent(&output);
        assert!(counted == planned || skips && counted < planned, "{args}");
        assert_eq!(epochs(&output).len(), 1, "{args}");
    }
}

#[test]
fn states_in_few_bits_are_those_of_adamw() {
    for optimizer in ["muon", "lamb", "adafactor"] {
        let args = format!("--optimizer {optimizer} --optimizer-state int8");
        let message = run("vit_fsdp", &args, &[]).failed();
        for words in ["--optimizer-state", "--optimizer adamw", optimizer] {
            assert!(message.contains(words), "{message}");
        }
    }
}

#[test]
fn all_weights_decay_where_that_is_asked_for() {
    let save = tempfile::tempdir().unwrap();
    let folders = [("--save", save.path())];
    run("vit_fsdp", "--steps 2 --no-decay-all", &folders).succeeded();
    // The same flag by its other name; without it the optimizer is another one.
    run("vit_fsdp", "--steps 3 --decay-all --resume", &folders).succeeded();
    let message = run("vit_fsdp", "--steps 4 --resume", &folders).failed();
    assert!(message.contains("bias"), "{message}");
}

#[test]
fn numbers_out_of_range_are_refused_before_the_run_starts() {
    for (args, words) in [
        ("--layer-decay 0", "above 0 and at most 1"),
        ("--layer-decay 1.5", "above 0 and at most 1"),
        ("--ema 1", "from 0 to below 1"),
        ("--weight-decay -1", "not negative"),
        ("--optimizer-state int4", "int8"),
        ("--optimizer moun", "adafactor"),
        ("--decay-all --no-decay-embeddings", "cannot be used with"),
    ] {
        let ended = run("vit_fsdp", args, &[]);
        assert_eq!(ended.code, Some(2), "{args}");
        assert!(ended.stderr.contains(words), "{args}: {}", ended.stderr);
    }
}
