//! What a run leaves behind, and the command lines and configuration files of two published studies.

use super::run::Running;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn json(path: PathBuf) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn steps(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("steps.jsonl")).unwrap();
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn of_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn a_run_of_processes_leaves_its_records() {
    let runs = tempfile::tempdir().unwrap();
    let folder = runs.path().join("run");
    let args = "--nproc-per-node 2 --setup 1_2 --epochs 2 --train-size 200 --test-size 100 --validation 0.1 \
                --per-gpu-batch 8 --trace 3..5 --peak-tflops 0.1";
    let output = Running::start("vit_fsdp", args, &[("--log-to", &folder)])
        .end()
        .succeeded();
    let steps = steps(&folder);
    // 180 samples are left to train with, 16 in a step.
    assert_eq!(steps.len(), 24);
    assert_eq!(steps[11]["samples"], 4);
    let samples: u64 = steps
        .iter()
        .map(|step| step["samples"].as_u64().unwrap())
        .sum();
    assert_eq!(samples, 360);
    for (at, step) in steps.iter().enumerate() {
        assert_eq!(step["step"], at as u64 + 1);
        let seconds = &step["seconds"];
        let part = |name: &str| seconds[name]["mean"].as_f64().unwrap();
        let parts = ["data", "forward", "backward", "optimizer", "exposed"].map(part);
        assert!(parts.iter().sum::<f64>() <= part("step") * 1.001, "{step}");
        assert!(step["sent_bytes"]["mean"].as_f64().unwrap() > 1e6, "{step}");
        assert!(step["peak_bytes"]["most"].as_f64().unwrap() > 0.0, "{step}");
    }
    let summary = json(folder.join("summary.json"));
    assert_eq!(summary["ended"], "finished");
    assert_eq!(
        (&summary["setup"], &summary["strategy"]),
        (&"1_2".into(), &"fsdp".into())
    );
    assert_eq!(summary["epochs"].as_array().unwrap().len(), 2);
    assert_eq!(summary["epochs"][0]["scores"]["samples"], 20);
    assert_eq!(summary["test"]["samples"], 100);
    let accuracy = output.iter().find(|line| line.contains("test accuracy "));
    assert!(accuracy.unwrap().contains("of 100"), "{output:?}");
    let mfu = summary["tflops"].as_f64().unwrap() / 0.2;
    assert!(
        (summary["mfu"].as_f64().unwrap() / mfu - 1.0).abs() < 1e-6,
        "{summary}"
    );
    let config = json(folder.join("config.json"));
    assert_eq!(config["arguments"]["run"]["per_gpu_batch"], 8);
    assert_eq!(config["ranks"][1]["local_rank"], 1);
    assert_eq!(config["plan"]["units"], 5);
    let trace = json(folder.join("trace.json"));
    let events = trace["traceEvents"].as_array().unwrap();
    let named = |rank: u64, name: &str| {
        let is = |event: &&Value| event["pid"] == rank && event["name"] == name;
        events.iter().filter(is).count()
    };
    for rank in 0..2 {
        for (name, count) in [
            ("step 3", 1),
            ("step 4", 1),
            ("step 5", 0),
            ("forward blocks.2", 2),
            ("backward blocks.2", 2),
            ("all_gather of blocks.2", 4),
            ("reduce_scatter of blocks.2", 2),
            ("optimizer", 2),
        ] {
            assert_eq!(named(rank, name), count, "{name} on rank {rank}");
        }
    }
    assert!(
        std::fs::read_to_string(folder.join("trace.svg"))
            .unwrap()
            .contains("step 4")
    );
    let lists = std::fs::read_to_string(folder.join("1_2_2e-3_8.txt")).unwrap();
    let epochs = std::fs::read_to_string(folder.join("epochs.csv")).unwrap();
    assert_eq!((lists.lines().count(), epochs.lines().count()), (7, 3));

    // What was merged starts the same run again, and the folder is not taken twice.
    let again = format!(
        "--config {} --log-to {}",
        folder.join("config.toml").display(),
        folder.display()
    );
    let error = Running::start("vit_fsdp", &again, &[]).end().stderr;
    assert!(
        error.contains("never overwritten") && error.contains("another folder"),
        "{error}"
    );
    let second = runs.path().join("second");
    let again = format!("--config {}", folder.join("config.toml").display());
    let output = Running::start("vit_fsdp", &again, &[("--log-to", &second)])
        .end()
        .succeeded();
    let second = json(second.join("summary.json"));
    assert_eq!(second["test"], summary["test"], "{output:?}");
}

