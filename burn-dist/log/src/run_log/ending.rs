//! The end of a run, and the whole of it in one record.

use super::RunLog;
use crate::{Ended, Scores, Summary};
use burn_dist::{Result, host_name};

impl RunLog {
    /// The run so far, in one record.
    pub fn summary(&self, ended: Ended, test: Option<Scores>) -> Summary {
        let epochs = self.epochs.len() as f64;
        let seconds: f64 = self.epochs.iter().map(|e| e.train_seconds).sum();
        let best = self.epochs.iter().rev().find(|epoch| epoch.best);
        let flops = self.totals.flops_per_s();
        let peak = self.run.peak_flops;
        Summary {
            name: self.name.clone(),
            model: self.run.model.clone(),
            strategy: self.run.strategy.clone(),
            setup: self.setup,
            ended: ended.name().into(),
            steps: self.steps_before + self.totals.steps(),
            samples_per_s: self.totals.samples_per_s(),
            tokens_per_s: self.totals.tokens_per_s(),
            seconds_per_epoch: (epochs > 0.0).then(|| seconds / epochs),
            seconds: self.totals.times(),
            sent_bytes: self.totals.sent_bytes(),
            peak_bytes: self.totals.peak_bytes(),
            tflops: flops.map(|flops| flops / 1e12),
            mfu: flops
                .zip(peak)
                .map(|(flops, peak)| flops / (peak * self.world.size() as f64)),
            epochs: self.epochs.clone(),
            best_epoch: best.map(|epoch| epoch.epoch),
            test,
            stragglers: self.stragglers.clone(),
        }
    }

    /// Ends the trace, and writes it on rank 0.
    pub(super) fn end_trace(&mut self) -> Result<()> {
        let traced = self.recording.end(&self.world, &host_name())?;
        if let Some((traced, folder)) = traced.zip(self.folder.as_ref()) {
            folder.write("trace.json", &traced.json)?;
            folder.write("trace.svg", &traced.picture)?;
        }
        Ok(())
    }

    /// Writes the summary, and ends the records. A log that is dropped before has failed, and its summary says so. Collective.
    ///
    /// # Errors
    /// [`Error::File`](burn_dist::Error::File) on rank 0 if the records cannot be written; what a collective returns.
    pub fn finish(&mut self, ended: Ended, test: Option<Scores>) -> Result<Summary> {
        if self.recording.is_on() {
            self.end_trace()?;
        } else if self.recording.is_waiting() && self.world.is_chief() {
            log::warn!("no step was traced: the run has ended before the first of them");
        }
        #[cfg(feature = "utilisation")]
        if let Some(utilisation) = &mut self.utilisation {
            utilisation.gather(&self.world)?;
        }
        self.end(ended, test)
    }

    /// What rank 0 does alone at the end.
    fn end(&mut self, ended: Ended, test: Option<Scores>) -> Result<Summary> {
        self.is_finished = true;
        let summary = self.summary(ended, test);
        if let Some(folder) = &mut self.folder {
            folder.summary(&summary)?;
        }
        Ok(summary)
    }
}

impl Drop for RunLog {
    fn drop(&mut self) {
        if !self.is_finished {
            // The error that ends the run is told anyway.
            let _ = self.end(Ended::Failed, None);
        }
    }
}
