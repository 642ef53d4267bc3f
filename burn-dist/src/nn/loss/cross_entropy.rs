//! The cross-entropy, with its settings.

use crate::nn::functional;
use crate::nn::half::widened;
use burn::tensor::activation::log_softmax;
use burn::tensor::{FloatDType, Int, Tensor};

/// The label of a row that has none, such as a word that was not masked; PyTorch's default `ignore_index`.
pub const IGNORED: i64 = -100;

/// The cross-entropy of each row against its label, summed: a tensor of one element.
///
/// As [`CrossEntropy::sum`] without settings; the gradient of a row's scores is its weight times (softmax − one-hot).
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_dist::nn::loss::cross_entropy_sum;
///
/// let device = Device::flex();
/// let labels = Tensor::<1, Int>::from_data([4, 9, 0], &device);
/// // The last row is padding.
/// let weights = Tensor::<1>::from_data([1.0, 1.0, 0.0], &device);
/// let loss: f32 = cross_entropy_sum(Tensor::zeros([3, 10], &device), labels, Some(weights)).into_scalar();
/// assert!((loss - 2.0 * 10f32.ln()).abs() < 1e-5);
/// ```
pub fn cross_entropy_sum(
    logits: Tensor<2>,
    labels: Tensor<1, Int>,
    weights: Option<Tensor<1>>,
) -> Tensor<1> {
    CrossEntropy::new().sum(logits, labels, weights)
}

/// The mean of [`cross_entropy_sum`] over the rows of this rank: a tensor of one element.
///
/// For [`World::backward`](crate::World::backward), where all ranks have equally many. The mean of no rows is not a
/// number; a rank that may have none needs the sum.
pub fn cross_entropy(logits: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    let [rows, _] = logits.dims();
    // Burn computes the gradient of a division by a number through f32, in every type; that of a multiplication in
    // the type of the tensor.
    cross_entropy_sum(logits, labels, None).mul_scalar(1.0 / rows as f64)
}

/// The cross-entropy between scores and labels, summed over rows: PyTorch's `F.cross_entropy(reduction="sum")`.
///
/// Its gradient and that of a mean differ by the number of rows, or, where classes have weights, by the sum of the
/// labels' weights: [`weight`](Self::weight) gives it.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_dist::nn::loss::CrossEntropy;
///
/// let device = Device::flex();
/// let logits = Tensor::<2>::zeros([3, 10], &device);
/// let labels = Tensor::<1, Int>::from_data([4, -100, 0], &device);
/// let loss = CrossEntropy::new().ignore(-100).smoothing(0.1);
/// let sum = loss.sum(logits, labels.clone(), None).into_scalar::<f32>();
/// assert!((sum - 2.0 * 10f32.ln()).abs() < 1e-5);
/// assert_eq!(loss.weight(labels, None).into_scalar::<f32>(), 2.0);
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CrossEntropy {
    smoothing: f64,
    ignored: Option<i64>,
    classes: Option<Vec<f32>>,
}

impl CrossEntropy {
    /// Every row has a label, and every class weighs the same.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes this share of a label's probability and spreads it evenly over all classes, in `[0, 1)`.
    ///
    /// Szegedy et al., 2016, <https://arxiv.org/abs/1512.00567>.
    ///
    /// # Panics
    /// For another share.
    pub fn smoothing(self, smoothing: f64) -> Self {
        assert!(
            (0.0..1.0).contains(&smoothing),
            "a label smoothing in [0, 1) is expected, found {smoothing}"
        );
        Self { smoothing, ..self }
    }

    /// Rows with this label count for nothing; PyTorch's `ignore_index`.
    pub fn ignore(self, label: i64) -> Self {
        let ignored = Some(label);
        Self { ignored, ..self }
    }

    /// A weight for each class.
    pub fn class_weights(self, weights: impl Into<Vec<f32>>) -> Self {
        let classes = Some(weights.into());
        Self { classes, ..self }
    }