#[test]
fn scores_are_the_same_on_any_number_of_ranks() {
    let runs = tempfile::tempdir().unwrap();
    let scores = |ranks: usize, strategy: &str| {
        let folder = runs.path().join(format!("{ranks}-{strategy}"));
        let args =
            format!("--ranks {ranks} --strategy {strategy} --lr 0 --epochs 0 --test-size 131");
        Running::start("bert_fsdp", &args, &[("--log-to", &folder)])
            .end()
            .succeeded();
        json(folder.join("summary.json"))["test"].clone()
    };
    let one = scores(1, "single");
    for (ranks, strategy) in [(2, "fsdp"), (3, "ddp"), (4, "zero2")] {
        let found = scores(ranks, strategy);
        for name in [
            "samples",
            "accuracy",
            "precision",
            "recall",
            "f1",
            "macro_f1",
        ] {
            assert_eq!(found[name], one[name], "{name} on {ranks} ranks");
        }
        let loss = |scores: &Value| scores["loss"].as_f64().unwrap();
        assert!((loss(&found) - loss(&one)).abs() < 1e-5, "{found} {one}");
    }
}

#[test]
fn a_killed_run_leaves_whole_lines_and_goes_on_in_its_folder() {
    let runs = tempfile::tempdir().unwrap();
    let (folder, save) = (runs.path().join("run"), runs.path().join("save"));
    let folders = [("--log-to", &*folder), ("--save", &*save)];
    let args = "--per-gpu-batch 8 --train-size 200 --log-every 1";
    Running::start("vit_fsdp", args, &folders).kill_at("epoch 2");
    let before = steps(&folder);
    assert!(before.len() >= 13, "{}", before.len());
    assert!(!folder.join("summary.json").exists());
    let args = format!("{args} --epochs 4 --resume");
    Running::start("vit_fsdp", &args, &folders)
        .end()
        .succeeded();
    let after = steps(&folder);
    assert_eq!(after[..before.len()], before);
    // Steps that the save does not hold are done again, and recorded again.
    let numbers: Vec<_> = after
        .iter()
        .map(|step| step["step"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers.last(), Some(&52));
    assert!(
        numbers.windows(2).filter(|pair| pair[1] <= pair[0]).count() <= 1,
        "{numbers:?}"
    );
    assert!(folder.join("config-2.json").exists() && folder.join("summary.json").exists());
}

#[test]
fn training_stops_early_and_the_best_model_is_tested() {
    let runs = tempfile::tempdir().unwrap();
    let (folder, save) = (runs.path().join("run"), runs.path().join("save"));
    // A rate at which the loss rises after the first epochs.
    let args = "--schedule constant --warmup 0 --lr 0.004 --epochs 12 --train-size 120 --validation 0.2 --per-gpu-batch 8 \
                --early-stopping 2 --monitor loss --load-best-model-at-end";
    let folders = [("--log-to", &*folder), ("--save", &*save)];
    let ended = Running::start("vit_fsdp", args, &folders).end();
    let summary = json(folder.join("summary.json"));
    let epochs = summary["epochs"].as_array().unwrap();
    let loss = |at: usize| epochs[at]["scores"]["loss"].as_f64().unwrap();
    let best = (0..epochs.len())
        .min_by(|a, b| loss(*a).total_cmp(&loss(*b)))
        .unwrap();
    assert_eq!(summary["best_epoch"], best as u64 + 1);
    if epochs.len() < 12 {
        assert_eq!(epochs.len(), best + 3);
        assert!(
            ended
                .stdout
                .iter()
                .any(|line| line.starts_with("stopping early"))
        );
    }
    let steps = epochs[best]["steps"].as_u64().unwrap();
    let said = format!("the best model is that of step {steps}");
    assert!(ended.stderr.contains(&said), "{}", ended.stderr);
}

/// The command lines that study B names, with the words of torchrun before those of its program.
const STUDY_B: [&str; 8] = [
    "--standalone --nnodes=1 --nproc_per_node=1 --per-gpu-batch=1",
    "--standalone --nnodes=1 --nproc_per_node=1 --per_gpu_batch=1 --setup 1_1",
    "--standalone --nnodes=1 --nproc_per_node=1 --per-gpu-batch=16",
    "--standalone --nnodes=1 --nproc_per_node=4 --per_gpu_batch=1 --setup 1_4",
    "--standalone --nnodes=1 --nproc_per_node=4 --per_gpu_batch=4",
    "--standalone --nnodes=1 --nproc_per_node=4 --per_gpu_batch=8",
    "--standalone --nnodes=1 --nproc_per_node=4 --per_gpu_batch=16",
    "--standalone --nnodes=1 --nproc_per_node=1 --b 8 --grad_acc 2 --epochs 1 --lr 2e-5 --log_every 1 --train_size 64 \
     --test_size 32",
];

#[test]
fn the_commands_of_study_b_run() {
    for command in STUDY_B {
        // As it is, but for its length.
        let args = format!("{command} --steps 2");
        let ended = Running::start("bert_fsdp", &args, &[]).end();
        assert_eq!(ended.code, Some(0), "{command}: {}", ended.stderr);
        assert!(
            ended
                .stderr
                .contains("without --data, the texts are made up"),
            "{}",
            ended.stderr
        );
    }
}

#[test]
fn the_commands_of_study_b_run_on_two_nodes() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let runs = tempfile::tempdir().unwrap();
    let node = |node: usize| {
        let args = format!(
            "--nnodes=2 --nproc_per_node=2 --node_rank={node} --master_addr=127.0.0.1 --master_port={port} \
             --per_gpu_batch=4 --setup 2_2 --steps 2"
        );
        Running::start("bert_fsdp", &args, &[("--output_dir", runs.path())])
    };
    let nodes = [node(0), node(1)];
    for node in nodes {
        let ended = node.end();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    }
    let summary = json(runs.path().join("2_2_1e-3_4/summary.json"));
    assert_eq!(
        (&summary["setup"], &summary["steps"]),
        (&"2_2".into(), &2.into())
    );
}

