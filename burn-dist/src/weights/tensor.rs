//! Single tensors of a checkpoint: one is read whole, and one takes another's place.

use super::files::Weights;
use crate::error::{Error, Result};
use burn::tensor::{DType, TensorData};

impl Weights {
    /// A tensor as it lies in the files, as f32.
    ///
    /// For small ones that a program computes with before a model is loaded, such as a table of positions.
    ///
    /// # Cost
    /// 4 bytes of memory for each element.
    ///
    /// # Errors
    /// [`Error::File`] if there is no tensor of this name, or it is not of floats.
    ///
    /// ```
    /// use burn::{nn::LinearConfig, tensor::{Device, TensorData}};
    /// use burn_dist::weights::{Export, Weights};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let folder = folder.path();
    /// let model = LinearConfig::new(3, 2).init(&Device::flex());
    /// Export::new().write(&model, folder)?;
    ///
    /// let weights = Weights::open(folder)?;
    /// assert_eq!(weights.tensor("bias")?.shape().to_vec(), [2]);
    /// // A model that is loaded from here has this bias; the file stays as it is.
    /// let weights = weights.with_tensor("bias", TensorData::from([0.5f32, 2.0]))?;
    /// let (other, _) = weights.apply(LinearConfig::new(3, 2).init(&Device::flex()))?;
    /// assert_eq!(other.bias.unwrap().val().into_data(), TensorData::from([0.5f32, 2.0]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn tensor(&self, name: &str) -> Result<TensorData> {
        let Some((_, stored)) = self.entry(name) else {
            self.check_listed(name)?;
            return Err(self.lacks(name));
        };
        let dtype = self.dtype(name, stored)?;
        let len: usize = stored.shape.iter().product();
        let mut bytes = vec![0; len * size_of::<f32>()];
        self.elements(stored, dtype, false)
            .copy(0..len, DType::F32, &mut bytes);
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
        Ok(TensorData::new(values, stored.shape.clone()))
    }

    /// The same with `data` in the place of a tensor, of any shape; the files stay as they are. All ranks must pass
    /// the same, which is compared when a model is sharded.
    ///
    /// # Errors
    /// [`Error::File`] if there is no tensor of this name; [`Error::Config`] if `data` holds no floats.
    pub fn with_tensor(mut self, name: &str, data: TensorData) -> Result<Self> {
        if self.entry(name).is_none() {
            return Err(self.lacks(name));
        }
        let shape = data.shape().to_vec();
        if self.replace(name, &shape, data.dtype(), data.as_bytes()) {
            Ok(self)
        } else {
            let expected = "F64, F32, F16 or BF16";
            Err(Error::config(name, expected, format!("{:?}", data.dtype())))
        }
    }

    fn lacks(&self, name: &str) -> Error {
        Error::file(self.path(), format!("the tensor {name}"), "no such tensor")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::weights::Export;
    use burn::nn::LinearConfig;
    use burn::tensor::Device;

    #[test]
    fn only_a_tensor_of_the_files_is_read_or_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let layer = LinearConfig::new(2, 3).init(&Device::flex());
        Export::new().write(&layer, folder.path()).unwrap();
        let open = || Weights::open(folder.path()).unwrap();
        let read = open().tensor("weight").unwrap();
        assert_eq!(read, layer.weight.val().into_data());
        let missing = open().tensor("positions").unwrap_err().to_string();
        assert!(
            missing.contains("expected the tensor positions"),
            "{missing}"
        );
        let data = || TensorData::from([1.0f32, 2.0, 3.0]);
        let missing = open().with_tensor("positions", data()).unwrap_err();
        assert!(missing.to_string().contains("positions"), "{missing}");
        let whole = open()
            .with_tensor("bias", TensorData::from([1, 2, 3]))
            .unwrap_err();
        assert!(whole.to_string().contains("expected F64, F32"), "{whole}");
        let replaced = open().with_tensor("bias", data()).unwrap();
        assert_eq!(replaced.tensor("bias").unwrap(), data());
        assert_eq!(replaced.tensor("weight").unwrap(), read);
    }
}
