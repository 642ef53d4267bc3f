//! Where the layers of a model draw: the coordinates of the forward pass that runs in this thread.
//!
//! A layer's forward takes no generator, so it finds its [`Noise`] here. Within a pass a draw has the number of the
//! `unit` call that is going on and its own number in that call. Both are counted anew in each pass, and a call
//! that is run again for backward counts from where it began.

use crate::noise::Noise;
use std::cell::Cell;

thread_local!(static DRAWS: Cell<Option<Draws>> = const { Cell::new(None) });

/// Set in the numbers of `unit` calls, so that no draw of a layer has the coordinates of a draw by hand.
const OF_LAYERS: u32 = 1 << 31;

/// The coordinates of the next draw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draws {
    noise: Noise,
    /// Calls of `unit` so far.
    calls: u32,
    /// The number of the innermost call that is going on, 0 outside of any.
    unit: u32,
    /// Draws of that call so far.
    site: u32,
}

/// Draws come from where they came from before, as soon as this is dropped.
#[derive(Debug)]
pub(crate) struct Restore(Option<Draws>);

impl Drop for Restore {
    fn drop(&mut self) {
        DRAWS.set(self.0);
    }
}

/// Draws are the outer call's again, as soon as this is dropped.
#[derive(Debug)]
pub(crate) struct LeaveUnit(Option<(u32, u32)>);

impl Drop for LeaveUnit {
    fn drop(&mut self) {
        if let (Some((unit, site)), Some(draws)) = (self.0, DRAWS.get()) {
            let draws = Draws {
                unit,
                site,
                ..draws
            };
            DRAWS.set(Some(draws));
        }
    }
}

/// Begins a pass.
pub(crate) fn begin(noise: Noise) -> Restore {
    resume(Some(Draws {
        noise,
        calls: 0,
        unit: 0,
        site: 0,
    }))
}

/// Whether a pass is going on.
pub(crate) fn has_begun() -> bool {
    DRAWS.get().is_some()
}

/// A call of `unit` begins.
pub(crate) fn enter_unit() -> LeaveUnit {
    let before = DRAWS.get();
    if let Some(draws) = before {
        let calls = draws.calls + 1;
        DRAWS.set(Some(Draws {
            calls,
            unit: calls,
            site: 0,
            ..draws
        }));
    }
    LeaveUnit(before.map(|draws| (draws.unit, draws.site)))
}

/// Where the next draw is.
pub(crate) fn here() -> Option<Draws> {
    DRAWS.get()
}

/// Goes on drawing where [`here`] was.
pub(crate) fn resume(draws: Option<Draws>) -> Restore {
    Restore(DRAWS.replace(draws))
}

/// The noise and the number of a draw; none outside of any pass.
#[cfg(feature = "nn")]
pub(crate) fn next() -> Option<(Noise, u32)> {
    let draws = DRAWS.get()?;
    let site = draws.site + 1;
    DRAWS.set(Some(Draws { site, ..draws }));
    Some((draws.noise.unit(draws.unit | OF_LAYERS), draws.site))
}

impl Noise {
    /// Runs `f` with these coordinates for what the layers in [`nn`](crate::nn) draw.
    ///
    /// A sharded model needs no call: each training pass through its outermost `unit` has coordinates of its own,
    /// which are saved and resumed. Call it where passes are to be numbered by hand, where two passes are to
    /// drop the same activations, or for a model on one plain device that is compared with a sharded one.
    ///
    /// ```
    /// use burn::tensor::{Device, Tensor};
    /// use burn_dist::{Noise, nn::DropoutConfig};
    ///
    /// let dropout = DropoutConfig::new(0.5).init();
    /// let x = Tensor::<1>::ones([32], &Device::flex().autodiff());
    /// let draw = |pass| Noise::new(42, pass, 0).layers(|| dropout.forward(x.clone())).into_data();
    /// assert_eq!(draw(0), draw(0));
    /// assert_ne!(draw(0), draw(1));
    /// ```
    pub fn layers<T>(self, f: impl FnOnce() -> T) -> T {
        let _restore = begin(self);
        f()
    }
}

#[cfg(all(test, feature = "nn"))]
mod tests {
    use super::*;

    fn noise() -> Noise {
        Noise::new(7, 3, 1)
    }

    fn drawn(unit: u32, site: u32) -> Option<(Noise, u32)> {
        Some((noise().unit(unit | OF_LAYERS), site))
    }

    #[test]
    fn draws_are_numbered_by_call_and_place() {
        assert_eq!(next(), None);
        let pass = begin(noise());
        assert_eq!(next(), drawn(0, 0));
        let outer = enter_unit();
        assert_eq!(next(), drawn(1, 0));
        let inner = enter_unit();
        assert_eq!([next(), next()], [drawn(2, 0), drawn(2, 1)]);
        drop(inner);
        assert_eq!(next(), drawn(1, 1));
        drop(enter_unit());
        drop(outer);
        // Calls are counted on: the next one is no earlier one's.
        let third = enter_unit();
        assert_eq!(next(), drawn(4, 0));
        drop(third);
        drop(pass);
        assert_eq!(next(), None);
    }

    #[test]
    fn a_call_that_runs_again_draws_the_same() {
        let _pass = begin(noise());
        let _unit = enter_unit();
        let start = here();
        let run = || {
            let first = next();
            let _inner = enter_unit();
            (first, next())
        };
        let once = run();
        let again = {
            let _restore = resume(start);
            run()
        };
        assert_eq!(once, again);
        assert_ne!(once.0, next());
    }
}
