//! Products that share a factor or add up: what they share is packed once, and what adds up stays in the cache.

use super::{Columns, Mat, Out, PackedB, for_each, rows_by_columns, rows_of_block};

/// A right factor of [`matmul_each`] and where the product goes.
pub struct Each<'a> {
    /// `[m, n]`, overwritten.
    pub c: &'a mut [f32],
    pub b: &'a PackedB,
    /// Added to every row, `[n]`.
    pub bias: Option<&'a [f32]>,
}

/// `c = a · b + bias` for each of several right factors of one precision: the rows of `a` are packed once.
pub fn matmul_each(a: Mat, each: &mut [Each]) {
    a.check("a");
    let Some(panels) = each.first().map(|one| *one.b.panels()) else { return };
    let mut columns = Vec::with_capacity(each.len());
    for Each { c, b, bias } in each {
        assert_eq!(a.cols, b.k(), "matmul_each: a is [{}, {}], b has {} rows", a.rows, a.cols, b.k());
        assert_eq!(c.len(), a.rows * b.n(), "matmul_each: c has {} floats, a · b is [{}, {}]", c.len(), a.rows, b.n());
        assert_eq!(b.panels().format, panels.format, "matmul_each: factors of two precisions");
        let few = bias.is_some_and(|bias| bias.len() != b.n());
        assert!(!few, "matmul_each: a bias of {:?} numbers, but c has {} columns", bias.map(<[f32]>::len), b.n());
        columns.push(Columns { c: Out::new(c, b.n()), packed: b.words(), n: b.n(), bias: *bias, accumulate: false });
    }
    assert!(a.cols > 0, "matmul_each: factors of no columns");
    let widest = columns.iter().map(|columns| columns.n).max().unwrap_or(0);
    by_rows(a.rows, columns.iter().map(|columns| columns.n).sum(), &panels, |rows| {
        // SAFETY: the task's rows of each `c` are its own; lengths were checked.
        unsafe { rows_by_columns(a, rows, &panels, &columns, (0, widest)) };
    });
}

/// `c = a₀ · b₀ + a₁ · b₁ + …`, or with `accumulate` added to `c`, `[m, n]`.
pub fn matmul_sum(c: &mut [f32], terms: &[(Mat, &PackedB)], accumulate: bool) {
    let Some(((a, b), panels)) = terms.first().map(|first| (*first, *first.1.panels())) else {
        if !accumulate {
            c.fill(0.0);
        }
        return;
    };
    let (m, n) = (a.rows, b.n());
    assert_eq!(c.len(), m * n, "matmul_sum: c has {} floats, a · b is [{m}, {n}]", c.len());
    for (a, b) in terms {
        a.check("a");
        let shapes = (a.rows, a.cols, b.n()) == (m, b.k(), n) && b.k() > 0;
        assert!(shapes, "matmul_sum: [{}, {}] · [{}, {}] is not [{m}, {n}]", a.rows, a.cols, b.k(), b.n());
    }
    let c = Out::new(c, n);
    by_rows(m, n, &panels, |rows| {
        for (i, (a, b)) in terms.iter().enumerate() {
            let columns = Columns { c, packed: b.words(), n, bias: None, accumulate: accumulate || i > 0 };
            // SAFETY: the task's rows of `c` are its own; lengths were checked.
            unsafe { rows_by_columns(*a, rows, b.panels(), &[columns], (0, n)) };
        }
    });
}

/// Calls `f` with the first and the number of the rows of each block of `m`, on all threads.
fn by_rows(m: usize, n: usize, panels: &super::Panels, f: impl Fn((usize, usize)) + Sync + Send) {
    if m == 0 || n == 0 {
        return;
    }
    let parallel = m * n * panels.k >= super::SERIAL_WORK && rayon::current_num_threads() > 1;
    let want = if parallel { 4 * rayon::current_num_threads() } else { 1 };
    let mc = rows_of_block(m, n, panels, want);
    for_each(parallel, m.div_ceil(mc), |block| f((block * mc, mc.min(m - block * mc))));
}
