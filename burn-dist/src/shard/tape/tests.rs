//! The operations with hooks that only note what is asked of them.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::shard::memory::untracked;
use burn::tensor::Device;
use std::sync::Mutex;

/// Doubles what is stored, and notes every call.
#[derive(Debug, Default)]
struct Fake {
    calls: Mutex<Vec<String>>,
    keeps: bool,
    gives: bool,
}

impl Fake {
    fn note(&self, call: &str) {
        self.calls.lock().unwrap().push(call.into());
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
}

fn numbers(primitive: &Primitive) -> Vec<f64> {
    primitive.numbers().unwrap()
}

impl WeightHook for Fake {
    fn unshard(&self, stored: Primitive) -> Result<Primitive> {
        self.note("unshard");
        Ok(stored.clone().add(stored))
    }

    fn unshard_again(&self, stored: Primitive) -> Result<Primitive> {
        self.note("unshard again");
        Ok(stored.clone().add(stored))
    }

    fn keeps_unsharded(&self) -> bool {
        self.keeps
    }

    fn accumulate(&self, gradient: Primitive) -> Result<()> {
        self.note(&format!("gradient {:?}", numbers(&gradient)));
        Ok(())
    }
}

impl TokenHook for Fake {
    fn tracked(&self) {
        self.note("tracked");
    }

    fn backward(&self) -> Result<TokenGradient> {
        self.note("token");
        Ok(if self.gives {
            TokenGradient::Zeros
        } else {
            TokenGradient::Nothing
        })
    }
}

impl GradientHook for Fake {
    fn gradient(&self, gradient: Primitive) -> Result<()> {
        self.note(&format!("observed {:?}", numbers(&gradient)));
        Ok(())
    }
}

fn device() -> Device {
    Device::flex().autodiff()
}

fn tensor(values: [f32; 2]) -> Tensor<1> {
    Tensor::from_floats(values, &device()).require_grad()
}

/// The loss of `w * x` with a weight behind a token of `x`.
fn run(fake: &Arc<Fake>) -> (Tensor<1>, Vec<f64>) {
    let (stored, x) = (tensor([1.0, 2.0]), tensor([3.0, 4.0]));
    let after = token(x.clone(), untracked(&device()), fake.clone());
    let full = weight(stored, after, fake.clone());
    let loss = (full * x.clone()).sum();
    let gradients = loss.clone().backward();
    let x = x.grad(&gradients).unwrap().into_data();
    (loss, x.iter::<f64>().collect())
}

#[test]
fn a_weight_is_computed_again_and_its_gradient_comes_before_the_token() {
    let fake = Arc::new(Fake::default());
    let (loss, x) = run(&fake);
    assert_eq!(loss.into_scalar::<f32>(), 2.0 * 3.0 + 4.0 * 4.0);
    assert_eq!(x, [2.0, 4.0]);
    let calls = fake.calls();
    let expected = [
        "tracked",
        "unshard",
        "unshard again",
        "gradient [3.0, 4.0]",
        "token",
    ];
    assert_eq!(calls, expected);
}

#[test]
fn a_weight_that_stays_is_computed_once() {
    let fake = Arc::new(Fake {
        keeps: true,
        ..Fake::default()
    });
    let (_, x) = run(&fake);
    assert_eq!(x, [2.0, 4.0]);
    let calls = fake.calls();
    assert_eq!(
        calls,
        ["tracked", "unshard", "gradient [3.0, 4.0]", "token"]
    );
}

#[test]
fn a_token_gives_its_tensor_a_gradient_if_its_hook_says_so() {
    for gives in [true, false] {
        let fake = Arc::new(Fake {
            gives,
            ..Fake::default()
        });
        let x = tensor([3.0, 4.0]);
        let after = token(x.clone(), untracked(&device()), fake.clone());
        let gradients = after.backward();
        let zeros = x
            .grad(&gradients)
            .map(|g| g.into_data().iter::<f64>().collect());
        assert_eq!(zeros, gives.then(|| vec![0.0, 0.0]));
        assert_eq!(fake.calls(), ["tracked", "token"]);
    }
}

#[test]
fn a_gradient_is_shown_and_handed_on() {
    let fake = Arc::new(Fake::default());
    let x = tensor([3.0, 4.0]);
    let seen = observe(x.clone(), untracked(&device()), fake.clone());
    let gradients = (seen * 5.0).sum().backward();
    let x = x.grad(&gradients).unwrap().into_data();
    assert_eq!(x.iter::<f64>().collect::<Vec<_>>(), [5.0, 5.0]);
    assert_eq!(fake.calls(), ["observed [5.0, 5.0]"]);
}

#[test]
fn without_a_tape_only_the_weight_is_computed() {
    let fake = Arc::new(Fake::default());
    let device = Device::flex();
    let stored = Tensor::<1>::from_floats([1.0, 2.0], &device);
    let after = token(stored.clone(), untracked(&device), fake.clone());
    let full = weight(stored, after, fake.clone());
    let full = observe(full, untracked(&device), fake.clone());
    assert_eq!(
        full.into_data().iter::<f64>().collect::<Vec<_>>(),
        [2.0, 4.0]
    );
    assert_eq!(fake.calls(), ["unshard"]);
}
