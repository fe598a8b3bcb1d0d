//! A whole feed-forward layer, a block of rows at a time: what lies between its products never leaves the caches in full.
//!
//! For the backward pass only what the activation was given is kept, in the products' precision; its result is computed
//! again.

use crate::activation::{Activation, widen, widen_slopes};
use crate::gemm::{How, Kept, Mat, PackedB, Precision, matmul_packed, matmul_packed_serial, matmul_with};
use crate::simd::{self, Level};
use crate::{column_sums, room, scratch};
use rayon::prelude::*;

/// A linear layer's weight `[d_out, d_in]` and bias `[d_out]`.
#[derive(Clone, Copy)]
pub struct Affine<'a> {
    pub weight: &'a [f32],
    pub bias: Option<&'a [f32]>,
}

/// `y = down(f(gate(x)) * up(x))`, or without a gate `y = down(f(up(x)))`; x and y `[rows, d_model]`.
#[derive(Clone, Copy)]
pub struct FeedForward<'a> {
    pub f: Activation,
    pub d_model: usize,
    pub d_ff: usize,
    /// `[d_ff, d_model]`
    pub gate: Option<Affine<'a>>,
    /// `[d_ff, d_model]`
    pub up: Affine<'a>,
    /// `[d_model, d_ff]`
    pub down: Affine<'a>,
    pub precision: Precision,
}

/// What [`feed_forward`] keeps of `gate(x)` (empty without a gate) and `up(x)`: 32-bit floats, or where the processor
/// multiplies 16-bit numbers, such numbers.
#[derive(Clone, Debug, Default)]
pub struct FeedForwardKept {
    pub gate: Vec<f32>,
    pub up: Vec<f32>,
}

/// The gradients of a linear layer; overwritten.
pub struct AffineGrads {
    pub weight: Vec<f32>,
    /// Empty without a bias.
    pub bias: Vec<f32>,
}

/// The gradients of [`feed_forward`]; those that were not wanted are missing.
#[derive(Default)]
pub struct FeedForwardGrads {
    pub x: Option<Vec<f32>>,
    pub gate: Option<AffineGrads>,
    pub up: Option<AffineGrads>,
    pub down: Option<AffineGrads>,
}

/// Which gradients are wanted, weight and bias together.
#[derive(Clone, Copy, Debug)]
pub struct FeedForwardWants {
    pub x: bool,
    pub gate: bool,
    pub up: bool,
    pub down: bool,
}

/// Numbers of a block between the products: they fit the second cache beside the weights that stream through it.
const BLOCK: usize = 1 << 18;
/// Rows of a block are a multiple of every tile's, so that blocks cut no group of rows that share a scale.
const GROUP: usize = 84;
/// Gradients between the products that exist at once, of each layer.
const CHUNK: usize = 1 << 20;

/// Of how many of `rows` rows the backward pass has the gradients between the products at once: about as many in each
/// chunk.
pub fn feed_forward_rows(rows: usize, d_ff: usize) -> usize {
    let chunks = (rows * d_ff).div_ceil(CHUNK).max(1);
    rows.div_ceil(chunks).next_multiple_of(GROUP).min(rows).max(1)
}

/// Words that are kept of a row of `width` numbers between the products.
pub fn feed_forward_kept(width: usize, precision: Precision) -> usize {
    Kept::new(simd::level(), precision).words(width)
}

/// The layer's output, and with `keep` what the backward pass needs.
pub fn feed_forward(l: &FeedForward, x: &[f32], y: &mut [f32], keep: bool) -> FeedForwardKept {
    let rows = l.rows("feed_forward", x, y);
    let (d, ff, level) = (l.d_model, l.d_ff, simd::level());
    let pack =
        |layer: Affine, [d_out, d_in]: [usize; 2]| PackedB::new(Mat::new(layer.weight, d_out, d_in).t(), l.precision);
    let gate = l.gate.map(|gate| (pack(gate, [ff, d]), gate.bias));
    let (up, down) = (pack(l.up, [ff, d]), pack(l.down, [d, ff]));
    let kept = Kept::new(level, l.precision);
    let words = if keep { kept.words(ff) } else { 0 };
    let mut result =
        FeedForwardKept { gate: room(if gate.is_some() { rows * words } else { 0 }), up: room(rows * words) };
    let (block, size) = l.blocks(rows);
    let tasks: Vec<_> = (x.chunks(block * d).zip(y.chunks_mut(block * d)))
        .zip(pieces(&mut result.gate, block * words, size).into_iter().zip(pieces(&mut result.up, block * words, size)))
        .collect();
    tasks.into_par_iter().with_max_len(1).for_each(|((x, y), (keep_gate, keep_up))| {
        let rows = x.len() / d;
        let x = Mat::new(x, rows, d);
        let how = |bias| How { bias, ..How::default() };
        scratch::with(2 * rows * ff, |wide| {
            let (g, u) = wide.split_at_mut(rows * ff);
            matmul_packed_serial(u, x, &up, how(l.up.bias));
            if let Some((weight, bias)) = &gate {
                matmul_packed_serial(g, x, weight, how(*bias));
            }
            if keep {
                kept.put(u, ff, keep_up);
                if gate.is_some() {
                    kept.put(g, ff, keep_gate);
                }
            }
            widen(level, l.f, gate.is_some().then_some(&*g), u);
            matmul_packed_serial(y, Mat::new(u, rows, ff), &down, how(l.down.bias));
        });
    });
    result
}

