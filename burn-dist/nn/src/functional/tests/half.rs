//! The compositions: in half precision, and where a row is all padding.

use super::*;
use crate::functional::{Attention, attention};
use burn::tensor::{Bool, DType};

fn scores_as_queries(dtype: FloatDType) -> [Tensor<3>; 3] {
    [30, 31, 32].map(|seed| leaf(&normal([2, 4, 6], seed), [2, 4, 6], dtype))
}

#[test]
fn a_row_of_nothing_but_padding_is_finite_with_its_gradient_in_every_type() {
    for dtype in [
        FloatDType::F32,
        FloatDType::F16,
        FloatDType::BF16,
        FloatDType::F64,
    ] {
        let [query, key, value] = scores_as_queries(dtype);
        let padding = Tensor::<2, Bool>::from_data([[true; 4], [false; 4]], &device());
        let how = Attention {
            padding: Some(padding),
            ..Attention::new(3)
        };
        let out = attention(query.clone(), key, value.clone(), how);
        assert_eq!(FloatDType::from(out.dtype()), dtype);
        // Even attention: the mean of the values.
        let mean = value.clone().narrow(0, 0, 1).mean_dim(1).expand([1, 4, 6]);
        let difference = (out.clone().narrow(0, 0, 1) - mean).abs().max();
        assert!(numbers(difference)[0] < 2e-2);

        let gradients = out.powi_scalar(2).sum().backward();
        let gradient = gradient(&query, &gradients);
        assert!(gradient.iter().all(|x| x.is_finite()));
        assert!(gradient.iter().take(24).all(|x| x.abs() < 1e-6));
    }
}

#[test]
fn half_precision_is_as_near_as_its_own_rounding() {
    let of = |dtype| {
        let [query, key, value] = scores_as_queries(dtype);
        attention(query, key, value.abs(), Attention::new(3))
    };
    let exact: Vec<f64> = {
        // The same inputs, rounded.
        let [query, key, value] =
            scores_as_queries(FloatDType::BF16).map(|x| x.cast(FloatDType::F64));
        numbers(attention(query, key, value.abs(), Attention::new(3)))
    };
    let half = of(FloatDType::BF16);
    assert_eq!(half.dtype(), DType::BF16);
    for (half, exact) in numbers(half).iter().zip(exact) {
        // bf16 keeps eight bits; scores, probabilities and output are each rounded.
        assert!((half - exact).abs() < 0.05 * exact, "{half} for {exact}");
    }
}
