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
    /// The best that this processor has; it is asked once and remembered.
    #[inline(always)]
    fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if let Some(simd) = V4::try_new() {
                return Self::Avx512(simd);
            }
            if let Some(simd) = V3::try_new() {
                return Self::Avx2(simd);
            }
        }
        Self::Baseline
    }

    /// All that this processor has, the best first.
    #[cfg(test)]
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
