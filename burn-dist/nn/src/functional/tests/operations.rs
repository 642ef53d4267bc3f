//! Values and gradients beside f64, and their bits on several threads.

use super::*;
use crate::functional::{
    Attention, Dropout, MlpWeights, attention, cross_entropy_sum, dropout, embedding, gelu,
    gelu_approximate, layer_norm, mlp,
};
use burn::tensor::{Bool, Int};

/// Lengths of rows: shorter than a register, one beside it, and such that blocks end within a batch.
const WIDTHS: [usize; 5] = [1, 15, 17, 65, 1000];

/// Compares with f64, and the bits on several threads.
fn check(bound: f64, run: impl Fn(FloatDType) -> Vec<Vec<f64>> + Sync) {
    beside_f64(bound, &run);
    same_on_all_threads(run);
}

#[test]
fn gelu_in_both_forms() {
    for shape in [[1, 1], [3, 65], [0, 7], [131, 1000]] {
        let mut x = normal(shape, 1);
        x.iter_mut().for_each(|x| *x *= 3.0);
        for form in [gelu::<2>, gelu_approximate::<2>] {
            check(2e-6, |dtype| {
                let x = leaf(&x, shape, dtype);
                let y = form(x.clone());
                let gradients = weighted(y.clone()).backward();
                vec![numbers(y), gradient(&x, &gradients)]
            });
        }
    }
}

#[test]
fn layer_norm_with_its_parameters() {
    for (rows, width) in WIDTHS
        .map(|width| (257, width))
        .into_iter()
        .chain([(0, 5), (1, 5)])
    {
        let mut x = normal([rows, width], 2);
        x.iter_mut().for_each(|x| *x = *x * 2.0 + 5.0);
        let (gamma, beta) = (normal([width], 3), normal([width], 4));
        check(3e-5, |dtype| {
            let x = leaf(&x, [rows, width], dtype);
            let (gamma, beta) = (leaf(&gamma, [width], dtype), leaf(&beta, [width], dtype));
            let y = layer_norm(x.clone(), gamma.clone(), beta.clone(), 1e-5);
            let gradients = weighted(y.clone()).backward();
            vec![
                numbers(y),
                gradient(&x, &gradients),
                gradient(&gamma, &gradients),
                gradient(&beta, &gradients),
            ]
        });
    }
}

#[test]
fn mlp_with_its_parameters() {
    for [rows, width, hidden, output] in [
        [0, 3, 5, 2],
        [1, 1, 1, 1],
        [33, 17, 65, 15],
        [700, 96, 384, 96],
    ] {
        let x = normal([rows, width], 5);
        let scaled = |shape: [usize; 2], seed| {
            let mut w = normal(shape, seed);
            w.iter_mut()
                .for_each(|w| *w *= (shape[0] as f32).powf(-0.5));
            w
        };
        let (up, down) = (scaled([width, hidden], 6), scaled([hidden, output], 7));
        let (up_bias, down_bias) = (normal([hidden], 8), normal([output], 9));
        check(5e-6, |dtype| {
            let x = leaf(&x, [rows, width], dtype);
            let weights = MlpWeights {
                up: leaf(&up, [width, hidden], dtype),
                up_bias: leaf(&up_bias, [hidden], dtype),
                down: leaf(&down, [hidden, output], dtype),
                down_bias: leaf(&down_bias, [output], dtype),
            };
            let y = mlp(x.clone(), weights.clone());
            let gradients = weighted(y.clone()).backward();
            vec![
                numbers(y),
                gradient(&x, &gradients),
                gradient(&weights.up, &gradients),
                gradient(&weights.up_bias, &gradients),
                gradient(&weights.down, &gradients),
                gradient(&weights.down_bias, &gradients),
            ]
        });
    }
}

#[test]
fn cross_entropy_with_weights_and_ignored_labels() {
    for (rows, classes) in WIDTHS
        .map(|classes| (37, classes))
        .into_iter()
        .chain([(0, 5), (1, 5)])
    {
        let mut logits = normal([rows, classes], 10);
        logits.iter_mut().for_each(|x| *x *= 10.0);
        let weights: Vec<f32> = normal([rows], 11).into_iter().map(f32::abs).collect();
        let labels = |every: usize| -> Vec<i64> {
            let label = |row: usize| {
                if row.is_multiple_of(every) {
                    -100
                } else {
                    (row * 7 % classes) as i64
                }
            };
            (0..rows).map(label).collect()
        };
        for (labels, ignored, is_weighted) in [
            (labels(usize::MAX), None, false),
            (labels(usize::MAX), None, true),
            (labels(3), Some(-100), false),
            (labels(3), Some(-100), true),
            (labels(1), Some(-100), true),
        ] {
            // Row 0 is a multiple of everything.
            let labels: Vec<i64> = match ignored {
                None => labels.into_iter().map(|label| label.max(0)).collect(),
                Some(_) => labels,
            };
            check(3e-6, |dtype| {
                let logits = leaf(&logits, [rows, classes], dtype);
                let data = TensorData::new(labels.clone(), [rows]);
                let labels = Tensor::<1, Int>::from_data(data, &device());
                let weights = is_weighted.then(|| {
                    let data = TensorData::new(weights.clone(), [rows]);
                    Tensor::<1>::from_data(data, &device())
                });
                let loss = cross_entropy_sum(logits.clone(), labels, weights, ignored);
                let gradients = (loss.clone() * 0.7).backward();
                vec![numbers(loss), gradient(&logits, &gradients)]
            });
        }
    }
}

