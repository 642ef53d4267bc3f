//! A training step by Burn alone, which sharded ones are compared with.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{FloatDType, Tensor};

/// At world 1 a sharded model may take this many times as long as plain Burn.
pub const BAR_ALONE: f64 = 1.03;

/// Clips by the global norm: one reading of the device, whatever the number of parameters.
pub fn clipped<M: Module>(
    mut gradients: GradientsParams,
    model: &M,
    max_norm: f64,
) -> GradientsParams {
    struct Squares<'a>(&'a GradientsParams, Option<Tensor<1>>);
    impl ModuleVisitor for Squares<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.get::<D>(param.id) {
                let squares = gradient.cast(FloatDType::F32).powi_scalar(2).sum();
                self.1 = Some(match self.1.take() {
                    Some(sum) => sum + squares,
                    None => squares,
                });
            }
        }
    }
    struct Scale<'a>(&'a mut GradientsParams, f64);
    impl ModuleVisitor for Scale<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.0.remove::<D>(param.id) {
                self.0.register(param.id, gradient * self.1);
            }
        }
    }
    let mut squares = Squares(&gradients, None);
    model.visit(&mut squares);
    let sum = squares.1.map_or(0.0, |sum| sum.into_scalar::<f32>());
    let factor = max_norm / (f64::from(sum).sqrt() + 1e-6);
    if factor < 1.0 {
        model.visit(&mut Scale(&mut gradients, factor));
    }
    gradients
}
