//! A matrix with rows and columns exchanged.

/// The elements, of `size` bytes each, of a matrix of `[rows, columns]`, as those of `[columns, rows]`.
pub(super) fn transposed(bytes: &[u8], [rows, columns]: [usize; 2], size: usize) -> Vec<u8> {
    let mut out = vec![0; bytes.len()];
    for row in 0..rows {
        for column in 0..columns {
            let (from, to) = (row * columns + column, column * rows + row);
            out[to * size..][..size].copy_from_slice(&bytes[from * size..][..size]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_is_the_same() {
        let bytes: Vec<u8> = (0..24).collect();
        let once = transposed(&bytes, [3, 4], 2);
        assert_eq!(once[..6], [0, 1, 8, 9, 16, 17]);
        assert_eq!(transposed(&once, [4, 3], 2), bytes);
    }
}
