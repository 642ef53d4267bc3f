//! Loops compiled for several instruction sets, of which the best that the processor has is chosen at run
//! time.
//!
//! A [`Kernel`] is a plain loop over slices. The compiler vectorises it once with AVX-512, once with AVX2
//! and FMA, and once with what the target has anyway (SSE2 on x86-64, NEON on AArch64). The loops keep their
//! partial sums in sixteen lanes on all of them and say where a product and a sum are rounded once, so that
//! AVX-512, AVX2 and NEON give the same bits.

mod lanes;
mod math;

pub(crate) use lanes::{max, sum};
pub(crate) use math::{exp, normal};

use pulp::Simd;
#[cfg(target_arch = "x86_64")]
use pulp::x86::{V3, V4};
use pulp::{Scalar, WithSimd};
use std::sync::OnceLock;

/// What is compiled for each instruction set: a loop, and the slices it runs over.
///
/// [`run`](Self::run), and all that it calls, must be `#[inline(always)]`: what is not inlined is compiled for
/// the baseline.
pub(crate) trait Kernel {
    /// What the loop returns.
    type Output;

    /// Runs the loop.
    fn run<M: MulAdd>(self) -> Self::Output;
}

/// How `a * b + c` is computed.
pub(crate) trait MulAdd {
    fn mul_add(a: f32, b: f32, c: f32) -> f32;
}

/// With one rounding, by an instruction of the processor.
enum Fused {}

/// With two roundings: without such an instruction, one rounding takes a call to the C library.
enum Separate {}

impl MulAdd for Fused {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

impl MulAdd for Separate {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

/// The variable of the environment that names the best instruction set that kernels use, as oneDNN's
/// `ONEDNN_MAX_CPU_ISA` does. Matrix products are gemm's, which chooses its own.
const MAX_ISA: &str = "BURN_DIST_NN_MAX_ISA";

/// Its values, from the least.
const NAMES: [(&str, usize); 3] = [("baseline", 0), ("avx2", 1), ("avx512", 2)];

/// An instruction set that kernels are compiled for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum InstructionSet {
    #[cfg(target_arch = "x86_64")]
    Avx512(V4),
    #[cfg(target_arch = "x86_64")]
    Avx2(V3),
    /// What the compiler's target has.
    Baseline,
}

impl InstructionSet {
    /// The best that this processor has and [`MAX_ISA`] allows; found once and remembered.
    #[inline(always)]
    fn best() -> Self {
        static BEST: OnceLock<InstructionSet> = OnceLock::new();
        *BEST.get_or_init(|| {
            let most = std::env::var(MAX_ISA).ok();
            let most = most
                .as_deref()
                .map(str::trim)
                .filter(|most| !most.is_empty());
            let known = NAMES.map(|(name, _)| name);
            assert!(
                most.is_none_or(|most| known.contains(&most)),
                "{MAX_ISA}={}: one of {known:?} is expected",
                most.unwrap_or_default()
            );
            let level = |name: &str| NAMES.iter().find(|(known, _)| *known == name);
            let most = most.and_then(level).map_or(usize::MAX, |(_, level)| *level);
            let allowed = Self::available().find(|set| set.level() <= most);
            allowed.unwrap_or(Self::Baseline)
        })
    }

    /// Its place among [`NAMES`].
    fn level(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => 2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => 1,
            Self::Baseline => 0,
        }
    }

    /// All that this processor has, the best first.
    pub(crate) fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let special = [
            V4::try_new().map(Self::Avx512),
            V3::try_new().map(Self::Avx2),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let special: [Option<Self>; 0] = [];
        special.into_iter().flatten().chain([Self::Baseline])
    }

    /// Runs a kernel compiled for this instruction set.
    #[inline(always)]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(simd) => Simd::vectorize(simd, WithFma(kernel)),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(simd) => Simd::vectorize(simd, WithFma(kernel)),
            #[cfg(target_arch = "aarch64")]
            Self::Baseline => Simd::vectorize(Scalar, WithFma(kernel)),
            #[cfg(not(target_arch = "aarch64"))]
            Self::Baseline => Simd::vectorize(Scalar, WithoutFma(kernel)),
        }
    }
}

/// Runs a kernel with the best instructions that this processor has.
pub(crate) fn run<K: Kernel>(kernel: K) -> K::Output {
    InstructionSet::best().run(kernel)
}

struct WithFma<K>(K);

impl<K: Kernel> WithSimd for WithFma<K> {
    type Output = K::Output;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> K::Output {
        self.0.run::<Fused>()
    }
}

#[cfg(not(target_arch = "aarch64"))]
struct WithoutFma<K>(K);

#[cfg(not(target_arch = "aarch64"))]
impl<K: Kernel> WithSimd for WithoutFma<K> {
    type Output = K::Output;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> K::Output {
        self.0.run::<Separate>()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::process::Command;

    /// This program again, for the tests of this name and under a most advanced instruction set.
    fn again(name: &str, most: &str) -> std::process::Output {
        let mut program = Command::new(std::env::current_exe().unwrap());
        program.args([name, "--quiet"]).env(MAX_ISA, most);
        program.output().unwrap()
    }

    #[test]
    fn every_kernel_is_right_on_every_instruction_set() {
        // Not in the processes that this test starts.
        if std::env::var(MAX_ISA).is_ok() {
            return;
        }
        for (most, _) in NAMES {
            let output = again("tests::", most);
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{most}: {text}");
            assert!(text.contains("test result: ok"), "{most}: {text}");
        }
    }

    #[test]
    fn an_unknown_instruction_set_is_an_error_that_names_the_known_ones() {
        if std::env::var(MAX_ISA).is_ok() {
            return;
        }
        let output = again("gelu_in_both_forms", "avx3");
        assert!(!output.status.success());
        let text = String::from_utf8_lossy(&output.stdout);
        let wanted = "BURN_DIST_NN_MAX_ISA=avx3: one of [\"baseline\", \"avx2\", \"avx512\"]";
        assert!(text.contains(wanted), "{text}");
    }
}
