//! Matrix products `c[m, n] (+)= a[m, k] · b[k, n]` in f32, for any strides of `a` and `b`.
//!
//! Large products go through packed panels and a register tile, as in BLIS: `b` is packed once per column block and
//! shared, each task packs its own rows of `a`. Up to [`small::MAX_ROWS`] rows (decoding) nothing is packed.
//!
//! Every element of `c` is the same chain of fused multiply-adds over `k` (in blocks that depend on `k` alone), in
//! whichever tile or task it falls, so the result does not depend on how the work is split.

use crate::scratch;
use crate::simd::{self, Level};
use rayon::prelude::*;

mod pack;
pub(crate) mod small;
mod tile;

use pack::{Lanes, pack_panels};

/// A matrix view: element `(i, j)` is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A row-major matrix.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        assert!(data.len() >= rows * cols, "Mat: {} floats cannot hold [{rows}, {cols}]", data.len());
        Mat { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// A row-major matrix whose rows lie `row_stride` apart.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        Mat { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transposed view; nothing is copied.
    #[must_use]
    pub fn t(self) -> Self {
        Mat { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    fn check(&self, name: &str) {
        if self.rows > 0 && self.cols > 0 {
            let need = (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride + 1;
            assert!(
                self.data.len() >= need,
                "matmul: {name} [{}, {}] with strides ({}, {}) needs {need} floats, but there are {}",
                self.rows,
                self.cols,
                self.row_stride,
                self.col_stride,
                self.data.len()
            );
        }
    }
}

/// Where a product goes: rows `stride` apart, columns adjacent.
#[derive(Clone, Copy)]
pub(crate) struct Out {
    pub ptr: *mut f32,
    pub stride: usize,
}

// SAFETY: tasks that share an `Out` write disjoint elements; every use says which.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

impl Out {
    pub fn new(c: &mut [f32], stride: usize) -> Self {
        Out { ptr: c.as_mut_ptr(), stride }
    }

    /// # Safety
    /// Row `i` and column `j` must lie in the same allocation.
    pub unsafe fn offset(self, i: usize, j: usize) -> Self {
        // SAFETY: the caller's promise.
        Out { ptr: unsafe { self.ptr.add(i * self.stride + j) }, ..self }
    }

    /// # Safety
    /// As [`Out::offset`] for `len` floats from there, and no other task uses them while the slice lives.
    pub unsafe fn row<'a>(self, i: usize, j: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(i * self.stride + j), len) }
    }
}

/// Longest run of `k` that stays in registers before `c` is touched.
const K_BLOCK: usize = 320;
/// Rows of `a` that a task packs at a time, about.
const M_BLOCK: usize = 120;
/// Bytes of packed `b` shared by all tasks.
const B_BYTES: usize = 8 << 20;
/// Up to this many rows: pack `a` once, and let each task pack its own columns of `b`.
const FEW_ROWS: usize = 64;
/// Up to this many elements `b` is packed at once for any number of rows: it stays in the caches.
const SMALL_B: usize = 1 << 16;
/// Fewer multiply-adds than this run on the calling thread.
const SERIAL_WORK: usize = 1 << 18;

/// `c[m, n] = a · b`, or `c += a · b` with `accumulate`. `c` is contiguous and row-major.
pub fn matmul(c: &mut [f32], a: Mat, b: Mat, accumulate: bool) {
    assert_eq!(a.cols, b.rows, "matmul: a is [{}, {}], b is [{}, {}]", a.rows, a.cols, b.rows, b.cols);
    assert_eq!(c.len(), a.rows * b.cols, "matmul: c has {} floats, a · b is [{}, {}]", c.len(), a.rows, b.cols);
    a.check("a");
    b.check("b");
    let out = Out::new(c, b.cols);
    // SAFETY: `c` holds m x n floats, and a and b were checked against their lengths.
    unsafe { product(simd::level(), out, a, b, accumulate) }
}

/// [`matmul`] into strided rows, on all threads.
///
/// # Safety
/// `c` must be writable for `a.rows` rows of `b.cols` floats, by this call alone; `a` and `b` lie inside their data.
pub(crate) unsafe fn product(level: Level, c: Out, a: Mat, b: Mat, accumulate: bool) {
    let parallel = a.rows * a.cols * b.cols >= SERIAL_WORK && rayon::current_num_threads() > 1;
    // SAFETY: passed on.
    unsafe { product_with(level, c, a, b, How { accumulate, parallel }) }
}

/// [`matmul`] into strided rows, on the calling thread.
///
/// # Safety
/// As [`product`].
pub(crate) unsafe fn product_serial(level: Level, c: Out, a: Mat, b: Mat, accumulate: bool) {
    // SAFETY: passed on.
    unsafe { product_with(level, c, a, b, How { accumulate, parallel: false }) }
}

#[derive(Clone, Copy)]
struct How {
    accumulate: bool,
    parallel: bool,
}

unsafe fn product_with(level: Level, c: Out, a: Mat, b: Mat, how: How) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !how.accumulate {
            // SAFETY: the rows of `c` are ours, by the caller's promise.
            (0..m).for_each(|i| unsafe { c.row(i, 0, n) }.fill(0.0));
        }
        return;
    }
    // SAFETY: shapes are the caller's promise and passed on unchanged; a single column of stride 1 is a row.
    unsafe {
        if n == 1 && c.stride == 1 && m > 1 {
            let row = Out { stride: m, ..c };
            return product_with(level, row, b.t(), a.t(), how);
        }
        if m <= small::MAX_ROWS && (b.row_stride == 1 || b.col_stride == 1) {
            return small::product(level, c, a, b, how);
        }
        if m <= FEW_ROWS && k * n > SMALL_B { by_columns(level, c, a, b, how) } else { by_rows(level, c, a, b, how) }
    }
}

