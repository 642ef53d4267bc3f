//! What units return and the gradients that come back to it, noted while a shadow run looks on.

use super::activations::{Activations, MapActivations};
use super::ops;
use super::primitive::Primitive;
use super::recompute;
use crate::unwind::or_raise;
use burn::tensor::Tensor;
use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};

thread_local! {
    static WATCH: RefCell<Option<Vec<Noted>>> = const { RefCell::new(None) };
}

/// One `unit` call.
#[derive(Debug)]
pub(super) struct Noted {
    pub(super) unit: String,
    pub(super) outputs: Vec<Primitive>,
    gradients: Arc<Gradients>,
}

/// The gradients of one call's outputs, as far as a backward has come.
#[derive(Debug, Default)]
struct Gradients(Mutex<Vec<Option<Primitive>>>);

impl Noted {
    /// The gradient of each output; none where the loss does not depend on it.
    pub(super) fn gradients(&self) -> Vec<Option<Primitive>> {
        let noted = self.gradients.0.lock();
        let mut noted = noted.unwrap_or_else(PoisonError::into_inner).clone();
        noted.resize(self.outputs.len(), None);
        noted
    }
}

/// Runs `f` and returns the `unit` calls in it, in the order in which they returned.
pub(super) fn watch<T>(f: impl FnOnce() -> T) -> (T, Vec<Noted>) {
    WATCH.set(Some(Vec::new()));
    // If it unwinds, the next watch begins anew.
    let result = f();
    (result, WATCH.take().unwrap_or_default())
}

/// Notes what a `unit` call returns. A forward that runs again in backward was noted before.
pub(super) fn note<O: Activations>(unit: impl FnOnce() -> String, outputs: O) -> O {
    if WATCH.with_borrow(Option::is_none) || recompute::is_running() {
        return outputs;
    }
    let mut probes = Probes {
        outputs: Vec::new(),
        gradients: Arc::default(),
    };
    let outputs = outputs.map(&mut probes);
    let noted = Noted {
        unit: unit(),
        outputs: probes.outputs,
        gradients: probes.gradients,
    };
    WATCH.with_borrow_mut(|watch| {
        if let Some(all) = watch {
            all.push(noted);
        }
    });
    outputs
}

struct Probes {
    outputs: Vec<Primitive>,
    gradients: Arc<Gradients>,
}

impl MapActivations for Probes {
    fn map<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D> {
        let probe = Probe {
            gradients: self.gradients.clone(),
            index: self.outputs.len(),
        };
        self.outputs.push(or_raise(Primitive::of(x.clone())));
        ops::probe(x, probe)
    }
}

/// One output on the tape.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    gradients: Arc<Gradients>,
    index: usize,
}

impl Probe {
    /// Notes the gradient of the output.
    pub(super) fn note(&self, gradient: Primitive) {
        let noted = self.gradients.0.lock();
        let mut noted = noted.unwrap_or_else(PoisonError::into_inner);
        if noted.len() <= self.index {
            noted.resize(self.index + 1, None);
        }
        noted[self.index] = Some(gradient);
    }
}
