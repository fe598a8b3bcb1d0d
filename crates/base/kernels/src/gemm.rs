//! Matrix products `c[m, n] (+)= a[m, k] · b[k, n]` of 32-bit floats, for any strides of `a` and `b`.
//!
//! Large products go through packed panels and a register tile, as in BLIS: `b` is packed once per column block and
//! shared, each task packs its own rows of `a`. Packing converts to the numbers that are multiplied ([`Precision`]). Up
//! to [`small::MAX_ROWS`] rows (decoding) nothing is packed, and up to [`FEW_ROWS`] nothing is converted.
//!
//! Every element of `c` is the same chain of fused multiply-adds over `k` (in blocks that depend on `k` alone), in
//! whichever tile or task it falls, so the result does not depend on how the work is split.

use crate::scratch;
use crate::simd::{self, Level};
use rayon::prelude::*;

mod format;
#[cfg(target_arch = "x86_64")]
mod half;
mod kept;
mod pack;
#[cfg(target_arch = "x86_64")]
pub(crate) mod pack_half;
mod panels;
mod shared;
pub(crate) mod small;
mod tile;

pub(crate) use format::Format;
pub use format::Precision;
pub(crate) use kept::Kept;
pub use panels::PackedB;
pub use shared::{Each, matmul_each, matmul_sum};

