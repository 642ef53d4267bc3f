//! Recomputation: the same gradients with fewer bytes of activations and the same traffic.

use crate::alone;
use crate::oracle;
use crate::oracle::{Values, ranks};
use burn::module::{Module, Param};
use burn::nn::{Dropout, DropoutConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::activation::gelu;
use burn::tensor::{Device, Distribution, Int, Tensor};
use burn_dist::comm::Op;
use burn_dist::nn::loss::cross_entropy_sum;
use burn_dist::{Destination, Error, Result, Strategy, World, unit};
use burn_dist_models::VitConfig;
use std::sync::mpsc::channel;
use std::time::Duration;

/// Runs `f`, and fails if it hangs: a lock that is taken twice meets no deadline of a collective.
fn watched<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = channel();
    let thread = std::thread::spawn(move || done.send(f()));
    match result.recv_timeout(Duration::from_secs(120)) {
        Ok(value) => value,
        Err(_) if thread.is_finished() => panic!("{:?}", thread.join().err()),
        Err(_) => panic!("hangs"),
    }
}

/// The full gradients of one backward, on every rank.
fn gradients<M: Module + 'static>(
    strategy: &Strategy,
    size: usize,
    model: impl Fn(&World) -> M + Send + Sync + 'static,
    loss: impl Fn(&World, &M) -> Tensor<1> + Send + Sync + 'static,
) -> Result<Vec<Values>> {
    let strategy = strategy.clone();
    watched(move || {
        ranks(size).seed(3).run(|world| {
            let model = strategy.clone().shard(model(&world), &world)?;
            let loss = world.run(|| loss(&world, &model))?;
            let grads = world.backward(loss, &model)?.into_params();
            let full = world.full(&oracle::holding(&model, &grads), Destination::All)?;
            Ok(oracle::values(&full.unwrap()))
        })
    })
}

/// Asserts that recomputing changes no bit, under every strategy at worlds 1, 2 and 3.
fn check<M: Module + 'static>(
    model: impl Fn(&World) -> M + Send + Sync + Clone + 'static,
    loss: impl Fn(&World, &M) -> Tensor<1> + Send + Sync + Clone + 'static,
) {
    for size in 1..=3 {
        for strategy in oracle::strategies(size) {
            let run = |recompute| {
                let strategy = strategy.clone().recompute(recompute);
                gradients(&strategy, size, model.clone(), loss.clone()).unwrap()
            };
            let (expected, found) = (run(false), run(true));
            let largest = expected[0]
                .values()
                .flatten()
                .fold(0f64, |m, x| m.max(x.abs()));
            assert!(largest > 0.0, "{strategy}: no gradient at all");
            for (expected, found) in expected.iter().zip(&found) {
                for (path, expected) in expected {
                    let differ = expected.iter().zip(&found[path]).position(|(a, b)| a != b);
                    assert_eq!(differ, None, "{strategy} at world {size}: {path}");
                }
            }
        }
    }
}

#[test]
fn a_transformer_with_dropout_has_the_same_gradients_bit_for_bit() {
    let _alone = alone();
    let vit = |world: &World| {
        let config = VitConfig::tiny(10).with_blocks(3).with_dropout(0.2);
        let config = config.with_attention_dropout(0.1).with_drop_path(0.2);
        config.init(&world.device()).unwrap()
    };
    check(vit, |world, vit| {
        let pixels = oracle::batch(2, 3 * 32 * 32, world.rank());
        let images: Tensor<2> = oracle::tensor(&pixels, burn::tensor::DType::F32, &world.device());
        let labels = Tensor::<1, Int>::from_data([1, 7], &world.device());
        let logits = vit.forward(images.reshape([2, 3, 32, 32]));
        cross_entropy_sum(logits, labels, None)
    });
}

/// Units with several inputs and outputs, side inputs that take gradients, and ones that do not.
#[derive(Module, Debug)]
struct Forked {
    scale: Param<Tensor<2>>,
    blocks: Vec<Linear>,
    frozen: Vec<Linear>,
}

