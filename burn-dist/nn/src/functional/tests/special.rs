//! What is no number, infinities, and numbers at the ends of the range.

use super::*;
use crate::functional::{
    Attention, attention, cross_entropy_sum, gelu, gelu_approximate, layer_norm,
};
use burn::tensor::Int;

const SPECIAL: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

fn f32s<const D: usize>(numbers: &[f32], shape: [usize; D]) -> Tensor<D> {
    leaf(numbers, shape, FloatDType::F32)
}

#[test]
fn gelu_is_exact_in_the_tail_and_at_the_ends() {
    for (x, wanted) in [
        (-5.0, -5.0 * 2.866515718791939e-7),
        (-10.0, -10.0 * 7.619853024160526e-24),
        (-12.5, -12.5 * 3.732564298877713e-36),
        (1e-20, 0.5e-20),
        (30.0, 30.0),
    ] {
        let found = numbers(gelu(f32s(&[x], [1])))[0];
        assert!(
            (found / wanted - 1.0).abs() < 5e-6,
            "gelu({x}) = {found}, not {wanted}"
        );
    }
    assert_eq!(
        numbers(gelu(f32s(&[-1e30, 1e30], [2]))),
        [-0.0, f64::from(1e30f32)]
    );
    for form in [gelu::<1>, gelu_approximate::<1>] {
        let found = numbers(form(f32s(&[f32::NAN, f32::INFINITY], [2])));
        assert!(found[0].is_nan());
        assert_eq!(found[1], f64::INFINITY);
    }
}

#[test]
fn one_element_that_is_no_number_spoils_its_row_alone() {
    for special in SPECIAL {
        let mut x = normal([3, 20], 1);
        x[25] = special;
        let ones = || f32s(&[1.0; 20], [20]);
        let y = numbers(layer_norm(f32s(&x, [3, 20]), ones(), ones(), 1e-5));
        assert!(y[20..40].iter().all(|y| y.is_nan()), "{special}");
        assert!(y[..20].iter().chain(&y[40..]).all(|y| y.is_finite()));
    }
}

#[test]
fn scores_that_are_no_number_spoil_their_query_alone() {
    for special in SPECIAL {
        let mut query = normal([1, 3, 4], 2);
        query[5] = special;
        let key = || {
            f32s(
                &normal([1, 5, 4], 3)
                    .iter()
                    .map(|x| x.abs())
                    .collect::<Vec<_>>(),
                [1, 5, 4],
            )
        };
        let y = numbers(attention(
            f32s(&query, [1, 3, 4]),
            key(),
            key(),
            Attention::new(1),
        ));
        assert!(y[4..8].iter().all(|y| y.is_nan()), "{special}: {y:?}");
        assert!(y[..4].iter().chain(&y[8..]).all(|y| y.is_finite()));
    }
}

#[test]
fn huge_scores_pick_one_key_and_huge_logits_one_class() {
    let query = f32s(&[1e18, 0.0], [1, 1, 2]);
    let key = f32s(&[1e18, 0.0, -1e18, 0.0], [1, 2, 2]);
    let value = f32s(&[3.0, 4.0, 5.0, 6.0], [1, 2, 2]);
    let y = numbers(attention(query, key, value, Attention::new(1)));
    assert_eq!(y, [3.0, 4.0]);

    let logits = f32s(&[3e38, -3e38, 0.0], [1, 3]);
    let label = Tensor::<1, Int>::from_data([0], &device());
    let loss = cross_entropy_sum(logits.clone(), label, None, None);
    assert_eq!(numbers(loss.clone()), [0.0]);
    assert_eq!(gradient(&logits, &loss.backward()), [0.0, 0.0, 0.0]);
}

