//! What a training loop keeps count of: its steps and where it is in the data, the learning rate, the best
//! score.
//!
//! ```
//! use burn::nn::LinearConfig;
//! use burn::optim::AdamWConfig;
//! use burn::tensor::Tensor;
//! use burn_dist::prelude::*;
//! use burn_dist::training::{Schedule, TrainLoop};
//!
//! Threads::new(2).run(|world| {
//!     let device = world.device();
//!     let samples: Vec<f32> = (0..24).map(|i| i as f32 / 24.0).collect();
//!     let data = Loader::new(&world, samples, Batch::global(6), move |items, info| {
//!         let n = items.len();
//!         (Tensor::<1>::from_floats(items.as_slice(), &device).reshape([n, 1]), info.count)
//!     })?;
//!     let data = data.shuffled(7);
//!     let model = LinearConfig::new(1, 1).init(&world.device());
//!     let mut model = Strategy::fsdp().shard(model, &world)?;
//!     let mut optim = world.optimizer(AdamWConfig::new().init(), &model)?;
//!
//!     let mut steps = TrainLoop::new(&data).epochs(3);
//!     let rates = Schedule::cosine(0.05).warmup_share(0.1);
//!     while let Some(mut batches) = steps.epoch(&data)? {
//!         while let Some(passes) = steps.step(&mut batches)? {
//!             for (x, count) in passes {
//!                 let loss = (model.forward(x.clone()) - x).square().sum();
//!                 let grads = world.backward_sum(loss, count, &model)?.clip_norm(1.0)?;
//!                 model = optim.step(rates.at(steps.done(), steps.steps()), model, grads.grads);
//!             }
//!             steps.advance();
//!         }
//!     }
//!     assert_eq!(steps.done(), 12);
//!     Ok(())
//! })?;
//! # Ok::<(), burn_dist::Error>(())
//! ```

mod early_stopping;
mod evaluate;
mod metrics;
mod schedule;
mod train_loop;

pub use early_stopping::EarlyStopping;
pub use evaluate::evaluate;
pub use metrics::{Average, Classification, ConfusionMatrix};
pub use schedule::Schedule;
pub use train_loop::{Progress, TrainLoop};
