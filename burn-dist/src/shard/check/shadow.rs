//! A mode for doubters: one plain device beside the sharded run, compared unit by unit.
//!
//! A sharded run that learns a little worse than it should gives no hint of where. Here every rank
//! gathers the whole model, runs its own samples through it with plain Burn, and compares what each
//! `unit` call returned and which gradients came back to it. Neither needs the other ranks, so the
//! first deviation is where the fault is. Gradients of parameters are summed over ranks by one
//! all-reduce of the plain ones and compared with what the engine made of its own.

use crate::comm::{Reduce, Span, SpanMut};
use crate::error::{Error, Result};
use crate::shard::memory::Primitive;
use crate::shard::model::full::Destination;
use crate::shard::model::{ShardedParam, Visit, not_sharded, walk};
use crate::shard::step::{Accumulation, ShardedGradients};
use crate::shard::unit::{UnitRecord, record};
use crate::world::World;
use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How closely a sharded run is to follow one plain device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shadow {
    /// The largest deviation of an element, as a share of its tensor's largest; for gradients of
    /// parameters, of its unit's largest.
    pub tolerance: f64,
    /// What the sharded run's loss is multiplied by, for f16; the gradients are divided by it.
    /// Where they overflow it is tried again with a quarter.
    pub loss_scale: f64,
    /// The number of the step, for messages.
    pub step: usize,
}

impl Shadow {
    /// A comparison that allows this deviation.
    pub fn within(tolerance: f64) -> Self {
        Self {
            tolerance,
            loss_scale: 1.0,
            step: 0,
        }
    }

    /// The same with another loss scale.
    pub fn loss_scale(self, loss_scale: f64) -> Self {
        Self { loss_scale, ..self }
    }

    /// The same for another step.
    pub fn step(self, step: usize) -> Self {
        Self { step, ..self }
    }
}

/// What a comparison came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shadowed {
    /// Calls of `unit` on this rank that were compared.
    pub units: usize,
    /// The largest deviation on this rank.
    pub worst: f64,
}

/// The first number of the passes whose layers draw the same on both sides; no training counts so far.
const OF_SHADOW: u64 = 1 << 63;

/// Gradients of all parameters by path, in one order.
type GradientValues = BTreeMap<String, Vec<f64>>;

impl World {
    /// Runs forward and backward twice, sharded and on one plain device, and stops at the first
    /// unit that deviates.
    ///
    /// `loss(model, n)` returns the summed loss of micro-batch `n` of `micro_batches` and the number
    /// of its samples, from random numbers that replay. Nothing is stepped: training goes on as if
    /// this had not been called. Collective.
    ///
    /// # Cost
    /// Two steps more, and a whole model with its gradients on every rank.
    ///
    /// # Errors
    /// [`Error::Deviation`], the same on every rank; what backward passes return.
    ///
    /// ```
    /// use burn::{nn::LinearConfig, tensor::Tensor};
    /// use burn_dist::{Shadow, Strategy, launch::Threads, unit};
    ///
    /// Threads::new(2).run(|world| {
    ///     let model = LinearConfig::new(4, 1).init(&world.device());
    ///     let model = Strategy::fsdp().shard(model, &world)?;
    ///     let x = Tensor::<2>::ones([8, 4], &world.device());
    ///     let compared = world.shadow(&model, Shadow::within(1e-4), 1, |model, _| {
    ///         (unit(model, x.clone(), |model, x| model.forward(x)).sum(), 8)
    ///     })?;
    ///     assert_eq!(compared.units, 1);
    ///     Ok(())
    /// })?;
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn shadow<M: Module>(
        &self,
        model: &M,
        mut shadow: Shadow,
        micro_batches: usize,
        loss: impl Fn(&M, usize) -> (Tensor<1>, usize),
    ) -> Result<Shadowed> {
        let Some(plain) = self.full_with_adapters(model, Destination::All)? else {
            return Err(not_sharded());
        };
        // Leaves of its own, which train.
        let plain = plain.valid().train();
        let (sharded, found, shadow) = loop {
            let (recorded, found) = self.sharded(model, &shadow, micro_batches, &loss)?;
            // An overflow in f16 is no deviation: a scaler would skip the step and halve the scale.
            if shadow.loss_scale <= 1.0 || found.all_finite()? {
                break (recorded, found.scaled(1.0 / shadow.loss_scale), shadow);
            }
            shadow.loss_scale *= 0.25;
        };
        let (mut reference, mut gradients, mut samples) = (Vec::new(), GradientValues::new(), 0);
        for call in 0..micro_batches {
            let noise = self.noise(OF_SHADOW + call as u64);
            let ((value, count), recorded) = record(|| noise.layers(|| loss(&plain, call)));
            let found = GradientsParams::from_grads(value.backward(), &plain);
            add(&mut gradients, &plain, &found)?;
            reference.push(recorded);
            samples += count as u64;
        }
        self.average(&mut gradients, samples)?;

        let mut comparison = Comparison::new(shadow, self.rank());
        for (ours, theirs) in sharded.iter().zip(&reference) {
            comparison.passes(ours, theirs)?;
        }
        comparison.parameters(&found, &gradients)?;
        self.first(&comparison)?;
        Ok(Shadowed {
            units: sharded.iter().map(Vec::len).sum(),
            worst: comparison.worst,
        })
    }

