//! How a strategy is written and read.

use super::Strategy;
use crate::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full_name())?;
        if !self.precision.is_full() {
            write!(f, " in {}", self.precision)?;
        }
        if self.block != 1 {
            write!(f, ", blocks of {}", self.block)?;
        }
        if self.recompute {
            f.write_str(", recomputed")?;
        }
        if self.no_sync {
            f.write_str(", no_sync")?;
        }
        if !self.reshard_after_backward {
            f.write_str(", kept between micro-batches")?;
        }
        if let Some(group) = self.reshard_after_forward {
            write!(f, ", resharded after forward over {group}")?;
        }
        if let Some(elements) = self.persistence_threshold {
            write!(f, ", whole up to {elements} elements")?;
        }
        if let Some(block) = self.quantized_gathers {
            write!(f, ", gathered as int8 in blocks of {block}")?;
        }
        if !self.absent.is_empty() {
            write!(f, ", gradients absent in {}", self.absent.join(" and "))?;
        }
        match &self.lora {
            Some(lora) => write!(f, ", {lora}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Strategy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "single" => Ok(Self::single()),
            "ddp" => Ok(Self::ddp()),
            "zero1" => Ok(Self::zero1()),
            "zero2" => Ok(Self::zero2()),
            "fsdp" | "zero3" => Ok(Self::fsdp()),
            _ => match text.strip_prefix("hybrid:").map(str::parse) {
                Some(Ok(group)) => Ok(Self::hybrid(group)),
                _ => Err(Error::config(
                    "strategy",
                    "single, ddp, zero1, zero2, fsdp or hybrid:N (N ranks a group)",
                    text,
                )),
            },
        }
    }
}