#[test]
fn embedding_rows_of_a_table_and_of_a_view() {
    let (rows, width) = (11, 17);
    let numbers_of_table = normal([rows + 2, width], 12);
    let ids = [[3i64, 0, 3, 10], [3, 9, 0, 1], [2, 2, 2, 2]];
    check(1e-6, |dtype| {
        let buffer = leaf(&numbers_of_table, [rows + 2, width], dtype);
        let table = buffer.clone().narrow(0, 1, rows);
        let ids = Tensor::<2, Int>::from_data(ids, &device());
        let y = embedding(table, ids);
        let gradients = weighted(y.clone()).backward();
        vec![numbers(y), gradient(&buffer, &gradients)]
    });
}

#[test]
fn dropout_drops_the_same_in_every_type_and_in_backward() {
    let half = Dropout {
        rate: 0.3,
        key: [5; 32],
    };
    for shape in [[0, 3], [1, 1], [97, 1000]] {
        let x = normal(shape, 13);
        check(1e-6, |dtype| {
            let x = leaf(&x, shape, dtype);
            let y = dropout(x.clone(), half);
            let gradients = weighted(y.clone()).backward();
            vec![numbers(y), gradient(&x, &gradients)]
        });
    }
}

/// Queries, keys, width and how they attend.
fn attend(
    [batch, queries, keys, width]: [usize; 4],
    how: Attention,
) -> impl Fn(FloatDType) -> Vec<Vec<f64>> + Sync {
    let shapes = [
        [batch, queries, width],
        [batch, keys, width],
        [batch, keys, width],
    ];
    let inputs = [14, 15, 16].map(|seed| normal(shapes[seed as usize - 14], seed));
    move |dtype| {
        let leaves = [0, 1, 2].map(|i| leaf(&inputs[i], shapes[i], dtype));
        let [query, key, value] = leaves.clone();
        let y = attention(query, key, value, how.clone());
        let gradients = weighted(y.clone()).backward();
        let mut found = vec![numbers(y)];
        found.extend(leaves.iter().map(|leaf| gradient(leaf, &gradients)));
        found
    }
}

fn padding(
    batch: usize,
    keys: usize,
    is_padding: impl Fn(usize, usize) -> bool,
) -> Tensor<2, Bool> {
    let rows = (0..batch * keys).map(|i| is_padding(i / keys, i % keys));
    let data = TensorData::new(rows.collect::<Vec<bool>>(), [batch, keys]);
    Tensor::from_data(data, &device())
}

#[test]
fn attention_at_odd_sizes() {
    for (sizes, heads) in [
        ([1, 1, 1, 1], 1),
        ([2, 15, 17, 6], 3),
        ([3, 65, 65, 34], 2),
        ([1, 100, 7, 64], 4),
        ([5, 33, 33, 192], 3),
    ] {
        let dropped = Dropout {
            rate: 0.25,
            key: [9; 32],
        };
        for (is_causal, dropout) in [
            (false, None),
            (true, None),
            (false, Some(dropped)),
            (true, Some(dropped)),
        ] {
            let how = Attention {
                is_causal,
                dropout,
                ..Attention::new(heads)
            };
            check(4e-6, attend(sizes, how));
        }
    }
}

#[test]
fn attention_beside_padding() {
    let (batch, keys) = (4, 19);
    let masks = [
        // Of growing length, the last sample all padding.
        padding(batch, keys, |sample, key| key + 7 * sample >= keys),
        // Here and there, the first key of all.
        padding(batch, keys, |sample, key| (key + sample).is_multiple_of(3)),
    ];
    for mask in masks {
        for is_causal in [false, true] {
            let how = Attention {
                padding: Some(mask.clone()),
                is_causal,
                ..Attention::new(2)
            };
            check(4e-6, attend([batch, 19, keys, 8], how));
        }
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    // In f64 the composition is differentiated, in f32 the kernel; here neither vouches for the other.
    let (x, gamma, beta) = (normal([2, 5], 20), normal([5], 21), normal([5], 22));
    let key = normal([1, 2, 6], 23);
    type Function = Box<dyn Fn(Tensor<2>) -> Tensor<1>>;
    let fixed = move |numbers: &[f32]| leaf(numbers, [5], FloatDType::F32);
    let functions: [Function; 4] = [
        Box::new(|x| weighted(gelu(x))),
        Box::new(|x| weighted(gelu_approximate(x))),
        Box::new(move |x| weighted(layer_norm(x, fixed(&gamma), fixed(&beta), 1e-3))),
        Box::new(move |x| {
            let key = leaf(&key, [1, 2, 6], FloatDType::F32);
            let x = Tensor::cat(vec![x.clone(), x.narrow(1, 0, 1)], 1).reshape([1, 2, 6]);
            weighted(attention(x.clone(), key, x, Attention::new(2)))
        }),
    ];
    for (which, function) in functions.iter().enumerate() {
        let input = leaf(&x, [2, 5], FloatDType::F32);
        let found = gradient(&input, &function(input.clone()).backward());
        for at in 0..x.len() {
            let step = 1e-2f32;
            let moved = |by: f32| {
                let mut x = x.clone();
                x[at] += by;
                numbers(function(leaf(&x, [2, 5], FloatDType::F32)))[0]
            };
            // Of the fourth order in the step.
            let wide = (moved(2.0 * step) - moved(-2.0 * step)) / 4.0;
            let near = (moved(step) - moved(-step)) / 2.0;
            let difference = (4.0 * near - wide) / 3.0 / f64::from(step);
            let error = (found[at] - difference).abs();
            assert!(
                error < 2e-4,
                "function {which}, element {at}: {} for {difference}",
                found[at]
            );
        }
    }
}
