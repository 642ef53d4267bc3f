//! How many operations the blocks of a transformer take.

/// The sizes of the blocks.
pub(crate) struct Transformer {
    pub(crate) blocks: usize,
    pub(crate) width: usize,
    pub(crate) mlp_width: usize,
}

impl Transformer {
    /// Operations of the matrix products in the forward of a sequence: queries, keys, values and output; what attention
    /// multiplies; the two layers of the MLP.
    pub(crate) fn forward_flops(&self, tokens: f64) -> f64 {
        let (width, mlp) = (self.width as f64, self.mlp_width as f64);
        let weights = 4.0 * width * width + 2.0 * width * mlp;
        let attention = 2.0 * tokens * width;
        2.0 * self.blocks as f64 * tokens * (weights + attention)
    }
}
