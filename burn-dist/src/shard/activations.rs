//! What may cross a unit's boundary.

use super::ops;
use super::pass::Pass;
use burn::tensor::{Bool, Device, Int, Tensor};
use std::sync::Arc;

/// Inputs and outputs of a [`unit`](crate::unit()): tensors of any rank and kind, and options,
/// vectors and tuples of them.
///
/// Everything that gradients flow through must be among a unit's inputs; other values may be
/// captured by its closure.
pub trait Activations: Send {
    /// Shows every float tensor, so that the unit's backward is ordered after all of them.
    fn show(&self, tokens: &mut Tokens);
}

/// Collects a unit's float inputs into the token that orders its backward.
#[derive(Debug)]
pub struct Tokens {
    pass: Arc<Pass>,
    token: Tensor<1>,
}

impl Tokens {
    pub(super) fn new(pass: Arc<Pass>) -> Self {
        Self {
            pass,
            token: Tensor::zeros([1], &Device::flex()),
        }
    }

    /// Adds one tensor.
    pub fn add<const D: usize>(&mut self, x: &Tensor<D>) {
        let inner = Tensor::zeros([0], &Device::flex());
        let token = std::mem::replace(&mut self.token, inner);
        self.token = ops::token(x.clone(), token, self.pass.clone());
    }

    pub(super) fn finish(self) -> Tensor<1> {
        self.token
    }
}

impl<const D: usize> Activations for Tensor<D> {
    fn show(&self, tokens: &mut Tokens) {
        tokens.add(self);
    }
}

impl<const D: usize> Activations for Tensor<D, Int> {
    fn show(&self, _: &mut Tokens) {}
}

impl<const D: usize> Activations for Tensor<D, Bool> {
    fn show(&self, _: &mut Tokens) {}
}

impl<A: Activations> Activations for Option<A> {
    fn show(&self, tokens: &mut Tokens) {
        self.iter().for_each(|a| a.show(tokens));
    }
}

impl<A: Activations> Activations for Vec<A> {
    fn show(&self, tokens: &mut Tokens) {
        self.iter().for_each(|a| a.show(tokens));
    }
}

macro_rules! tuples {
    ($(($($name:ident $index:tt),*))*) => {
        $(impl<$($name: Activations),*> Activations for ($($name,)*) {
            fn show(&self, _tokens: &mut Tokens) {
                $(self.$index.show(_tokens);)*
            }
        })*
    };
}

tuples! {
    ()
    (A 0)
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
    (A 0, B 1, C 2, D 3, E 4, F 5)
}
