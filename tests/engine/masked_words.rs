//! A masked language model whose ranks have different numbers of masked words, one of them none.

use crate::oracle::ranks;
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_dist::nn::loss::IGNORED;
use burn_dist::{Destination, Strategy};
use burn_dist_models::bert::Tokens;
use burn_dist_models::{BertConfig, BertMaskedLm};

/// Gives the weights numbers of their own: nothing may depend on what is drawn.
struct Fill(usize);

impl ModuleMapper for Fill {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.0 += 1;
        let seed = self.0;
        param.map(|value| {
            let shape = value.dims();
            let number = |i: usize| ((i * 37 + seed * 101) % 97) as f32 * 4e-3 - 0.19;
            let numbers: Vec<f32> = (0..shape.iter().product()).map(number).collect();
            Tensor::from_data(TensorData::new(numbers, shape), &value.device()).require_grad()
        })
    }
}

fn model(device: &Device) -> BertMaskedLm {
    let config = BertConfig::tiny().with_vocab(40).with_width(16);
    let config = config.with_mlp_width(24).with_dropout(0.0);
    let config = config.with_attention_dropout(0.0);
    let model = config.init_masked_lm(device).unwrap();
    model.map(&mut Fill(0))
}

/// The sum and the number of words of a rank's batch: rank 1 has none.
fn loss(model: &BertMaskedLm, rank: usize, device: &Device) -> (Tensor<1>, usize) {
    let first = rank as i64;
    let ids = Tensor::<2, Int>::from_data([[2, 7 + first, 9, 3], [2, 11, 5 + first, 3]], device);
    let mut labels = [[IGNORED; 4]; 2];
    if rank != 1 {
        labels[0][1] = 30 + first;
        labels[1][2] = 8;
    }
    let labels = Tensor::<2, Int>::from_data(labels, device);
    let (sum, count) = model.loss(Tokens::new(ids), labels);
    (sum, count.into_scalar::<i32>() as usize)
}

#[test]
fn a_rank_without_masked_words_takes_part_in_the_step() {
    let device = Device::flex().autodiff();
    for size in 1..=3 {
        let alone = model(&device);
        let parts = (0..size).map(|rank| loss(&alone, rank, &device));
        let all = parts.reduce(|a, b| (a.0 + b.0, a.1 + b.1)).unwrap();
        let mean = all.0 * (1.0 / all.1 as f64);
        let gradients = mean.backward();
        let words = &alone.bert.embeddings.words;
        let wanted = words.val().grad(&gradients).unwrap().into_data();
        for strategy in [Strategy::ddp(), Strategy::zero2(), Strategy::fsdp()] {
            let found = ranks(size).run(|world| {
                let model = strategy.clone().shard(model(&world.device()), &world)?;
                let (sum, count) = loss(&model, world.rank(), &world.device());
                let gradients = world.backward_sum(sum, count, &model)?;
                let mut model = model;
                // A step of plain descent by 1 shows the gradient as the difference.
                let before = world.full(&model, Destination::All)?;
                let mut optimizer = burn::optim::SgdConfig::new().init();
                model = optimizer.step(1.0, model, gradients.into_params());
                let after = world.full(&model, Destination::All)?;
                let of = |model: Option<BertMaskedLm>| {
                    model.map(|model| model.bert.embeddings.words.val().into_data())
                };
                Ok(of(before).zip(of(after)))
            });
            let found = found.unwrap().into_iter().next().unwrap();
            let (before, after) = found.unwrap();
            let pairs = before.iter::<f64>().zip(after.iter::<f64>());
            for ((before, after), wanted) in pairs.zip(wanted.iter::<f64>()) {
                let found = before - after;
                assert!(
                    (found - wanted).abs() < 2e-6,
                    "{strategy} at {size}: {found} for {wanted}"
                );
            }
        }
    }
}
