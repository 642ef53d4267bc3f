//! Options of both examples: precision, recomputation, the shadow run, devices.

use super::run::{Ended, Running, epochs, row, sent};
use std::path::Path;

/// A run of either example on the data that it makes itself.
fn run(example: &str, args: &str, folders: &[(&str, &Path)]) -> Ended {
    let args = format!("--per-gpu-batch 4 {args}");
    Running::start(example, &args, folders).end()
}

const EXAMPLES: [&str; 2] = ["vit_fsdp", "bert_fsdp"];

#[test]
fn a_shadow_run_prints_a_line_for_each_step() {
    for example in EXAMPLES {
        for precision in ["f32", "bf16", "f16"] {
            let args = format!("--shadow 2 --steps 3 --accumulate 2 --precision {precision}");
            let output = run(example, &args, &[]).succeeded();
            let agrees = |step| {
                let start = format!("step {step} agrees with one plain device");
                output.iter().any(|line| line.starts_with(&start))
            };
            assert_eq!([0, 1, 2].map(agrees), [true, true, false], "{output:#?}");
        }
    }
}

#[test]
fn traffic_is_as_planned_with_every_option() {
    for example in EXAMPLES {
        let output = |args: &str| {
            let args = format!("--steps 2 {args}");
            run(example, &args, &[]).succeeded()
        };
        let (full, half) = (output(""), output("--precision bf16"));
        assert!(
            half[0].starts_with("fsdp in bf16 over 2 rank(s)"),
            "{}",
            half[0]
        );
        assert_eq!(sent(&half).0, sent(&half).1);
        // Two gathers of three thirds are halved; the table rounds to 10 kB.
        let ratio = sent(&half).0 / sent(&full).0;
        assert!((ratio - 2.0 / 3.0).abs() < 0.04, "{ratio}");
        // Recomputation changes neither the bytes nor a digit of the result.
        let again = output("--recompute");
        assert!(
            again[0].starts_with("fsdp, recomputed over 2 rank(s)"),
            "{}",
            again[0]
        );
        assert_eq!(sent(&again), sent(&full));
        assert_eq!(epochs(&again), epochs(&full));
    }
}

#[test]
fn options_of_a_strategy_are_planned_and_change_no_result() {
    let output = |args: &str| {
        let args = format!("--steps 2 --accumulate 2 {args}");
        let lines = run("vit_fsdp", &args, &[]).succeeded().into_iter();
        // Processes name their rank before each line.
        let bare = |line: String| line.strip_prefix("[0]: ").unwrap_or(&line).to_string();
        lines.map(bare).collect::<Vec<_>>()
    };
    let plain = output("");
    let names = [
        ("--no-sync", "no_sync"),
        ("--no-reshard-after-backward", "kept between micro-batches"),
        (
            "--reshard-after-forward 1",
            "resharded after forward over 1",
        ),
        ("--persistence-threshold 1000", "whole up to 1000 elements"),
        (
            "--quantized-gathers 256",
            "gathered as int8 in blocks of 256",
        ),
    ];
    for (flag, name) in names {
        let found = ["--ranks 2", "--nproc-per-node 2"].map(|ranks| {
            let found = output(&format!("{flag} {ranks}"));
            let start = format!("fsdp, {name} over 2 rank(s)");
            assert!(found[0].starts_with(&start), "{}", found[0]);
            let (counted, planned) = sent(&found);
            assert_eq!(counted, planned, "{flag}");
            assert!(counted < sent(&plain).0, "{flag}: {counted}");
            found
        });
        assert_eq!(epochs(&found[0]), epochs(&found[1]), "{flag}");
        if flag.contains("reshard") {
            // The same numbers in the same order.
            assert_eq!(epochs(&found[0]), epochs(&plain), "{flag}");
        }
    }
    let refused = run("vit_fsdp", "--strategy ddp --no-sync", &[]);
    let refused = refused.failed();
    assert!(
        refused.contains("no_sync") && refused.contains("found ddp"),
        "{refused}"
    );
}

