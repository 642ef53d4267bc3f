//! Weights from a Hugging Face checkpoint into a BERT.

use burn::tensor::TensorData;

use super::{Bert, BertClassifier, BertMaskedLm, Family, hf_name};
use crate::hf::{LoadError, load};

/// The same for each of the models: what Hugging Face calls it, and where its family is known.
macro_rules! load_hf {
    ($model:ident, $bert:literal, $distil:literal, $family:expr) => {
        impl $model {
            /// This model with every parameter replaced by the tensor that `source` has under its
            /// [Hugging Face name](hf_name).
            ///
            /// `source` returns data in the checkpoint's layout, or `None` if it has none. Parameters take
            /// the dtype of their data, and keep their device, identity and whether they train. A parameter
            /// that was not drawn yet never is.
            ///
            /// # Errors
            ///
            /// A [`LoadError`] if tensors are missing or a shape differs.
            pub fn load_hf(
                self,
                source: impl FnMut(&str) -> Option<TensorData>,
            ) -> Result<Self, LoadError> {
                let family: Family = $family(&self);
                let model = match family {
                    Family::Bert => $bert,
                    Family::DistilBert => $distil,
                };
                load(self, model, |path| hf_name(family, path), source)
            }
        }
    };
}

load_hf!(Bert, "BertModel", "DistilBertModel", |m: &Self| m.family);
load_hf!(
    BertClassifier,
    "BertForSequenceClassification",
    "DistilBertForSequenceClassification",
    |m: &Self| m.bert.family
);
load_hf!(
    BertMaskedLm,
    "BertForMaskedLM",
    "DistilBertForMaskedLM",
    |m: &Self| m.bert.family
);
