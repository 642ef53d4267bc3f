//! The input of a BERT: a batch of tokenized texts.

use burn::tensor::{Bool, Int, Tensor};

/// Texts of one length, cut into tokens; shorter ones are padded.
///
/// # Example
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use burn_dist_models::bert::Tokens;
///
/// let device = Device::flex();
/// let ids = Tensor::<2, Int>::from_data([[2, 17, 42, 3], [2, 5, 3, 0]], &device);
/// // Hugging Face's attention mask is 1 where a token is one, and so the contrary.
/// let attention = Tensor::<2, Int>::from_data([[1, 1, 1, 1], [1, 1, 1, 0]], &device);
/// let tokens = Tokens::new(ids).with_padding(attention.equal_elem(0));
/// assert!(tokens.padding.is_some() && tokens.types.is_none());
/// ```
#[derive(Debug, Clone)]
pub struct Tokens {
    /// `[batch, tokens]`: numbers of the vocabulary, each text beginning with its `[CLS]`.
    pub ids: Tensor<2, Int>,
    /// `[batch, tokens]`: the type of each token, which numbers the sentences of a text; without it all are 0.
    pub types: Option<Tensor<2, Int>>,
    /// `[batch, tokens]`: true where there is only padding, which no token attends to. Without, there is none.
    pub padding: Option<Tensor<2, Bool>>,
}

/// The inputs of a unit: ids, types, padding.
pub(super) type Inputs = (
    Tensor<2, Int>,
    Option<Tensor<2, Int>>,
    Option<Tensor<2, Bool>>,
);

impl Tokens {
    /// Texts of a single sentence without padding; `ids`: `[batch, tokens]`.
    pub fn new(ids: Tensor<2, Int>) -> Self {
        Self {
            ids,
            types: None,
            padding: None,
        }
    }

    /// The same texts, each token with the number of its sentence; `types`: `[batch, tokens]`.
    pub fn with_types(self, types: Tensor<2, Int>) -> Self {
        let types = Some(types);
        Self { types, ..self }
    }

    /// The same texts, of which the tokens are padding where `padding` is true; it is `[batch, tokens]`.
    pub fn with_padding(self, padding: Tensor<2, Bool>) -> Self {
        let padding = Some(padding);
        Self { padding, ..self }
    }

    /// Texts and tokens of each.
    pub(super) fn dims(&self) -> [usize; 2] {
        self.ids.dims()
    }

    pub(super) fn into_inputs(self) -> Inputs {
        (self.ids, self.types, self.padding)
    }
}
