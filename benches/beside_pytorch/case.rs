//! What is compared, and the numbers that both sides make of nothing but names.

use serde::{Deserialize, Serialize};

/// One row of the table: a model, its batch, and how it is trained.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Case {
    /// `vit`, `bert` (a classifier) or `masked_lm`.
    pub model: String,
    pub width: usize,
    pub blocks: usize,
    pub heads: usize,
    pub classes: usize,
    pub image: usize,
    pub patch: usize,
    pub tokens: usize,
    /// Samples of a rank.
    pub batch: usize,
    pub dropout: f64,
    pub rate: f64,
    /// `single`, `ddp` or `fsdp`.
    pub strategy: String,
    pub world: usize,
    /// Threads that a rank computes with.
    pub threads: usize,
    /// Whether PyTorch's side is compiled.
    pub compile: bool,
    /// What the row is called.
    pub name: String,
    /// The ratio that is aimed at.
    pub goal: Option<f64>,
}

impl Case {
    fn vit(name: &str, blocks: usize, [image, patch]: [usize; 2], batch: usize) -> Self {
        Self {
            model: "vit".into(),
            width: 192,
            blocks,
            heads: 3,
            classes: if image == 32 { 10 } else { 1000 },
            image,
            patch,
            tokens: 0,
            batch,
            dropout: 0.0,
            rate: 1e-4,
            strategy: "single".into(),
            world: 1,
            threads: 1,
            compile: false,
            name: name.into(),
            goal: None,
        }
    }

    fn bert(name: &str, [width, blocks, heads]: [usize; 3], [batch, tokens]: [usize; 2]) -> Self {
        Self {
            model: "bert".into(),
            width,
            heads,
            classes: 4,
            tokens,
            ..Self::vit(name, blocks, [0, 1], batch)
        }
    }

    fn aims(self, goal: f64) -> Self {
        let goal = Some(goal);
        Self { goal, ..self }
    }

    fn on(self, strategy: &str, world: usize) -> Self {
        let strategy = strategy.into();
        Self {
            strategy,
            world,
            ..self
        }
    }

    fn threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }

    /// All rows.
    pub fn all(compile: bool) -> Vec<Self> {
        let vit = || Self::vit("ViT-CIFAR, 32 images", 6, [32, 4], 32);
        let tiny = || Self::bert("BERT-tiny, 32 x 128", [128, 2, 2], [32, 128]);
        let mini = || Self::bert("BERT-mini, 16 x 128", [256, 4, 4], [16, 128]);
        let masked_lm = Self {
            model: "masked_lm".into(),
            ..Self::bert("BERT-tiny, masked words, 8 x 128", [128, 2, 2], [8, 128])
        };
        let dropout = Self {
            dropout: 0.1,
            name: "BERT-tiny, 32 x 128, dropout 0.1".into(),
            ..tiny()
        };
        let mut all = vec![
            vit().aims(0.85),
            vit().threads(2).aims(0.88),
            Self::vit("ViT-tiny, 8 images of 224", 12, [224, 16], 8).aims(0.88),
            tiny().aims(0.75),
            tiny().threads(2).aims(0.70),
            dropout.aims(0.75),
            mini().aims(0.88),
            masked_lm.aims(0.5),
            vit().on("ddp", 1),
            vit().on("fsdp", 1),
            tiny().on("ddp", 1),
            tiny().on("fsdp", 1),
            vit().on("ddp", 2).aims(0.88),
            vit().on("fsdp", 2).aims(0.75),
            tiny().on("ddp", 2).aims(0.88),
            tiny().on("fsdp", 2).aims(0.75),
        ];
        if compile {
            let compiled = |case: Self| Self {
                compile: true,
                ..case
            };
            all.extend([vit(), tiny()].map(compiled));
        }
        all
    }

    /// The row's first columns.
    pub fn title(&self) -> String {
        let plural = |n: usize| if n == 1 { "" } else { "s" };
        let how = match self.strategy.as_str() {
            "single" => "one process".to_string(),
            strategy => format!("{strategy}, {} rank{}", self.world, plural(self.world)),
        };
        let threads = format!("{} thread{}", self.threads, plural(self.threads));
        let compile = if self.compile { ", torch.compile" } else { "" };
        format!("{}; {how}; {threads}{compile}", self.name)
    }
}

/// What a process answers to a number of steps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Answer {
    /// Seconds of each step.
    pub times: Vec<f64>,
    /// The loss before each step.
    pub losses: Vec<f64>,
    /// Minor page faults of all steps.
    pub faults: u64,
    /// Bytes of the largest resident set so far, above that of the program without its model.
    pub peak: u64,
    /// Seconds since 1970 when the last step ended.
    pub at: f64,
}

/// Random bits for the elements of what has this name: murmur3's finalizer over the index.
pub fn bits(name: &str, count: usize, offset: usize) -> impl Iterator<Item = u32> {
    let seed = crc32fast::hash(name.as_bytes());
    (0..count).map(move |i| {
        let mut h = seed ^ ((i + offset) as u32).wrapping_mul(2_654_435_761);
        h ^= h >> 16;
        h = h.wrapping_mul(0x85eb_ca6b);
        h ^= h >> 13;
        h = h.wrapping_mul(0xc2b2_ae35);
        h ^ (h >> 16)
    })
}

/// Numbers from -1 to 1 of the same.
pub fn numbers(name: &str, count: usize, offset: usize) -> impl Iterator<Item = f64> {
    bits(name, count, offset).map(|bits| f64::from(bits) / 2f64.powi(32) * 2.0 - 1.0)
}
