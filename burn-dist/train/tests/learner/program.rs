//! A training program as a user of Burn's `Learner` writes it, and what comes out of it.

use burn::data::dataloader::DataLoader;
use burn::data::dataloader::DataLoaderBuilder;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::InMemDataset;
use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Linear, LinearConfig};
use burn::optim::lr_scheduler::linear::LinearLrSchedulerConfig;
use burn::optim::lr_scheduler::module_lr_scheduler::{ModuleLearningRate, ModuleLrScheduler};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::activation::tanh;
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_dist::{Destination, Result, World, unit};
use burn_dist_train::{output, output_over};
use burn_train::logger::MetricLogger;
use burn_train::metric::store::{EpochSummary, MetricsUpdate, Split};
use burn_train::metric::{AccuracyMetric, LossMetric, MetricDefinition, MetricId, NumericEntry};
use burn_train::{
    ClassificationOutput, InferenceStep, LearningResult, SupervisedTraining, TrainOutput, TrainStep,
};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

pub(crate) const FEATURES: usize = 6;
pub(crate) const CLASSES: usize = 3;

#[derive(Debug, Clone)]
pub(crate) struct Item {
    x: [f32; FEATURES],
    class: i64,
}

/// So many samples, the class of which can be learnt.
pub(crate) fn items(count: usize) -> Vec<Item> {
    let item = |n: usize| {
        let x = std::array::from_fn(|k| ((n * 31 + k * 17 + n * n * 7) as f32).sin());
        let score = |class: usize| x[class] - x[class + 3];
        let best = (0..CLASSES).max_by(|a, b| score(*a).total_cmp(&score(*b)));
        let class = best.unwrap_or(0) as i64;
        Item { x, class }
    };
    (0..count).map(item).collect()
}

#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) x: Tensor<2>,
    classes: Tensor<1, Int>,
}

pub(crate) struct ToBatch;

impl Batcher<Item, Batch> for ToBatch {
    fn batch(&self, items: Vec<Item>, device: &Device) -> Batch {
        let x: Vec<f32> = items.iter().flat_map(|item| item.x).collect();
        let classes: Vec<i64> = items.iter().map(|item| item.class).collect();
        let x = TensorData::new(x, [items.len(), FEATURES]);
        Batch {
            x: Tensor::from_data(x, device),
            classes: Tensor::from_data(TensorData::new(classes, [items.len()]), device),
        }
    }
}

/// A loader of Burn's.
pub(crate) fn loader(items: Vec<Item>, batch: usize) -> Arc<dyn DataLoader<Batch>> {
    let builder = DataLoaderBuilder::new(ToBatch).batch_size(batch);
    builder.build(InMemDataset::new(items))
}

/// The items in the order in which `ranks` ranks with slices of them see them, in batches of `batch`.
pub(crate) fn interleaved(items: &[Item], ranks: usize, batch: usize) -> Vec<Item> {
    let part = |r: usize| &items[items.len() * r / ranks..items.len() * (r + 1) / ranks];
    let steps = items.len().div_ceil(ranks).div_ceil(batch);
    let of_step = |s: usize| {
        let batch_of = move |r: usize| part(r).chunks(batch).nth(s).unwrap_or_default().to_vec();
        (0..ranks).flat_map(batch_of)
    };
    (0..steps).flat_map(of_step).collect()
}

#[derive(Module, Debug)]
pub(crate) struct Net {
    blocks: Vec<Linear>,
    head: Linear,
    /// The norm to which Burn's `optimize` clips, as a plain Burn program would do it.
    #[module(skip)]
    pub(crate) clip: Option<f64>,
    /// Whether classes weigh differently, so that the loss is no mean over samples.
    #[module(skip)]
    pub(crate) is_weighted: bool,
}

const WEIGHTS: [f32; CLASSES] = [0.2, 1.0, 5.0];

