//! How many operations a Vision Transformer takes.

use super::VitConfig;
use crate::transformer_flops::Transformer;

impl VitConfig {
    /// Floating-point operations of the forward of one image, a multiplication and an addition being two.
    ///
    /// Only matrix products count, as usual for MFU; backward takes twice as many. Padding of a batch and
    /// recomputation are not the model's.
    ///
    /// ```
    /// use burn_dist_models::VitConfig;
    ///
    /// // ViT-B/16 at 224 pixels: 17.6 GMAC, of which a multiplication and an addition are two operations.
    /// let flops = VitConfig::base_16(1000).forward_flops();
    /// assert!((flops / 1e9 - 35.1).abs() < 0.2, "{flops}");
    /// ```
    ///
    /// # Source
    /// Chowdhery et al., *PaLM*, 2022, appendix B.
    pub fn forward_flops(&self) -> f64 {
        let patches = (self.image_size / self.patch_size).pow(2) as f64;
        let patch = (self.channels * self.patch_size.pow(2)) as f64;
        let (width, classes) = (self.width as f64, self.classes as f64);
        let body = Transformer {
            blocks: self.blocks,
            width: self.width,
            mlp_width: self.mlp_width,
        };
        2.0 * patches * patch * width + body.forward_flops(patches + 1.0) + 2.0 * width * classes
    }
}