    /// Runs the step as training would: what its units did, and its gradients.
    fn sharded<M: Module>(
        &self,
        model: &M,
        shadow: &Shadow,
        micro_batches: usize,
        loss: &impl Fn(&M, usize) -> (Tensor<1>, usize),
    ) -> Result<(Vec<Vec<UnitRecord>>, ShardedGradients)> {
        let mut sums = Accumulation::new(self, model)?.micro_batches(micro_batches);
        let mut all = Vec::new();
        for call in 0..micro_batches {
            let noise = self.noise(OF_SHADOW + call as u64);
            let (ran, recorded) = record(|| self.run(|| noise.layers(|| loss(model, call))));
            let (value, count) = ran?;
            sums.add_sum(value * shadow.loss_scale, count)?;
            all.push(recorded);
        }
        Ok((all, sums.finish()?))
    }

    /// Turns each rank's summed gradients into the mean over the samples of all.
    fn average(&self, gradients: &mut GradientValues, samples: u64) -> Result<()> {
        let label = "shadow".into();
        let mut all = [samples];
        self.comm()
            .all_reduce(&label, Reduce::Sum, SpanMut::of(&mut all))?;
        for values in gradients.values_mut() {
            self.comm()
                .all_reduce(&label, Reduce::Sum, SpanMut::of(values))?;
            values.iter_mut().for_each(|x| *x /= all[0].max(1) as f64);
        }
        Ok(())
    }

    /// The earliest deviation of any rank, as an error that is the same on all.
    fn first(&self, comparison: &Comparison) -> Result<()> {
        let label = "shadow".into();
        let failed = |e: serde_json::Error| Error::config("a deviation", "one that can be sent", e);
        let (place, text) = match &comparison.first {
            Some((place, error)) => (*place, serde_json::to_string(error).map_err(failed)?),
            None => (u64::MAX, String::new()),
        };
        let mut all = vec![0u64; 2 * self.size()];
        let mine = [place, text.len() as u64];
        self.comm()
            .all_gather(&label, Span::of(&mine), SpanMut::of(&mut all))?;
        let ranks = all.chunks_exact(2).enumerate();
        let first = ranks.min_by_key(|(rank, found)| (found[0], *rank));
        let Some((rank, found)) = first.filter(|(_, found)| found[0] != u64::MAX) else {
            return Ok(());
        };
        let mut bytes = text.into_bytes();
        bytes.resize(found[1] as usize, 0);
        self.comm()
            .broadcast(&label, rank, SpanMut::of(&mut bytes))?;
        // Nobody leaves with the error before all have it.
        self.comm().barrier(&label)?;
        Err(serde_json::from_slice(&bytes).map_err(failed)?)
    }
}

/// Looks for the first deviation on this rank.
struct Comparison {
    shadow: Shadow,
    rank: usize,
    /// Tensors compared so far, the same number on every rank.
    place: u64,
    worst: f64,
    first: Option<(u64, Error)>,
}

impl Comparison {
    fn new(shadow: Shadow, rank: usize) -> Self {
        Self {
            shadow,
            rank,
            place: 0,
            worst: 0.0,
            first: None,
        }
    }

