//! What each operation costs an element on one thread, beside Burn's composition of the same.
//!
//! ```sh
//! cargo bench -p burn-dist-nn
//! ```
//!
//! Forward and backward are timed apart and in turn with Burn's; the table shows the least of the rounds, for
//! whatever else a machine does only adds.

#![allow(clippy::expect_used)]

use burn::optim::Optimizer;
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData, activation, module};
use burn_dist_nn::functional::{
    Attention, Dropout, attention, cross_entropy_sum, dropout, gelu, layer_norm,
};
use burn_dist_nn::optim::AdamWConfig;
use mimalloc::MiMalloc;
use std::time::Instant;

/// As training programs have it: large tensors come and go, at which the system's allocator is slow.
#[global_allocator]
static MEMORY: MiMalloc = MiMalloc;

const ROUNDS: usize = 15;

/// Seconds of a forward pass, of the backward pass of its output times a constant, and of the backward pass of
/// such a product alone.
type Times = [f64; 3];

/// One operation: a name, the elements that it is counted by, and the bars in nanoseconds an element.
struct Row<'a> {
    name: &'a str,
    elements: usize,
    bars: [f64; 2],
    ours: &'a dyn Fn() -> Times,
    burns: &'a dyn Fn() -> Times,
}

/// The least seconds of forward, and of backward without the product.
fn least(times: &[Times]) -> [f64; 2] {
    let least = |i: usize| times.iter().map(|t| t[i]).fold(f64::INFINITY, f64::min);
    [least(0), least(1) - least(2)]
}

impl Row<'_> {
    fn print(&self) {
        let (mut ours, mut burns) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push((self.ours)());
            burns.push((self.burns)());
        }
        let each = |times: [f64; 2]| times.map(|t| 1e9 * t / self.elements as f64);
        let ([of, ob], [bf, bb]) = (each(least(&ours)), each(least(&burns)));
        let [bar_f, bar_b] = self.bars;
        let within = |x: f64, bar: f64| if x <= bar { "" } else { " missed" };
        println!(
            "{:<32} {of:>7.2} {ob:>7.2}   bar {bar_f:.1}{} {bar_b:.1}{}   Burn {bf:>7.2} {bb:>7.2}",
            self.name,
            within(of, bar_f),
            within(ob, bar_b),
        );
    }
}

fn device() -> Device {
    Device::flex().autodiff()
}

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device()).require_grad()
}

fn timed<const D: usize>(forward: impl FnOnce() -> Tensor<D>) -> Times {
    let start = Instant::now();
    let y = forward();
    let forward = start.elapsed().as_secs_f64();
    let bare = Tensor::from_inner(y.clone().inner()).require_grad();
    let backward = |y: Tensor<D>| {
        let constant = Tensor::ones(y.dims(), &device().inner());
        let loss = (y * Tensor::from_inner(constant)).sum();
        let start = Instant::now();
        let gradients = loss.backward();
        let elapsed = start.elapsed().as_secs_f64();
        drop(gradients);
        elapsed
    };
    let alone = backward(bare);
    [forward, backward(y), alone]
}

fn main() {
    // Criterion's flag: without it, as under `cargo test`, everything runs once elsewhere.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    one.expect("a pool of one thread").install(table);
}

/// The floating-point operations a second of a matrix product, which all of a model's time should go to.
fn matmul() {
    let [m, k, n] = [2080, 192, 768];
    let (a, b) = (random([m, k]).inner(), random([k, n]).inner());
    let time = || {
        let start = Instant::now();
        let c = a.clone().matmul(b.clone());
        (start.elapsed().as_secs_f64(), c).0
    };
    let least = (0..50).map(|_| time()).fold(f64::INFINITY, f64::min);
    let rate = 2.0 * (m * k * n) as f64 / least / 1e9;
    println!("matmul [{m}, {k}] x [{k}, {n}]: {rate:.0} GFLOP/s");
}