/// Calls `f` for 0..count, on all threads or in turn.
fn for_each(parallel: bool, count: usize, f: impl Fn(usize) + Sync + Send) {
    if parallel && count > 1 {
        (0..count).into_par_iter().with_max_len(1).for_each(f);
    } else {
        (0..count).for_each(f);
    }
}

/// Length of the blocks that `k` is cut into: even, at most [`K_BLOCK`], a function of `k` alone.
fn k_block(k: usize) -> usize {
    k.div_ceil(k.div_ceil(K_BLOCK)).next_multiple_of(8).min(k)
}

/// Packs `b` per column block, shared; every task packs its own rows of `a`.
unsafe fn by_rows(level: Level, c: Out, a: Mat, b: Mat, how: How) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    let (mr, nr) = tile::shape(level);
    let kc = k_block(k);
    let nc = (B_BYTES / 4 / k).max(1).next_multiple_of(nr).min(n.next_multiple_of(nr));
    let grid = Grid::new(m, nc.min(n), (mr, nr), how.parallel);
    scratch::with(nc * k, |packed| {
        for j0 in (0..n).step_by(nc) {
            let nb = nc.min(n - j0);
            let columns = Lanes::columns(&b, j0, nb);
            let panels = Out::new(packed, k * nr);
            for_each(how.parallel, nb.div_ceil(nr), |j| {
                // SAFETY: panel `j` of the buffer is this task's; its columns lie inside `b`.
                unsafe { pack_panels(level, columns.part(j * nr, nr), k, panels.row(j, 0, k * nr), nr) }
            });
            let packed = &*packed;
            for_each(how.parallel, grid.rows * grid.cols, |t| {
                let (i0, jb) = (t / grid.cols * grid.mc, t % grid.cols * grid.nc);
                if jb >= nb {
                    return;
                }
                let (mb, nb) = (grid.mc.min(m - i0), grid.nc.min(nb - jb));
                scratch::with(mb.next_multiple_of(mr) * kc, |pa| {
                    for p0 in (0..k).step_by(kc) {
                        let kb = kc.min(k - p0);
                        let rows = Lanes::rows(&a, i0, mb).from(p0);
                        // SAFETY: rows i0.. and columns j0 + jb.. of `c` are this task's; `rows` lies inside `a`.
                        unsafe {
                            pack_panels(level, rows, kb, pa, mr);
                            let block = tile::Block {
                                c: c.offset(i0, j0 + jb),
                                a: pa.as_ptr(),
                                a_panel: kb * mr,
                                b: packed.as_ptr().add(jb * k + p0 * nr),
                                b_panel: k * nr,
                                shape: (mb, kb, nb),
                                accumulate: how.accumulate || p0 > 0,
                            };
                            simd::run(level, block);
                        }
                    }
                });
            });
        }
    });
}

/// How the tasks of [`by_rows`] share a block of `c`.
struct Grid {
    rows: usize,
    cols: usize,
    mc: usize,
    nc: usize,
}

impl Grid {
    fn new(m: usize, n: usize, (mr, nr): (usize, usize), parallel: bool) -> Self {
        let mc = m.div_ceil(m.div_ceil(M_BLOCK)).next_multiple_of(mr);
        let rows = m.div_ceil(mc);
        let want = if parallel { 4 * rayon::current_num_threads() } else { 1 };
        let nc = n.div_ceil(want.div_ceil(rows)).next_multiple_of(nr).max(4 * nr);
        Grid { rows, cols: n.div_ceil(nc), mc, nc }
    }
}

/// Packs `a` once; every task packs its own columns of `b`.
unsafe fn by_columns(level: Level, c: Out, a: Mat, b: Mat, how: How) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    let (mr, nr) = tile::shape(level);
    let kc = k_block(k);
    scratch::with(m.next_multiple_of(mr) * k, |packed| {
        // SAFETY: the rows lie inside `a`.
        unsafe { pack_panels(level, Lanes::rows(&a, 0, m), k, packed, mr) };
        let packed = &*packed;
        for_each(how.parallel, n.div_ceil(nr), |j| {
            let nb = nr.min(n - j * nr);
            scratch::with(k * nr, |pb| {
                // SAFETY: columns j * nr.. of `c` are this task's, and lie inside `b`.
                unsafe {
                    pack_panels(level, Lanes::columns(&b, j * nr, nb), k, pb, nr);
                    for p0 in (0..k).step_by(kc) {
                        let block = tile::Block {
                            c: c.offset(0, j * nr),
                            a: packed.as_ptr().add(p0 * mr),
                            a_panel: k * mr,
                            b: pb.as_ptr().add(p0 * nr),
                            b_panel: k * nr,
                            shape: (m, kc.min(k - p0), nb),
                            accumulate: how.accumulate || p0 > 0,
                        };
                        simd::run(level, block);
                    }
                }
            });
        });
    });
}