    /// The sum: a tensor of one element, in f32, or in f64 if the scores are.
    ///
    /// - `logits`: `[rows, classes]`
    /// - `labels`: `[rows]`, a class or what is ignored.
    /// - `weights`: `[rows]`, without them each row weighs 1.
    ///
    /// # Panics
    /// If a label is neither a class nor ignored, or sizes do not fit.
    pub fn sum(
        &self,
        logits: Tensor<2>,
        labels: Tensor<1, Int>,
        weights: Option<Tensor<1>>,
    ) -> Tensor<1> {
        let logits = widened(logits);
        let [_, count] = logits.dims();
        if let Some(classes) = &self.classes {
            let found = classes.len();
            assert_eq!(found, count, "a weight for each class");
        }
        if self.smoothing <= 0.0 && self.classes.is_none() {
            return functional::cross_entropy_sum(logits, labels, weights, self.ignored);
        }
        let dtype = FloatDType::from(logits.dtype());
        let each = |tensor: Tensor<1>| tensor.cast(dtype);
        let rows = self.row_weights(labels.clone(), weights.clone()).map(each);
        let true_class =
            functional::cross_entropy_sum(logits.clone(), labels.clone(), rows, self.ignored);
        if self.smoothing <= 0.0 {
            return true_class;
        }
        // All classes of a row that counts, each with its own weight.
        let mut all = log_softmax(logits, 1).neg();
        if let Some(classes) = self.on(&all) {
            all = all * classes.cast(dtype).unsqueeze();
        }
        let mut all = all.sum_dim(1).squeeze_dim::<1>(1);
        if let Some(counted) = self.counted(labels) {
            all = all * counted.cast(dtype);
        }
        if let Some(weights) = weights {
            all = all * weights.cast(dtype);
        }
        true_class * (1.0 - self.smoothing) + all.sum() * (self.smoothing / count as f64)
    }

    /// What the mean of these rows is divided by: an f32 tensor of one element, on no tape.
    pub fn weight(&self, labels: Tensor<1, Int>, weights: Option<Tensor<1>>) -> Tensor<1> {
        let counted = self.counted(labels.clone());
        let ones = || Tensor::<1>::ones(labels.dims(), &labels.device());
        let rows = self.row_weights(labels.clone(), weights);
        let rows = rows.map_or_else(ones, |rows| rows.cast(FloatDType::F32));
        match counted {
            Some(counted) => (rows * counted).sum(),
            None => rows.sum(),
        }
    }

    /// The weight of each row: its own times that of its label's class.
    fn row_weights(&self, labels: Tensor<1, Int>, weights: Option<Tensor<1>>) -> Option<Tensor<1>> {
        let Some(classes) = self.on(&labels) else {
            return weights;
        };
        // What is ignored is no class; its weight does not matter.
        let labels = match self.ignored {
            Some(ignored) => {
                let is_ignored = labels.clone().equal_elem(ignored);
                labels.mask_fill(is_ignored, 0)
            }
            None => labels,
        };
        let own = classes.select(0, labels);
        Some(match weights {
            Some(weights) => own * weights.cast(FloatDType::F32),
            None => own,
        })
    }

    /// The weights of classes on the device of `beside`.
    fn on<const D: usize, K: burn::tensor::kind::Basic>(
        &self,
        beside: &Tensor<D, K>,
    ) -> Option<Tensor<1>> {
        let classes = self.classes.as_ref()?;
        Some(Tensor::from_floats(classes.as_slice(), &beside.device()))
    }

    /// 1 for each row that counts, 0 for others; none if all count.
    fn counted(&self, labels: Tensor<1, Int>) -> Option<Tensor<1>> {
        let counted = labels.not_equal_elem(self.ignored?);
        Some(counted.cast(FloatDType::F32))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Device, TensorData};

    const SCORES: [[f64; 3]; 4] = [
        [0.3, -1.2, 2.0],
        [1.5, 0.1, -0.4],
        [-2.0, 0.7, 0.9],
        [0.0, 4.0, -3.0],
    ];
    const LABELS: [i64; 4] = [2, -100, 0, 1];

    fn leaf() -> Tensor<2> {
        let device = Device::flex().autodiff();
        Tensor::<2>::from_data(TensorData::from(SCORES), (&device, DType::F64)).require_grad()
    }

    fn number(tensor: Tensor<1>) -> f64 {
        tensor.into_data().iter::<f64>().next().unwrap_or(f64::NAN)
    }

    /// PyTorch's definition, in plain numbers: the sum, and what its mean is divided by.
    fn by_hand(smoothing: f64, classes: [f64; 3], rows: [f64; 4]) -> (f64, f64) {
        let (mut sum, mut weight) = (0.0, 0.0);
        for ((scores, label), row) in SCORES.iter().zip(LABELS).zip(rows) {
            let Ok(label) = usize::try_from(label) else {
                continue;
            };
            let total = scores.iter().map(|x| x.exp()).sum::<f64>().ln();
            let each = |class: usize| classes[class] * (total - scores[class]);
            let even = (0..3).map(each).sum::<f64>() / 3.0;
            sum += row * ((1.0 - smoothing) * each(label) + smoothing * even);
            weight += row * classes[label];
        }
        (sum, weight)
    }

