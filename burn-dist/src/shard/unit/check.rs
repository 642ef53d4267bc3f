//! Whether a unit computes what plain Burn would.
//!
//! A sharded parameter stores a shard. A layer that takes a shape from what is stored (`weight.dims()`) rather than
//! from the gathered weight (`weight.val().dims()`) may compute wrong numbers without an error. So the closure of a
//! unit runs on a plain copy of the module as well, in the first pass of the unit, and the outputs are compared.

use super::activations::{Activations, MapActivations, Untracked};
use super::plain::{self, PlainRun};
use super::scope::{Scope, is_recomputing};
use crate::comm::{Span, SpanMut};
use crate::draws;
use crate::error::{Error, Result};
use crate::shard::memory::Primitive;
use crate::shard::model::{Sharding, StoredShards, full};
use crate::unwind::{or_raise, raise};
use crate::warning::warn;
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, FloatDType, Tensor};
use std::sync::Arc;

/// Gathered bytes of a call above which it is not checked.
const LIMIT: usize = 512 << 20;

/// Runs on the plain module. A dropout may drop the same twice where it has few elements to drop.
const RUNS: usize = 2;
const RUNS_OF_FEW: usize = 8;
const FEW: usize = 4096;

/// The largest deviation, as a share of a tensor's largest element.
const TOLERANCE: f64 = 1e-3;
const TOLERANCE_OF_HALF: f64 = 5e-2;
/// Where weights are gathered as int8 codes.
const TOLERANCE_OF_CODES: f64 = 1e-1;

/// What a rank says of its outputs.
const RIGHT: u64 = 0;
const WRONG: u64 = 1;
const RANDOM: u64 = 2;
const OTHER_MODEL: u64 = 3;

/// The numbers of a float tensor, read once.
struct Numbers {
    dtype: DType,
    numbers: Vec<f64>,
}

/// The output of a closure on the plain module: float tensors, or none where it panicked.
type Outputs = Option<Vec<Numbers>>;

/// What a call gives on plain Burn, to be compared with what it gives sharded.
pub(super) struct Check {
    sharding: Arc<Sharding>,
    name: String,
    expected: Outputs,
    /// Whether further runs gave the same: what draws from Burn's generator differs from itself.
    repeats: bool,
    /// Whether the closure came to another sharded model.
    other_model: bool,
}

impl Check {
    /// Runs `f` on a plain copy of the module, if a check of this call is due. All ranks come here alike.
    pub(super) fn run<M: Module, I: Activations, O: Activations>(
        scope: &Scope,
        module: &M,
        inputs: I,
        f: &impl Fn(&M, I) -> O,
    ) -> (Option<Self>, I) {
        let passes = scope.passes();
        let is_due = !is_recomputing() && passes.iter().any(|pass| pass.is_unchecked());
        if !is_due {
            return (None, inputs);
        }
        passes.iter().for_each(|pass| pass.set_checked());
        let sharding = passes[0].sharding.clone();
        let name = scope.name();
        let stored = or_raise(StoredShards::of(module));
        let bytes: usize = stored.units.iter().map(|unit| unit.layout().bytes()).sum();
        if bytes > LIMIT {
            let why = format!("it has {bytes} bytes, and {LIMIT} are gathered at most");
            tell(&sharding, &name, &why);
            return (None, inputs);
        }
        // Leaves and running state of its own; without gradients, so that nothing of it is on a tape.
        let mut plain = or_raise(full::on_every_rank(module)).valid();
        if let Some(dtype) = sharding.strategy.precision.param_dtype {
            plain = plain.map(&mut CastTo(dtype));
        }
        if stored.has_tape {
            plain = plain.train().no_grad();
        }
        let mut check = Self {
            sharding,
            name,
            expected: None,
            repeats: true,
            other_model: false,
        };
        check.expected = check.outputs(&plain, inputs.clone(), f);
        let numbers = check.expected.iter().flatten().map(|x| x.numbers.len());
        let runs = match numbers.sum() {
            ..FEW => RUNS_OF_FEW,
            _ => RUNS,
        };
        for _ in 1..runs {
            let again = check.outputs(&plain, inputs.clone(), f);
            check.repeats &= match (&check.expected, &again) {
                (Some(expected), Some(again)) => check.is_same(again, expected),
                (None, None) => true,
                _ => false,
            };
        }
        (Some(check), inputs)
    }

    fn outputs<M, I: Activations, O: Activations>(
        &mut self,
        module: &M,
        inputs: I,
        f: &impl Fn(&M, I) -> O,
    ) -> Outputs {
        let _draws = draws::resume(draws::here());
        let inputs = inputs.map(&mut Untracked);
        let ran = plain::run(|| {
            let mut floats = Floats::default();
            drop(f(module, inputs).map(&mut floats));
            floats.0
        });
        self.other_model |= matches!(ran, PlainRun::OtherModel);
        match ran {
            PlainRun::Returned(outputs) => Some(outputs),
            PlainRun::OtherModel | PlainRun::Panicked => None,
        }
    }

