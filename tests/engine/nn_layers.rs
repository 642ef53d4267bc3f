//! The layers of `burn_dist::nn`: the numbers of Burn's, from Burn's records, and the same when sharded.

use crate::oracle::place::{Place, same_everywhere};
use crate::oracle::{self, Values, cast, close, holding, undrawn, values};
use burn::module::{Module, Param};
use burn::nn as burns;
use burn::nn::activation::ActivationConfig;
use burn::optim::GradientsParams;
use burn::tensor::activation::gelu;
use burn::tensor::{Bool, DType, Device, FloatDType, Int, Tensor};
use burn_dist::nn::{
    DropPath, DropPathConfig, DropoutConfig, Embedding, EmbeddingConfig, FeedForwardConfig,
    LayerNormConfig, Linear, LinearConfig, MhaInput, MultiHeadAttentionConfig, RmsNorm,
    RmsNormConfig, TransformerDecoder, TransformerDecoderConfig, TransformerDecoderInput,
    TransformerEncoder, TransformerEncoderConfig, TransformerEncoderInput,
};
use burn_dist::{Noise, Plan, Strategy, unit};

fn device() -> Device {
    Device::flex().autodiff()
}

/// Numbers that neither layer draws, `[2, 5, 6]`.
fn words(dtype: DType) -> Tensor<3> {
    oracle::tensor::<2>(&oracle::batch(10, 6, 1), dtype, &device()).reshape([2, 5, 6])
}

/// Output and gradients: a scalar all of whose derivatives differ goes backward.
fn traced<M: Module, const D: usize>(model: &M, y: Tensor<D>) -> Values {
    let len: usize = y.dims().iter().product();
    let weights = oracle::tensor::<2>(&oracle::batch(len, 1, 3), y.dtype(), &device());
    let output = y.clone().into_data().iter::<f64>().collect();
    let loss = (y.flatten::<1>(0, D - 1) * weights.flatten(0, 1)).sum();
    let grads = GradientsParams::from_grads(loss.backward(), model);
    let mut values = values(&holding(model, &grads));
    // The true gradient of a key's bias is 0.
    values.retain(|path, _| !path.ends_with("key.bias"));
    values.insert("output".into(), output);
    values
}

/// Compares one of our layers with Burn's, whose record it loads, in f64 and in f32; and back again.
fn same<A: Module, B: Module, const D: usize>(
    theirs: A,
    ours: B,
    forward: impl Fn(&A, DType) -> Tensor<D>,
    by_ours: impl Fn(&B, DType) -> Tensor<D>,
) {
    for (float, dtype, bound) in [
        // Burn scales scores by a root that it computes in f32.
        (FloatDType::F64, DType::F64, 1e-7),
        (FloatDType::F32, DType::F32, 1e-3),
    ] {
        let theirs = undrawn(cast(theirs.clone(), float));
        let ours = cast(ours.clone(), float);
        let ours = ours
            .valid()
            .load_record(theirs.valid().into_record())
            .train();
        assert_eq!(values(&ours), values(&theirs));
        let back = theirs
            .valid()
            .load_record(ours.valid().into_record())
            .train();
        assert_eq!(values(&back), values(&theirs));
        let expected = traced(&theirs, forward(&theirs, dtype));
        let found = traced(&ours, by_ours(&ours, dtype));
        close(dtype.name(), &found, &expected, bound);
    }
}

#[test]
fn linear_takes_any_rank() {
    for bias in [true, false] {
        let theirs = || {
            burns::LinearConfig::new(6, 4)
                .with_bias(bias)
                .init(&device())
        };
        let ours = || LinearConfig::new(6, 4).with_bias(bias).init(&device());
        same(
            theirs(),
            ours(),
            |layer, dtype| layer.forward(words(dtype)),
            |layer, dtype| layer.forward(words(dtype)),
        );
        same(
            theirs(),
            ours(),
            |layer, dtype| layer.forward(words(dtype).flatten::<1>(0, 2).narrow(0, 0, 6)),
            |layer, dtype| layer.forward(words(dtype).flatten::<1>(0, 2).narrow(0, 0, 6)),
        );
        same(
            theirs(),
            ours(),
            |layer, dtype| layer.forward(words(dtype).reshape([1, 2, 5, 6])),
            |layer, dtype| layer.forward(words(dtype).reshape([1, 2, 5, 6])),
        );
    }
}

#[test]
fn norms() {
    for bias in [true, false] {
        let theirs = burns::LayerNormConfig::new(6).with_bias(bias);
        let ours = LayerNormConfig::new(6).with_bias(bias);
        same(
            theirs.init(&device()),
            ours.init(&device()),
            |layer, dtype| layer.forward(words(dtype)),
            |layer, dtype| layer.forward(words(dtype)),
        );
    }
    same(
        burns::RmsNormConfig::new(6)
            .with_epsilon(1e-3)
            .init(&device()),
        RmsNormConfig::new(6).with_epsilon(1e-3).init(&device()),
        // Burn computes the mean in f32 even where the input is f64.
        |layer: &burns::RmsNorm, dtype| {
            let x = words(dtype);
            let rms = (x.clone().square().mean_dim(2) + 1e-3).sqrt();
            if dtype == DType::F32 {
                layer.forward(x)
            } else {
                x / rms * layer.gamma.val().unsqueeze()
            }
        },
        |layer, dtype| layer.forward(words(dtype)),
    );
}

