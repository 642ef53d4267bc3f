//! Whether what is about to be kept is numbers at all.

use crate::comm::{Communicator, Span, SpanMut};
use crate::error::{Error, Result};
use crate::shard::{Shard, ShardedParam, Visit, walk};
use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};

/// Whether every float among these elements is finite; what is no float is.
pub(crate) fn is_finite(bytes: &[u8], dtype: DType) -> bool {
    // All bits of the exponent are set in infinities and NaNs, and in nothing else.
    match dtype {
        DType::F64 => all(bytes, |b: [u8; 8]| {
            u64::from_ne_bytes(b) & 0x7ff0_0000_0000_0000 != 0x7ff0_0000_0000_0000
        }),
        DType::F32 => all(bytes, |b: [u8; 4]| {
            u32::from_ne_bytes(b) & 0x7f80_0000 != 0x7f80_0000
        }),
        DType::F16 => all(bytes, |b: [u8; 2]| u16::from_ne_bytes(b) & 0x7c00 != 0x7c00),
        DType::BF16 => all(bytes, |b: [u8; 2]| u16::from_ne_bytes(b) & 0x7f80 != 0x7f80),
        _ => true,
    }
}

fn all<const N: usize>(bytes: &[u8], good: impl Fn([u8; N]) -> bool) -> bool {
    bytes.as_chunks().0.iter().all(|chunk| good(*chunk))
}

/// What was looked at of a sharded model, and the first that is not finite on this rank.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    pub(crate) first: Option<usize>,
    paths: Vec<String>,
    error: Option<Error>,
}

impl Looked {
    /// Looks at all that training changes: trainable parameters and running state.
    pub(crate) fn at<M: Module>(model: &M) -> Result<Self> {
        let mut looked = Self::default();
        walk(model, &mut looked);
        looked.error.take().map_or(Ok(looked), Err)
    }

    /// What a number means, on any rank.
    pub(crate) fn name(&self, number: usize) -> String {
        let path = self.paths.get(number);
        path.map_or_else(|| "this model".into(), String::clone)
    }

    fn look(&mut self, path: &str, (shard, dtype): (Result<Shard>, DType)) {
        let finite = shard.and_then(|shard| Ok(is_finite(&shard.read()?, dtype)));
        match finite {
            Ok(false) if self.first.is_none() => self.first = Some(self.paths.len()),
            Err(error) => self.error = Some(error),
            _ => {}
        }
        self.paths.push(path.into());
    }
}

impl Visit for Looked {
    type Held = (Result<Shard>, DType);

    fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Self::Held {
        let stored = param.base();
        let dtype = stored.dtype();
        (Shard::of(stored), dtype)
    }

    fn sharded(&mut self, path: &str, held: Self::Held, identity: ShardedParam) {
        if identity.sharding.unit(identity.unit).layout.trainable {
            self.look(path, held);
        }
    }

    fn plain(&mut self, path: &str, held: Self::Held) {
        self.look(path, held);
    }
}

/// Fails on every rank alike if any has found something that is not finite: `mine` is the number of the
/// first such thing on this rank, and `name` says what a number means, the same on all ranks. Collective.
pub(crate) fn agree(
    comm: &Communicator,
    mine: Option<usize>,
    what: &str,
    name: impl FnOnce(usize) -> String,
) -> Result<()> {
    let sent = [mine.map_or(u64::MAX, |first| first as u64)];
    let mut all = vec![0u64; comm.size()];
    comm.all_gather(&what.into(), Span::of(&sent), SpanMut::of(&mut all))?;
    let first = all.iter().copied().min().unwrap_or(u64::MAX);
    if first == u64::MAX {
        return Ok(());
    }
    let rank = all.iter().position(|found| *found == first).unwrap_or(0);
    Err(not_finite(&name(first as usize), Some(rank)))
}

/// What to say of something that is not finite.
pub(crate) fn not_finite(name: &str, rank: Option<usize>) -> Error {
    let at = rank.map_or(String::new(), |rank| format!(" on rank {rank}"));
    Error::model(
        name,
        format!("holds an infinity or a NaN{at}, the first that does, so that nothing was saved"),
        "what was saved before is still there: go on from it with a lower learning rate, and let \
         clip_norm or all_finite find the step that makes gradients infinite",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn infinities_and_nans_of_every_type_are_found() {
        for x in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert!(!is_finite(&x.to_ne_bytes(), DType::F64));
            assert!(!is_finite(&(x as f32).to_ne_bytes(), DType::F32));
            assert!(!is_finite(&f16::from_f64(x).to_ne_bytes(), DType::F16));
            assert!(!is_finite(&bf16::from_f64(x).to_ne_bytes(), DType::BF16));
        }
        assert!(!is_finite(
            bytemuck::cast_slice(&[1.0, 2.0, f32::NAN]),
            DType::F32
        ));
        for x in [f64::MAX, f64::MIN_POSITIVE, -0.0] {
            assert!(is_finite(&x.to_ne_bytes(), DType::F64));
        }
        assert!(is_finite(&f32::MAX.to_ne_bytes(), DType::F32));
        assert!(is_finite(&f16::MAX.to_ne_bytes(), DType::F16));
        assert!(is_finite(&bf16::MAX.to_ne_bytes(), DType::BF16));
        assert!(is_finite(&u64::MAX.to_ne_bytes(), DType::I64));
        assert!(is_finite(&[], DType::F32));
    }
}
