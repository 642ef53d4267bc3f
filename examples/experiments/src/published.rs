//! The numbers that the two studies have published, with the hardware they were measured on.

use crate::record::Setup;

/// Where the numbers of study A are from.
pub const STUDY_A: &str = "EMLO session 6 (github.com/mmgxa/E2_6, 2022): ViT-Base on 50 000 images, one epoch, half precision";

/// Where the numbers of study B are from.
pub const STUDY_B: &str = "Bahl and Friberg, Distributed Training (github.com/ubahl/Distributed-Training, 2023): \
                           DistilBERT on 8000 texts of AG News, ViT-B/16 on 10 000 images of food101, f32";

/// The hardware of study B's experiment 1, as far as its page says.
pub const STUDY_B_HARDWARE: &str = "NVIDIA GPUs, up to four; two nodes by a cloud's network";

/// A run of study A.
#[derive(Debug, Clone, Copy)]
pub struct StudyARun {
    /// The strategy.
    pub strategy: &'static str,
    /// The set-up.
    pub setup: &'static str,
    /// Images of a GPU.
    pub batch: usize,
    /// What it ran on.
    pub hardware: &'static str,
    /// The length of training on its plot of GPU utilisation, in the plot's units.
    pub units: Option<f64>,
    /// The accuracy on training samples, read off a plot.
    pub accuracy: f64,
    /// The training loss, read off a plot.
    pub loss: &'static str,
}

/// The runs of study A.
pub const STUDY_A_RUNS: [StudyARun; 4] = [
    StudyARun {
        strategy: "ddp",
        setup: "1_2",
        batch: 48,
        hardware: "1 node, 2 Tesla M60",
        units: Some(873.0),
        accuracy: 0.19,
        loss: "2.03 (a step's)",
    },
    StudyARun {
        strategy: "fsdp",
        setup: "1_2",
        batch: 48,
        hardware: "1 node, 2 Tesla M60",
        units: Some(1005.0),
        accuracy: 0.16,
        loss: "2.5",
    },
    StudyARun {
        strategy: "ddp",
        setup: "2_1",
        batch: 96,
        hardware: "2 nodes, a T4 each",
        units: None,
        accuracy: 0.18,
        loss: "2.5",
    },
    StudyARun {
        strategy: "fsdp",
        setup: "2_1",
        batch: 96,
        hardware: "2 nodes, a T4 each",
        units: None,
        accuracy: 0.13,
        loss: "2.75",
    },
];

/// Seconds of an epoch of BERT in study B's experiment 1: set-up, ranks, and those at batch 1, 4 and 16.
const STUDY_B_EPOCHS: [(&str, usize, [f64; 3]); 3] = [
    ("1_1", 1, [470.0, 382.7, 358.1]),
    ("1_4", 4, [145.5, 100.3, 88.2]),
    ("2_2", 4, [356.1, 156.6, 101.0]),
];

/// A published time of an epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PublishedEpoch {
    /// The set-up.
    pub setup: &'static str,
    /// Samples of a GPU.
    pub batch: usize,
    /// Seconds.
    pub seconds: f64,
    /// The seconds on one GPU by these.
    pub speed_up: f64,
    /// That by the number of GPUs.
    pub efficiency: f64,
}

/// Study B's experiment 1, at a batch.
pub fn study_b_epochs(batch: usize) -> Vec<PublishedEpoch> {
    let Some(column) = [1, 4, 16].iter().position(|b| *b == batch) else {
        return Vec::new();
    };
    let baseline = STUDY_B_EPOCHS[0].2[column];
    let row = |(setup, ranks, seconds): (&'static str, usize, [f64; 3])| PublishedEpoch {
        setup,
        batch,
        seconds: seconds[column],
        speed_up: baseline / seconds[column],
        efficiency: baseline / seconds[column] / ranks as f64,
    };
    STUDY_B_EPOCHS.map(row).into()
}

/// A published accuracy of study B's experiment 2: what it is of, and its range.
pub const STUDY_B_ACCURACIES: [(&str, &str, f64, f64); 3] = [
    ("bert", "after 2 epochs", 0.87, 0.92),
    ("bert", "after 5 epochs", 0.90, 0.93),
    ("vit", "after 2 epochs", 0.945, 0.95),
];

/// Seconds of an epoch in study B's experiment 3: model, link, hardware, seconds, and by how much they exceed those of the
/// near pair.
pub const STUDY_B_LINKS: [(&str, &str, &str, f64, Option<f64>); 5] = [
    ("bert", "near", "2 nodes, a T4 each, close", 198.8, None),
    ("bert", "near", "2 nodes, a P100 each, close", 117.3, None),
    (
        "bert",
        "far",
        "2 nodes, a P100 each, in two regions",
        296.0,
        Some(2.52),
    ),
    ("vit", "near", "2 nodes, a T4 each, close", 115.5, None),
    (
        "vit",
        "far",
        "2 nodes, a P100 each, in two regions",
        361.5,
        Some(3.13),
    ),
];

/// Whether the studies have published a set-up.
pub fn has_setup(setup: Setup) -> bool {
    let name = setup.to_string();
    STUDY_B_EPOCHS
        .iter()
        .any(|(published, ..)| *published == name)
}
