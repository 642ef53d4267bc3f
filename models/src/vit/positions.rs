//! Position embeddings for images of another size than those that they were learned on.

/// What the cubic convolution takes as its parameter in PyTorch.
const A: f32 = -0.75;

/// A table of position embeddings for `side` x `side` patches, made from a square table of another number.
///
/// The first row, of the class token, stays as it is. The others are a picture of as many channels as an embedding has
/// features, which is scaled bicubically, as `interpolate_pos_encoding` of Hugging Face's ViT does: PyTorch's
/// `interpolate(mode="bicubic", align_corners=False)` without antialiasing.
///
/// `table`: `[1 + n * n, width]`, row by row; the result: `[1 + side * side, width]`. `None` if the table has another
/// shape.
///
/// # Example
///
/// ```
/// use burn_dist_models::vit::interpolated_positions;
///
/// // A class token and 2 x 2 patches of one feature.
/// let table = [9.0, 1.0, 1.0, 1.0, 1.0];
/// let larger = interpolated_positions(&table, 1, 3).unwrap();
/// assert_eq!((larger.len(), larger[0]), (1 + 3 * 3, 9.0));
/// assert!(larger[1..].iter().all(|x| (x - 1.0).abs() < 1e-5));
/// assert!(interpolated_positions(&table[1..], 1, 3).is_none());
/// ```
///
/// # Source
///
/// `ViTEmbeddings.interpolate_pos_encoding` of Hugging Face's `transformers`; R. Keys, *Cubic Convolution Interpolation
/// for Digital Image Processing*, 1981.
#[must_use]
pub fn interpolated_positions(table: &[f32], width: usize, side: usize) -> Option<Vec<f32>> {
    let (class, patches) = table.split_at_checked(width)?;
    let from = patches.len().checked_div(width)?.isqrt();
    if from == 0 || side == 0 || from * from * width != patches.len() {
        return None;
    }
    let taps: Vec<[(usize, f32); 4]> = (0..side).map(|at| taps(at, from, side)).collect();
    // Along the rows first, then along the columns.
    let mut stretched = vec![0.0; from * side * width];
    for (row, out) in patches
        .chunks_exact(from * width)
        .zip(stretched.chunks_exact_mut(side * width))
    {
        for (taps, out) in taps.iter().zip(out.chunks_exact_mut(width)) {
            blend(row, width, taps, out);
        }
    }
    let mut result = Vec::with_capacity((1 + side * side) * width);
    result.extend_from_slice(class);
    result.resize((1 + side * side) * width, 0.0);
    for (taps, out) in taps
        .iter()
        .zip(result[width..].chunks_exact_mut(side * width))
    {
        blend(&stretched, side * width, taps, out);
    }
    Some(result)
}

/// The weighted sum of four of the parts of `len` elements.
fn blend(parts: &[f32], len: usize, taps: &[(usize, f32); 4], out: &mut [f32]) {
    for &(at, weight) in taps {
        for (out, value) in out.iter_mut().zip(&parts[at * len..][..len]) {
            *out += weight * value;
        }
    }
}

/// The four places of `from` that place `at` of `to` is made of, and their weights. Places outside are the nearest one.
fn taps(at: usize, from: usize, to: usize) -> [(usize, f32); 4] {
    let scale = from as f32 / to as f32;
    let middle = (at as f32 + 0.5) * scale - 0.5;
    let left = middle.floor();
    let t = middle - left;
    let place = |offset: f32| (left + offset).clamp(0.0, from as f32 - 1.0) as usize;
    [
        (place(-1.0), far(t + 1.0)),
        (place(0.0), near(t)),
        (place(1.0), near(1.0 - t)),
        (place(2.0), far(2.0 - t)),
    ]
}

/// The weight of a place less than one away.
fn near(x: f32) -> f32 {
    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
}

/// The weight of a place that is between one and two away.
fn far(x: f32) -> f32 {
    ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;

    const GOLDEN: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/golden/images.safetensors"
    );

    #[test]
    fn tables_are_torchs_up_and_down() {
        let bytes = std::fs::read(GOLDEN).unwrap();
        let golden = SafeTensors::deserialize(&bytes).unwrap();
        let values = |name: &str| -> Vec<f32> {
            let tensor = golden.tensor(&format!("positions/{name}")).unwrap();
            let chunks = tensor.data().chunks_exact(4);
            chunks
                .map(|x| f32::from_le_bytes(x.try_into().unwrap()))
                .collect()
        };
        let table = values("table");
        for side in [2, 3, 5, 7, 12] {
            let ours = interpolated_positions(&table, 6, side).unwrap();
            let theirs = values(&side.to_string());
            assert_eq!(ours.len(), theirs.len());
            let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs());
            let worst = worst.fold(0.0, f32::max);
            assert!(worst < 5e-6, "{side}: {worst}");
        }
        // The same size changes nothing, not even by rounding.
        assert_eq!(interpolated_positions(&table, 6, 4).unwrap(), table);
    }

    #[test]
    fn what_is_no_square_table_is_refused() {
        for (len, width, side) in [(0, 3, 2), (3, 3, 2), (18, 3, 2), (15, 3, 0), (15, 0, 2)] {
            let table = vec![0.0; len];
            assert!(
                interpolated_positions(&table, width, side).is_none(),
                "{len}"
            );
        }
    }
}
