//! Records of what a rank stores, for code that knows Burn's records and nothing else.

use std::cell::Cell;

thread_local! {
    /// Whether records that this thread takes and loads hold shards.
    static HOLDS_SHARDS: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`, in which a record of a sharded model holds this rank's shards and loads into a model that is
/// sharded alike.
///
/// Everywhere else such a record is an error, because files of two ranks look alike and are not. Use it to
/// hand a sharded model through an interface that takes records, as Burn's `Learner` does, within one run
/// of a program: what goes to disk belongs into [`World::save`](crate::World::save). It holds for the
/// calling thread, until `f` returns or unwinds.
///
/// # Cost
/// None of its own; a record copies the shards.
///
/// ```
/// use burn::module::Module;
/// use burn::nn::LinearConfig;
/// use burn_dist::shard::records_of_shards;
/// use burn_dist::{Strategy, launch::Threads};
///
/// Threads::new(2).run(|world| {
///     let model = LinearConfig::new(8, 4).init(&world.device());
///     let model = Strategy::fsdp().shard(model, &world)?;
///     assert!(world.run(|| model.clone().into_record()).is_err());
///     let copy = records_of_shards(|| {
///         let record = model.clone().into_record();
///         model.clone().load_record(record)
///     });
///     assert_eq!(copy.weight.val().into_data(), model.weight.val().into_data());
///     Ok(())
/// })?;
/// # Ok::<(), burn_dist::Error>(())
/// ```
pub fn records_of_shards<T>(f: impl FnOnce() -> T) -> T {
    let _open = Open(HOLDS_SHARDS.replace(true));
    f()
}

/// Restores what held before, also when what it guards unwinds.
struct Open(bool);

impl Drop for Open {
    fn drop(&mut self) {
        HOLDS_SHARDS.set(self.0);
    }
}

/// Whether a record that is taken or loaded now holds shards.
pub(crate) fn holds_shards() -> bool {
    HOLDS_SHARDS.get()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Strategy, launch::Threads};
    use burn::module::Module;
    use burn::nn::{Linear, LinearConfig, LinearLayout};

    #[test]
    fn shards_of_a_layer_that_transposes_come_back_as_they_were() {
        Threads::new(3)
            .run(|world| {
                let config = LinearConfig::new(7, 5).with_layout(LinearLayout::Col);
                let stored = |model: &Linear| model.weight.base().into_data();
                let model = Strategy::fsdp().shard(config.init(&world.device()), &world)?;
                let record = records_of_shards(|| model.clone().into_record());
                let other = Strategy::fsdp().shard(config.init(&world.device()), &world)?;
                // The last rank stores the bias alone.
                assert_eq!(stored(&other) == stored(&model), world.rank() == 2);
                let loaded = records_of_shards(|| other.load_record(record));
                assert_eq!(stored(&loaded), stored(&model));
                assert_eq!(loaded.weight.id, model.weight.id);
                assert!(!holds_shards());
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn what_unwinds_leaves_nothing_open() {
        let left = std::panic::catch_unwind(|| {
            records_of_shards(|| std::panic::resume_unwind(Box::new(())))
        });
        assert!(left.is_err() && !holds_shards());
    }
}
