//! Batches for all ranks: each has its part of the loader, and they agree before every step.
//!
//! Parts may have different lengths, and a rank whose part is over still takes part in the collectives of the
//! others: it runs padding that counts for nothing.

use crate::rank_loader::part;
use burn::data::dataloader::{DataLoader, DataLoaderIterator};
use burn::tensor::Device;
use burn_dist::comm::{Reduce, SpanMut};
use burn_dist::{Error, Result, World};
use burn_train::Interrupter;
use std::ops::Range;
use std::sync::Arc;

/// A loader, and what of it this rank takes.
pub(crate) struct Source<I> {
    /// What it is, for messages.
    what: &'static str,
    /// Items of all ranks.
    items: usize,
    /// This rank's part; nothing if there are fewer items than ranks.
    part: Option<Arc<dyn DataLoader<I>>>,
    /// All of it, for padding where this rank's part is over.
    whole: Arc<dyn DataLoader<I>>,
    device: Device,
}

impl<I> Source<I> {
    /// This rank's part of `loader`, with its batches on `device`. Collective.
    ///
    /// # Errors
    /// [`Error::Disagreement`] if ranks have loaders of different lengths.
    pub(crate) fn new(
        what: &'static str,
        world: &World,
        loader: &Arc<dyn DataLoader<I>>,
        device: &Device,
    ) -> Result<Self> {
        let items = loader.num_items();
        world.agree(what, &items)?;
        let (rank, ranks) = (world.rank(), world.size());
        let Range { start, end } = part(items, rank, ranks);
        let part = if ranks == 1 {
            // As Burn's strategy for a single device, whose shuffling a slice would change.
            Some(loader.to_device(device))
        } else {
            (start < end).then(|| loader.slice(start, end).to_device(device))
        };
        let (whole, device) = (loader.clone(), device.clone());
        Ok(Self {
            what,
            items,
            part,
            whole,
            device,
        })
    }

    /// Items of all ranks.
    pub(crate) fn items(&self) -> usize {
        self.items
    }

    /// Draws the order of an epoch that is not run, so that those after it come in the order they would have.
    pub(crate) fn pass_over(&self) {
        if let Some(part) = &self.part {
            drop(part.iter());
        }
    }

    /// The batches of an epoch.
    pub(crate) fn feed<'a>(
        &'a self,
        world: &'a World,
        interrupter: &'a Interrupter,
    ) -> Feed<'a, I> {
        Feed {
            source: self,
            world,
            interrupter,
            iterator: self.part.as_ref().map(|part| part.iter()),
            ahead: None,
        }
    }
}

/// The batches of an epoch of this rank.
pub(crate) struct Feed<'a, I> {
    source: &'a Source<I>,
    world: &'a World,
    interrupter: &'a Interrupter,
    /// Nothing once it is over.
    iterator: Option<Box<dyn DataLoaderIterator<I> + 'a>>,
    /// What comes next, if that was asked already.
    ahead: Option<Turn<I>>,
}

/// Samples of padding: a batch norm finds no variance in a single one.
const PADDING: usize = 8;

/// What all ranks do next.
pub(crate) enum Turn<I> {
    /// A step.
    Step(Batch<I>),
    /// The epoch is over.
    End,
    /// Some rank was asked to stop.
    Stop,
}

/// What this rank computes in a step.
pub(crate) struct Batch<I> {
    pub(crate) item: I,
    /// Whether its samples count for nothing.
    pub(crate) is_padding: bool,
}

/// The byte of a rank in the agreement: the largest is what all do.
const OVER: u8 = 0;
const BATCH: u8 = 1;
const STOP: u8 = 2;

impl<I> Feed<'_, I> {
    /// What all ranks do next. Collective.
    ///
    /// # Errors
    /// [`Error::User`] if this rank's data cannot be read, or its metrics have failed; what collectives
    /// return.
    pub(crate) fn next(&mut self) -> Result<Turn<I>> {
        match self.ahead.take() {
            Some(turn) => Ok(turn),
            None => self.agree(),
        }
    }

    /// Whether a further step comes, for all ranks alike. Collective, unless it was asked already.
    pub(crate) fn has_more(&mut self) -> Result<bool> {
        let turn = self.next()?;
        let has_more = matches!(turn, Turn::Step(_));
        self.ahead = Some(turn);
        Ok(has_more)
    }

    /// Passes over steps that an earlier run has made.
    pub(crate) fn skip(&mut self, steps: usize) -> Result<()> {
        for _ in 0..steps {
            drop(self.own()?);
        }
        Ok(())
    }

    fn agree(&mut self) -> Result<Turn<I>> {
        if let Some(error) = self.interrupter.error() {
            return Err(Error::user(error));
        }
        if self.world.should_stop()? && !self.interrupter.should_stop() {
            let reason = "the program was told to end (SIGTERM, SIGHUP or Ctrl-C)";
            self.interrupter.stop(Some(reason));
        }
        let item = if self.interrupter.should_stop() {
            None
        } else {
            self.own()?
        };
        let mut byte = [match &item {
            _ if self.interrupter.should_stop() => STOP,
            Some(_) => BATCH,
            None => OVER,
        }];
        let label = format!("{}: a batch, or the end", self.source.what);
        let all = SpanMut::of(&mut byte);
        let comm = self.world.comm();
        comm.all_reduce(&label.as_str().into(), Reduce::Max, all)?;
        match (byte[0], item) {
            (OVER, _) => Ok(Turn::End),
            (BATCH, Some(item)) => Ok(Turn::Step(Batch {
                item,
                is_padding: false,
            })),
            (BATCH, None) => Ok(Turn::Step(Batch {
                item: self.padding()?,
                is_padding: true,
            })),
            _ => {
                if !self.interrupter.should_stop() {
                    self.interrupter
                        .stop(Some("another rank was asked to stop"));
                }
                Ok(Turn::Stop)
            }
        }
    }

    /// This rank's next batch.
    fn own(&mut self) -> Result<Option<I>> {
        let Some(iterator) = &mut self.iterator else {
            return Ok(None);
        };
        let item = iterator.next().transpose().map_err(|e| self.failed(&e))?;
        if item.is_none() {
            self.iterator = None;
        }
        Ok(item)
    }

    fn padding(&self) -> Result<I> {
        let Source { whole, items, .. } = self.source;
        let few = whole.slice(0, PADDING.min(*items));
        let few = few.to_device(&self.source.device);
        let first = few.iter().next();
        let first = first.transpose().map_err(|e| self.failed(&e))?;
        first.ok_or_else(|| {
            let what = format!("{}, sliced to its first items", self.source.what);
            Error::config(what, "a batch", "none")
        })
    }

    fn failed(&self, error: &dyn std::fmt::Display) -> Error {
        let (what, rank) = (self.source.what, self.world.rank());
        Error::user(format!("{what} of rank {rank} cannot be read: {error}"))
    }
}