impl Forked {
    fn new(device: &Device) -> Self {
        let linear = |_: usize| LinearConfig::new(6, 6).init(device);
        Self {
            scale: Param::from_data([[1.5f32; 6]], device),
            blocks: (0..3).map(linear).collect(),
            frozen: vec![linear(0).freeze()],
        }
    }

    fn forward(&self, x: Tensor<2>, picked: Tensor<1, Int>) -> Tensor<2> {
        unit(self, (x, picked), |net: &Self, (x, picked)| {
            // Outside of any block, and yet an input of all of them.
            let side = net.scale.val() * 2.0;
            let mut x = x;
            let mut kept = None;
            for block in &net.blocks {
                let inputs = (x, side.clone(), picked.clone(), kept);
                (x, kept) = unit(block, inputs, |block: &Linear, (x, side, picked, kept)| {
                    let y = gelu(block.forward(x.clone())) * side;
                    let y = match kept {
                        Some(kept) => y + kept,
                        None => y,
                    };
                    (y.clone() + x, Some(y.select(0, picked)))
                });
            }
            let block = &net.frozen[0];
            let x = unit(block, (x, side), |block: &Linear, (x, _unused)| {
                block.forward(x)
            });
            x + kept.unwrap()
        })
    }
}

fn forked(world: &World, model: &Forked) -> Tensor<1> {
    let x: Tensor<2> = oracle::tensor(
        &oracle::batch(4, 6, world.rank()),
        burn::tensor::DType::F32,
        &world.device(),
    );
    let picked = Tensor::from_data([3, 1, 0, 0], &world.device());
    model.forward(x, picked).powi_scalar(2).mean()
}

#[test]
fn side_inputs_and_several_outputs_have_the_same_gradients() {
    let _alone = alone();
    check(|world| Forked::new(&world.device()), forked);
}

/// A unit inside of a unit, and one whose inputs take no gradients.
#[derive(Module, Debug)]
struct Nested {
    outer: Vec<Outer>,
}

#[derive(Module, Debug)]
struct Outer {
    first: Linear,
    inner: Vec<Linear>,
}

impl Nested {
    fn new(device: &Device) -> Self {
        let linear = |_: usize| LinearConfig::new(6, 6).init(device);
        let outer = |at: usize| Outer {
            first: linear(at),
            inner: (0..2).map(linear).collect(),
        };
        Self {
            outer: (0..2).map(outer).collect(),
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        unit(self, x, |net: &Self, mut x| {
            for outer in &net.outer {
                x = unit(outer, x, |outer: &Outer, x| {
                    let mut x = gelu(outer.first.forward(x));
                    for inner in &outer.inner {
                        x = unit(inner, x, |inner: &Linear, x| {
                            gelu(inner.forward(x.clone())) + x
                        });
                    }
                    x
                });
            }
            x
        })
    }
}

fn nested(world: &World, model: &Nested) -> Tensor<1> {
    let x = oracle::batch(4, 6, world.rank());
    let x = oracle::tensor(&x, burn::tensor::DType::F32, &world.device());
    model.forward(x).powi_scalar(2).mean()
}

#[test]
fn units_in_units_have_the_same_gradients() {
    let _alone = alone();
    check(|world| Nested::new(&world.device()), nested);
}

/// Gathers and reductions of one step with recomputation, and in which order.
fn traffic<M: Module + 'static>(
    strategy: Strategy,
    model: impl Fn(&World) -> M + Send + Sync + 'static,
    loss: impl Fn(&World, &M) -> Tensor<1> + Send + Sync + 'static,
) -> (u64, u64, Vec<(Op, String)>) {
    let runs = watched(move || {
        ranks(2).run(|world| {
            let model = strategy
                .clone()
                .recompute(true)
                .check_units(false)
                .shard(model(&world), &world)?;
            world.ledger().reset();
            let _ = world.backward(loss(&world, &model), &model)?;
            let calls = |op| world.ledger().total(op).calls;
            let order = world.ledger().order().into_iter();
            let order = order.map(|(op, name)| (op, name.to_string())).collect();
            Ok((calls(Op::AllGather), calls(Op::ReduceScatter), order))
        })
    });
    runs.unwrap().remove(0)
}

