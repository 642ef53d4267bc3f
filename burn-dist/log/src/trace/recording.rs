//! Which steps are traced, and what becomes of their spans.

use super::{RankTrace, clock, json, picture};
use burn_dist::{Result, World};
use std::ops::Range;

/// The steps that are to be traced, and whether one of them is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recording {
    /// The numbers of these steps, as records have them.
    steps: Range<u64>,
    is_on: bool,
}

/// A finished trace, on rank 0.
#[derive(Debug)]
pub(crate) struct Traced {
    /// For Perfetto.
    pub(crate) json: String,
    /// The last step of it, as SVG.
    pub(crate) picture: String,
}

impl Recording {
    pub(crate) fn of(steps: Range<u64>) -> Self {
        Self {
            steps,
            is_on: false,
        }
    }

    /// Before the step of this number: starts if it is the first to be traced.
    pub(crate) fn before(&mut self, world: &World, step: u64) {
        if !self.is_on && self.steps.contains(&step) {
            self.is_on = true;
            world.tracer().start();
        }
    }

    /// Whether the recording ends with the step of this number.
    pub(crate) fn ends_after(&self, step: u64) -> bool {
        self.is_on && step + 1 >= self.steps.end
    }

    /// Whether steps are being traced.
    pub(crate) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Whether a step that was to be traced has not come.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.is_on && !self.steps.is_empty()
    }

    /// Ends the recording: the spans of all ranks, brought to rank 0. Collective.
    pub(crate) fn end(&mut self, world: &World, host: &str) -> Result<Option<Traced>> {
        let events = world.tracer().stop();
        *self = Self::default();
        let hosts = world.gather(&host.to_owned())?;
        let offsets = clock::offsets(world, &hosts)?;
        let all = world.gather(&events)?;
        if !world.is_chief() {
            return Ok(None);
        }
        let ranks = all.into_iter().zip(hosts).zip(offsets).enumerate();
        let ranks: Vec<RankTrace> = ranks
            .map(|(rank, ((mut events, host), ahead))| {
                for event in &mut events {
                    event.start_us = event.start_us.saturating_add_signed(-ahead);
                }
                RankTrace { rank, host, events }
            })
            .collect();
        Ok(Some(Traced {
            json: json::trace_events(&ranks).to_string(),
            picture: picture::last_step(&ranks),
        }))
    }
}
