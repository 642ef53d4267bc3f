//! Histograms of shards add up, and every number lies in its bucket.

use crate::Histogram;
use crate::tensorboard::limits::Limits;

/// Numbers from a fixed seed (SplitMix64).
fn bits(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// The bucket by a search through all limits.
fn searched(limits: &[f64], value: f64) -> usize {
    let bucket = limits.partition_point(|limit| *limit <= value);
    bucket.min(limits.len() - 1)
}

#[test]
fn limits_are_those_of_tensorflow() {
    let limits = Limits::get().as_slice();
    // As many as `torch.utils.tensorboard` has, and the last one.
    assert_eq!(limits.len(), 1549 + 1);
    assert!(limits.is_sorted_by(|a, b| a < b));
    assert_eq!(limits[774], 0.0);
    assert_eq!(limits[775..778], [1e-12, 1e-12 * 1.1, 1e-12 * 1.1 * 1.1]);
    assert_eq!(limits[1549], f64::MAX);
}

#[test]
fn every_number_lies_in_its_bucket() {
    let limits = Limits::get();
    let all = limits.as_slice();
    let around = |limit: &f64| [limit.next_down(), *limit, limit.next_up()];
    let edges = all.iter().flat_map(around);
    let small = [0.0, -0.0, f64::MIN_POSITIVE, -5e-324, f64::MAX, f64::MIN];
    let drawn = bits(1).take(200_000).map(f64::from_bits);
    let floats = bits(2).take(200_000);
    let floats = floats.map(|bits| f64::from(f32::from_bits(bits as u32)));
    let usual = bits(3).take(200_000);
    let usual = usual.map(|bits| (bits as f64 / u64::MAX as f64 - 0.5) * 1e-2);
    let values = edges.chain(small).chain(drawn).chain(floats).chain(usual);
    for value in values.filter(|value| value.is_finite()) {
        assert_eq!(limits.bucket(value), searched(all, value), "{value:e}");
    }
}

#[test]
fn shards_add_up_to_the_whole() {
    let values: Vec<f32> = bits(4)
        .take(10_007)
        .map(|b| f32::from_bits(b as u32))
        .collect();
    let mut whole = Histogram::new();
    whole.add(&values);
    assert!(whole.nan() > 0 && whole.count() > 9_000);
    for ranks in [1, 2, 3, 7] {
        let shards = values.chunks(values.len().div_ceil(ranks));
        let shards: Vec<Histogram> = shards
            .map(|shard| {
                let mut histogram = Histogram::new();
                histogram.add(shard);
                histogram
            })
            .collect();
        let mut merged = Histogram::new();
        shards.iter().for_each(|shard| merged.merge(shard));

        // As an all-reduce does it.
        let mut sums = vec![0.0; Histogram::numbers()];
        for shard in &shards {
            sums.iter_mut()
                .zip(shard.to_numbers())
                .for_each(|(a, b)| *a += b);
        }
        let bounds = shards.iter().map(Histogram::bounds);
        let bounds = bounds.fold((f64::INFINITY, f64::NEG_INFINITY), |all, one| {
            (all.0.min(one.0), all.1.max(one.1))
        });
        let reduced = Histogram::from_numbers(&sums, bounds).unwrap();

        for found in [merged, reduced] {
            assert!(found.buckets().eq(whole.buckets()));
            let exact = |h: &Histogram| (h.min(), h.max(), h.count(), h.nan(), h.infinite());
            assert_eq!(exact(&found), exact(&whole));
            let near = |a: f64, b: f64| (a - b).abs() <= 1e-12 * whole.sum_of_squares().sqrt();
            assert!(near(found.sum(), whole.sum()));
            let ratio = found.sum_of_squares() / whole.sum_of_squares();
            assert!((ratio - 1.0).abs() < 1e-12);
        }
    }
}

#[test]
fn numbers_of_another_kind_are_refused() {
    let mut histogram = Histogram::new();
    let nothing = Histogram::from_numbers(&histogram.to_numbers(), histogram.bounds());
    assert_eq!(nothing.unwrap(), histogram);
    histogram.add_f64(&[1.0, 2.0]);
    let numbers = histogram.to_numbers();
    assert_eq!(
        Histogram::from_numbers(&numbers, histogram.bounds()).unwrap(),
        histogram
    );
    let error = |numbers: &[f64], bounds| {
        let error = Histogram::from_numbers(numbers, bounds).unwrap_err();
        error.to_string()
    };
    let short = error(&numbers[1..], histogram.bounds());
    assert!(short.contains("has 1554 numbers, not 1553"), "{short}");
    let mut half = numbers.clone();
    half[3] = 0.5;
    let half = error(&half, histogram.bounds());
    assert!(half.contains("counts 0.5"), "{half}");
    for bounds in [(1.0, 3.0), (0.5, 2.0), (f64::INFINITY, f64::NEG_INFINITY)] {
        let other = error(&numbers, bounds);
        assert!(other.contains("reduce `bounds`"), "{other}");
    }
}

#[test]
fn a_number_is_counted_in_nanoseconds() {
    let values: Vec<f32> = bits(5)
        .take(1 << 20)
        .map(|bits| (bits as f64 / u64::MAX as f64 - 0.5) as f32 * 0.1)
        .collect();
    let best = (0..3).map(|_| {
        let begun = std::time::Instant::now();
        let mut histogram = Histogram::new();
        histogram.add(&values);
        assert_eq!(histogram.count(), 1 << 20);
        begun.elapsed().as_nanos() as f64 / values.len() as f64
    });
    let best = best.fold(f64::INFINITY, f64::min);
    println!("{best:.2} ns for a number");
    // About 3 in a release build; ten times that leaves room for machines that are busy.
    assert!(cfg!(debug_assertions) || best < 30.0, "{best} ns");
}