    #[test]
    fn every_setting_of_the_cross_entropy_is_its_definition() {
        let device = Device::flex().autodiff();
        let labels = || Tensor::<1, Int>::from_data(LABELS, &device);
        for smoothing in [0.0, 0.2] {
            for classes in [None, Some([0.5, 2.0, 1.25])] {
                for rows in [None, Some([1.0, 3.0, 0.0, 0.5])] {
                    let mut loss = CrossEntropy::new().ignore(-100).smoothing(smoothing);
                    if let Some(classes) = classes {
                        loss = loss.class_weights(classes.map(|x| x as f32));
                    }
                    let weights =
                        || rows.map(|rows: [f64; 4]| Tensor::<1>::from_data(rows, &device));
                    let scores = leaf();
                    let sum = loss.sum(scores.clone(), labels(), weights());
                    let (expected, weight) = by_hand(
                        smoothing,
                        classes.unwrap_or([1.0; 3]),
                        rows.unwrap_or([1.0; 4]),
                    );
                    assert!((number(sum.clone()) - expected).abs() < 1e-9, "{loss:?}");
                    let found = number(loss.weight(labels(), weights()));
                    assert!((found - weight).abs() < 1e-6, "{loss:?}");
                    // A row's gradient adds up to 0, and is 0 where the row does not count.
                    let grads = sum.backward();
                    let grad = scores.grad(&grads).unwrap();
                    let grad: Vec<f64> = grad.into_data().iter::<f64>().collect();
                    assert!(grad[3..6].iter().all(|x| *x == 0.0), "{grad:?}");
                    for row in grad.chunks(3) {
                        assert!(row.iter().sum::<f64>().abs() < 1e-9, "{grad:?}");
                    }
                }
            }
        }
    }

    fn logits(device: &Device) -> Tensor<2> {
        Tensor::from_data([[1.0, 2.0, 3.0], [400.0, -400.0, 0.0]], device)
    }

    #[test]
    fn gradients_in_f64_are_as_exact_as_f64() {
        let device = Device::flex().autodiff();
        let zeros = TensorData::zeros::<f64, _>([3, 7]);
        let logits = Tensor::<2>::from_data(zeros, (&device, DType::F64)).require_grad();
        let labels = Tensor::<1, Int>::from_data([4, 0, 6], &device);
        let gradients = cross_entropy(logits.clone(), labels).backward();
        let gradient = logits.grad(&gradients).unwrap().into_data();
        let wanted = (1.0 / 7.0 - 1.0) / 3.0;
        let found = gradient.iter::<f64>().nth(4).unwrap();
        // A third in f32 is off by 1e-8.
        assert!((found - wanted).abs() < 1e-15, "{found} for {wanted}");
    }

    #[test]
    fn the_sum_equals_the_formula_for_large_logits() {
        let device = Device::flex();
        let labels = Tensor::from_data([0, 2], &device);
        let loss: f32 = cross_entropy_sum(logits(&device), labels, None).into_scalar();
        let expected = (1f32.exp() + 2f32.exp() + 3f32.exp()).ln() - 1.0 + 400.0;
        assert!((loss - expected).abs() < 1e-4, "{loss} against {expected}");
    }

    #[test]
    fn a_sample_of_weight_zero_has_neither_loss_nor_gradient() {
        let device = Device::flex().autodiff();
        let logits = logits(&device).require_grad();
        let labels = Tensor::from_data([0, 2], &device);
        let weights = Tensor::from_data([0.0, 1.0], &device);
        let loss = cross_entropy_sum(logits.clone(), labels, Some(weights));
        assert_eq!(loss.clone().into_scalar::<f32>(), 400.0);

        let grads = loss.backward();
        let grad: Vec<f32> = logits
            .grad(&grads)
            .unwrap()
            .into_data()
            .try_to_vec()
            .unwrap();
        assert_eq!(grad, [0.0, 0.0, 0.0, 1.0, 0.0, -1.0]);
    }

    #[test]
    fn a_row_without_a_label_has_neither_loss_nor_gradient_nor_count() {
        let device = Device::flex().autodiff();
        let logits = logits(&device).require_grad();
        let labels = Tensor::from_data([IGNORED, 2], &device);
        let loss = CrossEntropy::new().ignore(IGNORED);
        let sum = loss.sum(logits.clone(), labels.clone(), None);
        assert_eq!(sum.clone().into_scalar::<f32>(), 400.0);
        assert_eq!(loss.weight(labels, None).into_scalar::<f32>(), 1.0);

        let grads = sum.backward();
        let grad = logits.grad(&grads).unwrap().into_data();
        let grad: Vec<f32> = grad.try_to_vec().unwrap();
        assert_eq!(grad, [0.0, 0.0, 0.0, 1.0, 0.0, -1.0]);
    }

    #[test]
    fn half_precision_is_summed_in_f32_and_double_stays_double() {
        let device = Device::flex();
        let loss = |dtype: FloatDType| {
            let labels = Tensor::from_data([0, 2], &device);
            cross_entropy_sum(logits(&device).cast(dtype), labels, None)
        };
        assert_eq!(loss(FloatDType::F16).dtype(), DType::F32);
        assert_eq!(loss(FloatDType::F64).dtype(), DType::F64);
    }
}
