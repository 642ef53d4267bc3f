//! What the ranks other than 0 have in the place of a dashboard, a metric log and metrics: nothing.

use burn_train::logger::{EvaluationProgressLogger, MetricLogger, TrainingProgressLogger};
use burn_train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn_train::metric::{MetricDefinition, NumericEntry};
use burn_train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation,
    MetricsRendererTraining,
};
use burn_train::{EventProcessorError, EventProcessorTraining, LearnerSummary};
use std::error::Error;

/// Renders and logs nothing, and processes no event.
///
/// [`Sharded::training`](crate::Sharded::training) gives it to every rank but 0. A program that makes its
/// own `SupervisedTraining` gives it to them by `renderer` and `with_metric_logger`: ranks that are threads
/// share one terminal, and those of one host a folder.
///
/// ```
/// use burn_dist_train::Silent;
/// use burn_train::renderer::MetricsRenderer;
///
/// let renderer: Box<dyn MetricsRenderer> = Box::new(Silent);
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl MetricsRendererTraining for Silent {
    fn update_train(&mut self, _: MetricState) {}

    fn update_valid(&mut self, _: MetricState) {}

    fn on_train_end(&mut self, _: Option<LearnerSummary>) -> Result<(), Box<dyn Error>> {
        Ok(())
    }
}

impl MetricsRendererEvaluation for Silent {
    fn update_test(&mut self, _: EvaluationName, _: MetricState) {}

    fn on_test_end(&mut self, _: Option<LearnerSummary>) -> Result<(), Box<dyn Error>> {
        Ok(())
    }
}

impl MetricsRenderer for Silent {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, _: MetricDefinition) {}
}

impl TrainingProgressLogger for Silent {
    fn start(&mut self, _: usize, _: usize, _: Option<usize>, _: Option<&str>) {}

    fn update_epoch(&mut self, _: usize) {}

    fn start_split(&mut self, _: &str, _: usize) {}

    fn update_split(&mut self, _: usize) {}

    fn end_split(&mut self) {}

    fn end(&mut self) {}

    fn log_event_training(&mut self, _: String) {}
}

impl EvaluationProgressLogger for Silent {
    fn start_global_progress(&mut self, _: usize) {}

    fn start_test(&mut self, _: &str, _: usize) {}

    fn update_test_progress(&mut self, _: usize) {}

    fn end_test(&mut self) {}

    fn end_global_progress(&mut self) {}

    fn log_event_evaluation(&mut self, _: String) {}
}

impl MetricLogger for Silent {
    fn log(&mut self, _: MetricsUpdate, _: usize, _: &Split) {}

    fn read_numeric(&mut self, _: &str, _: usize, _: &Split) -> Result<Vec<NumericEntry>, String> {
        Ok(Vec::new())
    }

    fn log_metric_definition(&mut self, _: MetricDefinition) {}

    fn log_epoch_summary(&mut self, _: EpochSummary) {}
}

impl<T, V> EventProcessorTraining<T, V> for Silent {
    fn process_train(&mut self, _: T) -> Result<(), EventProcessorError> {
        Ok(())
    }

    fn process_valid(&mut self, _: V) -> Result<(), EventProcessorError> {
        Ok(())
    }

    fn renderer(self) -> Box<dyn MetricsRenderer> {
        Box::new(self)
    }
}