    /// One micro-batch: forward in the order of the program, backward against it.
    fn passes(&mut self, ours: &[UnitRecord], theirs: &[UnitRecord]) -> Result<()> {
        if ours.len() != theirs.len() {
            let what = format!("{} calls instead of {}", ours.len(), theirs.len());
            self.add("of the whole model", "forward", &what, f64::INFINITY);
            return Ok(());
        }
        for (a, b) in ours.iter().zip(theirs) {
            for (index, (x, y)) in a.outputs.iter().zip(&b.outputs).enumerate() {
                let (x, y) = (x.numbers()?, y.numbers()?);
                self.add(
                    &a.unit,
                    "forward",
                    &format!("output {index}"),
                    off(&x, &y, 0.0),
                );
            }
        }
        for (a, b) in ours.iter().zip(theirs).rev() {
            let both = a.gradients().into_iter().zip(b.gradients());
            for (index, both) in both.enumerate() {
                let what = format!("the gradient of output {index}");
                let found = match both {
                    (None, None) => 0.0,
                    (Some(x), Some(y)) => {
                        let scaled = |x: f64| x / self.shadow.loss_scale;
                        let x: Vec<f64> = x.numbers()?.into_iter().map(scaled).collect();
                        off(&x, &y.numbers()?, 0.0)
                    }
                    _ => f64::INFINITY,
                };
                self.add(&a.unit, "backward", &what, found);
            }
        }
        Ok(())
    }

    /// The gradients of parameters, each unit measured by its largest.
    fn parameters(&mut self, found: &ShardedGradients, expected: &GradientValues) -> Result<()> {
        let mut largest: BTreeMap<Arc<str>, f64> = BTreeMap::new();
        found.each(|unit, slot, _, _| {
            let values = expected.get(&slot.path).map_or(&[][..], |v| v);
            let most = largest.entry(unit.clone()).or_default();
            *most = values.iter().fold(*most, |most, x| most.max(x.abs()));
        })?;
        found.each(|unit, slot, range, values| {
            let expected = expected.get(&slot.path).and_then(|all| all.get(range));
            let most = largest.get(unit).copied().unwrap_or(0.0);
            let by = expected.map_or(f64::INFINITY, |expected| off(values, expected, most));
            let what = format!("the gradient of {}", slot.path);
            self.add(unit, "backward", &what, by);
        })
    }

    fn add(&mut self, unit: &str, phase: &str, what: &str, found: f64) {
        self.place += 1;
        self.worst = self.worst.max(found);
        // Not the other way around: a NaN is not within anything.
        let within = found <= self.shadow.tolerance;
        if !within && self.first.is_none() {
            let error = Error::Deviation {
                step: self.shadow.step,
                unit: unit.into(),
                rank: self.rank,
                phase: phase.into(),
                what: what.into(),
                // JSON has no infinity.
                found: found.min(f64::MAX),
                allowed: self.shadow.tolerance,
            };
            self.first = Some((self.place, error));
        }
    }
}

/// The largest difference as a share of the largest expected element, or of `most` if that is more.
fn off(found: &[f64], expected: &[f64], most: f64) -> f64 {
    if found.len() != expected.len() {
        return f64::INFINITY;
    }
    let largest = expected.iter().fold(most, |m, x| m.max(x.abs()));
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    // `f64::max` would pass over a NaN.
    let worst = differences.fold(0.0, |m: f64, x| if x.is_nan() || x > m { x } else { m });
    match worst {
        0.0 => 0.0,
        x if x.is_nan() => f64::INFINITY,
        x => x / largest,
    }
}

/// Adds a plain model's gradients to the sums; what has none counts as zeros.
fn add<M: Module>(sums: &mut GradientValues, model: &M, gradients: &GradientsParams) -> Result<()> {
    struct Add<'a> {
        sums: &'a mut GradientValues,
        gradients: &'a GradientsParams,
        result: Result<()>,
    }
    impl Visit for Add<'_> {
        /// Number of elements, and the gradient if there is one.
        type Held = (usize, Option<Result<Vec<f64>>>);

        fn hold<const D: usize>(&mut self, param: &Param<Tensor<D>>) -> Self::Held {
            let gradient = self.gradients.get::<D>(param.id);
            let read = |gradient| Primitive::of(gradient)?.numbers();
            (param.lazy_shape().num_elements(), gradient.map(read))
        }

        fn sharded(&mut self, _: &str, _: Self::Held, _: ShardedParam) {}

        fn plain(&mut self, path: &str, (len, gradient): Self::Held) {
            let sum = self.sums.entry(path.into());
            let sum = sum.or_insert_with(|| vec![0.0; len]);
            match gradient {
                None => {}
                Some(Ok(numbers)) => {
                    let both = sum.iter_mut().zip(numbers);
                    both.for_each(|(sum, x)| *sum += x);
                }
                Some(Err(error)) => self.result = Err(error),
            }
        }
    }
    let mut add = Add {
        sums,
        gradients,
        result: Ok(()),
    };
    walk(model, &mut add);
    add.result
}