use format::Side;
use pack::{Lanes, pack_panels};
use panels::Panels;

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
        assert!(data.len() >= rows.saturating_mul(cols), "Mat: {} floats cannot hold [{rows}, {cols}]", data.len());
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

    /// `count` rows from `first`.
    pub(crate) fn part(self, first: usize, count: usize) -> Self {
        Mat { data: &self.data[first * self.row_stride..], rows: count, ..self }
    }

    /// `count` columns from `first`.
    fn columns(self, first: usize, count: usize) -> Self {
        Mat { data: &self.data[first * self.col_stride..], cols: count, ..self }
    }

    fn check(&self, name: &str) {
        if self.rows > 0 && self.cols > 0 {
            // Saturating: a sum that wrapped around would let a view reach outside its data.
            let last = |count: usize, stride: usize| (count - 1).saturating_mul(stride);
            let need = last(self.rows, self.row_stride).saturating_add(last(self.cols, self.col_stride));
            let need = need.saturating_add(1);
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

/// Rows of `a` that a task packs at a time, at most, and (where there are enough) at least, about. Short blocks spread the
/// work evenly, but each goes through all of a block of `b`: where that is more than [`NEAR_BYTES`], which stay in the
/// second cache, blocks are longer.
const M_BLOCK: usize = 126;
const M_BLOCK_FAR: usize = 252;
const NEAR_BYTES: usize = 1 << 20;
const MIN_ROWS: usize = 56;
/// A longer `k` goes in stretches of this length, a multiple of every block's.
const K_STRETCH: usize = 8192;
/// Bytes of packed `b` shared by all tasks.
const B_BYTES: usize = 8 << 20;
/// Up to this many rows: pack `a` once, and let each task pack its own columns of `b`.
pub(crate) const FEW_ROWS: usize = 64;
/// Up to this many elements `b` is packed at once for any number of rows: it stays in the caches.
const SMALL_B: usize = 1 << 16;
/// Fewer multiply-adds than this run on the calling thread.
const SERIAL_WORK: usize = 1 << 18;

/// How a product is computed.
#[derive(Clone, Copy, Default)]
pub struct How<'a> {
    /// Adds to `c` instead of overwriting it.
    pub accumulate: bool,
    /// What is multiplied; of up to 64 rows of `a` the factors are not rounded.
    pub precision: Precision,
    /// Added to every row, `[n]`.
    pub bias: Option<&'a [f32]>,
}

/// `c[m, n] = a · b`, or `c += a · b` with `accumulate`. `c` is contiguous and row-major.
pub fn matmul(c: &mut [f32], a: Mat, b: Mat, accumulate: bool) {
    matmul_with(c, a, b, How { accumulate, ..How::default() });
}

/// [`matmul`] with factors of another precision, or with a bias.
pub fn matmul_with(c: &mut [f32], a: Mat, b: Mat, how: How) {
    assert_eq!(a.cols, b.rows, "matmul: a is [{}, {}], b is [{}, {}]", a.rows, a.cols, b.rows, b.cols);
    assert_eq!(
        c.len(),
        a.rows.saturating_mul(b.cols),
        "matmul: c has {} floats, a · b is [{}, {}]",
        c.len(),
        a.rows,
        b.cols
    );
    if let Some(bias) = how.bias {
        assert_eq!(bias.len(), b.cols, "matmul: a bias of {} numbers, but c has {} columns", bias.len(), b.cols);
    }
    a.check("a");
    b.check("b");
    let out = Out::new(c, b.cols);
    let work = Work { how, parallel: in_parallel(&a, b.cols) };
    // SAFETY: `c` holds m x n floats, and a and b were checked against their lengths.
    unsafe { product_with(simd::level(), out, a, b, work) }
}

/// [`matmul`] with a `b` that was packed before, in its precision.
pub fn matmul_packed(c: &mut [f32], a: Mat, b: &PackedB, accumulate: bool) {
    packed((c, b.n()), a, b, Work { how: How { accumulate, ..How::default() }, parallel: in_parallel(&a, b.n()) });
}

/// [`matmul_packed`] on the calling thread.
pub(crate) fn matmul_packed_serial(c: &mut [f32], a: Mat, b: &PackedB, how: How) {
    packed((c, b.n()), a, b, Work { how, parallel: false });
}

/// A product into rows `stride` apart, of which `c` holds all; `b` in the precision of `how`, or packed.
pub(crate) fn matmul_strided(c: &mut [f32], stride: usize, a: Mat, b: Factor, how: How) {
    let parallel = in_parallel(&a, b.n());
    match b {
        Factor::Packed(b) => packed((c, stride), a, b, Work { how, parallel }),
        Factor::Plain(b) => {
            check_rows((c, stride), a, (b.rows, b.cols));
            b.check("b");
            // SAFETY: `c` was checked, as were a and b.
            unsafe { product_with(simd::level(), Out::new(c, stride), a, b, Work { how, parallel }) }
        }
    }
}

/// The right factor of a product.
#[derive(Clone, Copy)]
pub(crate) enum Factor<'a> {
    Plain(Mat<'a>),
    Packed(&'a PackedB),
}

impl Factor<'_> {
    fn n(&self) -> usize {
        match self {
            Factor::Plain(b) => b.cols,
            Factor::Packed(b) => b.n(),
        }
    }
}

fn check_rows((c, stride): (&[f32], usize), a: Mat, (k, n): (usize, usize)) {
    assert_eq!(a.cols, k, "matmul: a is [{}, {}], b is [{k}, {n}]", a.rows, a.cols);
    let room = stride >= n && c.len() == a.rows.saturating_mul(stride);
    assert!(room, "matmul: c has {} floats {stride} to a row, a · b is [{}, {n}]", c.len(), a.rows);
    a.check("a");
}

fn packed((c, stride): (&mut [f32], usize), a: Mat, b: &PackedB, work: Work) {
    let (k, n) = (b.k(), b.n());
    check_rows((c, stride), a, (k, n));
    if a.rows == 0 || n == 0 {
        return;
    }
    let c = Out::new(c, stride);
    // SAFETY: `c` holds m rows, `a` was checked, and `b` holds panels of all its columns.
    unsafe {
        if k == 0 {
            if !work.how.accumulate {
                (0..a.rows).for_each(|i| c.row(i, 0, n).fill(0.0));
            }
            add_bias(c, (a.rows, n), work.how.bias);
            return;
        }
        let columns = Columns { c, packed: b.words(), n, bias: work.how.bias, accumulate: work.how.accumulate };
        multiply(a, b.panels(), columns, work.parallel);
    }
}

/// Whether a product is worth the other threads.
fn in_parallel(a: &Mat, n: usize) -> bool {
    a.rows * a.cols * n >= SERIAL_WORK && rayon::current_num_threads() > 1
}

/// [`matmul`] into strided rows, on all threads.
///
/// # Safety
/// `c` must be writable for `a.rows` rows of `b.cols` floats, by this call alone; `a` and `b` lie inside their data.
pub(crate) unsafe fn product(level: Level, c: Out, a: Mat, b: Mat, accumulate: bool) {
    let work = Work { how: How { accumulate, ..How::default() }, parallel: in_parallel(&a, b.cols) };
    // SAFETY: passed on.
    unsafe { product_with(level, c, a, b, work) }
}

/// [`matmul`] into strided rows, on the calling thread.
///
/// # Safety
/// As [`product`].
pub(crate) unsafe fn product_serial(level: Level, c: Out, a: Mat, b: Mat, accumulate: bool) {
    let work = Work { how: How { accumulate, ..How::default() }, parallel: false };
    // SAFETY: passed on.
    unsafe { product_with(level, c, a, b, work) }
}

#[derive(Clone, Copy)]
struct Work<'a> {
    how: How<'a>,
    parallel: bool,
}

