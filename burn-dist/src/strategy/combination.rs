//! Which options a strategy can have, and which mean nothing together.

use super::{ReduceAt, Reshard, ShardOver, Strategy};
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
        let shards_nothing = matches!(self.over, ShardOver::Single | ShardOver::Nobody);
        if self.persistence_threshold.is_some() && shards_nothing {
            return Err(self.refused(
                "persistence_threshold",
                "one that shards parameters (leave the option out: this one stores all of them whole)",
            ));
        }
        if self.quantized_gathers.is_some() && shards_nothing {
            return Err(self.refused(
                "quantized_gathers",
                "one that gathers parameters (leave the option out: this one gathers none)",
            ));
        }
        if self.quantized_gathers == Some(0) {
            let expected = "a block of at least 1 element (256 is usual)";
            return Err(Error::config("option quantized_gathers", expected, 0));
        }
        let keeps = self.reshard != Reshard::AfterForward;
        let reshards = "fsdp or hybrid:N, which reshard a unit after its forward (leave the option out: this one keeps \
                        what it gathers until the step)";
        if !self.reshard_after_backward && keeps {
            return Err(self.refused("reshard_after_backward(false)", reshards));
        }
        match self.reshard_after_forward {
            Some(_) if keeps => Err(self.refused("reshard_after_forward", reshards)),
            Some(group) if group > 1 && !self.reshard_after_backward => Err(Error::config(
                "option reshard_after_forward beside reshard_after_backward(false)",
                "one of the two: the latter keeps units gathered, so that backward gathers none again",
                format!("reshard_after_forward({group})"),
            )),
            _ => Ok(()),
        }
    }

    /// The error of an option that this strategy cannot have.
    fn refused(&self, option: &str, expected: &str) -> Error {
        let what = format!("the strategy of option {option}");
        Error::config(what, expected, self.full_name())
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
            (
                Strategy::zero2().reshard_after_backward(false),
                "reshard_after_backward",
                "found zero2",
            ),
            (
                Strategy::ddp().persistence_threshold(100),
                "persistence_threshold",
                "found ddp",
            ),
            (
                Strategy::single().quantized_gathers(256),
                "quantized_gathers",
                "found single",
            ),
            (
                Strategy::fsdp().quantized_gathers(0),
                "quantized_gathers",
                "found 0",
            ),
            (
                Strategy::ddp().reshard_after_forward(1),
                "reshard_after_forward",
                "found ddp",
            ),
            (
                Strategy::fsdp()
                    .reshard_after_backward(false)
                    .reshard_after_forward(2),
                "reshard_after_backward(false)",
                "reshard_after_forward(2)",
            ),
        ] {
            let error = refusal(strategy).unwrap();
            assert!(error.contains(option) && error.contains(name), "{error}");
        }
        assert_eq!(refusal(Strategy::ddp().no_sync(false)), None);
        for strategy in [Strategy::zero2(), Strategy::fsdp(), Strategy::hybrid(1)] {
            assert_eq!(refusal(strategy.no_sync(true)), None);
        }
        let kept = Strategy::fsdp().reshard_after_backward(false);
        assert_eq!(refusal(kept.reshard_after_forward(1)), None);
    }

    #[test]
    fn the_smaller_group_divides_the_ranks() {
        let size = |strategy: Strategy, ranks| {
            let group = strategy.shard_group_size(ranks).map_err(|e| e.to_string());
            group.map(|group| strategy.regather_group_size(group))
        };
        let fsdp = |group| Strategy::fsdp().reshard_after_forward(group);
        assert_eq!(size(fsdp(2), 4), Ok(2));
        // The shard that is stored anyway, and all of the unit, which is not gathered again.
        assert_eq!(size(fsdp(4), 4), Ok(4));
        assert_eq!(size(fsdp(1), 4), Ok(4));
        assert_eq!(fsdp(1).reshard(), Reshard::AfterBackward);
        let hybrid = Strategy::hybrid(2).reshard_after_forward(4);
        for (strategy, text) in [
            (
                fsdp(3),
                "divides the 4 rank(s) over which fsdp shards, found 3",
            ),
            (fsdp(0), "found 0"),
            (
                hybrid,
                "divides the 2 rank(s) over which hybrid:2 shards, found 4",
            ),
        ] {
            let error = size(strategy, 4).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }
}