#[test]
fn the_loss_scale_is_saved_and_resumed() {
    let save = tempfile::tempdir().unwrap();
    let folders = [("--save", save.path())];
    let args = |steps: usize| format!("--precision f16 --epochs 1 --steps {steps}");
    run("vit_fsdp", &args(3), &folders).succeeded();
    let manifest =
        std::fs::read_to_string(save.path().join("step-00000003/manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let scaler = &manifest["states"]["state"]["json"][1];
    // Three steps of two ranks with four samples each.
    assert_eq!(manifest["states"]["state"]["json"][0]["seen"], 24);
    assert!(scaler["scale"].as_f64().unwrap() > 1.0, "{scaler}");
    let resumed = run("vit_fsdp", &(args(9) + " --resume"), &folders).succeeded();
    assert!(row(&resumed, "test accuracy").contains("of 512"));
    // A run in another precision does not take the scale over.
    let f32 = "--epochs 1 --steps 10 --resume";
    run("vit_fsdp", f32, &folders).succeeded();
}

#[test]
fn an_unknown_precision_is_refused_with_the_known_ones() {
    for example in EXAMPLES {
        let ended = run(example, "--precision f8", &[]);
        assert_eq!(ended.code, Some(2));
        let text = ended.stderr;
        assert!(
            text.contains("expected f32, bf16 or f16, found f8"),
            "{text}"
        );
    }
}

#[test]
fn invalid_numbers_are_refused_before_the_run_starts() {
    for (args, flag) in [
        ("--lr -0.001", "--lr"),
        ("--lr NaN", "--lr"),
        ("--lr inf", "--lr"),
        ("--clip -1", "--clip"),
        ("--clip 0", "--clip"),
        ("--clip inf", "--clip"),
    ] {
        let ended = run("vit_fsdp", args, &[]);
        assert_eq!(ended.code, Some(2), "{args}");
        let text = ended.stderr;
        assert!(
            text.contains(flag) && text.contains("finite number"),
            "{text}"
        );
    }
    let args = "--lr 0 --epochs 1 --steps 1";
    run("vit_fsdp", args, &[]).succeeded();
}

#[test]
fn a_missing_device_is_refused_with_a_remedy() {
    for example in EXAMPLES {
        let ended = run(example, "--device tpu", &[]);
        assert_eq!(ended.code, Some(2));
        let text = ended.stderr;
        assert!(
            text.contains("expected cpu, cuda or wgpu, found tpu"),
            "{text}"
        );
    }
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_build_without_cuda_says_how_to_build_one() {
    for example in EXAMPLES {
        for ranks in ["--ranks 2", "--nproc-per-node 2"] {
            let ended = run(example, &format!("--device cuda {ranks}"), &[]);
            assert_eq!(ended.code, Some(1), "{}", ended.stderr);
            let text = ended.stderr;
            let told = "expected a build with the feature cuda, found one without; build with \
                        --features cuda";
            assert!(text.contains(told), "{text}");
            assert!(!text.contains("panicked"), "{text}");
        }
    }
}

#[cfg(not(feature = "images"))]
#[test]
fn a_build_without_images_says_how_to_build_one() {
    let data = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(data.path().join("train/cat")).unwrap();
    let message = run("vit_fsdp", "", &[("--data", data.path())]).failed();
    assert!(
        message.contains("build it with `--features images`"),
        "{message}"
    );
}

#[test]
fn what_only_a_folder_of_images_has_is_refused_without_one() {
    for (args, flag) in [
        ("--test-split 0.2", "--test-split"),
        ("--broken-images skip", "--broken-images skip"),
    ] {
        let message = run("vit_fsdp", args, &[]).failed();
        let expected =
            format!("error: {flag}: expected --data with a folder of images, found no --data");
        assert_eq!(message, expected);
    }
    let empty = tempfile::tempdir().unwrap();
    let message = run("vit_fsdp", "", &[("--data", empty.path())]).failed();
    assert!(
        message.ends_with("a folder of images for each class, found neither"),
        "{message}"
    );
    for share in ["0", "1", "x"] {
        let ended = run("vit_fsdp", &format!("--test-split {share}"), &[]);
        assert_eq!(ended.code, Some(2));
        assert!(
            ended.stderr.contains("a number between 0 and 1"),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn a_count_of_0_is_refused_before_anything_starts() {
    for example in ["vit_fsdp", "bert_fsdp"] {
        for flag in ["--accumulate", "--per-gpu-batch"] {
            let ended = Running::start(example, &format!("{flag} 0"), &[]).end();
            assert_eq!(ended.code, Some(2));
            let text = ended.stderr;
            assert!(text.contains(flag) && text.contains("at least 1"), "{text}");
        }
    }
}
