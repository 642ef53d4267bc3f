//! Reductions of numbers over ranks.

use crate::comm::{Reduce, SpanMut};
use crate::error::{Error, Result};
use crate::numbers::{Numbers, Reducible};
use crate::world::World;

/// What a reduction makes of the ranks' numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Sum,
    Mean,
    Max,
    Min,
}

impl World {
    /// The sum over ranks of a number, a tensor, or a tuple, array or vector of such. Collective.
    ///
    /// # Cost
    /// One all-reduce of 8 bytes a number for each kind of number in it: with a fraction, with a sign,
    /// without.
    ///
    /// # Numerics
    /// Rank 0 first, then rank 1, and so on, in f64, rounded once: every rank gets the same bits. A sum of
    /// 64-bit integers wraps; one that a narrower type does not hold is an error.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if ranks give values of another form, [`Error::Config`] for a sum that the
    /// type does not hold, and what a collective returns.
    ///
    /// ```
    /// use burn_dist::prelude::*;
    ///
    /// let totals = Threads::new(3).run(|world| {
    ///     let (loss, samples) = (0.5 * world.rank() as f32, 4_usize);
    ///     world.sum((loss, samples))
    /// })?;
    /// assert_eq!(totals, [(1.5, 12); 3]);
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    ///
    /// # Source
    /// Lightning: `Fabric.all_reduce`; PyTorch: `all_reduce`.
    pub fn sum<T: Reducible>(&self, value: T) -> Result<T> {
        self.reduced(Kind::Sum, value)
    }

    /// The mean over ranks, as [`sum`](Self::sum), each rank weighing the same. Collective.
    ///
    /// The mean of per-rank means is the mean over samples only if all ranks have equally many: otherwise
    /// sum losses and counts, and divide.
    ///
    /// # Errors
    /// As [`sum`](Self::sum); [`Error::Config`] for integers.
    pub fn mean<T: Reducible>(&self, value: T) -> Result<T> {
        self.reduced(Kind::Mean, value)
    }

    /// The largest of the ranks' numbers, each for itself; a NaN on any rank gives NaN. Collective.
    ///
    /// # Errors
    /// As [`sum`](Self::sum).
    pub fn max<T: Reducible>(&self, value: T) -> Result<T> {
        self.reduced(Kind::Max, value)
    }

    /// The smallest of the ranks' numbers, as [`max`](Self::max). Collective.
    ///
    /// # Errors
    /// As [`sum`](Self::sum).
    pub fn min<T: Reducible>(&self, value: T) -> Result<T> {
        self.reduced(Kind::Min, value)
    }

    /// Whether it is so on any rank. Collective: one all-reduce of a byte.
    ///
    /// # Errors
    /// What a collective returns.
    pub fn any(&self, so: bool) -> Result<bool> {
        let mut so = [u8::from(so)];
        self.comm()
            .all_reduce(&"any".into(), Reduce::Max, SpanMut::of(&mut so))?;
        Ok(so[0] != 0)
    }

    /// Whether it is so on all ranks. Collective: one all-reduce of a byte.
    ///
    /// # Errors
    /// What a collective returns.
    pub fn all(&self, so: bool) -> Result<bool> {
        let mut not = [u8::from(!so)];
        self.comm()
            .all_reduce(&"all".into(), Reduce::Max, SpanMut::of(&mut not))?;
        Ok(not[0] == 0)
    }

    fn reduced<T: Reducible>(&self, kind: Kind, value: T) -> Result<T> {
        let mut numbers = Numbers::default();
        value.write(&mut numbers);
        let whole = numbers.signed.len() + numbers.unsigned.len();
        if kind == Kind::Mean && whole > 0 {
            let expected = "floats (sum integers and divide)";
            return Err(Error::config(
                "the mean over ranks",
                expected,
                format!("{whole} integers"),
            ));
        }
        let (label, op) = match kind {
            Kind::Sum => ("sum", Reduce::Sum),
            Kind::Mean => ("mean", Reduce::Mean),
            Kind::Max => ("max", Reduce::Max),
            Kind::Min => ("min", Reduce::Max),
        };
        // The smallest is the largest in the reverse order.
        let reverse = |numbers: &mut Numbers| {
            if kind == Kind::Min {
                numbers.floats.iter_mut().for_each(|n| *n = -*n);
                numbers.signed.iter_mut().for_each(|n| *n = !*n);
                numbers.unsigned.iter_mut().for_each(|n| *n = !*n);
            }
        };
        reverse(&mut numbers);
        let spans = [
            SpanMut::of(&mut numbers.floats),
            SpanMut::of(&mut numbers.signed),
            SpanMut::of(&mut numbers.unsigned),
        ];
        // A value without numbers is agreed on, too: not all ranks may have one.
        let empty = spans.iter().all(SpanMut::is_empty);
        for (number, span) in spans.into_iter().enumerate() {
            if !span.is_empty() || empty && number == 0 {
                self.comm().all_reduce(&label.into(), op, span)?;
            }
        }
        reverse(&mut numbers);
        value.read(&mut numbers)
    }
}
