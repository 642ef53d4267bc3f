//! Reductions of a row in a fixed order.

/// Partial results that are kept side by side: one AVX-512 register, two of AVX2, four of NEON.
const LANES: usize = 16;

/// The sum of `add(i, sum)` over `0..n`: element `i` adds to lane `i % 16`, the rest to a lane of its own, and
/// the lanes are added in pairs.
#[inline(always)]
pub(crate) fn sum(n: usize, add: impl Fn(usize, f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let whole = n / LANES * LANES;
    let mut start = 0;
    while start < whole {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum = add(start + lane, *sum);
        }
        start += LANES;
    }
    let mut rest = 0.0;
    for i in whole..n {
        rest = add(i, rest);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0] + rest
}

/// The largest element that is a number; minus infinity if there is none.
#[inline(always)]
pub(crate) fn max(row: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let mut chunks = row.chunks_exact(LANES);
    for chunk in &mut chunks {
        for (max, &x) in lanes.iter_mut().zip(chunk) {
            *max = larger(*max, x);
        }
    }
    let rest = chunks.remainder().iter().copied();
    lanes
        .into_iter()
        .chain(rest)
        .fold(f32::NEG_INFINITY, larger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_added_once() {
        for n in [0, 1, 15, 16, 17, 65, 1000] {
            let total = sum(n, |i, sum| sum + i as f32);
            assert_eq!(total, (0..n).sum::<usize>() as f32, "{n}");
        }
    }

    #[test]
    fn the_largest_is_found_at_every_place() {
        for n in [1, 15, 16, 17, 65] {
            for at in 0..n {
                let mut row = vec![-3.0; n];
                row[at] = 7.0;
                assert_eq!(max(&row), 7.0);
                row[at] = f32::NAN;
                assert_eq!(max(&row), if n == 1 { f32::NEG_INFINITY } else { -3.0 });
            }
        }
    }
}