#[test]
fn a_loss_of_no_number_is_none_unless_its_row_is_ignored() {
    for special in [f32::NAN, f32::INFINITY] {
        let logits = || f32s(&[special, 1.0, 2.0, 3.0], [2, 2]);
        let labels = |first: i64| Tensor::<1, Int>::from_data([first, 1], &device());
        let loss = cross_entropy_sum(logits(), labels(0), None, Some(-1));
        assert!(numbers(loss)[0].is_nan());
        let loss = cross_entropy_sum(logits(), labels(-1), None, Some(-1));
        assert!(numbers(loss)[0].is_finite());
    }
}

#[test]
fn logits_far_from_zero_keep_their_loss() {
    for offset in [1e4, 1e8, -1e8] {
        let logits = f32s(&[offset, offset], [1, 2]);
        let label = Tensor::<1, Int>::from_data([0], &device());
        let loss = cross_entropy_sum(logits.clone(), label, None, None);
        assert!(
            (numbers(loss.clone())[0] - 2f64.ln()).abs() < 1e-6,
            "{offset}"
        );
        let found = gradient(&logits, &loss.backward());
        assert!(
            (found[0] + 0.5).abs() < 1e-6 && (found[1] - 0.5).abs() < 1e-6,
            "{found:?}"
        );
    }
}

#[test]
fn an_ignored_row_is_not_read_in_any_type_and_weights_take_no_gradient() {
    for dtype in [FloatDType::F32, FloatDType::F64] {
        let logits = leaf(&[f32::NAN, 1.0, 2.0, 3.0], [2, 2], dtype);
        let labels = Tensor::<1, Int>::from_data([-1, 1], &device());
        let weights = leaf(&[1.0, 2.0], [2], dtype);
        let loss = cross_entropy_sum(logits.clone(), labels, Some(weights.clone()), Some(-1));
        assert!(numbers(loss.clone())[0].is_finite());
        let gradients = loss.backward();
        assert!(weights.grad(&gradients).is_none());
    }
}

#[test]
fn evaluation_without_a_tape_gives_the_same_loss_in_every_type() {
    let device = Device::flex();
    for dtype in [FloatDType::F32, FloatDType::F64] {
        let logits = Tensor::<2>::from_data([[1.0, 2.0], [3.0, 0.0]], &device).cast(dtype);
        let labels = Tensor::<1, Int>::from_data([0, 1], &device);
        let weights = Tensor::<1>::from_data([1.0, 0.5], &device);
        let loss = numbers(cross_entropy_sum(logits, labels, Some(weights), Some(-1)))[0];
        let wanted = (1.0 + 1f64.exp()).ln() + 0.5 * (3.0 + (-3f64).exp().ln_1p());
        assert!((loss - wanted).abs() < 1e-6, "{loss} for {wanted}");
    }
}

#[test]
fn gelu_far_out_has_its_limits_and_slopes() {
    let x = [1.5e13, -1e13, -1e14, 3e38, -3e38, 20.0, -20.0];
    let limits = [1.5e13, 0.0, 0.0, 3e38, 0.0, 20.0, 0.0];
    for form in [gelu::<1>, gelu_approximate::<1>] {
        let leaf = f32s(&x, [7]);
        let y = form(leaf.clone());
        let slopes = gradient(&leaf, &y.clone().sum().backward());
        for ((y, slope), limit) in numbers(y).into_iter().zip(slopes).zip(limits) {
            assert!(
                (y - f64::from(limit as f32)).abs() < 1e-20,
                "{y} for {limit}"
            );
            let wanted = if limit > 0.0 { 1.0 } else { 0.0 };
            assert!(
                (slope - wanted).abs() < 1e-6,
                "slope {slope} at limit {limit}"
            );
        }
    }
}

#[test]
#[should_panic(expected = "label 7 of row 1, of 3 classes")]
fn a_label_that_is_no_class_is_named() {
    let labels = Tensor::<1, Int>::from_data([0, 7], &device());
    cross_entropy_sum(f32s(&[0.0; 6], [2, 3]), labels, None, Some(-100));
}