/// The gradients of [`feed_forward`] for the gradient `dy` of its output, from what it kept.
pub fn feed_forward_backward(
    l: &FeedForward,
    x: &[f32],
    kept: &FeedForwardKept,
    dy: &[f32],
    wants: FeedForwardWants,
) -> FeedForwardGrads {
    let rows = l.rows("feed_forward_backward", x, dy);
    let (d, ff, level) = (l.d_model, l.d_ff, simd::level());
    let words = Kept::new(level, l.precision).words(ff);
    let gated = l.gate.is_some();
    assert_eq!(kept.up.len(), rows * words, "feed_forward_backward: kept {} words of {rows} rows", kept.up.len());
    assert_eq!(
        kept.gate.len(),
        if gated { rows * words } else { 0 },
        "feed_forward_backward: what was kept of the gate"
    );
    let weights = Slopes {
        l,
        level,
        gate: l.gate.filter(|_| wants.x).map(|gate| PackedB::new(Mat::new(gate.weight, ff, d), l.precision)),
        up: wants.x.then(|| PackedB::new(Mat::new(l.up.weight, ff, d), l.precision)),
        down: PackedB::new(Mat::new(l.down.weight, d, ff), l.precision),
    };
    let grads = |wanted: bool, layer: Affine| {
        wanted.then(|| AffineGrads { weight: room(layer.weight.len()), bias: room(layer.bias.map_or(0, <[f32]>::len)) })
    };
    let mut out = FeedForwardGrads {
        x: wants.x.then(|| room(x.len())),
        gate: l.gate.and_then(|gate| grads(wants.gate, gate)),
        up: grads(wants.up, l.up),
        down: grads(wants.down, l.down),
    };
    let chunk = feed_forward_rows(rows, ff);
    let gates = if gated { chunk * ff } else { 0 };
    // Not working memory that the thread keeps: later gradients take its place.
    let mut wide = room(gates + 2 * chunk * ff);
    for from in (0..rows.max(1)).step_by(chunk) {
        let n = chunk.min(rows - from);
        let (g, rest) = wide.split_at_mut(gates);
        let (u, h) = rest.split_at_mut(chunk * ff);
        let (g, u, h) = (&mut g[..if gated { n * ff } else { 0 }], &mut u[..n * ff], &mut h[..n * ff]);
        let at = |data: &'_ [f32], width: usize| from * width..((from + n) * width).min(data.len());
        let (x, dy) = (&x[at(x, d)], &dy[at(dy, d)]);
        let gate_words = &kept.gate[if gated { at(&kept.gate, words) } else { 0..0 }];
        let dx = match &mut out.x {
            Some(dx) => &mut dx[from * d..(from + n) * d],
            None => &mut [],
        };
        weights.run(Wide { g: &mut *g, u: &mut *u, h: &mut *h }, (gate_words, &kept.up[at(&kept.up, words)]), dy, dx);
        let how = How { accumulate: from > 0, precision: l.precision, bias: None };
        let (x, dy) = (Mat::new(x, n, d), Mat::new(dy, n, d));
        if let Some(down) = &mut out.down {
            matmul_with(&mut down.weight, dy.t(), Mat::new(h, n, ff), how);
            add_columns(dy.data, &mut down.bias, from > 0);
        }
        if out.gate.is_some() || out.up.is_some() {
            let x = PackedB::new(x, l.precision);
            for (slopes, grads) in [(g, &mut out.gate), (u, &mut out.up)] {
                if let Some(grads) = grads {
                    matmul_packed(&mut grads.weight, Mat::new(slopes, n, ff).t(), &x, from > 0);
                    add_columns(slopes, &mut grads.bias, from > 0);
                }
            }
        }
    }
    out
}