impl Net {
    /// Equal wherever it is made: ranks and references must begin alike.
    pub(crate) fn new(device: &Device) -> Self {
        let mut seed = 0.0;
        let mut linear = |from: usize, to: usize| {
            let mut numbers = |count: usize| -> Vec<f32> {
                seed += 1.0;
                let number = |n: usize| 0.4 * (n as f32 * 1.7 + seed).sin();
                (0..count).map(number).collect()
            };
            let (weight, bias) = (numbers(from * to), numbers(to));
            let mut linear = LinearConfig::new(from, to).init(device);
            linear.weight = Param::from_data(TensorData::new(weight, [from, to]), device);
            linear.bias = Some(Param::from_data(TensorData::new(bias, [to]), device));
            linear
        };
        Self {
            blocks: vec![linear(FEATURES, 8), linear(8, 8)],
            head: linear(8, CLASSES),
            clip: None,
            is_weighted: false,
        }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        unit(self, x, |net, mut x| {
            for block in &net.blocks {
                x = unit(block, x, |block, x| tanh(block.forward(x)));
            }
            net.head.forward(x)
        })
    }

    fn classify(&self, batch: Batch) -> ClassificationOutput {
        let output = self.forward(batch.x);
        let weights = self.is_weighted.then(|| WEIGHTS.to_vec());
        let loss = CrossEntropyLossConfig::new().with_weights(weights);
        let loss = loss.init(&output.device());
        let loss = loss.forward(output.clone(), batch.classes.clone());
        ClassificationOutput::new(loss, output, batch.classes)
    }
}

impl TrainStep for Net {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> TrainOutput<ClassificationOutput> {
        let item = self.classify(batch);
        if !self.is_weighted {
            return output(self, item.loss.clone(), item);
        }
        let classes = item.targets.clone().into_data();
        let weights = classes
            .iter::<i64>()
            .map(|class| f64::from(WEIGHTS[class as usize]));
        output_over(self, item.loss.clone(), weights.sum(), item)
    }

    fn optimize(
        self,
        optim: &mut ModuleOptimizer,
        lr: ModuleLearningRate,
        mut grads: GradientsParams,
    ) -> Self {
        if let Some(max) = self.clip {
            let mut norm = Norm {
                grads: &mut grads,
                squares: 0.0,
                factor: None,
            };
            self.visit(&mut norm);
            norm.factor = Some((max / (norm.squares.sqrt() + 1e-6)).min(1.0));
            self.visit(&mut norm);
        }
        optim.step(lr, self, grads)
    }
}

impl InferenceStep for Net {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> ClassificationOutput {
        self.classify(batch)
    }
}

/// Sums the squares of all gradients, or multiplies them.
struct Norm<'a> {
    grads: &'a mut GradientsParams,
    squares: f64,
    factor: Option<f64>,
}

impl ModuleVisitor for Norm<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(grad) = self.grads.remove::<D>(param.id) else {
            return;
        };
        let grad = match self.factor {
            Some(factor) => grad * factor,
            None => {
                let squares = grad.clone().powi_scalar(2).sum().into_scalar::<f32>();
                self.squares += f64::from(squares);
                grad
            }
        };
        self.grads.register(param.id, grad);
    }
}

pub(crate) fn optimizer() -> ModuleOptimizer {
    AdamWConfig::new().with_weight_decay(0.05).init()
}

pub(crate) fn schedule() -> ModuleLrScheduler {
    LinearLrSchedulerConfig::new(0.05, 0.005, 30)
        .init()
        .unwrap()
}

/// Every number that the metrics gave: split, epoch, metric, value.
#[derive(Clone, Default)]
pub(crate) struct Captured {
    numbers: Arc<Mutex<Vec<Number>>>,
    names: HashMap<MetricId, String>,
    /// Called when there are so many numbers that are not of a whole epoch.
    #[allow(clippy::type_complexity)]
    alarm: Arc<Mutex<Option<(usize, Box<dyn Fn() + Send>)>>>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Number {
    pub(crate) split: String,
    pub(crate) epoch: usize,
    pub(crate) metric: String,
    /// Samples behind it.
    pub(crate) count: usize,
    pub(crate) value: f64,
    /// Whether it is of the whole epoch.
    pub(crate) is_final: bool,
}

impl Captured {
    pub(crate) fn at(&self, count: usize, call: impl Fn() + Send + 'static) {
        *self.alarm.lock().unwrap() = Some((count, Box::new(call)));
    }

