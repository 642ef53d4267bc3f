//! The guess which unit comes next, so that its gather travels while this one computes.

use super::exchange::Coming;
use super::flat::{Piece, same};
use super::pass::Pass;
use super::seen::Seen;
use super::sharding::Sharding;
use crate::comm::Ticket;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

/// What the outermost call saw, to gather units before they are reached.
pub(super) struct Forecast {
    sharding: Arc<Sharding>,
    /// Units not reached yet, in the order of the module.
    ahead: VecDeque<(usize, Arc<[Piece]>)>,
    /// The one whose gather was started.
    coming: Option<(usize, Arc<[Piece]>, Ticket<Coming>)>,
    /// The latest pass that backward will gather again.
    last: Option<Arc<Pass>>,
}

thread_local! {
    static FORECAST: RefCell<Option<Forecast>> = const { RefCell::new(None) };
}

/// Makes the forecast of a forward, unless one is going on already; whether this call made it.
pub(super) fn begin(sharding: &Arc<Sharding>, seen: &Seen) -> bool {
    FORECAST.with_borrow_mut(|forecast| {
        let first = forecast.is_none();
        if first {
            *forecast = Some(Forecast::new(sharding.clone(), seen));
        }
        first
    })
}

/// Ends the forward that [`begin`] began.
pub(super) fn end() {
    if let Some(forecast) = FORECAST.take() {
        forecast.close();
    }
}

/// Runs `f` on the forecast of the forward that is going on, if there is one.
pub(super) fn with<T>(f: impl FnOnce(&mut Forecast) -> T) -> Option<T> {
    FORECAST.with_borrow_mut(|forecast| forecast.as_mut().map(f))
}

impl Forecast {
    fn new(sharding: Arc<Sharding>, seen: &Seen) -> Self {
        let cut = |(unit, _): &(usize, _)| !sharding.is_whole(*unit);
        let ahead = seen.complete().filter(cut).collect();
        Self {
            sharding,
            ahead,
            coming: None,
            last: None,
        }
    }

    /// `unit` is reached: its gather, if the guess was right.
    pub(super) fn arrive(
        &mut self,
        sharding: &Arc<Sharding>,
        unit: usize,
        pieces: &Arc<[Piece]>,
    ) -> Option<Ticket<Coming>> {
        // Another model within the forward of this one is not in the forecast.
        if !Arc::ptr_eq(sharding, &self.sharding) {
            return None;
        }
        if let Some(at) = self.ahead.iter().position(|(u, _)| *u == unit) {
            self.ahead.drain(..=at);
        }
        match self.coming.take() {
            Some((u, from, ticket)) if u == unit && same(&from, pieces) => Some(ticket),
            wrong => {
                self.coming = wrong;
                self.drop_guess();
                None
            }
        }
    }

    /// Waits for a gather that nobody needs. Every rank made this guess and drops it here; a
    /// gather that is still going on could come between other collectives on one rank only.
    fn drop_guess(&mut self) {
        if let Some((_, _, ticket)) = self.coming.take() {
            // If it failed, so will the next collective, which can say so.
            let _ = self.sharding.world.waiting(|| ticket.wait());
        }
    }

    /// A pass is on the tape that backward will gather again: the one before it comes after it
    /// there.
    pub(super) fn followed_by(&mut self, pass: &Arc<Pass>) {
        pass.follow(self.last.replace(pass.clone()));
    }

    /// The forward is over.
    fn close(mut self) {
        self.drop_guess();
    }

    /// Starts the gather of the unit that should come next.
    pub(super) fn start_next(&mut self) {
        if self.coming.is_none()
            && let Some((unit, pieces)) = self.ahead.pop_front()
            && self.sharding.kept(unit, &pieces).is_none()
        {
            let dtype = self.sharding.computed(unit);
            let ticket = self.sharding.gather(unit, pieces.clone(), dtype);
            self.coming = Some((unit, pieces, ticket));
        }
    }
}
