//! The time of a training step, by phase.

use crate::trace::TraceKind;
use crate::world::World;
use std::time::{Duration, Instant};

/// The parts of a training step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for the next batch.
    Data,
    /// The model's forward and the loss.
    Forward,
    /// The backward pass.
    Backward,
    /// Clipping and the optimizer's step.
    Optimizer,
}

impl Phase {
    fn traced(self) -> TraceKind {
        match self {
            Self::Data => TraceKind::Data,
            Self::Forward => TraceKind::Forward,
            Self::Backward => TraceKind::Backward,
            Self::Optimizer => TraceKind::Optimizer,
        }
    }
}

/// A rank's time by phase; exposed communication, for which computation waits, is counted apart from the
/// phase in which it occurs.
///
/// ```
/// use burn_dist::{launch::Threads, telemetry::{Phase, Phases}};
///
/// Threads::new(1).run(|world| {
///     let mut phases = Phases::new(&world);
///     let answer = phases.time(Phase::Forward, || 6 * 7);
///     assert_eq!(answer, 42);
///     assert!(phases.total() >= phases.of(Phase::Forward));
///     Ok(())
/// })?;
/// # Ok::<(), burn_dist::Error>(())
/// ```
#[derive(Debug)]
pub struct Phases {
    world: World,
    spent: [Duration; 4],
    exposed: Duration,
}

impl Phases {
    /// Starts with no time measured.
    pub fn new(world: &World) -> Self {
        Self {
            world: world.clone(),
            spent: [Duration::ZERO; 4],
            exposed: Duration::ZERO,
        }
    }

    /// Runs `f` and adds its time to a phase.
    pub fn time<T>(&mut self, phase: Phase, f: impl FnOnce() -> T) -> T {
        let (start, waited) = (Instant::now(), self.world.exposed());
        let span = self.world.tracer().span(phase.traced(), String::new);
        let result = f();
        drop(span);
        let exposed = self.world.exposed() - waited;
        self.spent[phase as usize] += start.elapsed().saturating_sub(exposed);
        self.exposed += exposed;
        result
    }

    /// The time of a phase, without exposed communication.
    pub fn of(&self, phase: Phase) -> Duration {
        self.spent[phase as usize]
    }

    /// The exposed communication: the time that computation waited for it.
    pub fn exposed(&self) -> Duration {
        self.exposed
    }

    /// The time of all phases and exposed communication.
    pub fn total(&self) -> Duration {
        self.spent.iter().sum::<Duration>() + self.exposed
    }
}
