//! How many operations a BERT takes.

use super::{BertConfig, Family};
use crate::transformer_flops::Transformer;

impl BertConfig {
    /// Floating-point operations of the forward of one text of so many tokens, with a classifier, a multiplication and an
    /// addition being two.
    ///
    /// Only matrix products count, as usual for MFU; backward takes twice as many.
    ///
    /// ```
    /// use burn_dist_models::BertConfig;
    ///
    /// // 2 operations for each of the 85 M parameters of the blocks and each token, and the attention.
    /// let flops = BertConfig::base().forward_flops(128, 2);
    /// assert!((flops / (2.0 * 85e6 * 128.0) - 1.03).abs() < 0.02, "{flops}");
    /// ```
    ///
    /// # Source
    /// Chowdhery et al., *PaLM*, 2022, appendix B.
    pub fn forward_flops(&self, tokens: usize, classes: usize) -> f64 {
        let (width, classes) = (self.width as f64, classes as f64);
        let body = Transformer {
            blocks: self.blocks,
            width: self.width,
            mlp_width: self.mlp_width,
        };
        // BERT's pooler and DistilBERT's layer before the classifier are of one size.
        let head = match self.family {
            Family::Bert | Family::DistilBert => 2.0 * width * width,
        };
        body.forward_flops(tokens as f64) + head + 2.0 * width * classes
    }
}