#[test]
fn what_study_b_names_and_is_not_there_is_an_error_with_both_numbers() {
    for (args, expected) in [
        (
            "--setup 1_4",
            &["--setup", "1_2", "2 ranks", "1_4", "4 ranks"][..],
        ),
        ("--train_size 8000", &["--train-size", "2048", "8000"]),
        ("--test_size 513", &["--test-size", "512", "513"]),
        ("--validation 0.0001", &["--validation", "0.0001", "2048"]),
    ] {
        let error = Running::start("bert_fsdp", args, &[]).end().failed();
        for part in expected {
            assert!(error.contains(part), "{args} without {part}: {error}");
        }
    }
    for args in [
        "--setup 4",
        "--setup 0_2",
        "--trace 5",
        "--trace 7..3",
        "--validation 1",
    ] {
        let ended = Running::start("bert_fsdp", args, &[]).end();
        assert_eq!(ended.code, Some(2), "{args}: {}", ended.stderr);
    }
}

#[test]
fn the_configuration_files_of_the_studies_are_read() {
    let folder = of_repository("examples/configs");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let words = ["example".as_ref(), "--config".as_ref(), path.as_os_str()];
        if name.contains("bert") {
            burn_dist_models::run::parse_from::<burn_dist_models::run::BertArgs>(words).map(drop)
        } else {
            burn_dist_models::run::parse_from::<burn_dist_models::run::VitArgs>(words).map(drop)
        }
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        seen += 1;
    }
    assert!(seen >= 6);
    let missing = Running::start("vit_fsdp", "--config no/such.toml", &[]).end();
    assert_eq!(missing.code, Some(2));
    assert!(
        missing.stderr.contains("no/such.toml"),
        "{}",
        missing.stderr
    );
}