    /// Compares with what the sharded module made of the same inputs.
    ///
    /// # Panics
    /// With an [`Error::Model`], the same on every rank, if a rank's outputs deviate.
    pub(super) fn compare<O: Activations>(self, outputs: O) -> O {
        let mut found = Floats::default();
        let outputs = outputs.map(&mut found);
        let verdict = if self.other_model {
            OTHER_MODEL
        } else if self.repeats {
            let expected = self.expected.as_deref();
            let right = expected.is_some_and(|expected| self.is_same(&found.0, expected));
            if right { RIGHT } else { WRONG }
        } else {
            RANDOM
        };
        let verdicts = or_raise(self.gather(verdict));
        if verdicts.contains(&OTHER_MODEL) {
            let why = "it reads another sharded model as well";
            tell(&self.sharding, &self.name, why);
        } else if verdicts.contains(&RANDOM) {
            let why = "run twice it gives two results, as what draws from Burn's generator does";
            tell(&self.sharding, &self.name, why);
        } else if let Some(rank) = verdicts.iter().position(|found| *found == WRONG) {
            raise(wrong(&self.name, rank));
        }
        outputs
    }

    /// Whether all tensors are the same but for rounding.
    fn is_same(&self, found: &[Numbers], expected: &[Numbers]) -> bool {
        let is_coded = self.sharding.strategy.quantized_gathers.is_some();
        let is_close = |(found, expected): (&Numbers, &Numbers)| {
            let tolerance = match expected.dtype {
                DType::F16 | DType::BF16 => TOLERANCE_OF_HALF,
                _ if is_coded => TOLERANCE_OF_CODES,
                _ => TOLERANCE,
            };
            is_close(&found.numbers, &expected.numbers, tolerance)
        };
        found.len() == expected.len() && found.iter().zip(expected).all(is_close)
    }

    /// A number of each rank.
    fn gather(&self, mine: u64) -> Result<Vec<u64>> {
        let world = &self.sharding.world;
        let mut all = vec![0; world.size()];
        let (label, mine) = ("check of a unit".into(), [mine]);
        let (mine, into) = (Span::of(&mine), SpanMut::of(&mut all));
        world.comm().all_gather(&label, mine, into)?;
        Ok(all)
    }
}

fn tell(sharding: &Sharding, unit: &str, why: &str) {
    if sharding.world.is_chief() {
        warn(format_args!(
            "unit {unit} is not compared with plain Burn: {why}"
        ));
    }
}

fn wrong(unit: &str, rank: usize) -> Error {
    Error::model(
        format!("unit {unit}"),
        format!(
            "computes on rank {rank} something else than plain Burn does with the same weights and inputs"
        ),
        format!("probably {READS_STORED_SHAPE}"),
    )
}

/// What a panic in a unit probably comes from.
pub(super) fn hint(unit: &str) -> String {
    format!("in unit {unit}, which is sharded, perhaps {READS_STORED_SHAPE}")
}

const READS_STORED_SHAPE: &str = "a layer takes a shape from what is stored (`weight.dims()`, `weight.shape()`), which \
     is a shard: take it from `weight.val()`, or store that layer whole with Strategy::replicate";

/// Parameters in the type that the unit computes with.
struct CastTo(FloatDType);

impl ModuleMapper for CastTo {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|x| x.cast(self.0))
    }
}

/// Collects float tensors.
#[derive(Default)]
struct Floats(Vec<Numbers>);

impl MapActivations for Floats {
    fn map<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D> {
        let primitive = or_raise(Primitive::of(x.clone()));
        self.0.push(Numbers {
            dtype: primitive.dtype(),
            numbers: or_raise(primitive.numbers()),
        });
        x
    }
}

/// Whether no element is off by more than `tolerance` of the largest; what is no number may be none in both.
fn is_close(found: &[f64], expected: &[f64], tolerance: f64) -> bool {
    let finite = expected.iter().filter(|x| x.is_finite());
    let largest = finite.fold(0.0, |m: f64, x| m.max(x.abs()));
    let mut pairs = found.iter().zip(expected);
    found.len() == expected.len()
        && pairs.all(|(a, b)| {
            a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * largest
        })
}

#[cfg(test)]
mod tests {
    use super::is_close;

    #[test]
    fn close_is_measured_by_the_largest_number() {
        assert!(is_close(&[100.0, 0.05], &[100.0, 0.0], 1e-3));
        assert!(!is_close(&[100.0, 0.5], &[100.0, 0.0], 1e-3));
        assert!(is_close(
            &[f64::NAN, f64::INFINITY],
            &[f64::NAN, f64::INFINITY],
            1e-3
        ));
        assert!(!is_close(&[f64::NAN], &[1.0], 1e-3));
        assert!(!is_close(&[1.0], &[f64::NAN], 1e-3));
    }
}
