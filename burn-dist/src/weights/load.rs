//! Loading a model from files: each rank its own shards, or one device all of it.

use super::elements::file_float;
use super::files::Weights;
use super::matching::Matching;
use super::report::Report;
use crate::comm::odd_one_out;
use crate::error::{Error, Result};
use crate::shard::{MapTensors, ValueSource, map_tensors};
use crate::strategy::Strategy;
use crate::world::World;
use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor, TensorData};

impl Strategy {
    /// Spreads a model over the ranks of `world` as [`shard`](Self::shard) does, with the parameters
    /// that `weights` has.
    ///
    /// Of each such parameter a rank copies the elements that it will store, and nothing is drawn.
    /// What the files may lack is drawn as `shard` draws it, and listed in the [`Report`]. Types are
    /// converted to the model's. Collective.
    ///
    /// # Cost
    /// A rank reads as many elements as it stores, straight into where they stay. A transposed matrix
    /// is read a few neighbours at a time, so that every rank of a host may touch all its pages,
    /// which they share.
    ///
    /// # Errors
    /// As `shard`; [`Error::Model`] for a tensor of another shape, unless it
    /// [may differ](Weights::may_differ), and if no tensor fits; [`Error::File`] for one that is no
    /// float, and if ranks have opened different weights, naming the first tensor and both ranks: a
    /// sample of every tensor is compared, or [everything](Weights::compare_all). What fails on one rank
    /// fails on all.
    ///
    /// ```
    /// use burn::{nn::LinearConfig, tensor::Device};
    /// use burn_dist::weights::{Export, Weights};
    /// use burn_dist::{Strategy, launch::Threads};
    ///
    /// let folder = std::env::temp_dir().join(format!("burn-dist-doc-load-{}", std::process::id()));
    /// let model = LinearConfig::new(64, 4).init(&Device::flex());
    /// Export::new().write(&model, &folder)?;
    ///
    /// let read = Threads::new(2).run(|world| {
    ///     let weights = Weights::open(&folder)?;
    ///     let model = LinearConfig::new(64, 4).init(&world.device());
    ///     let (_model, report) = Strategy::fsdp().shard_from(model, &world, &weights)?;
    ///     Ok(report.read_bytes)
    /// })?;
    /// assert_eq!(read.iter().sum::<u64>(), 4 * (64 * 4 + 4));
    /// # std::fs::remove_dir_all(&folder).ok();
    /// # Ok::<(), burn_dist::Error>(())
    /// ```
    pub fn shard_from<M: Module>(
        self,
        model: M,
        world: &World,
        weights: &Weights,
    ) -> Result<(M, Report)> {
        let mut matching = None;
        let numbers = world.together("match the weights with the model", || {
            let mine = matching.insert(Matching::new(weights, &model)?);
            Ok([mine.fingerprint(), 0])
        })?;
        weights.agree(world)?;
        check_same_matching(world, weights, &numbers)?;
        // An error of this rank was returned above.
        let Some(matching) = matching else {
            return Err(Error::file(weights.path(), "weights", "none"));
        };
        let model = self.shard_with(model, world, Some(&matching))?;
        Ok((model, matching.into_report()))
    }
}

/// Returns if all ranks will read the same tensors for the same parameters.
fn check_same_matching(world: &World, weights: &Weights, numbers: &[[u64; 2]]) -> Result<()> {
    let Some((_, odd)) = odd_one_out(numbers) else {
        return Ok(());
    };
    let found = "the same files there, but other names or other shapes that may differ";
    let expected = format!("the same weights on all {} ranks as on most", world.size());
    let found = format!("{found}, on rank {odd} (this is rank {})", world.rank());
    Err(Error::file(weights.path(), expected, found))
}

impl Weights {
    /// Fills a model on one device; what the files lack stays as it is, drawn or not.
    ///
    /// Parameters keep their identity, device, type and whether they train.
    ///
    /// # Errors
    /// [`Error::Model`] for a tensor of another shape, unless it [may differ](Self::may_differ), and
    /// if no tensor fits; [`Error::File`] for one that is no float.
    pub fn apply<M: Module>(&self, model: M) -> Result<(M, Report)> {
        let matching = Matching::new(self, &model)?;
        let mut fill = FillFromFiles {
            matching: &matching,
        };
        let model = map_tensors(model, &mut fill);
        Ok((model, matching.into_report()))
    }
}

/// Replaces the parameters that the files have.
struct FillFromFiles<'a> {
    matching: &'a Matching<'a>,
}

impl MapTensors for FillFromFiles<'_> {
    fn float<const D: usize>(&mut self, path: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if !self.matching.has(path) {
            return param;
        }
        let (id, device, shape) = (param.id, param.lazy_device(), param.lazy_shape());
        let dtype: DType = if param.is_initialized() {
            param.base().dtype()
        } else {
            device.settings().float_dtype.into()
        };
        // Devices with floats of their own take the usual ones.
        let read = file_float(dtype).map_or(DType::F32, |_| dtype);
        let len = shape.num_elements();
        let mut bytes = vec![0; len * read.size()];
        self.matching.read(path, 0..len, read, &mut bytes);
        let data = TensorData::from_bytes_vec(bytes, shape, read);
        param.transform_for_load(Tensor::from_data(data, (&device, dtype)), id)
    }
}
