//! Matrix products on slices.

use gemm::Parallelism;

/// Multiplications from which a product is worth several threads; as in Burn's Flex.
const PARALLEL_FROM: usize = 192 * 192 * 192;

/// A matrix within a slice: its first element and the distance of rows and of columns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix whose rows lie back to back.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// A matrix whose rows begin every `stride` elements.
    pub(crate) fn strided(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(columns <= stride || rows <= 1, "rows that overlap");
        assert!(
            data.len() >= extent(rows, columns, stride),
            "a matrix beyond its slice"
        );
        Self {
            data,
            rows,
            columns,
            row_stride: stride,
            column_stride: 1,
        }
    }

    /// The transpose, without moving an element.
    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// Elements from the first to the last of a matrix whose rows begin every `stride`.
fn extent(rows: usize, columns: usize, stride: usize) -> usize {
    if rows == 0 || columns == 0 {
        0
    } else {
        (rows - 1) * stride + columns
    }
}

/// Whether a product replaces what is there or is added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Write {
    Replace,
    Add,
}

/// Writes the product of `a` and `b` to the matrix in `out` whose rows begin every `stride` elements.
///
/// The order in which an element's products are added does not depend on the number of threads.
#[allow(unsafe_code)]
pub(crate) fn matmul(out: &mut [f32], stride: usize, write: Write, a: Matrix, b: Matrix) {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    assert_eq!(k, b.rows, "the inner sizes of a matrix product");
    assert!(n <= stride || m <= 1, "rows that overlap");
    assert!(
        out.len() >= extent(m, n, stride),
        "a product beyond its slice"
    );
    let parallel = m * n * k >= PARALLEL_FROM && rayon::current_num_threads() > 1;
    // SAFETY: `Matrix` and the assertions above keep every element that the strides reach within the slices;
    // the rows of `out` do not overlap, and it is borrowed for writing alone. The strides of slices fit isize.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            stride as isize,
            write == Write::Add,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            if parallel {
                Parallelism::Rayon(0)
            } else {
                Parallelism::None
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_transposes_and_of_parts_of_rows() {
        // Two rows of three within rows of four.
        let a = [1.0, 2.0, 3.0, 9.0, 4.0, 5.0, 6.0];
        let a = Matrix::strided(&a, 2, 3, 4);
        let mut out = [1.0, 1.0, 7.0, 1.0, 1.0];
        matmul(&mut out, 3, Write::Add, a, a.transposed());
        assert_eq!(out, [15.0, 33.0, 7.0, 33.0, 78.0]);
        matmul(&mut out, 3, Write::Replace, a, a.transposed());
        assert_eq!(out, [14.0, 32.0, 7.0, 32.0, 77.0]);
    }

    #[test]
    fn a_product_over_nothing_is_zero_and_one_of_nothing_writes_nothing() {
        let mut out = [5.0; 4];
        matmul(
            &mut out,
            2,
            Write::Replace,
            Matrix::new(&[], 2, 0),
            Matrix::new(&[], 0, 2),
        );
        assert_eq!(out, [0.0; 4]);
        matmul(
            &mut [],
            2,
            Write::Replace,
            Matrix::new(&[], 0, 3),
            Matrix::new(&[0.0; 6], 3, 2),
        );
    }
}
