//! A step of an optimizer that needs some parameters whole.

use super::bucket::{Bucket, Piece};
use super::found::{Found, find, store};
use super::job::{Job, buckets, jobs};
use crate::comm::{Label, Op, Reduce, SpanMut};
use crate::error::{Error, Result};
use crate::plan::Traffic;
use crate::shard::check::{Imitation, Stand, Trials};
use crate::shard::memory::{Primitive, Shard};
use crate::shard::model::Sharding;
use crate::shard::step::Trained;
use crate::world::World;
use burn::lr_scheduler::module_lr_scheduler::ModuleLearningRate;
use burn::module::{Module, ParamId};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::Tensor;
use burn_pack::Reader;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// An optimizer on a sharded model that steps whole what it has to see whole, such as Muon's matrices.
///
/// [`World::stepper`] makes it.
pub struct Stepper {
    optimizer: ModuleOptimizer,
    shardings: Vec<Arc<Sharding>>,
    jobs: Vec<Job>,
    /// Numbers of jobs that travel together.
    buckets: Vec<Vec<usize>>,
}

impl fmt::Debug for Stepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owners: Vec<_> = self.owners().collect();
        f.debug_struct("Stepper").field("owners", &owners).finish()
    }
}

impl World {
    /// Makes a step of any optimizer right on a sharded model: of Muon, LAMB, Adafactor, of one that clips by the norm
    /// of each parameter, and of these mixed with others by groups.
    ///
    /// Parameters of which a step on shards is a step of the whole, as for AdamW, are stepped on their shards, as with
    /// [`optimizer`](Self::optimizer). Each of the others has an owner among the ranks that share it, which receives its
    /// gradient, steps it whole with the same optimizer, and sends the new values to the ranks that store them. Owners
    /// are chosen so that all finish together: the longest job first, each to the rank with the least to do. Under
    /// `hybrid` each replica has owners of its own; where the strategy keeps parameters whole, a step is Burn's.
    ///
    /// The gradients of owned parameters are handed out for the stepper alone: a plain `step` of an optimizer on this
    /// model does not change those parameters, or leaves one without a number where it owns all, and the next
    /// [`backward`](Self::backward) is an error that says so.
    ///
    /// # Cost
    /// All ranks together send at most twice the owned parameters' bytes a step, in transfers that run while owners
    /// compute; once, and after a load, half as much again. Of what it owns a rank keeps a whole copy
    /// and the optimizer's whole state.
    ///
    /// # Numerics
    /// Given the same gradients, parameters and states have the bits of Burn's step on one device. Above 4,194,304
    /// elements a parameter's sums depend on the number of threads (`RAYON_NUM_THREADS`): it has to be the same.
    ///
    /// # Errors
    /// [`Error::Optimizer`] if the optimizer panics on a small parameter, has states of a parameter that this rank does not
    /// own (load states into an optimizer whose model has a stepper), needs one of more than 4 dimensions whole, or any under `hybrid` on GPUs;
    /// [`Error::Model`] if `model` was not sharded, or has a trainable parameter that no sharding holds.
    ///
    /// ```
    /// use burn::{module::ParamGroup, nn::LinearConfig, tensor::Tensor};
    /// use burn::optim::{AdamWConfig, MuonConfig};
    /// use burn_dist::prelude::*;
    ///
    /// Threads::new(2).run(|world| {
    ///     let model = LinearConfig::new(8, 4).init(&world.device());
    ///     let mut model = Strategy::fsdp().shard(model, &world)?;
    ///     let matrices = ParamGroup::from_predicate("weight");
    ///     let muon = AdamWConfig::new().init().with_group(matrices, MuonConfig::new().build(), None);
    ///     assert!(world.optimizer(muon.clone(), &model).is_err());
    ///     let mut stepper = world.stepper(muon, &model)?;
    ///     for _ in 0..2 {
    ///         let loss = model.forward(Tensor::<2>::ones([2, 8], &world.device())).mean();
    ///         let clipped = world.backward(loss, &model)?.clip_norm(1.0)?;
    ///         model = stepper.step(0.02, model, clipped.grads)?;
    ///     }
    ///     Ok(())
    /// })?;
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    ///
    /// # Source
    /// PyTorch: `torch.optim.Muon` on DTensors; Megatron-LM and DeepSpeed: Muon under ZeRO.
    pub fn stepper<M: Module>(
        &self,
        optimizer: impl Into<ModuleOptimizer>,
        model: &M,
    ) -> Result<Stepper> {
        let optimizer = optimizer.into();
        let shardings = Trained::of(model)?.shardings;
        let trials = Trials::of(model);
        let jobs = jobs(&trials.differ(&optimizer)?, &shardings)?;
        let buckets = buckets(&jobs);
        let stepper = Stepper {
            optimizer,
            shardings,
            jobs,
            buckets,
        };
        stepper.check_states(model)?;
        Ok(stepper)
    }
}

