//! Functions of one number without branches, which the compiler can vectorise.

use super::MulAdd;
use std::f32::consts::{FRAC_1_SQRT_2, LOG2_E};

/// e to the `x`, for `x` up to 88, to about one unit in the last place; beyond 88, e to the 88.
///
/// Below -87 it is 0 where the exact value is less than the smallest normal number. NaN gives NaN. The power
/// is split into a power of two and a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes' coefficients,
/// <https://www.netlib.org/cephes>).
#[inline(always)]
pub(crate) fn exp<M: MulAdd>(x: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves the nearest whole number in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, of which the first has few bits: its products with small whole numbers are exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const COEFFICIENTS: [f32; 6] = [
        1.987_569_1e-4,
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ];
    let bounded = x.clamp(-87.0, 88.0);
    let rounded = M::mul_add(bounded, LOG2_E, ROUND);
    let power = rounded - ROUND;
    let rest = M::mul_add(power, -LN_2_HIGH, bounded);
    let rest = M::mul_add(power, -LN_2_LOW, rest);
    let mut p = COEFFICIENTS[0];
    for c in &COEFFICIENTS[1..] {
        p = M::mul_add(p, rest, *c);
    }
    let p = M::mul_add(p * rest, rest, rest) + 1.0;
    let scale = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { p * scale }
}

/// The standard normal distribution at `x`: its cumulative distribution function and its density.
///
/// The tail is computed as such, so that it has a relative error of less than 4e-6 down to x = -13, where the
/// density leaves the normal numbers; the difference `1 + erf` has none of its digits right there.
#[inline(always)]
pub(crate) fn normal<M: MulAdd>(x: f32) -> (f32, f32) {
    // erfc(z) exp(z²) as a polynomial in t = 1 / (1 + 0.3 z), fitted on z >= 0 to a relative error of 2e-8.
    const COEFFICIENTS: [f32; 9] = [
        -0.129_434_18,
        0.485_096_93,
        -0.511_227_5,
        0.546_396_3,
        -0.093_632_154,
        0.214_436_68,
        0.148_482_32,
        0.170_691_95,
        0.169_189_62,
    ];
    const FRAC_1_SQRT_2_PI: f32 = 0.398_942_3;
    let e = exp::<M>(-0.5 * x * x);
    let z = x.abs() * FRAC_1_SQRT_2;
    let t = 1.0 / M::mul_add(z, 0.3, 1.0);
    let mut p = COEFFICIENTS[0];
    for c in &COEFFICIENTS[1..] {
        p = M::mul_add(p, t, *c);
    }
    let tail = 0.5 * p * t * e;
    let below = if x < 0.0 { tail } else { 1.0 - tail };
    (below, e * FRAC_1_SQRT_2_PI)
}

#[cfg(test)]
mod tests {
    use super::super::{InstructionSet, Kernel};
    use super::*;

    struct Both<'a> {
        x: &'a [f32],
        out: &'a mut [[f32; 3]],
    }

    impl Kernel for Both<'_> {
        type Output = ();

        #[inline(always)]
        fn run<M: MulAdd>(self) {
            for (&x, out) in self.x.iter().zip(self.out) {
                let (below, density) = normal::<M>(x);
                *out = [exp::<M>(x), below, density];
            }
        }
    }

    fn on(set: InstructionSet, x: &[f32]) -> Vec<[f32; 3]> {
        let mut out = vec![[0.0; 3]; x.len()];
        set.run(Both { x, out: &mut out });
        out
    }

    /// The normal distribution's tail below `x` < 0 in f64, by the continued fraction of its Mills ratio from
    /// far out and by a series near 0.
    fn below(x: f64) -> f64 {
        let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        if x > -3.0 {
            let (mut term, mut sum, mut k) = (x, x, 1.0);
            while term.abs() > 1e-18 {
                k += 2.0;
                term *= x * x / k;
                sum += term;
            }
            return 0.5 + density * sum;
        }
        let fraction = (1..200).rev().fold(-x, |f, k| -x + f64::from(k) / f);
        density / fraction
    }

    #[test]
    fn both_are_as_exact_as_they_say() {
        let x: Vec<f32> = (-13_000..13_000).map(|i| i as f32 * 1e-3).collect();
        for set in InstructionSet::available() {
            for (&x, [e, cdf, density]) in x.iter().zip(on(set, &x)) {
                let wide = f64::from(x);
                let near = |found: f32, wanted: f64, bound: f64| {
                    let error = (f64::from(found) / wanted - 1.0).abs();
                    assert!(error < bound, "{set:?}, {x}: {found} for {wanted}");
                };
                near(e, wide.exp(), 3e-7);
                let exact = if x < 0.0 {
                    below(wide)
                } else {
                    1.0 - below(-wide)
                };
                near(cdf, exact, 5e-6);
                let exact = (-0.5 * wide * wide).exp() / (2.0 * std::f64::consts::PI).sqrt();
                near(density, exact, 5e-6);
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_none_and_infinities_have_their_limits() {
        for set in InstructionSet::available() {
            let found = on(set, &[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -200.0]);
            assert!(found[0].iter().all(|x| x.is_nan()));
            assert_eq!(found[1][1..], [1.0, 0.0]);
            assert_eq!(found[2], [0.0, 0.0, 0.0]);
            assert_eq!(found[3], [0.0, 0.0, 0.0]);
        }
    }

    #[test]
    fn instruction_sets_that_round_once_agree_to_the_bit() {
        let x: Vec<f32> = (-2000..2000).map(|i| i as f32 * 7e-3).collect();
        let fused = InstructionSet::available().filter(|set| {
            cfg!(target_arch = "aarch64") || !matches!(set, InstructionSet::Baseline)
        });
        let found: Vec<_> = fused.map(|set| on(set, &x)).collect();
        assert!(found.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
