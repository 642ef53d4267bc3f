//! One program, run on a plain device and on every rank of a world.

use super::{Values, holding, ranks, scalar, strategies, values};
use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::{DType, Device, Tensor};
use burn_dist::{Destination, Result, Strategy, World};
use std::cell::RefCell;

const ROWS: usize = 24;
const TOLERANCE: f64 = 1e-9;

/// Where a program runs, and what it noted on the way.
pub struct Place {
    world: Option<(World, Strategy)>,
    losses: RefCell<Vec<f64>>,
    notes: RefCell<Vec<Values>>,
}

impl Place {
    fn new(world: Option<(World, Strategy)>) -> Self {
        Self {
            world,
            losses: RefCell::default(),
            notes: RefCell::default(),
        }
    }

    /// One plain device with the whole batch.
    pub fn plain() -> Self {
        Self::new(None)
    }

    /// Whether this is rank 0, or the only place.
    pub fn is_chief(&self) -> bool {
        self.world
            .as_ref()
            .is_none_or(|(world, _)| world.is_chief())
    }

    pub fn device(&self) -> Device {
        match &self.world {
            Some((world, _)) => world.device(),
            None => Device::flex().autodiff(),
        }
    }

    /// The model to train here: sharded on ranks.
    pub fn shard<M: Module>(&self, model: &M) -> Result<M> {
        match &self.world {
            Some((world, strategy)) => strategy.clone().shard(model.clone(), world),
            None => Ok(model.clone()),
        }
    }

    /// AdamW, whose decay shows when a parameter is stepped that should not be.
    pub fn adamw<M: Module>(&self, model: &M) -> Result<ModuleOptimizer> {
        self.optimizer(AdamWConfig::new().with_weight_decay(0.1).init(), model)
    }

    /// The optimizer, checked on ranks.
    pub fn optimizer<M: Module>(
        &self,
        optimizer: ModuleOptimizer,
        model: &M,
    ) -> Result<ModuleOptimizer> {
        match &self.world {
            Some((world, _)) => world.optimizer(optimizer, model),
            None => Ok(optimizer),
        }
    }

    /// The rows of this place, seven columns each.
    pub fn batch(&self, step: usize) -> Tensor<2> {
        let all = super::batch(ROWS, 7, step);
        let mine = match &self.world {
            Some((world, _)) => super::rows(&all, world.rank(), world.size()),
            None => all,
        };
        super::tensor(&mine, DType::F64, &self.device())
    }

    pub fn backward<M: Module>(&self, loss: Tensor<1>, model: &M) -> Result<GradientsParams> {
        self.note_loss(&loss);
        let gradients = match &self.world {
            Some((world, _)) => world.backward(loss, model)?.into_params(),
            None => GradientsParams::from_grads(loss.backward(), model),
        };
        self.note(&holding(model, &gradients))?;
        Ok(gradients)
    }

    /// A mean over this place's rows: to be compared as the mean over ranks.
    pub fn note_loss(&self, loss: &Tensor<1>) {
        self.losses.borrow_mut().push(scalar(loss));
    }

    /// Values to be compared in full.
    pub fn note<M: Module>(&self, model: &M) -> Result<()> {
        let full = match &self.world {
            Some((world, _)) => world.full(model, Destination::All)?,
            None => Some(model.clone()),
        };
        self.notes.borrow_mut().extend(full.map(|m| values(&m)));
        Ok(())
    }

    /// Trains for `steps` and notes everything.
    pub fn train<M: Module>(
        &self,
        model: &M,
        steps: usize,
        loss: impl Fn(&M, Tensor<2>) -> Tensor<1>,
    ) -> Result<M> {
        let mut model = self.shard(model)?;
        let mut adamw = self.adamw(&model)?;
        for step in 0..steps {
            let grads = self.backward(loss(&model, self.batch(step)), &model)?;
            model = adamw.step(1e-2, model, grads);
            self.note(&model)?;
        }
        Ok(model)
    }
}

/// Asserts that `program` notes the same on one plain device and under every strategy.
pub fn same_everywhere(program: impl Fn(&Place) -> Result<()> + Sync) {
    same_under(strategies, program);
}

/// The same for a choice of strategies.
pub fn same_under(
    strategies: impl Fn(usize) -> Vec<Strategy>,
    program: impl Fn(&Place) -> Result<()> + Sync,
) {
    let plain = Place::plain();
    program(&plain).unwrap();
    let (losses, notes) = (plain.losses.into_inner(), plain.notes.into_inner());
    assert!(!notes.is_empty(), "the program notes nothing");
    for size in 1..=4 {
        for strategy in strategies(size) {
            let what = format!("{strategy} at world {size}");
            let found = ranks(size)
                .run(|world| {
                    let place = Place::new(Some((world, strategy.clone())));
                    program(&place)?;
                    Ok((place.losses.into_inner(), place.notes.into_inner()))
                })
                .unwrap_or_else(|e| panic!("{what}: {e}"));
            for (step, expected) in losses.iter().enumerate() {
                let mean = found.iter().map(|(l, _)| l[step]).sum::<f64>() / size as f64;
                let off = (mean - expected).abs();
                assert!(
                    off <= TOLERANCE * expected.abs(),
                    "{what}: loss {step} is off by {off:e}"
                );
            }
            for (rank, (_, found)) in found.iter().enumerate() {
                assert_eq!(found.len(), notes.len(), "{what}");
                for (number, (found, expected)) in found.iter().zip(&notes).enumerate() {
                    let what = format!("{what}, rank {rank}, note {number}");
                    super::close(&what, found, expected, TOLERANCE);
                }
            }
        }
    }
}
