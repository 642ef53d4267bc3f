//! The file's training run on one device, with Burn alone.

use super::subject::Subject;
use super::wanted::{Figures, Wanted, compare};
use super::{Golden, wanted};
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, Tensor};
use std::marker::PhantomData;

/// Trains as the reference did.
pub fn run<S: Subject>(golden: &Golden, dtype: DType, clip: Option<f64>) -> Figures {
    let device = Device::flex().autodiff();
    let samples = 0..golden.number("batch") as usize;
    let mut model = S::model(golden, dtype, &device);
    let (mut optimizer, rates) = S::optimizer(golden, &model);
    let mut figures = Figures::new();
    for step in 0..golden.number("steps") as usize {
        let logits = S::logits(&model, golden, samples.clone(), dtype, &device);
        let (sum, count) = S::loss(golden, logits.clone(), samples.clone());
        let loss = mean(sum, count);
        let mut grads = GradientsParams::from_grads(loss.backward(), &model);
        let tensors = tensors::<S>(&model, Some(&grads));
        let norm = global_norm(&tensors);

        figures.insert(format!("loss {step}"), vec![loss.into_scalar()]);
        figures.insert(format!("norm pre {step}"), vec![norm]);
        if let Some(clip) = clip {
            let coefficient = (clip / (norm + 1e-6)).min(1.0);
            model.visit(&mut Scale(&mut grads, coefficient));
        }
        let norm = global_norm(&self::tensors::<S>(&model, Some(&grads)));
        figures.insert(format!("norm post {step}"), vec![norm]);
        if step == 0 {
            let logits = logits.into_data().convert::<f64>();
            figures.insert("logits".into(), logits.try_to_vec().unwrap());
            figures.extend(named("grads", tensors));
        }
        model = optimizer.step(rates.at(golden.number("optimizer.lr")), model, grads);
    }
    figures.extend(named("after", tensors::<S>(&model, None)));
    figures
}

/// The mean of so many losses.
///
/// The backward of Burn's division by a number computes the reciprocal in f32, whatever the tensor is; that
/// of its multiplication does not.
pub fn mean(sum: Tensor<1>, count: usize) -> Tensor<1> {
    sum * (1.0 / count as f64)
}

/// All four runs of the file: in f32 and f64, with and without clipping.
pub fn check<S: Subject>() {
    let golden = S::golden();
    let clip = Some(golden.number("clip"));
    let runs: [(&str, DType, Option<f64>, Vec<Wanted>); 4] = [
        ("f32", DType::F32, None, wanted::single(&golden)),
        (
            "f32, clipped",
            DType::F32,
            clip,
            wanted::single_clipped(&golden),
        ),
        ("f64", DType::F64, None, wanted::double(&golden)),
        (
            "f64, clipped",
            DType::F64,
            clip,
            wanted::double_clipped(&golden),
        ),
    ];
    let wrong = runs.iter().flat_map(|(what, dtype, clip, wanted)| {
        let place = format!("{} in {what}", S::FILE);
        compare(&place, &run::<S>(&golden, *dtype, *clip), wanted)
    });
    let wrong: Vec<_> = wrong.collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The parameters of a model, or their gradients, under their Hugging Face names and in its layout.
pub fn tensors<S: Subject>(model: &S::Model, grads: Option<&GradientsParams>) -> Figures {
    struct Read<'a, S> {
        path: Vec<String>,
        grads: Option<&'a GradientsParams>,
        tensors: Figures,
        subject: PhantomData<S>,
    }
    impl<S: Subject> ModuleVisitor for Read<'_, S> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let hf = S::hf_name(&self.path.join("."));
            let data = match self.grads {
                Some(grads) => grads.get::<D>(param.id).unwrap().into_data(),
                None => param.val().into_data(),
            };
            let shape = data.shape().to_vec();
            let values: Vec<f64> = data.convert::<f64>().try_to_vec().unwrap();
            let values = match (hf.transpose, shape.as_slice()) {
                (true, &[rows, columns]) => (0..rows * columns)
                    .map(|at| values[at % rows * columns + at / rows])
                    .collect(),
                _ => values,
            };
            self.tensors.insert(hf.name, values);
        }
    }
    let mut read = Read {
        path: Vec::new(),
        grads,
        tensors: Figures::new(),
        subject: PhantomData::<S>,
    };
    model.visit(&mut read);
    read.tensors
}

pub fn named(group: &str, tensors: Figures) -> impl Iterator<Item = (String, Vec<f64>)> {
    tensors
        .into_iter()
        .map(move |(name, values)| (format!("{group}/{name}"), values))
}

pub fn global_norm(grads: &Figures) -> f64 {
    let squares = grads.values().flatten().map(|x| x * x);
    squares.sum::<f64>().sqrt()
}

/// Multiplies all gradients by a number.
struct Scale<'a>(&'a mut GradientsParams, f64);

impl ModuleVisitor for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let grad = self.0.remove::<D>(param.id).unwrap();
        self.0.register(param.id, grad * self.1);
    }
}
