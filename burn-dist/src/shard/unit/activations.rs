//! What may cross a unit's boundary.

use crate::shard::tape;
use burn::tensor::{Bool, FloatDType, Int, Tensor};

/// Inputs and outputs of a [`unit`](crate::unit()): tensors of any rank and kind, options, vectors and
/// tuples of them, and numbers and booleans, which stay as they are.
///
/// Everything that gradients flow through must be among a unit's inputs; other values may be
/// captured by its closure. [`activations!`](crate::activations) implements it for a struct of such fields.
pub trait Activations: Clone + Send + Sized + 'static {
    /// Passes every float tensor through `map`, always in the same order.
    fn map(self, map: &mut impl MapActivations) -> Self;
}

/// What is done to each float tensor among [`Activations`].
pub trait MapActivations {
    /// What becomes of one tensor.
    fn map<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D>;
}

impl<const D: usize> Activations for Tensor<D> {
    fn map(self, map: &mut impl MapActivations) -> Self {
        map.map(self)
    }
}

impl<const D: usize> Activations for Tensor<D, Int> {
    fn map(self, _: &mut impl MapActivations) -> Self {
        self
    }
}

impl<const D: usize> Activations for Tensor<D, Bool> {
    fn map(self, _: &mut impl MapActivations) -> Self {
        self
    }
}

impl<A: Activations> Activations for Option<A> {
    fn map(self, map: &mut impl MapActivations) -> Self {
        Option::map(self, |a| a.map(map))
    }
}

impl<A: Activations> Activations for Vec<A> {
    fn map(self, map: &mut impl MapActivations) -> Self {
        self.into_iter().map(|a| a.map(map)).collect()
    }
}

impl Activations for () {
    fn map(self, _: &mut impl MapActivations) -> Self {}
}

macro_rules! plain {
    ($($type:ty),*) => {
        $(impl Activations for $type {
            fn map(self, _: &mut impl MapActivations) -> Self {
                self
            }
        })*
    };
}

plain!(bool, u8, i32, u32, i64, u64, usize, f32, f64);

/// Implements [`Activations`](crate::Activations) for a struct, whose fields are all named: one that is forgotten does
/// not compile.
///
/// ```
/// use burn::nn::LinearConfig;
/// use burn::tensor::{Device, Tensor};
/// use burn_dist::{activations, unit};
///
/// #[derive(Clone)]
/// struct Input {
///     x: Tensor<2>,
///     bias: Option<Tensor<2>>,
///     scale: f64,
/// }
///
/// activations!(Input { x, bias, scale });
///
/// let device = Device::flex();
/// let layer = LinearConfig::new(4, 2).init(&device);
/// let input = Input { x: Tensor::ones([3, 4], &device), bias: None, scale: 0.5 };
/// let y = unit(&layer, input, |layer, input: Input| layer.forward(input.x) * input.scale);
/// assert_eq!(y.dims(), [3, 2]);
/// ```
#[macro_export]
macro_rules! activations {
    ($name:ident { $($field:ident),+ $(,)? }) => {
        impl $crate::Activations for $name {
            fn map(self, map: &mut impl $crate::MapActivations) -> Self {
                let Self { $($field),+ } = self;
                Self {
                    $($field: $crate::Activations::map($field, map)),+
                }
            }
        }
    };
}

macro_rules! tuples {
    ($(($($name:ident $index:tt),*))*) => {
        $(impl<$($name: Activations),*> Activations for ($($name,)*) {
            fn map(self, map: &mut impl MapActivations) -> Self {
                ($(self.$index.map(map),)*)
            }
        })*
    };
}

tuples! {
    (A 0)
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
    (A 0, B 1, C 2, D 3, E 4, F 5)
}

/// Casts every float tensor.
pub(super) struct Cast(pub(super) FloatDType);

impl MapActivations for Cast {
    fn map<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D> {
        if x.dtype() == self.0.into() {
            x
        } else {
            x.cast(self.0)
        }
    }
}

/// Takes every float tensor off the tape.
pub(super) struct Untracked;

impl MapActivations for Untracked {
    fn map<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D> {
        x.detach().set_require_grad(false)
    }
}

/// Asks whether a gradient would flow through any tensor.
#[derive(Default)]
pub(super) struct IsTracked(bool);

impl IsTracked {
    /// Whether it would, and the tensors as they were.
    pub(super) fn ask<A: Activations>(activations: A) -> (A, bool) {
        let mut asked = Self::default();
        let activations = activations.map(&mut asked);
        (activations, asked.0)
    }
}

impl MapActivations for IsTracked {
    fn map<const D: usize>(&mut self, x: Tensor<D>) -> Tensor<D> {
        self.0 |= tape::is_tracked(&x);
        x
    }
}
