//! The configuration of a BERT, and presets.

use burn::config::Config;

use crate::config::{self, ConfigError};

/// The two architectures.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Family {
    /// With token types, and a tanh in the classifier's pooler.
    Bert,
    /// Without token types, and with a ReLU instead of the tanh.
    DistilBert,
}

/// The sizes and rates of a [`Bert`](super::Bert) and the models on top of it; the defaults are BERT-base's, with an
/// English vocabulary in lower case.
///
/// # Example
///
/// ```
/// use burn::tensor::Device;
/// use burn_dist_models::BertConfig;
///
/// let device = Device::flex();
/// let config = BertConfig::tiny().with_vocab(1000).with_dropout(0.0);
/// assert!(config.init_classifier(4, &device).is_ok());
/// assert!(config.init_masked_lm(&device).is_ok());
///
/// let mistake = config.with_heads(5).init(&device).unwrap_err();
/// assert_eq!(
///     mistake.to_string(),
///     "a width of 128 cannot be split over 5 heads: choose a multiple"
/// );
/// ```
#[derive(Config, Debug)]
pub struct BertConfig {
    /// The architecture.
    #[config(default = "Family::Bert")]
    pub family: Family,
    /// Words of the vocabulary.
    #[config(default = 30522)]
    pub vocab: usize,
    /// Tokens of the longest text.
    #[config(default = 512)]
    pub positions: usize,
    /// Token types, one for each sentence of a text; DistilBERT has none.
    #[config(default = 2)]
    pub types: usize,
    /// Features of a token.
    #[config(default = 768)]
    pub width: usize,
    /// Number of blocks.
    #[config(default = 12)]
    pub blocks: usize,
    /// Attention heads of a block; they divide the width.
    #[config(default = 12)]
    pub heads: usize,
    /// Hidden features of a block's MLP.
    #[config(default = 3072)]
    pub mlp_width: usize,
    /// Dropout of the embeddings and of the output of each attention and MLP.
    #[config(default = 0.1)]
    pub dropout: f64,
    /// Dropout of the attention probabilities.
    #[config(default = 0.1)]
    pub attention_dropout: f64,
    /// Dropout of what a classifier reads.
    #[config(default = 0.1)]
    pub head_dropout: f64,
    /// What layer norms add to the variance.
    #[config(default = 1e-12)]
    pub norm_eps: f64,
    /// Standard deviation of the weights at the start.
    #[config(default = 0.02)]
    pub init_std: f64,
}

impl BertConfig {
    /// BERT-tiny: 4.4 M parameters, of which 3.9 M are words. Turc et al., 2019,
    /// <https://arxiv.org/abs/1908.08962>.
    pub fn tiny() -> Self {
        Self::new().with_sizes(128, 2, 2)
    }

    /// BERT-mini: 11.2 M parameters.
    pub fn mini() -> Self {
        Self::new().with_sizes(256, 4, 4)
    }

    /// BERT-small: 28.8 M parameters.
    pub fn small() -> Self {
        Self::new().with_sizes(512, 4, 8)
    }

    /// BERT-base: 109.5 M parameters. Devlin et al., 2018, <https://arxiv.org/abs/1810.04805>.
    pub fn base() -> Self {
        Self::new().with_sizes(768, 12, 12)
    }

    /// BERT-large: 335.1 M parameters.
    pub fn large() -> Self {
        Self::new().with_sizes(1024, 24, 16)
    }

    /// DistilBERT: 66.4 M parameters. Sanh et al., 2019, <https://arxiv.org/abs/1910.01108>.
    pub fn distil() -> Self {
        Self::new()
            .with_family(Family::DistilBert)
            .with_sizes(768, 6, 12)
            .with_head_dropout(0.2)
    }

    /// The published models all have an MLP of four times their width.
    fn with_sizes(self, width: usize, blocks: usize, heads: usize) -> Self {
        self.with_width(width)
            .with_blocks(blocks)
            .with_heads(heads)
            .with_mlp_width(4 * width)
    }

    /// Checks that the configuration describes a model.
    ///
    /// # Errors
    ///
    /// The first [`ConfigError`] found.
    pub fn validate(&self) -> Result<(), ConfigError> {
        config::sizes(&[
            ("vocab", self.vocab),
            ("positions", self.positions),
            ("types", self.types),
            ("width", self.width),
            ("blocks", self.blocks),
            ("heads", self.heads),
            ("mlp_width", self.mlp_width),
        ])?;
        config::heads(self.width, self.heads)?;
        config::rates(&[
            ("dropout", self.dropout),
            ("attention_dropout", self.attention_dropout),
            ("head_dropout", self.head_dropout),
        ])?;
        config::scales(self.norm_eps, self.init_std)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::parameter_count::ParameterCount;
    use burn::tensor::Device;

    /// As published: encoder and, in BERT, the pooler.
    #[test]
    fn presets_have_their_published_sizes_and_allocate_nothing() {
        let presets = [
            (BertConfig::tiny(), 4_385_920),
            (BertConfig::mini(), 11_170_560),
            (BertConfig::small(), 28_763_648),
            (BertConfig::base(), 109_482_240),
            (BertConfig::large(), 335_141_888),
            (BertConfig::distil(), 66_362_880),
        ];
        for (config, elements) in presets {
            let model = config.init_classifier(2, &Device::flex()).unwrap();
            let pooler = match config.family {
                Family::Bert => ParameterCount::of(&model.pooler).elements,
                Family::DistilBert => 0,
            };
            let count = ParameterCount::of(&model.bert);
            assert_eq!(count.elements + pooler, elements, "{config:?}");
            assert_eq!(ParameterCount::of(&model).initialized, 0, "{config:?}");
        }
    }

    #[test]
    fn heads_have_their_published_sizes() {
        let (config, device) = (BertConfig::base(), Device::flex());
        let words = config.init_masked_lm(&device).unwrap();
        // bert-base-uncased with its masked language model's head, the decoder being tied.
        assert_eq!(ParameterCount::of(&words).elements, 109_514_298);
        let distil = BertConfig::distil().init_classifier(2, &device).unwrap();
        assert_eq!(ParameterCount::of(&distil).elements, 66_955_010);
    }

    #[test]
    fn each_invalid_field_is_an_error_that_names_it() {
        let tiny = BertConfig::tiny;
        let mistakes = [
            (tiny().with_vocab(0), "`vocab` is 0: it must be at least 1"),
            (tiny().with_types(0), "`types` is 0: it must be at least 1"),
            (
                tiny().with_heads(3),
                "a width of 128 cannot be split over 3 heads: choose a multiple",
            ),
            (
                tiny().with_head_dropout(1.5),
                "`head_dropout` is 1.5: a rate lies in [0, 1)",
            ),
            (
                tiny().with_norm_eps(f64::INFINITY),
                "`norm_eps` is inf: it must be positive and finite",
            ),
        ];
        for (config, message) in mistakes {
            let error = config.init_masked_lm(&Device::flex()).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        let error = tiny().init_classifier(0, &Device::flex()).unwrap_err();
        assert_eq!(error.to_string(), "`classes` is 0: it must be at least 1");
    }

    #[test]
    fn a_saved_configuration_loads_again() {
        let config = BertConfig::distil().with_vocab(99);
        let file = tempfile::NamedTempFile::new().unwrap();
        config.save(file.path()).unwrap();
        let read = BertConfig::load(file.path()).unwrap();
        assert_eq!(
            (read.family, read.vocab, read.head_dropout),
            (Family::DistilBert, 99, 0.2)
        );
    }
}
