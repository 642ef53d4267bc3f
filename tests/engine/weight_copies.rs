//! Ranks that have opened different copies of weights, whose headers are equal.

use crate::oracle;
use crate::oracle::ranks;
use burn::module::Param;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, TensorData};
use burn_dist::World;
use burn_dist::weights::{Export, Weights};
use std::path::Path;

/// A layer of `width` squared elements of one value, but for the 1124th, if there are so many.
fn layer(width: usize, value: f32, odd: f32) -> Linear {
    let device = Device::flex();
    let mut layer = LinearConfig::new(width, width).init(&device);
    let mut numbers = vec![value; width * width];
    if let Some(number) = numbers.get_mut(1124) {
        *number = odd;
    }
    layer.weight = Param::from_data(TensorData::new(numbers, [width, width]), &device);
    layer.bias = None;
    layer
}

/// The error if rank 2 of 3 has other weights than the ranks before it.
fn error_of(width: usize, odd: &Linear, compare_all: bool) -> Option<String> {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let models = [&layer(width, 0.5, 0.5), odd];
    for (model, folder) in models.into_iter().zip(&folders) {
        Export::new().write(model, folder.path()).unwrap();
    }
    let path = |rank: usize| -> &Path { folders[usize::from(rank == 2)].path() };
    let run = |world: World| {
        let weights = Weights::open(path(world.rank()))?;
        let weights = if compare_all {
            weights.compare_all()
        } else {
            weights
        };
        let model = layer(width, 0.0, 0.0);
        for strategy in oracle::strategies(3) {
            strategy.shard_from(model.clone(), &world, &weights)?;
        }
        Ok(())
    };
    Some(ranks(3).run(run).err()?.to_string())
}

#[test]
fn a_differing_weight_file_with_an_equal_header_is_named() {
    for width in [3, 7, 512] {
        let message = error_of(width, &layer(width, 0.25, 0.25), false).unwrap();
        assert!(message.contains("on rank 2 as on rank 0"), "{message}");
        assert!(
            message.contains("weight in model.safetensors as ["),
            "{message}"
        );
        assert!(message.contains("with checksum"), "{message}");
        assert_eq!(error_of(width, &layer(width, 0.5, 0.5), true), None);
    }
}

#[test]
fn compare_all_finds_one_differing_element() {
    let odd = layer(512, 0.5, 0.25);
    // The default compares a sample, and the message says so.
    assert_eq!(error_of(512, &odd, false), None);
    let message = error_of(512, &odd, true).unwrap();
    assert!(message.contains("weight in model.safetensors"), "{message}");
}