#[test]
fn embedding() {
    let ids = || Tensor::<2, Int>::from_data([[0, 3, 3], [4, 1, 0]], &device());
    same(
        burns::EmbeddingConfig::new(5, 6).init(&device()),
        EmbeddingConfig::new(5, 6).init(&device()),
        |layer, _| layer.forward(ids()),
        |layer, _| layer.forward(ids()),
    );
}

#[test]
fn feed_forward_with_every_kind_of_activation() {
    for activation in [
        ActivationConfig::Gelu,
        ActivationConfig::GeluApproximate,
        ActivationConfig::Relu,
    ] {
        let theirs = burns::transformer::PositionWiseFeedForwardConfig::new(6, 9)
            .with_dropout(0.0)
            .with_activation(activation.clone());
        let ours = FeedForwardConfig::new(6, 9)
            .with_dropout(0.0)
            .with_activation(activation);
        same(
            theirs.init(&device()),
            ours.init(&device()),
            |layer, dtype| layer.forward(words(dtype)),
            |layer, dtype| layer.forward(words(dtype)),
        );
    }
}

/// The last two words of the second text are padding.
fn padding() -> Tensor<2, Bool> {
    let mut rows = [[false; 5]; 2];
    rows[1][3..].fill(true);
    Tensor::from_data(rows, &device())
}

fn later() -> Tensor<3, Bool> {
    burns::attention::generate_autoregressive_mask(2, 5, &device())
}

#[test]
fn attention_with_and_without_masks() {
    type Theirs = burns::attention::MhaInput;
    for (heads, quiet, padded, causal) in [
        (2, false, false, false),
        (3, false, true, false),
        (2, false, true, true),
        (2, true, true, true),
    ] {
        let theirs = burns::attention::MultiHeadAttentionConfig::new(6, heads)
            .with_dropout(0.0)
            .with_key_bias(false)
            .with_quiet_softmax(quiet);
        let ours = MultiHeadAttentionConfig::new(6, heads)
            .with_dropout(0.0)
            .with_key_bias(false)
            .with_quiet_softmax(quiet);
        for by_mask in [false, true] {
            same(
                theirs.init(&device()),
                ours.init(&device()),
                |layer, dtype| {
                    let mut input = Theirs::self_attn(words(dtype));
                    if padded {
                        input = input.mask_pad(padding());
                    }
                    if causal {
                        input = input.mask_attn(later());
                    }
                    layer.forward(input).context
                },
                |layer, dtype| {
                    let mut input = MhaInput::self_attn(words(dtype));
                    if padded {
                        input = input.mask_pad(padding());
                    }
                    if causal {
                        input = if by_mask {
                            input.mask_attn(later())
                        } else {
                            input.causal()
                        };
                    }
                    layer.forward(input).context
                },
            );
        }
    }
}

#[test]
fn encoder_and_decoder() {
    for norm_first in [true, false] {
        let theirs = burns::transformer::TransformerEncoderConfig::new(6, 9, 2, 3)
            .with_dropout(0.0)
            .with_norm_first(norm_first);
        let ours = TransformerEncoderConfig::new(6, 9, 2, 3)
            .with_dropout(0.0)
            .with_norm_first(norm_first);
        same(
            theirs.init(&device()),
            ours.init(&device()),
            |layer, dtype| {
                let input = burns::transformer::TransformerEncoderInput::new(words(dtype));
                layer.forward(input.mask_pad(padding()).mask_attn(later()))
            },
            |layer, dtype| {
                let input = TransformerEncoderInput::new(words(dtype));
                layer.forward(input.mask_pad(padding()).causal())
            },
        );
        let theirs = burns::transformer::TransformerDecoderConfig::new(6, 9, 2, 3)
            .with_dropout(0.0)
            .with_norm_first(norm_first);
        let ours = TransformerDecoderConfig::new(6, 9, 2, 3)
            .with_dropout(0.0)
            .with_norm_first(norm_first);
        let memory = |dtype| words(dtype).flip([1]) * 0.5;
        same(
            theirs.init(&device()),
            ours.init(&device()),
            |layer, dtype| {
                let input =
                    burns::transformer::TransformerDecoderInput::new(words(dtype), memory(dtype));
                layer.forward(input.memory_mask_pad(padding()).target_mask_attn(later()))
            },
            |layer, dtype| {
                let input = TransformerDecoderInput::new(words(dtype), memory(dtype));
                layer.forward(input.memory_mask_pad(padding()).causal())
            },
        );
    }
}

/// All layers at once, over rows of seven numbers.
#[derive(Module, Debug)]
struct Translator {
    table: Embedding,
    enter: Linear,
    norm: RmsNorm,
    encoder: TransformerEncoder,
    decoder: TransformerDecoder,
    scale: Param<Tensor<1>>,
}

