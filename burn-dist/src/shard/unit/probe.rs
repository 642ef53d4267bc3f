//! What units return and the gradients that come back to it, recorded for a shadow run.

use super::activations::{Activations, MapActivations};
use super::plain;
use super::scope;
use crate::error::Result;
use crate::shard::memory::{Primitive, untracked};
use crate::shard::tape::{self, GradientHook};
use crate::unwind::or_raise;
use burn::tensor::Tensor;
use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};

thread_local! {
    static RECORD: RefCell<Option<Vec<UnitRecord>>> = const { RefCell::new(None) };
}

/// One `unit` call.
#[derive(Debug)]
pub(crate) struct UnitRecord {
    pub(crate) unit: String,
    pub(crate) outputs: Vec<Primitive>,
    gradients: Arc<RecordedGradients>,
}

/// The gradients of one call's outputs, as far as a backward has come.
#[derive(Debug, Default)]
struct RecordedGradients(Mutex<Vec<Option<Primitive>>>);

impl UnitRecord {
    /// The gradient of each output; none where the loss does not depend on it.
    pub(crate) fn gradients(&self) -> Vec<Option<Primitive>> {
        let recorded = self.gradients.0.lock();
        let mut recorded = recorded.unwrap_or_else(PoisonError::into_inner).clone();
        recorded.resize(self.outputs.len(), None);
        recorded
    }
}

/// Runs `f` and returns records of the `unit` calls in it, in the order in which they returned.
pub(crate) fn record<T>(f: impl FnOnce() -> T) -> (T, Vec<UnitRecord>) {
    RECORD.set(Some(Vec::new()));
    // If it unwinds, the next call begins anew.
    let result = f();
    (result, RECORD.take().unwrap_or_default())
}

/// Records what a `unit` call returns. A forward that runs again, in backward or on a plain copy, is recorded once.
pub(super) fn record_outputs<O: Activations>(unit: impl FnOnce() -> String, outputs: O) -> O {
    if RECORD.with_borrow(Option::is_none) || scope::is_recomputing() || plain::is_running() {
        return outputs;
    }
    let mut probes = Probes {
        outputs: Vec::new(),
        gradients: Arc::default(),
    };
    let outputs = outputs.map(&mut probes);
    let recorded = UnitRecord {
        unit: unit(),
        outputs: probes.outputs,
        gradients: probes.gradients,
    };
    RECORD.with_borrow_mut(|record| {
        if let Some(all) = record {
            all.push(recorded);
        }
    });
    outputs
}

struct Probes {
    outputs: Vec<Primitive>,
    gradients: Arc<RecordedGradients>,
}

impl MapActivations for Probes {
    fn map<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D> {
        let probe = Probe {
            gradients: self.gradients.clone(),
            index: self.outputs.len(),
        };
        self.outputs.push(or_raise(Primitive::of(x.clone())));
        let token = untracked(&x.device());
        tape::observe(x, token, Arc::new(probe))
    }
}

/// One output on the tape.
#[derive(Debug)]
struct Probe {
    gradients: Arc<RecordedGradients>,
    index: usize,
}

impl GradientHook for Probe {
    fn gradient(&self, gradient: Primitive) -> Result<()> {
        let recorded = self.gradients.0.lock();
        let mut recorded = recorded.unwrap_or_else(PoisonError::into_inner);
        if recorded.len() <= self.index {
            recorded.resize(self.index + 1, None);
        }
        recorded[self.index] = Some(gradient);
        Ok(())
    }
}