unsafe fn product_with(level: Level, c: Out, a: Mat, b: Mat, work: Work) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    if m == 0 || n == 0 {
        return;
    }
    // SAFETY: shapes are the caller's promise and passed on unchanged; a single column of stride 1 is a row, and has one
    // bias for all.
    unsafe {
        if n == 1 && c.stride == 1 && m > 1 && work.how.bias.is_none() {
            let row = Out { stride: m, ..c };
            return product_with(level, row, b.t(), a.t(), work);
        }
        if k > 0 && (m > FEW_ROWS || k * n <= SMALL_B && m > small::MAX_ROWS) {
            return by_rows(level, c, a, b, work);
        }
        if k == 0 {
            if !work.how.accumulate {
                (0..m).for_each(|i| c.row(i, 0, n).fill(0.0));
            }
        } else if m <= small::MAX_ROWS && (b.row_stride == 1 || b.col_stride == 1) {
            small::product(level, c, a, b, work);
        } else {
            by_columns(level, c, a, b, work);
        }
        add_bias(c, (m, n), work.how.bias);
    }
}

/// Adds the bias to each of `rows` by `cols` of `c`.
///
/// # Safety
/// They must be writable, by this call alone.
unsafe fn add_bias(c: Out, (rows, cols): (usize, usize), bias: Option<&[f32]>) {
    let Some(bias) = bias else { return };
    for i in 0..rows {
        // SAFETY: the caller's promise.
        let row = unsafe { c.row(i, 0, cols) };
        row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
    }
}