impl Translator {
    fn new(dropout: f64) -> Self {
        let device = device();
        Self {
            table: EmbeddingConfig::new(9, 6).init(&device),
            enter: LinearConfig::new(1, 6).init(&device),
            norm: RmsNormConfig::new(6).init(&device),
            encoder: TransformerEncoderConfig::new(6, 10, 2, 2)
                .with_dropout(dropout)
                .with_norm_first(true)
                .init(&device),
            decoder: TransformerDecoderConfig::new(6, 10, 3, 2)
                .with_dropout(dropout)
                .init(&device),
            scale: Param::from_data([0.8], &device),
        }
    }

    fn loss(&self, x: Tensor<2>) -> Tensor<1> {
        unit(self, x, |net: &Self, x: Tensor<2>| {
            let ids: Tensor<2, Int> = (x.clone().abs() * 6.0).int();
            let words = net.table.forward(ids) * net.scale.val().unsqueeze();
            let memory = net
                .encoder
                .forward(TransformerEncoderInput::new(words).causal());
            let numbers = net.norm.forward(net.enter.forward(x.unsqueeze_dim::<3>(2)));
            let input = TransformerDecoderInput::new(gelu(numbers), memory).causal();
            net.decoder.forward(input).powi_scalar(3).mean()
        })
    }
}

#[test]
fn sharded_they_equal_one_device() {
    let model = undrawn(cast(Translator::new(0.0), FloatDType::F64));
    same_everywhere(|place: &Place| place.train(&model, 3, Translator::loss).map(|_| ()));
}

#[test]
fn nothing_of_them_is_stored_whole() {
    let plan = Strategy::fsdp().plan(&Translator::new(0.1), 2).unwrap();
    assert!(plan.units().iter().all(|unit| !unit.is_replicated()));
    let names: Vec<&str> = plan.units().iter().map(|unit| &*unit.path).collect();
    assert!(names.contains(&"encoder.layers.1") && names.contains(&"decoder.layers.0"));
}

/// Each rank's rows as a forward of its own under that rank's numbers: one device equals the ranks.
#[test]
fn one_device_drops_what_the_ranks_drop() {
    let model = undrawn(cast(Translator::new(0.3), FloatDType::F64));
    let rows = |rank, size| oracle::rows(&oracle::batch(24, 7, 0), rank, size);
    for size in [1, 2, 3] {
        let on = |data| oracle::tensor::<2>(&data, DType::F64, &device());
        let run = |world: burn_dist::World| {
            let model = Strategy::fsdp().shard(model.clone(), &world)?;
            let mut losses = Vec::new();
            for _ in 0..2 {
                let loss = model.loss(on(rows(world.rank(), size)));
                losses.push(oracle::scalar(&loss));
                let _ = world.backward(loss, &model)?;
            }
            Ok(losses)
        };
        let found = oracle::ranks(size).seed(5).run(run).unwrap();
        for (rank, found) in found.iter().enumerate() {
            for (pass, found) in found.iter().enumerate() {
                let noise = Noise::new(5, pass as u64, rank as u32);
                let loss = noise.layers(|| model.loss(on(rows(rank, size))));
                let expected = oracle::scalar(&loss);
                assert!((found - expected).abs() < 1e-12, "{found} for {expected}");
            }
            assert_ne!(found[0], found[1]);
        }
    }
}

#[test]
fn dropped_samples_are_whole_and_the_mean_is_kept() {
    let path: DropPath = DropPathConfig::new(0.25).init();
    let ones = Tensor::<3>::ones([4000, 2, 2], &device());
    let dropped = Noise::new(1, 2, 3).layers(|| path.forward(ones.clone()));
    let all: Vec<f32> = dropped.into_data().try_to_vec().unwrap();
    assert!(all.chunks(4).all(|s| s.iter().all(|x| *x == s[0])));
    let mean = all.iter().sum::<f32>() / all.len() as f32;
    assert!((mean - 1.0).abs() < 0.05, "{mean}");
    let frozen = path.freeze().forward(ones.clone());
    assert_eq!(frozen.into_data(), ones.clone().into_data());
    let plain = DropoutConfig::new(0.5).init().forward(ones.clone().inner());
    assert_eq!(plain.into_data(), ones.into_data());
}

/// Who shards Burn's own encoder is told what that costs, and what to use.
#[test]
fn a_plan_says_what_is_not_sharded() {
    let config = burns::transformer::TransformerEncoderConfig::new(64, 256, 4, 3);
    let burns = Strategy::fsdp().plan(&config.init(&device()), 8).unwrap();
    assert!(burns.to_string().contains("not sharded: 66."), "{burns}");
    let config = TransformerEncoderConfig::new(64, 256, 4, 3);
    let ours = Strategy::fsdp().plan(&config.init(&device()), 8).unwrap();
    assert!(!ours.to_string().contains("not sharded"), "{ours}");
    assert_eq!(ours.parameters(), burns.parameters());
    let state = |plan: &Plan| plan.memory().parameters + plan.memory().optimizer;
    assert!(5 * state(&ours) < state(&burns));
}