/// The sums of columns, added to or stored in `sums`; nothing where that is empty.
fn add_columns(data: &[f32], sums: &mut [f32], accumulate: bool) {
    if sums.is_empty() {
        return;
    }
    if !accumulate {
        return column_sums(data, sums);
    }
    let mut more = vec![0.0; sums.len()];
    column_sums(data, &mut more);
    sums.iter_mut().zip(more).for_each(|(sum, x)| *sum += x);
}

/// What the backward pass of a chunk of rows reads.
struct Slopes<'a> {
    l: &'a FeedForward<'a>,
    level: Level,
    gate: Option<PackedB>,
    up: Option<PackedB>,
    down: PackedB,
}

/// What lies between the products, `[rows, d_ff]` each: the gradients of `gate(x)` (empty without a gate) and of
/// `up(x)`, and what `down` was given.
struct Wide<'a> {
    g: &'a mut [f32],
    u: &'a mut [f32],
    h: &'a mut [f32],
}

impl Slopes<'_> {
    /// Fills `wide` and, where it is not empty, `dx`.
    fn run(&self, wide: Wide, (gate, up): (&[f32], &[f32]), dy: &[f32], dx: &mut [f32]) {
        let (l, d, ff) = (self.l, self.l.d_model, self.l.d_ff);
        let kept = Kept::new(self.level, l.precision);
        let words = kept.words(ff);
        let rows = dy.len() / d;
        let (block, size) = l.blocks(rows);
        let shared = |data: &'_ [f32]| -> Vec<std::ops::Range<usize>> {
            let step = if data.is_empty() { 0 } else { block * words };
            (0..size).map(|i| (i * step).min(data.len())..((i + 1) * step).min(data.len())).collect()
        };
        let (gates, ups) = (shared(gate), shared(up));
        let tasks: Vec<_> = (pieces(wide.g, block * ff, size).into_iter().zip(pieces(wide.u, block * ff, size)))
            .zip(pieces(wide.h, block * ff, size).into_iter().zip(pieces(dx, block * d, size)))
            .zip(gates.into_iter().zip(ups).zip(dy.chunks(block * d)))
            .collect();
        tasks.into_par_iter().with_max_len(1).for_each(|(((g, u), (h, dx)), ((gates, ups), dy))| {
            let rows = dy.len() / d;
            matmul_packed_serial(h, Mat::new(dy, rows, d), &self.down, How::default());
            kept.get(&up[ups], ff, u);
            kept.get(&gate[gates], ff, g);
            widen_slopes(self.level, l.f, l.gate.is_some().then_some(&mut *g), u, h);
            if let Some(up) = &self.up {
                matmul_packed_serial(dx, Mat::new(u, rows, ff), up, How::default());
            }
            if let Some(gate) = &self.gate {
                matmul_packed_serial(dx, Mat::new(g, rows, ff), gate, How { accumulate: true, ..How::default() });
            }
        });
    }
}

/// `count` pieces of `len` floats, the last what is left; all empty where `data` is.
fn pieces(data: &mut [f32], len: usize, count: usize) -> Vec<&mut [f32]> {
    if data.is_empty() {
        return (0..count).map(|_| &mut [][..]).collect();
    }
    data.chunks_mut(len).collect()
}

impl FeedForward<'_> {
    /// Rows of a block and how many blocks there are.
    fn blocks(&self, rows: usize) -> (usize, usize) {
        let width = self.d_ff * if self.gate.is_some() { 2 } else { 1 };
        let block = (BLOCK / width.max(1) / GROUP).max(1) * GROUP;
        (block, rows.div_ceil(block))
    }

    /// The rows of `x`, with all lengths checked.
    fn rows(&self, what: &str, x: &[f32], y: &[f32]) -> usize {
        let (d, ff) = (self.d_model, self.d_ff);
        assert!(d > 0 && ff > 0, "{what}: a layer of {d} by {ff}");
        assert!(
            x.len() == y.len() && x.len().is_multiple_of(d),
            "{what}: {} and {} floats of width {d}",
            x.len(),
            y.len()
        );
        for (name, layer, d_out) in [("gate", self.gate, ff), ("up", Some(self.up), ff), ("down", Some(self.down), d)] {
            if let Some(layer) = layer {
                let (weight, bias) = (layer.weight.len(), layer.bias.map_or(d_out, <[f32]>::len));
                assert_eq!(weight, d * ff, "{what}: {name} has {weight} weights, {d} by {ff}");
                assert_eq!(bias, d_out, "{what}: the bias of {name} has {bias} numbers, {d_out} outputs");
            }
        }
        x.len() / d
    }
}
