//! Which options a strategy can have, and which mean nothing together.

use super::{ReduceAt, ShardOver, Strategy};
use crate::error::{Error, Result};

impl Strategy {
    /// Returns if every option has a meaning under this strategy and beside the others.
    ///
    /// # Errors
    /// [`Error::Config`] that names both sides and what to do.
    pub(super) fn check_combination(&self) -> Result<()> {
        if self.no_sync && self.reduce_at == ReduceAt::Step {
            return Err(self.refused(
                "no_sync",
                "zero2, fsdp or hybrid:N, which reduce in every backward (leave the option out: this one \
                 reduces once a step anyway)",
            ));
        }
        Ok(())
    }

    /// The error of an option that this strategy cannot have.
    fn refused(&self, option: &str, expected: &str) -> Error {
        let found = match self.over {
            ShardOver::Group(group) => format!("{}:{group}", self.name),
            _ => self.name.to_string(),
        };
        Error::config(format!("the strategy of option {option}"), expected, found)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn refusal(strategy: Strategy) -> Option<String> {
        strategy.shard_group_size(1).err().map(|e| e.to_string())
    }

    #[test]
    fn an_option_without_a_meaning_is_refused_with_both_names() {
        for (strategy, option, name) in [
            (Strategy::ddp().no_sync(true), "no_sync", "found ddp"),
            (Strategy::zero1().no_sync(true), "no_sync", "found zero1"),
        ] {
            let error = refusal(strategy).unwrap();
            assert!(error.contains(option) && error.contains(name), "{error}");
        }
        assert_eq!(refusal(Strategy::ddp().no_sync(false)), None);
        for strategy in [Strategy::zero2(), Strategy::fsdp(), Strategy::hybrid(1)] {
            assert_eq!(refusal(strategy.no_sync(true)), None);
        }
    }
}
