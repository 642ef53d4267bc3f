//! The elements of a sharded model, each on one rank, for statistics that ranks add up.

use super::stored::StoredShards;
use crate::error::Result;
use crate::world::World;
use burn::module::Module;
use burn::tensor::{DType, TensorData};

impl World {
    /// Gives the elements of each trained unit to `each`, with the unit's name: those that this rank stores and no rank before it
    /// does, so that every element of the model comes once on one of the ranks.
    ///
    /// `each` is called for every such unit, in the same order on all ranks, with no elements where others have them. Not collective.
    ///
    /// # Cost
    /// Elements are widened to f64, one parameter's shard at a time; on a GPU they are copied to the host first.
    ///
    /// # Errors
    /// [`Error::Model`](crate::Error::Model) if `model` has no sharded parameter; what reading a device fails with.
    ///
    /// ```
    /// use burn::nn::LinearConfig;
    /// use burn_dist::prelude::*;
    ///
    /// for strategy in [Strategy::ddp(), Strategy::fsdp()] {
    ///     let counts = Threads::new(3).run(|world| {
    ///         let model = LinearConfig::new(6, 3).init(&world.device());
    ///         let model = strategy.clone().shard(model, &world)?;
    ///         let mut count = 0;
    ///         world.visit_elements(&model, |_unit, elements| count += elements.len())?;
    ///         world.sum(count)
    ///     })?;
    ///     assert_eq!(counts, [21; 3]);
    /// }
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn visit_elements<M: Module>(
        &self,
        model: &M,
        mut each: impl FnMut(&str, &[f64]),
    ) -> Result<()> {
        let stored = StoredShards::of_sharded(model)?;
        for unit in &stored.units {
            let layout = &unit.sharding.unit(unit.number).layout;
            if !layout.trainable {
                continue;
            }
            let mut is_given = false;
            if unit.sharding.is_counted_here(unit.number) {
                for shard in unit.shards.iter().flatten() {
                    each(&layout.name, &widened(shard.read()?.to_vec(), layout.dtype));
                    is_given = true;
                }
            }
            if !is_given {
                each(&layout.name, &[]);
            }
        }
        Ok(())
    }
}

/// Elements of a float type, as f64.
fn widened(bytes: Vec<u8>, dtype: DType) -> Vec<f64> {
    let len = bytes.len() / dtype.size();
    let data = TensorData::from_bytes_vec(bytes, [len], dtype);
    data.iter::<f64>().collect()
}
