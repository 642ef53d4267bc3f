//! The parts of the library and of the models, lowest first, and what each may use.
//!
//! A row names a folder or a file of `src`, and rows above it; anything else is an error. A folder that is
//! divided gets a row for each of its folders above its own, which then holds what is left
//! (`row("shard/unit", &["shard/tape"])`). See [`Layer`].

use crate::graph::Layer;

const fn row(part: &'static str, uses: &'static [&'static str]) -> Layer {
    Layer { part, uses }
}

/// `burn-dist/src`.
pub(crate) const LIBRARY: &[Layer] = &[
    row("error", &[]),
    row("file_type", &[]),
    row("host", &[]),
    row("layout", &[]),
    row("noise", &[]),
    row("draws", &["noise"]),
    row("lock", &["host"]),
    row("precision", &["error"]),
    row("stop", &["error"]),
    row("unwind", &["error"]),
    row("warning", &[]),
    row("foreign_error", &["error"]),
    row("rendezvous/message", &["error"]),
    row("rendezvous/untrusted", &["error"]),
    row(
        "rendezvous/state",
        &["error", "rendezvous/message", "rendezvous/untrusted"],
    ),
    row(
        "rendezvous",
        &[
            "error",
            "rendezvous/message",
            "rendezvous/untrusted",
            "rendezvous/state",
        ],
    ),
    row("strategy", &["error", "precision"]),
    row("comm", &["error", "unwind", "rendezvous"]),
    row("plan", &["error", "layout", "strategy", "comm"]),
    row("world", &["error", "noise", "stop", "unwind", "comm"]),
    row("agreement", &["error", "comm", "world"]),
    row("data", &["error", "world"]),
    row("training", &["error", "data", "world"]),
    row("numbers", &["error"]),
    row("reduction", &["error", "comm", "numbers", "world"]),
    row("values", &["error", "comm", "world"]),
    row(
        "launch",
        &[
            "error",
            "foreign_error",
            "host",
            "lock",
            "stop",
            "unwind",
            "warning",
            "rendezvous",
            "comm",
            "world",
        ],
    ),
    row("shard/memory", &["error", "unwind", "warning", "comm"]),
    row("shard/tape", &["error", "unwind", "shard/memory"]),
    row(
        "shard/model",
        &[
            "error",
            "layout",
            "noise",
            "unwind",
            "warning",
            "strategy",
            "comm",
            "plan",
            "world",
            "shard/memory",
        ],
    ),
    row(
        "shard/init",
        &[
            "error",
            "layout",
            "noise",
            "unwind",
            "warning",
            "strategy",
            "comm",
            "plan",
            "world",
            "agreement",
            "shard/memory",
            "shard/model",
        ],
    ),
    row(
        "shard/unit",
        &[
            "error",
            "draws",
            "unwind",
            "warning",
            "strategy",
            "comm",
            "shard/memory",
            "shard/tape",
            "shard/model",
        ],
    ),
    row(
        "shard/step",
        &[
            "error",
            "layout",
            "unwind",
            "comm",
            "world",
            "shard/memory",
            "shard/tape",
            "shard/model",
        ],
    ),
    row(
        "shard/check",
        &[
            "error",
            "layout",
            "unwind",
            "comm",
            "world",
            "shard/memory",
            "shard/model",
            "shard/unit",
            "shard/step",
        ],
    ),
    row(
        "shard/sum",
        &["error", "world", "shard/memory", "shard/tape"],
    ),
    row("shard", &[]),
    row("telemetry", &["world"]),
    row("finite", &["error", "comm", "shard/memory", "shard/model"]),
    row("scaler", &["error", "shard/step"]),
    row(
        "checkpoint",
        &[
            "error",
            "file_type",
            "host",
            "lock",
            "unwind",
            "layout",
            "warning",
            "comm",
            "world",
            "shard/memory",
            "shard/model",
            "finite",
        ],
    ),
    row(
        "weights",
        &[
            "error",
            "file_type",
            "layout",
            "strategy",
            "comm",
            "plan",
            "world",
            "agreement",
            "shard/memory",
            "shard/model",
            "shard/init",
            "finite",
        ],
    ),
    row("fuzz", &["rendezvous", "comm", "launch"]),
    row(
        "prelude",
        &[
            "error",
            "data",
            "strategy",
            "plan",
            "world",
            "launch",
            "shard/model",
            "shard/unit",
        ],
    ),
    row(
        "nn",
        &["noise", "draws", "world", "shard/unit", "shard/sum"],
    ),
    row("lib", &[]),
];

/// `burn-dist/log/src`.
pub(crate) const LOG: &[Layer] = &[row("record", &[]), row("lib", &[])];

/// `burn-dist/nn/src`.
pub(crate) const NN: &[Layer] = &[
    row("simd", &[]),
    row("matmul", &[]),
    row("flex", &[]),
    row("rows", &["simd"]),
    row("functional", &["simd", "matmul", "flex", "rows"]),
    row("optim", &["simd", "flex", "rows"]),
    row("lib", &[]),
];

/// `burn-dist/train/src`.
pub(crate) const TRAIN: &[Layer] = &[
    row("raise", &[]),
    row("parts", &[]),
    row("rank_output", &["parts"]),
    row("output", &["raise", "rank_output"]),
    row("gather", &["parts", "rank_output"]),
    row("rank_loader", &[]),
    row("feed", &["rank_loader"]),
    row("saves", &[]),
    row("silent", &[]),
    row("sharded", &["saves"]),
    row(
        "fit",
        &[
            "raise",
            "parts",
            "rank_output",
            "output",
            "gather",
            "feed",
            "saves",
            "sharded",
        ],
    ),
    row(
        "strategy",
        &["raise", "rank_output", "saves", "silent", "sharded", "fit"],
    ),
    row("lib", &[]),
];

/// `models/src`.
pub(crate) const MODELS: &[Layer] = &[
    row("config", &[]),
    row("init", &[]),
    row("hf", &["config"]),
    row("bert", &["config", "init", "hf"]),
    row("vit", &["config", "init", "hf"]),
    row("data", &["hf", "bert"]),
    row("run", &["hf", "bert", "vit", "data"]),
    row("saves", &["hf", "bert", "vit"]),
    row("lib", &[]),
];