/// A loop of register tiles in a 16-bit precision that returns its operations; none where the CPU lacks it.
pub(crate) fn peak_loop(precision: Precision) -> Option<fn() -> f64> {
    match Format::new(simd::level(), precision) {
        #[cfg(target_arch = "x86_64")]
        Format::Bf16 => Some(half::peak_loop::<false>),
        #[cfg(target_arch = "x86_64")]
        Format::F16 => Some(half::peak_loop::<true>),
        _ => None,
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

/// Packs `b` per column block, shared; every task packs its own rows of `a`. A long `k` goes in stretches, so that many
/// columns of `b` fit the buffer.
unsafe fn by_rows(level: Level, c: Out, a: Mat, b: Mat, work: Work) {
    let (k, n) = (b.rows, b.cols);
    if k > K_STRETCH {
        for p0 in (0..k).step_by(K_STRETCH) {
            let count = K_STRETCH.min(k - p0);
            let accumulate = work.how.accumulate || p0 > 0;
            let bias = work.how.bias.filter(|_| p0 + count == k);
            let work = Work { how: How { accumulate, bias, ..work.how }, ..work };
            // SAFETY: passed on; the stretches lie inside `a` and `b`.
            unsafe { by_rows(level, c, a.columns(p0, count), b.t().columns(p0, count).t(), work) };
        }
        return;
    }
    let precision = if a.rows <= FEW_ROWS { Precision::F32 } else { work.how.precision };
    let panels = Panels::new(level, Format::new(level, precision), Side::B, k);
    let nr = panels.width;
    let nc = (B_BYTES / 4 * nr / panels.words()).max(1).next_multiple_of(nr).min(n.next_multiple_of(nr));
    scratch::with(nc / nr * panels.words(), |packed| {
        for j0 in (0..n).step_by(nc) {
            let nb = nc.min(n - j0);
            // SAFETY: the columns lie inside `b`, and columns j0.. of `c` are the caller's.
            unsafe {
                panels.pack_all(Lanes::columns(&b, j0, nb), packed, work.parallel);
                let bias = work.how.bias.map(|bias| &bias[j0..j0 + nb]);
                let c = c.offset(0, j0);
                let columns = Columns { c, packed, n: nb, bias, accumulate: work.how.accumulate };
                multiply(a, &panels, columns, work.parallel);
            }
        }
    });
}

/// Packed columns of a right factor, and where their products go.
#[derive(Clone, Copy)]
struct Columns<'a> {
    c: Out,
    packed: &'a [f32],
    n: usize,
    bias: Option<&'a [f32]>,
    accumulate: bool,
}

/// The products of `a` with the columns of a right factor.
///
/// # Safety
/// As [`product`]; `packed` holds the panels of `n` columns.
unsafe fn multiply(a: Mat, b: &Panels, columns: Columns, parallel: bool) {
    let grid = Grid::new(a.rows, columns.n, b, parallel);
    for_each(parallel, grid.rows * grid.cols, |t| {
        let (i0, j0) = (t / grid.cols * grid.mc, t % grid.cols * grid.nc);
        // SAFETY: rows i0.. and columns j0.. of `c` are this task's, and the rows lie inside `a`.
        unsafe { rows_by_columns(a, (i0, grid.mc.min(a.rows - i0)), b, &[columns], (j0, grid.nc)) };
    });
}

/// At most `nc` columns from `j0` of the products of `mb` rows from `i0` with the columns of right factors, whose layout is
/// the same: the rows are packed once for all.
///
/// # Safety
/// These elements of each `c` must be writable, by this call alone; each `packed` holds the panels of its columns.
unsafe fn rows_by_columns(a: Mat, (i0, mb): (usize, usize), b: &Panels, columns: &[Columns], (j0, nc): (usize, usize)) {
    let (k, level) = (a.cols, b.level);
    let longest = Panels::of_rows(level, b.format, b.kc, a.col_stride == 1);
    scratch::with(mb.div_ceil(longest.width) * longest.words(), |pa| {
        for (block, p0) in (0..k).step_by(b.kc).enumerate() {
            let kb = b.kc.min(k - p0);
            let rows = Panels::of_rows(level, b.format, kb, a.col_stride == 1);
            // SAFETY: the rows lie inside `a`.
            unsafe { rows.pack_all(Lanes::rows(&a, i0, mb).from(p0), pa, false) };
            for columns in columns {
                let bias = columns.bias.filter(|_| p0 + kb == k).map_or(std::ptr::null(), |bias| bias[j0..].as_ptr());
                // SAFETY: the caller's promises.
                unsafe {
                    let panel = columns.packed.as_ptr().add(j0 / b.width * b.words());
                    let block = tile::Block {
                        c: columns.c.offset(i0, j0),
                        a: pa.as_ptr(),
                        a_panel: rows.words(),
                        b: panel.add(b.block_at(block)),
                        b_panel: b.words(),
                        a_rows: rows.stride(),
                        a_scale: pa.as_ptr().wrapping_add(rows.scale_at(0)),
                        b_scale: panel.wrapping_add(b.scale_at(block)),
                        shape: (mb, kb, nc.min(columns.n - j0)),
                        accumulate: columns.accumulate || p0 > 0,
                        bias,
                    };
                    run(level, b.format, block);
                }
            }
        }
    });
}

/// # Safety
/// Whoever made the block vouches for its panels and for `c`.
unsafe fn run(level: Level, format: Format, block: tile::Block) {
    match format {
        #[cfg(target_arch = "x86_64")]
        Format::Bf16 | Format::F16 => {
            // SAFETY: these formats exist only where the CPU has their instructions.
            unsafe { half::run(&block, format) }
        }
        _ => simd::run(level, block),
    }
}

/// How the tasks of [`multiply`] share `c`.
struct Grid {
    rows: usize,
    cols: usize,
    mc: usize,
    nc: usize,
}

impl Grid {
    fn new(m: usize, n: usize, b: &Panels, parallel: bool) -> Self {
        let nr = b.width;
        let threads = rayon::current_num_threads();
        let want = if parallel { 4 * threads } else { 1 };
        let mc = rows_of_block(m, n, b, want);
        let rows = m.div_ceil(mc);
        // More, shorter blocks of rows before blocks of columns, for which rows would be packed more than once. Two blocks
        // of rows to a thread are enough, and no block of columns is narrower than four tiles.
        let cols = if rows >= 2 * threads { 1 } else { want.div_ceil(rows).min(n / (4 * nr)).max(1) };
        let nc = n.div_ceil(cols).next_multiple_of(nr);
        Grid { rows, cols: n.div_ceil(nc), mc, nc }
    }
}

/// Rows of a block of `a`, of `m`, that is multiplied with `n` columns, where `want` blocks are wanted.
fn rows_of_block(m: usize, n: usize, b: &Panels, want: usize) -> usize {
    let near = 4 * b.block_words(n) <= NEAR_BYTES;
    let blocks = m.div_ceil(if near { M_BLOCK } else { M_BLOCK_FAR }).max(want.min(m / MIN_ROWS));
    m.div_ceil(blocks.max(1)).next_multiple_of(b.format.tile(b.level).0)
}

/// Packs `a` once; every task packs its own columns of `b`. Always in 32-bit floats.
unsafe fn by_columns(level: Level, c: Out, a: Mat, b: Mat, work: Work) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    let (mr, nr) = tile::shape(level);
    let kc = panels::k_block(k);
    scratch::with(m.next_multiple_of(mr) * k, |packed| {
        // SAFETY: the rows lie inside `a`.
        unsafe { pack_panels(level, Lanes::rows(&a, 0, m), k, packed, mr) };
        let packed = &*packed;
        for_each(work.parallel, n.div_ceil(nr), |j| {
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
                            a_rows: None,
                            a_scale: std::ptr::null(),
                            b_scale: std::ptr::null(),
                            shape: (m, kc.min(k - p0), nb),
                            accumulate: work.how.accumulate || p0 > 0,
                            bias: std::ptr::null(),
                        };
                        simd::run(level, block);
                    }
                }
            });
        });
    });
}
