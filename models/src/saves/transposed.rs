//! A matrix with rows and columns exchanged.

/// Rows and columns of a square that is exchanged at a time, so that what is read and written stays in the cache.
const SQUARE: usize = 16;

/// The elements, of `size` bytes each, of a matrix of `[rows, columns]`, as those of `[columns, rows]`.
pub(super) fn transposed(bytes: &[u8], matrix: [usize; 2], size: usize) -> Vec<u8> {
    // Of a known size, an element is copied by one instruction.
    match size {
        1 => of::<1>(bytes, matrix),
        2 => of::<2>(bytes, matrix),
        4 => of::<4>(bytes, matrix),
        _ => of::<8>(bytes, matrix),
    }
}

fn of<const SIZE: usize>(bytes: &[u8], [rows, columns]: [usize; 2]) -> Vec<u8> {
    let mut out = vec![0; bytes.len()];
    let (from, _) = bytes.as_chunks::<SIZE>();
    let (to, _) = out.as_chunks_mut::<SIZE>();
    for first_row in (0..rows).step_by(SQUARE) {
        for first_column in (0..columns).step_by(SQUARE) {
            for row in first_row..rows.min(first_row + SQUARE) {
                for column in first_column..columns.min(first_column + SQUARE) {
                    to[column * rows + row] = from[row * columns + column];
                }
            }
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
        for (size, [rows, columns]) in [(1, [17, 33]), (2, [3, 4]), (4, [50, 2]), (8, [16, 31])] {
            let bytes: Vec<u8> = (0..rows * columns * size)
                .map(|at| (at * 31 % 251) as u8)
                .collect();
            let once = transposed(&bytes, [rows, columns], size);
            assert_eq!(once[size * rows..][..size], bytes[size..][..size]);
            assert_eq!(transposed(&once, [columns, rows], size), bytes);
        }
    }
}
