//! Position embeddings of a checkpoint, made to fit the images of a run.

use super::Pretrained;
use crate::VitConfig;
use crate::vit::{hf_name, interpolated_positions};
use burn::tensor::TensorData;
use burn_dist::{Error, Result, World};

/// The checkpoint with position embeddings for images of `side` pixels; rank 0 logs it if they are interpolated.
///
/// Each rank reads the whole table, which is small, and computes the same.
///
/// # Errors
/// [`Error::Config`] if the table is not for the image size that the checkpoint's own configuration has; what reading it
/// returns.
pub(super) fn fitted(
    world: &World,
    pretrained: Pretrained,
    config: &VitConfig,
    side: usize,
) -> Result<Pretrained> {
    let weights = pretrained.weights(hf_name)?;
    let Some(name) = hf_name("embeddings.positions").map(|name| name.name) else {
        return Ok(pretrained);
    };
    let table = weights
        .tensors()
        .find(|(found, _)| found.ends_with(name.trim_start_matches("vit.")))
        .map(|(found, shape)| (found.to_owned(), shape.to_vec()));
    let Some((name, shape)) = table else {
        return Ok(pretrained);
    };
    let &[_, rows, width] = shape.as_slice() else {
        return Ok(pretrained);
    };
    let patches = config.image_size / config.patch_size;
    if rows != 1 + patches * patches {
        let own = rows.saturating_sub(1).isqrt() * config.patch_size;
        return Err(Error::config(
            "image_size in config.json",
            format!("{own}, for {name} has {rows} rows"),
            format!(
                "{}, which needs {} rows: correct it; another size for the images is --image-size",
                config.image_size,
                1 + patches * patches
            ),
        ));
    }
    let wanted = side / config.patch_size;
    if wanted == patches {
        return Ok(pretrained);
    }
    let values = weights.tensor(&name)?.try_into_vec::<f32>();
    let values = values.map_err(Error::user)?;
    let Some(values) = interpolated_positions(&values, width, wanted) else {
        let expected = "a table of position embeddings, [1, 1 + n * n, width]";
        return Err(Error::config(name, expected, format!("{shape:?}")));
    };
    if world.is_chief() {
        log::info!(
            "the position embeddings of {patches} x {patches} patches are interpolated to {wanted} x {wanted}: \
             images have {side} pixels, and those of the weights {}",
            config.image_size
        );
    }
    let data = TensorData::new(values, [1, 1 + wanted * wanted, width]);
    Ok(pretrained.with_tensor(name, data))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::run::WeightArgs;
    use burn::module::Module;
    use burn::tensor::{Device, Tensor};
    use burn_dist::launch::Threads;
    use burn_dist::{Destination, Strategy};
    use safetensors::SafeTensors;

    const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests");

    fn opened(world: &World) -> Result<(Pretrained, VitConfig)> {
        let args = WeightArgs {
            from: Some(format!("{TESTS}/transformers/checkpoints/vit")),
            ..WeightArgs::default()
        };
        let pretrained = args.pretrained(world)?.unwrap();
        let config = pretrained.config(VitConfig::from_hf)?;
        Ok((pretrained, config))
    }

    /// Sharded over two ranks, and gathered again: the logits that transformers computes with
    /// `interpolate_pos_encoding=True`, for larger and for smaller images than the weights'.
    #[test]
    fn logits_at_other_sizes_are_those_of_transformers() {
        let bytes = std::fs::read(format!("{TESTS}/golden/images.safetensors")).unwrap();
        let golden = SafeTensors::deserialize(&bytes).unwrap();
        let read = |name: &str| {
            let tensor = golden.tensor(name).unwrap();
            let chunks = tensor.data().chunks_exact(4);
            let values = chunks.map(|x| f32::from_le_bytes(x.try_into().unwrap()));
            TensorData::new(values.collect::<Vec<f32>>(), tensor.shape().to_vec())
        };
        for side in [16, 4] {
            let pixels = read(&format!("vit/{side}/pixels"));
            let logits = Threads::new(2).run(|world| {
                let (pretrained, own) = opened(&world)?;
                let pretrained = fitted(&world, pretrained, &own, side)?;
                let config = own.with_image_size(side);
                let model = config.init(&world.device()).map_err(Error::user)?;
                let weights = pretrained.weights(hf_name)?;
                let (model, _) = Strategy::fsdp().shard_from(model, &world, &weights)?;
                let model = world.full(&model, Destination::All)?.unwrap();
                let images = Tensor::<4>::from_data(pixels.clone(), &Device::flex());
                Ok(model.valid().forward(images).into_data())
            });
            let expected = read(&format!("vit/{side}/logits"));
            for found in logits.unwrap() {
                let (a, b) = (
                    found.try_into_vec::<f32>(),
                    expected.clone().try_into_vec::<f32>(),
                );
                let (a, b) = (a.unwrap(), b.unwrap());
                let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs());
                let worst = worst.fold(0.0, f32::max);
                assert!(a.len() == b.len() && worst < 2e-5, "{side}: {worst}");
            }
        }
    }

    #[test]
    fn a_table_that_is_not_for_the_own_size_is_an_error() {
        let error = Threads::new(1).run(|world| {
            let (pretrained, own) = opened(&world)?;
            fitted(&world, pretrained, &own.with_image_size(12), 12)
        });
        let message = error.unwrap_err().to_string();
        assert!(message.contains("expected 8, for "), "{message}");
        assert!(
            message.contains("found 12, which needs 10 rows"),
            "{message}"
        );
    }
}
