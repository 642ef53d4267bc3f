//! A character GPT on any text, under FSDP: `cargo run --release --example gpt -- --text FILE`.

use burn::module::Module;
use burn::tensor::{Device, Distribution, Int, Tensor};
use burn_dist::launch::{Flags, exit_code};
use burn_dist::nn::functional::cross_entropy_sum;
use burn_dist::nn::{self, TransformerEncoderConfig, TransformerEncoderInput};
use burn_dist::optim::AdamWConfig;
use burn_dist::prelude::*;
use burn_dist::training::{Schedule, TrainLoop};
use clap::Parser;
use std::process::ExitCode;

const CONTEXT: usize = 64;
const WIDTH: usize = 64;

/// Train a small GPT on the characters of a text, and let it write.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    launch: Flags,
    /// Ranks as threads.
    #[arg(long, default_value_t = 2)]
    ranks: usize,
    /// The text to learn from; without it, this project's guide.
    #[arg(long, value_name = "FILE")]
    text: Option<std::path::PathBuf>,
    /// Passes over the text.
    #[arg(long, default_value_t = 10)]
    epochs: usize,
    /// The probability of dropping an activation.
    #[arg(long, default_value_t = 0.05)]
    dropout: f64,
}

#[derive(Module, Debug)]
struct Gpt {
    characters: nn::Embedding,
    positions: nn::Embedding,
    encoder: nn::TransformerEncoder, // each of its layers is a unit
    norm: nn::LayerNorm,
    head: nn::Linear,
}

impl Gpt {
    fn new(characters: usize, dropout: f64, device: &Device) -> Self {
        let encoder = TransformerEncoderConfig::new(WIDTH, 4 * WIDTH, 4, 3).with_dropout(dropout);
        Self {
            characters: nn::EmbeddingConfig::new(characters, WIDTH).init(device),
            positions: nn::EmbeddingConfig::new(CONTEXT, WIDTH).init(device),
            encoder: encoder.with_norm_first(true).init(device),
            norm: nn::LayerNormConfig::new(WIDTH).init(device),
            head: nn::LinearConfig::new(WIDTH, characters).init(device),
        }
    }

    /// `[batch, characters]` to the scores of each next character: `[batch * characters, all]`.
    fn forward(&self, ids: Tensor<2, Int>) -> Tensor<2> {
        let [_, length] = ids.dims();
        let places = Tensor::arange(0..length as i64, &ids.device()).reshape([1, length]);
        let x = self.characters.forward(ids) + self.positions.forward(places);
        let x = TransformerEncoderInput::new(x).causal();
        let x = self.encoder.forward(x);
        self.head.forward(self.norm.forward(x)).flatten(0, 1)
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let launch = burn_dist::launch(&args.launch).threads(args.ranks).seed(1);
    let result = launch.run(|world| train(&args, &world));
    let result = result.inspect_err(|error| eprintln!("error: {error}"));
    ExitCode::from(exit_code(&result))
}

fn train(args: &Args, world: &World) -> Result<()> {
    if !(0.0..1.0).contains(&args.dropout) {
        return Err(Error::config("--dropout", "0 to 1, not 1", args.dropout));
    }
    let text = world.from_chief(|| match &args.text {
        Some(file) => std::fs::read_to_string(file).map_err(|e| Error::file(file, "a text", e)),
        None => Ok(include_str!("../docs/guide.md").into()),
    })?;
    let mut alphabet: Vec<char> = text.chars().collect();
    alphabet.sort_unstable();
    alphabet.dedup();
    let number = |c| alphabet.binary_search(&c).unwrap_or(0) as i32;
    let numbers: Vec<i32> = text.chars().map(number).collect();
    // One character more than the context: each should be told from those before it.
    let windows = numbers.windows(CONTEXT + 1).step_by(5);
    let samples: Vec<Vec<i32>> = windows.map(<[i32]>::to_vec).collect();
    let device = world.device();
    let batch = Batch::global(24).uneven();
    let data = Loader::new(world, samples, batch, move |samples, info| {
        let all = Tensor::<1, Int>::from_ints(samples.concat().as_slice(), &device);
        let all = all.reshape([samples.len(), CONTEXT + 1]);
        let weights: Vec<f32> = info.weights.iter().flat_map(|w| [*w; CONTEXT]).collect();
        let weights = Tensor::<1>::from_floats(weights.as_slice(), &device);
        let ids = all.clone().narrow(1, 0, CONTEXT);
        let next = all.narrow(1, 1, CONTEXT).flatten(0, 1);
        (ids, next, weights, info.count * CONTEXT)
    })?
    .shuffled(1);

    let gpt = Gpt::new(alphabet.len(), args.dropout, &world.device());
    let mut model = Strategy::fsdp().shard(gpt, world)?;
    let mut optim = world.optimizer(AdamWConfig::new().init(), &model)?;
    let mut steps = TrainLoop::new(&data).epochs(args.epochs);
    let rates = Schedule::cosine(4e-3).warmup(20);
    while let Some(mut batches) = steps.epoch(&data)? {
        let mut sums = (0.0, 0);
        while let Some(passes) = steps.step(&mut batches)? {
            for (ids, next, weights, count) in passes {
                let scores = unit(&model, ids, Gpt::forward);
                let loss = cross_entropy_sum(scores, next, Some(weights), None);
                sums.0 += loss.clone().into_scalar::<f32>();
                sums.1 += count;
                let grads = world.backward_sum(loss, count, &model)?.clip_norm(1.0)?;
                model = optim.step(rates.at(steps.done(), steps.steps()), model, grads.grads);
            }
            steps.advance();
        }
        let (loss, count) = world.sum(sums)?;
        let (epoch, loss) = (steps.epochs_begun(), loss / count as f32);
        if world.is_chief() {
            println!("epoch {epoch}: loss {loss:.3} a character");
        }
    }
    // The whole model on rank 0, a plain Burn module.
    let Some(model) = world.full(&model, Destination::Chief)? else {
        return Ok(());
    };
    let (model, device) = (model.valid(), world.device().inner());
    let mut written = numbers[..CONTEXT.min(8)].to_vec();
    for place in 0..200 {
        let last = &written[written.len().saturating_sub(CONTEXT)..];
        let ids = Tensor::<1, Int>::from_ints(last, &device).reshape([1, last.len()]);
        let scores = model.forward(ids).narrow(0, last.len() - 1, 1) * 1.5;
        // The largest of scores with Gumbel noise is a draw from their softmax.
        let uniform = Distribution::Uniform(1e-9, 1.0);
        let noise = world.noise(place);
        let noise = noise.random(scores.dims(), uniform, &device, 0);
        let drawn = (scores - noise.log().neg().log()).argmax(1);
        written.push(drawn.into_scalar::<i32>());
    }
    let text: String = written.iter().map(|n| alphabet[*n as usize]).collect();
    println!("{text}");
    Ok(())
}