fn table() {
    matmul();
    println!("ns an element (logit, parameter), forward and backward, one thread");
    let x = random([4096, 512]);
    let elements = 4096 * 512;
    Row {
        name: "gelu [4096, 512]",
        elements,
        bars: [1.0, 1.5],
        ours: &|| timed(|| gelu(x.clone())),
        burns: &|| timed(|| activation::gelu(x.clone())),
    }
    .print();

    let y = random([4096, 128]);
    let (gamma, beta) = (random([128]), random([128]));
    Row {
        name: "layer_norm [4096, 128]",
        elements: 4096 * 128,
        bars: [0.6, 1.3],
        ours: &|| timed(|| layer_norm(y.clone(), gamma.clone(), beta.clone(), 1e-5)),
        burns: &|| timed(|| module::layer_norm(y.clone(), gamma.clone(), Some(beta.clone()), 1e-5)),
    }
    .print();

    let half = Dropout {
        rate: 0.1,
        key: [1; 32],
    };
    Row {
        name: "dropout [4096, 512]",
        elements,
        bars: [1.5, 1.5],
        ours: &|| timed(|| dropout(x.clone(), half)),
        burns: &|| {
            timed(|| {
                let mask = Tensor::<2>::random(x.dims(), Distribution::Bernoulli(0.9), &device());
                x.clone() * mask * (1.0 / 0.9)
            })
        },
    }
    .print();

    // Counted by scores: the two products of a head take 4 * 64 operations a score besides.
    let (batch, tokens, width, heads) = (32, 65, 192, 3);
    let qkv = [0, 1, 2].map(|_| random([batch, tokens, width]));
    let scores = batch * heads * tokens * tokens;
    let split = |x: &Tensor<3>| {
        let x = x.clone().reshape([batch, tokens, heads, width / heads]);
        x.swap_dims(1, 2)
    };
    Row {
        name: "attention [32, 65, 3 x 64]",
        elements: scores,
        bars: [f64::INFINITY; 2],
        ours: &|| {
            timed(|| {
                let [q, k, v] = qkv.clone();
                attention(q, k, v, Attention::new(heads))
            })
        },
        burns: &|| {
            timed(|| {
                let [q, k, v] = [0, 1, 2].map(|i| split(&qkv[i]));
                let scores = (q * 0.125).matmul(k.swap_dims(2, 3));
                let heads = activation::softmax(scores, 3).matmul(v).swap_dims(1, 2);
                heads.reshape([batch, tokens, width])
            })
        },
    }
    .print();

    let classes = 30_522;
    let logits = random([64, classes]);
    let labels = TensorData::new((0..64i64).collect::<Vec<_>>(), [64]);
    let labels = Tensor::<1, Int>::from_data(labels, &device());
    Row {
        name: "cross_entropy_sum [64, 30522]",
        elements: 64 * classes,
        bars: [1.5, 0.5],
        ours: &|| timed(|| cross_entropy_sum(logits.clone(), labels.clone(), None, None)),
        burns: &|| {
            timed(|| {
                let of_label = activation::log_softmax(logits.clone(), 1);
                of_label.gather(1, labels.clone().unsqueeze_dim(1)).sum()
            })
        },
    }
    .print();

    let n = 2_700_000;
    let gradient = random([n]).inner();
    let ours = AdamWConfig::new().build();
    let burns = burn::optim::AdamWConfig::new().build();
    Row {
        name: "AdamW, 2.7 M parameters",
        elements: n,
        bars: [0.8, f64::INFINITY],
        ours: &|| stepped(&ours, &gradient),
        burns: &|| stepped(&burns, &gradient),
    }
    .print();
}

/// The time of an optimizer's third step; there is no backward pass.
fn stepped(optimizer: &impl Optimizer, gradient: &Tensor<1>) -> Times {
    let (mut parameter, mut state) = (gradient.ones_like(), None);
    let mut time = 0.0;
    for _ in 0..3 {
        let gradient = gradient.clone();
        let start = Instant::now();
        (parameter, state) = optimizer.step(1e-3, parameter, gradient, state);
        time = start.elapsed().as_secs_f64();
    }
    [time, 0.0, 0.0]
}
