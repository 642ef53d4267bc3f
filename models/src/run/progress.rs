//! What a person sees while training goes on.

use burn_dist::comm::{Reduce, SpanMut};
use burn_dist::telemetry::live_bytes;
use burn_dist::{Result, World};
use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// A bar on rank 0, with the mean loss over all ranks.
#[derive(Debug)]
pub struct Progress {
    world: World,
    bar: ProgressBar,
    started: Instant,
    seen: usize,
    epoch: (f64, f64),
}

impl Progress {
    /// A bar of so many steps, of which `done` are behind it already.
    pub fn new(world: &World, steps: usize, done: usize) -> Self {
        let bar = match world.is_chief() {
            true => ProgressBar::new(steps as u64),
            false => ProgressBar::hidden(),
        };
        let style = "{bar:24} {pos}/{len} {elapsed}<{eta} {msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar.set_position(done as u64);
        Self {
            world: world.clone(),
            bar,
            started: Instant::now(),
            seen: 0,
            epoch: (0.0, 0.0),
        }
    }

    /// A step is done: the sum of its losses and the number of its samples on this rank, and its
    /// gradient norm.
    ///
    /// Collective: one all-reduce of 16 bytes.
    ///
    /// # Errors
    /// What a collective returns.
    pub fn step(&mut self, loss: f64, samples: usize, norm: f64) -> Result<()> {
        let mut sums = [loss, samples as f64];
        let all = SpanMut::of(&mut sums);
        self.world
            .comm()
            .all_reduce(&"progress".into(), Reduce::Sum, all)?;
        let [loss, samples] = sums;
        self.seen += samples as usize;
        self.epoch = (self.epoch.0 + loss, self.epoch.1 + samples);
        let memory = live_bytes() as f64 / self.world.size() as f64 / 1e6;
        self.bar.inc(1);
        self.bar.set_message(format!(
            "loss {:.3} |g| {norm:.2} {:.0} samples/s {memory:.0} MB/rank",
            loss / samples,
            self.throughput()
        ));
        Ok(())
    }

    /// Writes a line above the bar, with the mean loss since the last such line, which it returns.
    pub fn line(&mut self, text: &str) -> f64 {
        let (loss, samples) = std::mem::take(&mut self.epoch);
        let mean = loss / samples.max(1.0);
        let line = format!("{text}, train loss {mean:.3}");
        if self.world.is_chief() {
            match self.bar.is_hidden() {
                true => println!("{line}"),
                false => self.bar.println(line),
            }
        }
        mean
    }

    /// Samples per second of all ranks together.
    pub fn throughput(&self) -> f64 {
        self.seen as f64
            / self
                .started
                .elapsed()
                .max(Duration::from_millis(1))
                .as_secs_f64()
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
