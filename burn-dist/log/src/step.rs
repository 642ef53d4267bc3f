//! What a program tells of its steps and of its end.

/// What a program tells of a step, on each rank.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Step {
    /// The summed loss of this rank's samples.
    pub loss_sum: f64,
    /// Samples of this rank, padding not counted.
    pub samples: usize,
    /// Tokens of this rank, padding not counted, where the program counts them.
    pub tokens: Option<usize>,
    /// Operations of the model's forward and backward on this rank, where the program knows them.
    pub flops: Option<f64>,
    /// The learning rate.
    pub rate: f64,
    /// The global gradient norm before clipping; `None` after an overflow, which skips the step.
    pub norm: Option<f64>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All its steps are done.
    Finished,
    /// It was told to end, or its score no longer improved.
    Stopped,
    /// By an error.
    Failed,
}

impl Ended {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}
