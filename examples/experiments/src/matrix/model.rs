//! A model: the program that trains it, and its size.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A program that trains models of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// `vit_fsdp`, on images.
    Vit,
    /// `bert_fsdp`, on texts.
    Bert,
}

impl Program {
    /// The name of the example.
    pub fn example(self) -> &'static str {
        match self {
            Self::Vit => "vit_fsdp",
            Self::Bert => "bert_fsdp",
        }
    }

    /// The sizes that it takes after `--model`.
    pub fn sizes(self) -> &'static [&'static str] {
        match self {
            Self::Vit => &["tiny", "cifar", "small", "base", "large"],
            Self::Bert => &["tiny", "mini", "small", "base", "large", "distil"],
        }
    }

    /// The name of its models.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Vit => "vit",
            Self::Bert => "bert",
        }
    }
}

/// A model, written as `vit-tiny` or `bert-distil`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Model {
    /// What trains it.
    pub program: Program,
    /// Its size, as `--model` takes it.
    pub size: String,
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.program.kind(), self.size)
    }
}

impl FromStr for Model {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, size) = text.split_once('-').unwrap_or((text, "tiny"));
        let programs = [Program::Vit, Program::Bert];
        let program = programs.into_iter().find(|p| p.kind() == kind);
        let known = program.filter(|program| program.sizes().contains(&size));
        known
            .map(|program| Self {
                program,
                size: size.into(),
            })
            .ok_or_else(|| {
                let all = programs.map(|p| format!("{}-{{{}}}", p.kind(), p.sizes().join("|")));
                format!("expected {}", all.join(" or "))
            })
    }
}
