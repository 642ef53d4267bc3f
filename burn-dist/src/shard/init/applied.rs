//! Adapters that Burn's `apply_lora` has attached to a model that is to be sharded.
//!
//! After each mapping of a parameter Burn puts its reparameterization back, so that none of ours can take its place. A copy of
//! the model is made without any; the values of weights and factors come to the shards as those of any parameter that has a
//! value already.

use super::adapters::check_rank;
use super::survey::Surveyed;
use crate::error::{Error, Result};
use crate::layout::Parameter;
use crate::lora::{self, LoraConfig, factor_path};
use crate::shard::model::{MapTensors, VisitTensors, map_tensors, visit_tensors};
use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use std::collections::BTreeSet;

/// A model without its adapters.
pub(super) struct Applied<M> {
    /// Where there were adapters it holds a number in place of the weight.
    pub(super) model: M,
    /// What they were.
    pub(super) lora: LoraConfig,
}

/// Takes the adapters off a copy of a model; none if it has none.
///
/// # Errors
/// [`Error::Model`], naming the path, for adapters of different ranks or scales, of what is no matrix, and beside a weight that
/// takes gradients.
pub(super) fn take<M: Module>(model: &M, surveyed: &Surveyed) -> Result<Option<Applied<M>>> {
    let paths = &surveyed.applied;
    let Some(first) = paths.first() else {
        return Ok(None);
    };
    let mut ranks = Vec::new();
    for path in paths {
        let weight = found(surveyed, path)?;
        let rank = found(surveyed, &factor_path(path, "a"))?.shape.last();
        let rank = rank.copied().unwrap_or(0);
        check_rank(rank, weight)?;
        if weight.trainable {
            return Err(Error::model(
                path,
                "has adapters of apply_lora and takes gradients as well",
                "leave the weights with adapters frozen",
            ));
        }
        ranks.push(rank);
    }
    let model = map_tensors(model.clone(), &mut Ones { paths });
    let model = model.materialize();
    let mut scales = Scales {
        paths,
        found: Vec::new(),
    };
    visit_tensors(&model, &mut scales);
    let all: Vec<_> = ranks.into_iter().zip(scales.found).collect();
    let Some(&(rank, scale)) = all.first() else {
        return Ok(None);
    };
    if let Some(other) = all.iter().position(|other| *other != (rank, scale)) {
        let (other, of) = (all[other], paths.iter().nth(other));
        return Err(Error::model(
            of.map_or("", String::as_str),
            format!(
                "has adapters of rank {} and scale {}, and {first} of rank {rank} and scale {scale}",
                other.0, other.1
            ),
            "give all matrices adapters of one rank and scale",
        ));
    }
    let mut lora = LoraConfig::new(rank, alpha(rank, scale));
    if paths != &surveyed.linear {
        lora = lora.targets(paths);
    }
    Ok(Some(Applied { model, lora }))
}

fn found<'a>(surveyed: &'a Surveyed, path: &str) -> Result<&'a Parameter> {
    let mut parameters = surveyed.parameters.iter();
    parameters.find(|p| p.path == path).ok_or_else(|| {
        let problem = "has adapters of apply_lora that are no parameters, or is ignored";
        Error::model(
            path,
            problem,
            "give parameters alone adapters, and do not ignore them",
        )
    })
}

/// The number whose quotient by the rank is `scale`: a product is rounded.
fn alpha(rank: usize, scale: f64) -> f64 {
    let near = scale * rank as f64;
    let mut all = [near, near.next_up(), near.next_down()].into_iter();
    let exact = all.find(|alpha| alpha / rank as f64 == scale);
    exact.unwrap_or(near)
}

/// Puts ones for the factors and a zero for each weight beside them, so that their sum is the scale.
struct Ones<'a> {
    paths: &'a BTreeSet<String>,
}

impl MapTensors for Ones<'_> {
    fn float<const D: usize>(&mut self, path: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let is_weight = self.paths.contains(path);
        let factor = lora::factor(path).filter(|(weight, _)| self.paths.contains(*weight));
        if !is_weight && factor.is_none() {
            return param;
        }
        param.map(|old| {
            let device = old.device().inner();
            let number = Tensor::full([1; D], f64::from(!is_weight), (&device, DType::F64));
            if old.device().is_autodiff() {
                Tensor::from_inner(number)
            } else {
                number
            }
        })
    }
}

/// Reads the numbers in place of the weights, in the order of their paths.
struct Scales<'a> {
    paths: &'a BTreeSet<String>,
    found: Vec<f64>,
}

impl VisitTensors for Scales<'_> {
    fn float<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>) {
        if self.paths.contains(path) {
            self.found.extend(param.base().into_data().iter::<f64>());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::alpha;

    #[test]
    fn the_scale_of_any_alpha_and_rank_comes_out() {
        for rank in 1..200 {
            for alpha_of in [1.0, 5.0, 16.0, 0.3, 1e-9, 7e11] {
                let scale = alpha_of / rank as f64;
                let found = alpha(rank, scale) / rank as f64;
                assert_eq!(found.to_bits(), scale.to_bits());
            }
        }
    }
}
