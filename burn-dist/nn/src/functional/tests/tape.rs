//! What the operations leave on the tape, and which gradients they compute.

use super::*;
use crate::functional::{Dropout, MlpWeights, dropout, gelu, layer_norm, mlp};

#[test]
fn frozen_weights_take_no_gradient_and_the_rest_theirs() {
    let frozen = |numbers: &[f32], shape| {
        Tensor::<2>::from_inner(leaf(numbers, shape, FloatDType::F32).inner())
    };
    let bias = |n: usize| leaf(&vec![0.5; n], [n], FloatDType::F32);
    let (up, down) = (normal([3, 8], 1), normal([8, 3], 2));
    let x = leaf(&normal([4, 3], 3), [4, 3], FloatDType::F32);
    let weights = MlpWeights {
        up: frozen(&up, [3, 8]),
        up_bias: bias(8),
        down: frozen(&down, [8, 3]),
        down_bias: Tensor::from_inner(bias(3).inner()),
    };
    let gradients = weighted(mlp(x.clone(), weights.clone())).backward();
    assert!(weights.up.grad(&gradients).is_none());
    assert!(weights.down_bias.grad(&gradients).is_none());
    assert!(x.grad(&gradients).is_some() && weights.up_bias.grad(&gradients).is_some());
}

#[test]
fn without_a_leaf_nothing_is_tracked() {
    let x = Tensor::<2>::ones([2, 3], &device());
    let ones = || Tensor::<1>::ones([3], &device());
    let y = layer_norm(gelu(x), ones(), ones(), 1e-5);
    let leaf = leaf(&[1.0; 6], [2, 3], FloatDType::F32);
    let gradients = (y * leaf.clone()).sum().backward();
    assert!(leaf.grad(&gradients).is_some());
}

/// On a device whose tape computes memory-bound operations again.
#[test]
fn gradients_on_a_tape_that_checkpoints() {
    let run = |device: &Device| {
        let numbers = normal([5, 16], 4);
        let data = TensorData::new(numbers, [5, 16]);
        let x = Tensor::<2>::from_data(data, device).require_grad();
        let ones = || Tensor::<1>::ones([16], device);
        let y = layer_norm(gelu(x.clone() * 2.0) + 1.0, ones(), ones(), 1e-5);
        gradient(&x, &weighted_on(y, device).backward())
    };
    let plain = run(&Device::flex().autodiff());
    assert_eq!(
        run(&Device::flex().autodiff().gradient_checkpointing()),
        plain
    );
}

/// [`weighted`] by numbers on this device.
fn weighted_on(y: Tensor<2>, device: &Device) -> Tensor<1> {
    let data = TensorData::new(normal(y.dims(), 99), y.dims());
    (y * Tensor::<2>::from_data(data, device)).sum()
}

#[test]
fn dropout_of_rate_zero_is_the_input_itself_and_of_rate_one_nothing() {
    let x = leaf(&[1.0; 6], [2, 3], FloatDType::F32);
    let of = |rate| Dropout { rate, key: [1; 32] };
    // Only a leaf requires a gradient: an operation would have returned another kind of tensor.
    assert!(dropout(x.clone(), of(0.0)).is_require_grad());
    assert_eq!(numbers(dropout(x, of(1.0))), [0.0; 6]);
}