#[test]
fn no_gather_is_added() {
    let _alone = alone();
    let mlp = |world: &World| oracle::Mlp::new(4, &world.device());
    let loss = |world: &World, model: &oracle::Mlp| {
        let x = oracle::batch(4, 7, world.rank());
        let x = oracle::tensor(&x, burn::tensor::DType::F32, &world.device());
        model.forward(x).powi_scalar(2).mean()
    };
    let (gathers, reductions, order) = traffic(Strategy::fsdp(), mlp, loss);
    assert_eq!((gathers, reductions), (2 * 4 + 1, 4 + 1));
    // Backward still gathers the block before while it computes one.
    let last = |op: Op, name: &str| order.iter().rposition(|(o, n)| *o == op && n == name);
    for block in 1..4 {
        let (this, before) = (format!("blocks.{block}"), format!("blocks.{}", block - 1));
        let (reduced, gathered) = (last(Op::ReduceScatter, &this), last(Op::AllGather, &before));
        assert!(gathered < reduced, "{order:?}");
    }
    for (strategy, gathers) in [(Strategy::zero2(), 5), (Strategy::ddp(), 0)] {
        assert_eq!(traffic(strategy, mlp, loss).0, gathers);
    }
    // Two outer units of two inner ones: each once in forward and once in backward.
    let (gathers, ..) = traffic(
        Strategy::fsdp(),
        |world| Nested::new(&world.device()),
        nested,
    );
    assert_eq!(gathers, 2 * 6);
}

/// A block that does what a recomputed one must not.
#[derive(Module, Debug)]
struct Wrong {
    dropout: Dropout,
    norm: LayerNorm,
    blocks: Vec<Linear>,
}

impl Wrong {
    fn new(world: &World) -> Self {
        let device = world.device();
        Self {
            dropout: DropoutConfig::new(0.5).init(),
            norm: LayerNormConfig::new(6).init(&device),
            blocks: vec![LinearConfig::new(6, 6).init(&device)],
        }
    }
}

fn input(world: &World) -> Tensor<2> {
    Tensor::random([4, 6], Distribution::Default, &world.device())
}

fn failure(loss: impl Fn(&World, &Wrong) -> Tensor<1> + Send + Sync + 'static) -> Error {
    let strategy = Strategy::fsdp().recompute(true);
    gradients(&strategy, 2, Wrong::new, loss).unwrap_err()
}

#[test]
fn a_captured_tensor_that_takes_gradients_is_an_error_in_forward() {
    let _alone = alone();
    let error = failure(|world, net| {
        unit(net, input(world), |net: &Wrong, x| {
            let side = net.norm.forward(x.clone());
            let captured = side.clone();
            unit(&net.blocks[0], x, move |block: &Linear, x| {
                block.forward(x) + captured.clone()
            })
        })
        .mean()
    });
    let text = error.to_string();
    assert!(
        text.contains("blocks.0") && text.contains("captured a tensor"),
        "{text}"
    );
}

#[test]
fn a_forward_that_does_not_repeat_is_named_in_backward() {
    let _alone = alone();
    let error = failure(|world, net| {
        unit(net, input(world), |net: &Wrong, x| {
            let (x, dropout) = (net.norm.forward(x), net.dropout.clone());
            unit(&net.blocks[0], x, move |block: &Linear, x| {
                dropout.forward(block.forward(x))
            })
        })
        .mean()
    });
    let text = error.to_string();
    assert!(
        text.contains("blocks.0") && text.contains("something else"),
        "{text}"
    );
}

#[test]
fn recomputation_does_not_affect_evaluation_and_dropped_forwards() {
    let _alone = alone();
    let run = |world: World| {
        let strategy = Strategy::fsdp().recompute(true);
        let model = strategy.shard(Forked::new(&world.device()), &world)?;
        let dropped = forked(&world, &model);
        let valid = model.valid();
        let x = input(&world).inner();
        let picked = Tensor::from_data([0, 1, 2, 3], &x.device());
        let _ = valid.forward(x, picked);
        drop(dropped);
        // Two forwards before one backward.
        let both = forked(&world, &model) + forked(&world, &model);
        let _ = world.backward(both, &model)?;
        Ok(())
    };
    watched(move || ranks(2).run(run)).unwrap();
}
