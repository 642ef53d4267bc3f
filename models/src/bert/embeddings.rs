//! Embeddings of words, positions and types.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};

use super::BertConfig;
use super::config::Family;
use crate::init;
use burn_dist::nn::functional::embedding;
use burn_dist::nn::{Dropout, DropoutConfig, LayerNorm};

/// The sum of a token's word, type and position embeddings, with a layer norm.
///
/// The tables are read row by row. Burn's embedding layer would keep the whole table on the autodiff tape
/// until backward, and a sharded model must not keep it.
#[derive(Module, Debug)]
pub struct Embeddings {
    /// `[vocab, width]`: a row for each word. A masked language model reads it as its decoder too.
    pub words: Param<Tensor<2>>,
    /// `[positions, width]`: a row for each position in a text.
    pub positions: Param<Tensor<2>>,
    /// `[types, width]`: a row for each token type. DistilBERT has none.
    pub types: Option<Param<Tensor<2>>>,
    /// Over the sum.
    pub norm: LayerNorm,
    /// Of the output.
    pub dropout: Dropout,
}

impl Embeddings {
    pub(super) fn new(config: &BertConfig, device: &Device) -> Self {
        let table = |rows| init::weight([rows, config.width], config.init_std, device);
        Self {
            words: table(config.vocab),
            positions: table(config.positions),
            types: match config.family {
                Family::Bert => Some(table(config.types)),
                Family::DistilBert => None,
            },
            norm: init::norm(config.width, config.norm_eps, device),
            dropout: DropoutConfig::new(config.dropout).init(),
        }
    }

    /// `ids` and `types`: `[batch, tokens]`; output: `[batch, tokens, width]`.
    ///
    /// Without `types` all tokens are of type 0; without a table of types they make no difference.
    pub fn forward(&self, ids: Tensor<2, Int>, types: Option<Tensor<2, Int>>) -> Tensor<3> {
        let [_, tokens] = ids.dims();
        let mut x = embedding(self.words.val(), ids);
        if let Some(table) = &self.types {
            x = x + match types {
                Some(types) => embedding(table.val(), types),
                None => table.val().narrow(0, 0, 1).unsqueeze_dim(0),
            };
        }
        x = x + self.positions.val().narrow(0, 0, tokens).unsqueeze_dim(0);
        self.dropout.forward(self.norm.forward(x))
    }
}