    pub(crate) fn numbers(&self) -> Vec<Number> {
        self.numbers.lock().unwrap().clone()
    }
}

impl MetricLogger for Captured {
    fn log(&mut self, update: MetricsUpdate, epoch: usize, split: &Split) {
        for entry in update.entries_numeric {
            let Some(number) = entry.numeric_entry else {
                continue;
            };
            let (count, is_final) = match number {
                NumericEntry::Aggregated { count, .. } => (count, false),
                NumericEntry::Value(_) => (1, false),
                NumericEntry::Final(_) => (0, true),
            };
            self.numbers.lock().unwrap().push(Number {
                split: split.to_string(),
                epoch,
                metric: self.names[&entry.entry.metric_id].clone(),
                count,
                value: number.current(),
                is_final,
            });
        }
        let numbers = self.numbers.lock().unwrap();
        let count = numbers.iter().filter(|number| !number.is_final).count();
        if let Some((wanted, call)) = &*self.alarm.lock().unwrap()
            && count >= *wanted
        {
            call();
        }
    }

    fn read_numeric(
        &mut self,
        name: &str,
        epoch: usize,
        split: &Split,
    ) -> std::result::Result<Vec<NumericEntry>, String> {
        let split = split.to_string();
        let all = self.numbers();
        let of_epoch = |n: &&Number| n.metric == name && n.epoch == epoch && n.split == split;
        let entry = |n: &Number| {
            if n.is_final {
                NumericEntry::Final(n.value)
            } else {
                let (aggregated_value, count) = (n.value, n.count);
                NumericEntry::Aggregated {
                    aggregated_value,
                    count,
                }
            }
        };
        Ok(all.iter().filter(of_epoch).map(entry).collect())
    }

    fn log_metric_definition(&mut self, definition: MetricDefinition) {
        let name = definition.name.to_string();
        self.names.insert(definition.metric_id, name);
    }

    fn log_epoch_summary(&mut self, _: EpochSummary) {}
}

/// What a run came to: the numbers of its metrics, and the parameters in module order.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) numbers: Vec<Number>,
    pub(crate) parameters: Vec<f32>,
    pub(crate) is_interrupted: bool,
}

impl Outcome {
    pub(crate) fn plain(captured: &Captured, result: &LearningResult<Net>) -> Self {
        Self {
            numbers: captured.numbers(),
            parameters: parameters(&result.model),
            is_interrupted: result.interrupted.is_some(),
        }
    }

    /// Rank 0's; the other ranks have nothing.
    pub(crate) fn sharded(
        world: &World,
        captured: &Captured,
        result: &LearningResult<Net>,
    ) -> Result<Option<Self>> {
        let whole = world.full(&result.model, Destination::Chief)?;
        let (numbers, is_interrupted) = (captured.numbers(), result.interrupted.is_some());
        if !world.is_chief() {
            assert!(numbers.is_empty(), "rank {} has metrics", world.rank());
        }
        Ok(whole.map(|model| Self {
            numbers,
            parameters: parameters(&model),
            is_interrupted,
        }))
    }

    /// Fails at the first number that differs by more than 1e-5.
    pub(crate) fn assert_close(&self, expected: &Self, what: &str) {
        let (ours, theirs) = (&self.numbers, &expected.numbers);
        assert_eq!(ours.len(), theirs.len(), "{what}: numbers of metrics");
        assert!(!ours.is_empty(), "{what}: no metrics");
        for (a, b) in ours.iter().zip(theirs) {
            let alike = Number {
                value: a.value,
                ..b.clone()
            };
            assert_eq!(*a, alike, "{what}");
            assert!(
                (a.value - b.value).abs() <= 1e-5,
                "{what}: {a:?}, expected {b:?}"
            );
        }
        assert_eq!(self.parameters.len(), expected.parameters.len());
        for (a, b) in self.parameters.iter().zip(&expected.parameters) {
            assert!((a - b).abs() <= 1e-4, "{what}: parameter {a}, expected {b}");
        }
    }
}

fn parameters(model: &Net) -> Vec<f32> {
    struct Read(Vec<f32>);
    impl ModuleVisitor for Read {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0.extend(param.val().into_data().iter::<f32>());
        }
    }
    let mut read = Read(Vec::new());
    model.visit(&mut read);
    read.0
}

/// What a user registers, beside what a test has to look at.
pub(crate) fn observed(
    training: SupervisedTraining<Net>,
    world: Option<&World>,
) -> (SupervisedTraining<Net>, Captured) {
    let captured = Captured::default();
    let training = training.with_application_logger(None);
    let training = match world {
        Some(world) if !world.is_chief() => training,
        _ => training
            .renderer(Box::new(burn_dist_train::Silent))
            .with_metric_logger(captured.clone()),
    };
    let training = training.metrics((LossMetric::new(), AccuracyMetric::new()));
    (training, captured)
}