impl Stepper {
    /// Steps the model with these gradients, as Burn's `optim.step(rate, model, grads)`. Collective.
    ///
    /// # Errors
    /// [`Error::Model`] for another model than the stepper's; what collectives return.
    pub fn step<M: Module>(
        &mut self,
        rate: impl Into<ModuleLearningRate>,
        model: M,
        mut grads: GradientsParams,
    ) -> Result<M> {
        let rate = rate.into();
        if self.jobs.is_empty() {
            return Ok(self.optimizer.step(rate, model, grads));
        }
        let mut found = find(&model, &self.jobs, &mut grads)?;
        for sharding in &self.shardings {
            sharding.owners.take();
        }
        for sharding in self.shardings.clone() {
            if self.is_replaced(&sharding, &found)? {
                self.fetch(&sharding, &found)?;
            }
        }
        let steps: Vec<bool> = found.iter().map(|found| found.gradient.is_some()).collect();
        let jobs = std::mem::take(&mut self.jobs);
        let result = self.exchange(&jobs, &steps, &mut found, (rate, model, grads));
        self.jobs = jobs;
        let (model, stepped) = result?;
        let mut pieces = HashMap::new();
        for (at, whole) in stepped.wholes {
            self.jobs[at].whole = Some(whole);
        }
        for (at, piece) in stepped.pieces {
            self.jobs[at].stored = Some(Shard::of_primitive(piece.clone()));
            pieces.insert(found[at].id, piece);
        }
        Ok(store(model, pieces))
    }

    /// The optimizer, for [saves](crate::checkpoint): this rank has the states of what it steps.
    pub fn optimizer(&self) -> &ModuleOptimizer {
        &self.optimizer
    }

    /// The optimizer, to load states into it; [`World::stepper`] makes a stepper of it again.
    pub fn into_optimizer(self) -> ModuleOptimizer {
        self.optimizer
    }

    /// The paths of the parameters that are stepped whole, each with the number of its owner among the ranks that
    /// share it; in the order of the model.
    pub fn owners(&self) -> impl Iterator<Item = (&str, usize)> {
        self.jobs.iter().map(|job| (job.path.as_str(), job.owner))
    }

    /// What this rank sends in a step for the parameters that are stepped whole; once, and after a load, it sends its pieces
    /// of those parameters too.
    pub fn traffic(&self) -> Traffic {
        let bytes = self.jobs.iter().map(|job| {
            let layout = &job.sharding.unit(job.unit).layout;
            let own = layout.shard_range(job.slot, job.sharding.shard_group.rank());
            let elements = if job.is_mine() {
                // The new values of all others' pieces.
                layout.slots[job.slot].len - own.len()
            } else {
                own.len()
            };
            elements * layout.dtype.size()
        });
        Traffic {
            op: Op::AllToAll,
            calls: 2 * self.buckets.len(),
            bytes: bytes.sum(),
        }
    }

    /// Whether any rank's piece is another one than what the last step stored: one was loaded. Ranks that share the
    /// pieces get the same answer.
    fn is_replaced(&self, sharding: &Arc<Sharding>, found: &[Found]) -> Result<bool> {
        let (mut replaced, mut has_any) = ([0u8], false);
        for (job, found) in self.jobs.iter().zip(found) {
            if !Arc::ptr_eq(&job.sharding, sharding) {
                continue;
            }
            has_any = true;
            let range = sharding.slot_in_shard(job.unit, job.slot);
            let is_same = job.stored.as_ref().is_some_and(|s| s.is(&found.shard));
            let lacks = job.is_mine() && job.whole.is_none();
            replaced[0] |= u8::from(lacks || !is_same && !range.is_empty());
        }
        if has_any {
            let label = Label::new("pieces replaced");
            let all = SpanMut::of(&mut replaced);
            sharding.shard_group.all_reduce(&label, Reduce::Max, all)?;
        }
        Ok(replaced[0] > 0)
    }

    /// Brings the parameters of a sharding whole to their owners.
    fn fetch(&mut self, sharding: &Arc<Sharding>, found: &[Found]) -> Result<()> {
        let mut wholes = HashMap::new();
        let is_own = |job: &Job| Arc::ptr_eq(&job.sharding, sharding);
        for bucket in &self.buckets {
            if let Some(bucket) = Bucket::new(&self.jobs, bucket, |at| is_own(&self.jobs[at])) {
                let stored = |at: usize| Some(Piece::Stored(found[at].shard.clone()));
                wholes.extend(bucket.whole(bucket.to_owners("parameters", stored))?);
            }
        }
        for (at, found) in found.iter().enumerate() {
            if is_own(&self.jobs[at]) {
                self.jobs[at].stored = Some(found.shard.clone());
                self.jobs[at].whole = wholes.remove(&at);
            }
        }
        Ok(())
    }

