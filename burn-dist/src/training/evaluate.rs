//! Sums over a whole data set.

use crate::data::Loader;
use crate::error::Result;
use crate::world::World;

/// Adds up what `each` makes of the batches of all ranks: losses, correct answers, samples.
///
/// The loader gives each rank its share of the samples, padding with weight 0, so that sums which heed the weights
/// are exactly those of one device, whatever the number of ranks. `None` if a rank is to stop
/// ([`World::should_stop`]), which is asked before every batch, as an evaluation may be longer than a scheduler's
/// grace period. Collective.
///
/// # Cost
/// A byte over the ranks before each batch, and one all-reduce at the end.
///
/// # Errors
/// What the loader, `each` or a collective returns.
///
/// ```
/// use burn_dist::prelude::*;
/// use burn_dist::training::evaluate;
///
/// let sums = Threads::new(3).run(|world| {
///     let samples: Vec<f64> = (0..10).map(f64::from).collect();
///     let data = Loader::new(&world, samples, Batch::per_rank(2), |items, info| {
///         items.into_iter().zip(info.weights.to_vec()).collect::<Vec<_>>()
///     })?;
///     evaluate(&world, &data, |batch| {
///         let sum = batch.iter().map(|(x, weight)| x * f64::from(*weight)).sum();
///         let samples = batch.iter().map(|(_, weight)| f64::from(*weight)).sum();
///         Ok([sum, samples])
///     })
/// })?;
/// assert_eq!(sums, [Some([45.0, 10.0]); 3]);
/// # Ok::<(), burn_dist::Error>(())
/// ```
pub fn evaluate<B: Send + 'static, const N: usize>(
    world: &World,
    data: &Loader<B>,
    mut each: impl FnMut(B) -> Result<[f64; N]>,
) -> Result<Option<[f64; N]>> {
    let mut sums = [0.0; N];
    for batch in data.epoch(0)? {
        if world.should_stop()? {
            return Ok(None);
        }
        let found = each(batch?)?;
        sums.iter_mut().zip(found).for_each(|(sum, x)| *sum += x);
    }
    world.sum(sums).map(Some)
}
