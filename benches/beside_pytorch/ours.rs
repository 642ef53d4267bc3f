//! One rank of our side.

use super::case::{Answer, Case, bits, numbers};
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use burn_dist::launch::Flags;
use burn_dist::nn::loss::{IGNORED, cross_entropy};
use burn_dist::optim::AdamWConfig;
use burn_dist::{Error, Result, Strategy, World};
use burn_dist_models::bert::Tokens;
use burn_dist_models::{BertClassifier, BertConfig, BertMaskedLm, Vit, VitConfig};
use std::io::Write;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A rank's batch; what a model does not read is empty.
struct Batch {
    images: Option<Tensor<4>>,
    ids: Tensor<2, Int>,
    padding: Tensor<2, Bool>,
    labels: Tensor<1, Int>,
    masked: Tensor<2, Int>,
}

impl Batch {
    fn new(case: &Case, rank: usize, device: &Device) -> Self {
        let (n, tokens) = (case.batch, case.tokens);
        let offset = rank * 1_000_003;
        let integers = |name: &str, count: usize, below: u32| -> Vec<i64> {
            let bits = bits(name, count, offset);
            bits.map(|bits| i64::from(bits % below)).collect()
        };
        let images = (case.model == "vit").then(|| {
            let shape = [n, 3, case.image, case.image];
            let pixels = numbers("images", shape.iter().product(), offset);
            let pixels: Vec<f32> = pixels.map(|x| x as f32).collect();
            Tensor::from_data(TensorData::new(pixels, shape), device)
        });
        let ids = integers("ids", n * tokens, 30_522);
        let lengths = integers("lengths", n, tokens as u32 / 2 + 1);
        let is_padding: Vec<bool> = (0..n * tokens)
            .map(|i| i % tokens >= tokens / 2 + lengths[i / tokens] as usize)
            .collect();
        let chosen = integers("masked", n * tokens, 7);
        let masked: Vec<i64> = (0..n * tokens)
            .map(|i| {
                if chosen[i] == 0 && !is_padding[i] {
                    ids[i]
                } else {
                    IGNORED
                }
            })
            .collect();
        let labels = integers("labels", n, case.classes as u32);
        Self {
            images,
            ids: Tensor::from_data(TensorData::new(ids, [n, tokens]), device),
            padding: Tensor::from_data(TensorData::new(is_padding, [n, tokens]), device),
            labels: Tensor::from_data(TensorData::new(labels, [n]), device),
            masked: Tensor::from_data(TensorData::new(masked, [n, tokens]), device),
        }
    }

    fn tokens(&self) -> Tokens {
        Tokens::new(self.ids.clone()).with_padding(self.padding.clone())
    }
}

/// A model and its loss.
trait Subject: Module + Clone {
    fn loss_of(&self, batch: &Batch) -> Tensor<1>;
}

impl Subject for Vit {
    fn loss_of(&self, batch: &Batch) -> Tensor<1> {
        let images = batch.images.clone().unwrap();
        cross_entropy(self.forward(images), batch.labels.clone())
    }
}

impl Subject for BertClassifier {
    fn loss_of(&self, batch: &Batch) -> Tensor<1> {
        cross_entropy(self.forward(batch.tokens()), batch.labels.clone())
    }
}

impl Subject for BertMaskedLm {
    fn loss_of(&self, batch: &Batch) -> Tensor<1> {
        let (sum, count) = self.loss(batch.tokens(), batch.masked.clone());
        sum * (1.0 / f64::from(count.into_scalar::<i32>()))
    }
}

/// Gives every weight the numbers of its path.
struct Fill {
    path: Vec<String>,
}

impl ModuleMapper for Fill {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if D < 2 {
            return param;
        }
        let path = self.path.join(".");
        param.map(|value| {
            let shape = value.dims();
            let numbers = numbers(&path, shape.iter().product(), 0);
            let numbers: Vec<f32> = numbers.map(|x| (x * 0.05) as f32).collect();
            let value = Tensor::from_data(TensorData::new(numbers, shape), &value.device());
            value.require_grad()
        })
    }
}

/// A field of `/proc/self/status`, in bytes.
fn status(field: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(field));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Minor page faults so far: the tenth field of `/proc/self/stat`, the eighth after the name.
fn faults() -> u64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let rest = text.rsplit(')').next().unwrap_or_default();
    let field = rest.split_whitespace().nth(7);
    field.and_then(|field| field.parse().ok()).unwrap_or(0)
}

/// Takes as many steps as each line of standard input says, until there is none.
fn serve<M: Subject>(model: M, case: &Case, world: &World, before: u64) -> Result<()> {
    let device = world.device();
    let model = model.map(&mut Fill { path: Vec::new() });
    let strategy = match case.strategy.as_str() {
        "ddp" => Strategy::ddp(),
        "fsdp" => Strategy::fsdp(),
        _ => Strategy::single(),
    };
    let mut model = strategy.shard(model, world)?;
    let adamw = AdamWConfig::new()
        .with_epsilon(1e-8)
        .with_weight_decay(0.01);
    let mut optimizer = world.optimizer(adamw.init(), &model)?;
    let batch = Batch::new(case, world.rank(), &device);
    for line in std::io::stdin().lines() {
        let steps = line.map_err(Error::user)?.trim().parse::<usize>();
        let (mut times, mut losses, before_steps) = (Vec::new(), Vec::new(), faults());
        for _ in 0..steps.map_err(Error::user)? {
            let start = Instant::now();
            let loss = model.loss_of(&batch);
            losses.push(f64::from(loss.clone().into_scalar::<f32>()));
            let gradients = world.backward(loss, &model)?.clip_norm(1.0)?.grads;
            model = optimizer.step(case.rate, model, gradients);
            times.push(start.elapsed().as_secs_f64());
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let answer = Answer {
            times,
            losses,
            faults: faults() - before_steps,
            peak: status("VmHWM").saturating_sub(before),
            at: now.map_err(Error::user)?.as_secs_f64(),
        };
        let mut out = std::io::stdout().lock();
        let text = serde_json::to_string(&answer).map_err(Error::user)?;
        writeln!(out, "{text}").map_err(Error::user)?;
    }
    Ok(())
}

/// This process is a rank.
pub fn main(case: &Case) -> Result<()> {
    // What the model itself takes counts on both sides.
    let before = status("VmRSS");
    let rank = burn_dist::launch(&Flags::default()).run(|world| {
        let device = world.device();
        match case.model.as_str() {
            "vit" => {
                let config = VitConfig::cifar(case.classes)
                    .with_image_size(case.image)
                    .with_patch_size(case.patch)
                    .with_blocks(case.blocks);
                serve(
                    config.init(&device).map_err(Error::user)?,
                    case,
                    &world,
                    before,
                )
            }
            model => {
                let config = BertConfig::new()
                    .with_width(case.width)
                    .with_mlp_width(4 * case.width)
                    .with_blocks(case.blocks)
                    .with_heads(case.heads)
                    .with_dropout(case.dropout)
                    .with_attention_dropout(case.dropout)
                    .with_head_dropout(case.dropout);
                if model == "bert" {
                    let model = config.init_classifier(case.classes, &device);
                    serve(model.map_err(Error::user)?, case, &world, before)
                } else {
                    let model = config.init_masked_lm(&device).map_err(Error::user)?;
                    serve(model, case, &world, before)
                }
            }
        }
    });
    rank.map(drop)
}
