//! Histograms of a sharded model's elements, unit by unit, added up over ranks.

use crate::Histogram;
use burn_dist::{Error, Result, World};

/// The histograms of all units by name, in the order of their first elements: each of the whole unit, the same on all ranks.
/// `visit` gives each rank's elements, for the same units in the same order on all ranks. Collective.
///
/// # Cost
/// Three all-reduces: of 12 kB and of twice 8 bytes a unit.
///
/// # Errors
/// What `visit` or a collective returns.
pub(crate) fn unit_histograms(
    world: &World,
    visit: impl FnOnce(&mut dyn FnMut(&str, &[f64])) -> Result<()>,
) -> Result<Vec<(String, Histogram)>> {
    let mut units: Vec<(String, Histogram)> = Vec::new();
    visit(&mut |name, elements| {
        let known = units.iter().position(|(unit, _)| unit == name);
        let at = known.unwrap_or_else(|| {
            units.push((name.into(), Histogram::new()));
            units.len() - 1
        });
        units[at].1.add_f64(elements);
    })?;
    let numbers: Vec<f64> = units.iter().flat_map(|(_, h)| h.to_numbers()).collect();
    let (least, most): (Vec<f64>, Vec<f64>) = units.iter().map(|(_, h)| h.bounds()).unzip();
    let (numbers, least, most) = (world.sum(numbers)?, world.min(least)?, world.max(most)?);
    let bounds = least.into_iter().zip(most);
    let numbers = numbers.chunks(Histogram::numbers());
    let all = units.into_iter().zip(numbers).zip(bounds);
    all.map(|(((name, _), numbers), bounds)| {
        let odd = |e| Error::config(format!("the histogram of {name}"), "one of all ranks", e);
        let whole = Histogram::from_numbers(numbers, bounds).map_err(odd)?;
        Ok((name, whole))
    })
    .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn_dist::launch::Threads;

    #[test]
    fn ranks_add_up_to_the_histogram_of_the_whole() {
        let elements: Vec<f64> = (0..90)
            .map(|i| (f64::from(i) - 40.0).powi(3) / 1e3)
            .collect();
        let mut whole = Histogram::new();
        whole.add_f64(&elements);
        let found = Threads::new(3).run(|world| {
            let part = &elements[30 * world.rank()..][..30];
            unit_histograms(&world, |each| {
                each("a", if world.rank() == 1 { &elements } else { &[] });
                each("b", &part[..10]);
                each("b", &part[10..]);
                Ok(())
            })
        });
        for rank in found.unwrap() {
            let names: Vec<_> = rank.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, ["a", "b"]);
            for (_, histogram) in rank {
                assert_eq!(histogram.count(), whole.count());
                assert_eq!(histogram.bounds(), whole.bounds());
                assert!(histogram.buckets().eq(whole.buckets()));
            }
        }
    }
}