    /// Steps everything: each bucket's gradients travel while the one before is stepped.
    fn exchange<M: Module>(
        &mut self,
        jobs: &[Job],
        steps: &[bool],
        found: &mut [Found],
        (rate, model, grads): (ModuleLearningRate, M, GradientsParams),
    ) -> Result<(M, Stepped)> {
        let buckets = self.buckets.clone();
        let buckets = buckets.iter();
        let buckets = buckets.filter_map(|bucket| Bucket::new(jobs, bucket, |at| steps[at]));
        let buckets: Vec<Bucket<'_>> = buckets.collect();
        let ids: Vec<ParamId> = found.iter().map(|found| found.id).collect();
        let mut start = |bucket: &Bucket<'_>| {
            bucket.to_owners("gradients", |at| {
                found[at].gradient.take().map(Piece::Computed)
            })
        };
        let mut next = buckets.first().map(&mut start);
        // What is stepped on shards is stepped while the first gradients travel.
        let model = self.optimizer.step(rate.clone(), model, grads);
        let mut stepped = Stepped::default();
        let mut back = Vec::new();
        for (number, bucket) in buckets.iter().enumerate() {
            let Some(arriving) = next.take() else { break };
            next = buckets.get(number + 1).map(&mut start);
            let gradients = bucket.whole(arriving)?;
            let wholes = self.step_whole(jobs, &ids, rate.clone(), gradients)?;
            back.push((bucket, bucket.to_pieces("new parameters", &wholes)));
            stepped.wholes.extend(wholes);
        }
        for (bucket, ticket) in back {
            stepped.pieces.extend(bucket.own_pieces(ticket)?);
        }
        Ok((model, stepped))
    }

    /// Steps the parameters of these gradients, which this rank owns.
    fn step_whole(
        &mut self,
        jobs: &[Job],
        ids: &[ParamId],
        rate: ModuleLearningRate,
        gradients: HashMap<usize, Primitive>,
    ) -> Result<HashMap<usize, Primitive>> {
        let (mut model, mut grads) = (Imitation::default(), GradientsParams::new());
        let mut numbers: Vec<usize> = gradients.keys().copied().collect();
        numbers.sort_unstable();
        for at in &numbers {
            let (job, id) = (&jobs[*at], ids[*at]);
            let (Some(gradient), Some(whole)) = (gradients.get(at), &job.whole) else {
                let expected = "its owner to have all of it";
                return Err(Error::config(&job.path, expected, "no copy"));
            };
            let (gradient, whole) = (gradient.clone(), whole.clone());
            match job.shape().len() {
                1 => add::<1>(&mut model, &mut grads, (&job.path, id), whole, gradient),
                2 => add::<2>(&mut model, &mut grads, (&job.path, id), whole, gradient),
                3 => add::<3>(&mut model, &mut grads, (&job.path, id), whole, gradient),
                _ => add::<4>(&mut model, &mut grads, (&job.path, id), whole, gradient),
            }
        }
        let model = self.optimizer.step(rate, model, grads);
        let tensors = numbers.into_iter().zip(model.tensors());
        tensors
            .map(|(at, stand)| Ok((at, stand.primitive()?)))
            .collect()
    }

    /// Refuses states of parameters that other ranks step.
    fn check_states<M: Module>(&self, model: &M) -> Result<()> {
        if self.jobs.is_empty() {
            return Ok(());
        }
        let failed = |error: &dyn fmt::Display| {
            Error::config("optimizer state", "a record of this version of Burn", error)
        };
        let record = self.optimizer.into_bytes().map_err(|e| failed(&e))?;
        let record = Reader::from_bytes(record).map_err(|e| failed(&e))?;
        let found = find(model, &self.jobs, &mut GradientsParams::new())?;
        for (job, found) in self.jobs.iter().zip(found) {
            // Burn notes the dimensions of every parameter that it has a state of.
            let prefix = format!("{}.", found.id.val());
            let has_states = record
                .scalars()
                .keys()
                .any(|name| name.starts_with(&prefix));
            if has_states && !job.is_mine() {
                return Err(Error::Optimizer {
                    problem: format!(
                        "it has a state of {}, which rank {} of those that share it steps whole",
                        job.path, job.owner
                    ),
                    remedy: "make the stepper before states are loaded: \
                             save.model(name, model, stepper.into_optimizer())"
                        .into(),
                });
            }
        }
        Ok(())
    }
}

/// What a step has made.
#[derive(Default)]
struct Stepped {
    /// Of what this rank owns.
    wholes: HashMap<usize, Primitive>,
    /// Of what it stores.
    pieces: Vec<(usize, Primitive)>,
}

fn add<const D: usize>(
    model: &mut Imitation,
    grads: &mut GradientsParams,
    (path, id): (&str, ParamId),
    whole: Primitive,
    gradient: Primitive,
) where
    Tensor<D>: crate::shard::check::StandIn,
{
    model.add(path, Stand::of(id, whole.into_tensor::<D>()));
    grads.register(id, gradient.into_tensor::<D>());
}
