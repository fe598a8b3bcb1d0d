//! Every operation as its definition reads: plain loops, sums in double precision. What the fast versions are tested
//! against, and where to look up what they compute.

use crate::{
    Activation, AttentionGrads, AttentionSaved, AttentionShape, Dropout, IGNORE, LinearLoss, Mat, Norm, NormGrads,
    NormSaved, NormStats, Q8, Rope, Spans, philox,
};

mod experts;
mod ffn;
mod listed;
mod logic;
mod min_hash;
mod optim;
mod recurrent;
mod scan;

pub use experts::*;
pub use ffn::*;
pub use listed::*;
pub use logic::logic;
pub use min_hash::min_hash;
pub use optim::{adafactor_matrix, adafactor_vector, adamw, add_with_squares, lion, muon, sgd, sum_of_squares};
pub use recurrent::*;
pub use scan::*;

/// See [`crate::matmul`].
pub fn matmul(c: &mut [f32], a: Mat, b: Mat, accumulate: bool) {
    let at = |m: &Mat, i: usize, j: usize| f64::from(m.data[i * m.row_stride + j * m.col_stride]);
    for i in 0..a.rows {
        for j in 0..b.cols {
            let sum: f64 = (0..a.cols).map(|p| at(&a, i, p) * at(&b, p, j)).sum();
            let old = if accumulate { c[i * b.cols + j] } else { 0.0 };
            c[i * b.cols + j] = (f64::from(old) + sum) as f32;
        }
    }
}

/// The scores of query `i` of head `h` in batch row `b` against the keys of its span, and their slopes.
fn scores(
    q: &[f32],
    k: &[f32],
    s: &AttentionShape,
    spans: &Spans,
    (b, i, h): (usize, usize, usize),
) -> Vec<(f64, f64)> {
    let query = &q[query(s, b, i, h) * s.d_head..][..s.d_head];
    let scale = f64::from(s.scale);
    span(s, spans, b, i)
        .map(|j| {
            let key = &k[key(s, b, j, h) * s.d_head..][..s.d_head];
            let dot: f64 = query.iter().zip(key).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
            let distance = j as f64 - (i as f64 + s.seq_k as f64 - s.seq_q as f64);
            let bias = s.slopes.map_or(0.0, |slopes| f64::from(slopes[h]) * distance);
            match s.soft_cap.map(f64::from) {
                None => (dot * scale + bias, scale),
                Some(cap) => {
                    let t = (dot * scale / cap).tanh();
                    (cap * t + bias, scale * (1.0 - t * t))
                }
            }
        })
        .collect()
}

/// Which of the queries `[B, Tq, H]`.
fn query(s: &AttentionShape, b: usize, i: usize, h: usize) -> usize {
    (b * s.seq_q + i) * s.n_heads + h
}

/// Which of the keys `[B, Tk, Hkv]`.
fn key(s: &AttentionShape, b: usize, j: usize, h: usize) -> usize {
    (b * s.seq_k + j) * s.n_kv_heads + h / (s.n_heads / s.n_kv_heads)
}

fn span(s: &AttentionShape, spans: &Spans, b: usize, i: usize) -> std::ops::Range<usize> {
    let at = b * s.seq_q + i;
    spans.lo[at] as usize..(spans.hi[at] as usize).max(spans.lo[at] as usize)
}

fn queries(s: &AttentionShape) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
    let (batch, heads, seq) = (s.batch, s.n_heads, s.seq_q);
    (0..batch * heads * seq).map(move |t| (t / seq / heads, t % seq, t / seq % heads))
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// See [`crate::attention_forward`].
pub fn attention_forward(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
    lse: &mut [f32],
    s: &AttentionShape,
    spans: &Spans,
) {
    for (b, i, h) in queries(s) {
        let scores = scores(q, k, s, spans, (b, i, h));
        let max = scores.iter().fold(f64::NEG_INFINITY, |m, x| m.max(x.0));
        let sum: f64 = scores.iter().map(|x| (x.0 - max).exp()).sum();
        lse[(b * s.n_heads + h) * s.seq_q + i] = (max + sum.ln()) as f32;
        for d in 0..s.d_value {
            let value = |j| f64::from(v[key(s, b, j, h) * s.d_value + d]);
            let keys = scores.iter().zip(span(s, spans, b, i));
            let x: f64 = keys.map(|(x, j)| (x.0 - max).exp() / sum * value(j)).sum();
            out[query(s, b, i, h) * s.d_value + d] = x as f32;
        }
    }
}

/// See [`crate::attention_backward`].
pub fn attention_backward(
    saved: &AttentionSaved,
    d_out: &[f32],
    grads: &mut AttentionGrads,
    s: &AttentionShape,
    spans: &Spans,
) {
    let (mut dq, mut dk, mut dv) = (vec![0.0; saved.q.len()], vec![0.0; saved.k.len()], vec![0.0; saved.v.len()]);
    for (b, i, h) in queries(s) {
        let scores = scores(saved.q, saved.k, s, spans, (b, i, h));
        let lse = f64::from(saved.lse[(b * s.n_heads + h) * s.seq_q + i]);
        let query = query(s, b, i, h);
        let d_out = &d_out[query * s.d_value..][..s.d_value];
        let dot = |x: &[f32], at: usize| -> f64 {
            d_out.iter().zip(&x[at * s.d_value..]).map(|(d, x)| f64::from(*d) * f64::from(*x)).sum()
        };
        let delta = dot(saved.out, query);
        for ((score, slope), j) in scores.into_iter().zip(span(s, spans, b, i)) {
            let key = key(s, b, j, h);
            let p = (score - lse).exp();
            let ds = p * (dot(saved.v, key) - delta) * slope;
            for d in 0..s.d_value {
                dv[key * s.d_value + d] += p * f64::from(d_out[d]);
            }
            for d in 0..s.d_head {
                dk[key * s.d_head + d] += ds * f64::from(saved.q[query * s.d_head + d]);
                dq[query * s.d_head + d] += ds * f64::from(saved.k[key * s.d_head + d]);
            }
        }
    }
    for (to, from) in [(&mut *grads.dq, dq), (&mut *grads.dk, dk), (&mut *grads.dv, dv)] {
        to.iter_mut().zip(from).for_each(|(to, x)| *to = x as f32);
    }
}

/// See [`crate::norm_forward`].
pub fn norm_forward(norm: &Norm, x: &[f32], y: &mut [f32], stats: NormStats<'_>) {
    let d = norm.w.len();
    for i in 0..stats.rstd.len() {
        let row: Vec<f64> = x[i * d..][..d].iter().map(|x| f64::from(*x)).collect();
        let mean = if norm.center { row.iter().sum::<f64>() / d as f64 } else { 0.0 };
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64;
        let rstd = 1.0 / (variance + f64::from(norm.eps)).sqrt();
        for j in 0..d {
            let shift = norm.b.map_or(0.0, |b| f64::from(b[j]));
            y[i * d + j] = ((row[j] - mean) * rstd * f64::from(norm.w[j]) + shift) as f32;
        }
        stats.rstd[i] = rstd as f32;
        if norm.center {
            stats.mean[i] = mean as f32;
        }
    }
}

/// See [`crate::add_norm_forward`].
pub fn add_norm_forward(norm: &Norm, x: &[f32], sum: &mut [f32], y: &mut [f32], stats: NormStats<'_>) {
    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
    norm_forward(norm, sum, y, stats);
}

/// See [`crate::norm_backward`].
pub fn norm_backward(norm: &Norm, saved: &NormSaved, dy: &[f32], d_sum: Option<&[f32]>, grads: NormGrads<'_>) {
    let d = norm.w.len();
    let (mut dw, mut db) = (vec![0.0f64; d], vec![0.0f64; d]);
    for i in 0..saved.rstd.len() {
        let rstd = f64::from(saved.rstd[i]);
        let mean = if norm.center { f64::from(saved.mean[i]) } else { 0.0 };
        let at = |x: &[f32], j: usize| f64::from(x[i * d + j]);
        let (unit, g): (Vec<f64>, Vec<f64>) =
            (0..d).map(|j| ((at(saved.x, j) - mean) * rstd, at(dy, j) * f64::from(norm.w[j]))).unzip();
        let lift = if norm.center { g.iter().sum::<f64>() / d as f64 } else { 0.0 };
        let dot = g.iter().zip(&unit).map(|(g, u)| g * u).sum::<f64>() / d as f64;
        for j in 0..d {
            let through = d_sum.map_or(0.0, |d_sum| at(d_sum, j));
            grads.dx[i * d + j] = (through + rstd * (g[j] - lift - unit[j] * dot)) as f32;
            dw[j] += at(dy, j) * unit[j];
            db[j] += at(dy, j);
        }
    }
    grads.dw.iter_mut().zip(dw).for_each(|(to, x)| *to = x as f32);
    if let Some(to) = grads.db {
        to.iter_mut().zip(db).for_each(|(to, x)| *to = x as f32);
    }
}

/// See [`crate::rope`].
pub fn rope(x: &mut [f32], how: &Rope) {
    let Rope { positions, table, n_heads, d_head, inverse } = *how;
    let half = table.rotary_dim / 2;
    for (n, &pos) in positions.iter().enumerate() {
        for h in 0..n_heads {
            let head = &mut x[(n * n_heads + h) * d_head..][..d_head];
            for i in 0..half {
                let (cos, sin) = (table.cos[pos as usize * half + i], table.sin[pos as usize * half + i]);
                let sin = if inverse { -sin } else { sin };
                let (a, b) = (head[i], head[half + i]);
                head[i] = a * cos - b * sin;
                head[half + i] = b * cos + a * sin;
            }
        }
    }
}

/// An activation and its slope.
fn curve(f: Activation, x: f64) -> (f64, f64) {
    match f {
        Activation::Silu => {
            let sig = 1.0 / (1.0 + (-x).exp());
            (x * sig, sig * (1.0 + x * (1.0 - sig)))
        }
        Activation::GeluTanh => {
            let scale = (2.0 / std::f64::consts::PI).sqrt();
            let t = (scale * (x + 0.044_715 * x.powi(3))).tanh();
            let slope = scale * (1.0 + 3.0 * 0.044_715 * x * x);
            (0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope)
        }
        Activation::GeluErf => {
            let phi = 0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2));
            (x * phi, phi + x * (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt())
        }
        Activation::Relu => (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }),
        Activation::ReluSquared => (x.max(0.0).powi(2), 2.0 * x.max(0.0)),
    }
}

/// Its power series times e^-x² (Abramowitz and Stegun, 7.1.6), which has no cancellation.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

/// See [`crate::activation_forward`].
pub fn activation_forward(f: Activation, x: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y = curve(f, f64::from(*x)).0 as f32);
}

/// See [`crate::activation_backward`].
pub fn activation_backward(f: Activation, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    for i in 0..dy.len() {
        dx[i] = (f64::from(dy[i]) * curve(f, f64::from(x[i])).1) as f32;
    }
}

/// See [`crate::gated_forward`].
pub fn gated_forward(f: Activation, gate: &[f32], up: &[f32], y: &mut [f32]) {
    for i in 0..y.len() {
        y[i] = (curve(f, f64::from(gate[i])).0 * f64::from(up[i])) as f32;
    }
}

/// See [`crate::gated_backward`].
pub fn gated_backward(f: Activation, gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    for i in 0..dy.len() {
        let (value, slope) = curve(f, f64::from(gate[i]));
        dgate[i] = (f64::from(dy[i]) * f64::from(up[i]) * slope) as f32;
        dup[i] = (f64::from(dy[i]) * value) as f32;
    }
}

/// See [`crate::column_sums`].
pub fn column_sums(x: &[f32], sums: &mut [f32]) {
    let d = sums.len();
    for (j, sum) in sums.iter_mut().enumerate() {
        *sum = x.iter().skip(j).step_by(d).map(|&x| f64::from(x)).sum::<f64>() as f32;
    }
}

/// See [`crate::embedding_forward`].
pub fn embedding_forward(table: &[f32], ids: &[u32], d: usize, y: &mut [f32]) {
    for (i, &id) in ids.iter().enumerate() {
        y[i * d..][..d].copy_from_slice(&table[id as usize * d..][..d]);
    }
}

/// See [`crate::embedding_backward`].
pub fn embedding_backward(dy: &[f32], ids: &[u32], d: usize, dtable: &mut [f32]) {
    dtable.fill(0.0);
    for (i, &id) in ids.iter().enumerate() {
        for j in 0..d {
            dtable[id as usize * d + j] += dy[i * d + j];
        }
    }
}

/// Row `i`'s logits and the log of the sum of their exponentials.
fn logits(l: &LinearLoss, i: usize) -> (Vec<f64>, f64) {
    let x = &l.x[i * l.d_model..][..l.d_model];
    let logits: Vec<f64> = (0..l.vocab)
        .map(|v| l.w[v * l.d_model..][..l.d_model].iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum())
        .collect();
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let lse = max + logits.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
    (logits, lse)
}

/// See [`crate::linear_nll_forward`].
pub fn linear_nll_forward(l: &LinearLoss, nll: &mut [f32], lse: &mut [f32]) {
    for (i, &t) in l.targets.iter().enumerate() {
        (nll[i], lse[i]) = (0.0, 0.0);
        if t != IGNORE {
            let (z, sum) = logits(l, i);
            let (smooth, z_loss) = (f64::from(l.form.label_smoothing), f64::from(l.form.z_loss));
            // -log p of the target and its mean over all tokens.
            let (wanted, all) = (sum - z[t as usize], sum - z.iter().sum::<f64>() / l.vocab as f64);
            let loss = (1.0 - smooth) * wanted + smooth * all + z_loss * sum * sum;
            (nll[i], lse[i]) = (loss as f32, sum as f32);
        }
    }
}

/// See [`crate::linear_nll_backward`]; takes the log-sum-exp from the logits.
pub fn linear_nll_backward(l: &LinearLoss, d_nll: &[f32], dx: &mut [f32], dw: &mut [f32]) {
    let d = l.d_model;
    let (mut sx, mut sw) = (vec![0.0f64; dx.len()], vec![0.0f64; dw.len()]);
    for (i, &t) in l.targets.iter().enumerate().filter(|(_, t)| **t != IGNORE) {
        let (z, lse) = logits(l, i);
        for v in 0..l.vocab {
            let (smooth, z_loss) = (f64::from(l.form.label_smoothing), f64::from(l.form.z_loss));
            let hit = if v == t as usize { 1.0 } else { 0.0 };
            let wanted = (1.0 - smooth) * hit + smooth / l.vocab as f64;
            let dz = ((z[v] - lse).exp() * (1.0 + 2.0 * z_loss * lse) - wanted) * f64::from(d_nll[i]);
            for j in 0..d {
                sx[i * d + j] += dz * f64::from(l.w[v * d + j]);
                sw[v * d + j] += dz * f64::from(l.x[i * d + j]);
            }
        }
    }
    dx.iter_mut().zip(sx).for_each(|(to, x)| *to = x as f32);
    dw.iter_mut().zip(sw).for_each(|(to, x)| *to = x as f32);
}

/// See [`crate::linear_cross_entropy`].
pub fn linear_cross_entropy(l: &LinearLoss, weights: &[f32], nll: &mut [f32], dx: &mut [f32], dw: &mut [f32]) {
    linear_nll_forward(l, nll, &mut vec![0.0; nll.len()]);
    linear_nll_backward(l, weights, dx, dw);
}

/// See [`crate::dequantize_q8`].
pub fn dequantize_q8(m: &Q8, out: &mut [f32]) {
    let groups = m.cols.div_ceil(m.group);
    for i in 0..m.rows {
        for j in 0..m.cols {
            out[i * m.cols + j] = f32::from(m.q[i * m.cols + j]) * m.scales[i * groups + j / m.group];
        }
    }
}

/// See [`crate::matmul_q8`].
pub fn matmul_q8(x: &[f32], m: &Q8, y: &mut [f32]) {
    let mut w = vec![0.0; m.q.len()];
    dequantize_q8(m, &mut w);
    let n = x.len().checked_div(m.cols).unwrap_or(0);
    matmul(y, Mat::new(x, n, m.cols), Mat::new(&w, m.rows, m.cols).t(), false);
}

/// See [`crate::log_softmax_rows`].
pub fn log_softmax_rows(x: &[f32], cols: usize, y: &mut [f32]) {
    for (x, y) in x.chunks(cols).zip(y.chunks_mut(cols)) {
        let max = x.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
        let lse = max + x.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln();
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = (f64::from(x) - lse) as f32);
    }
}

/// See [`crate::softmax_rows`].
pub fn softmax_rows(x: &[f32], cols: usize, y: &mut [f32]) {
    for (x, y) in x.chunks(cols).zip(y.chunks_mut(cols)) {
        let max = x.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(f64::from(x)));
        let sum: f64 = x.iter().map(|&x| (f64::from(x) - max).exp()).sum();
        y.iter_mut().zip(x).for_each(|(y, &x)| *y = ((f64::from(x) - max).exp() / sum) as f32);
    }
}

/// See [`crate::softmax_rows_backward`].
pub fn softmax_rows_backward(y: &[f32], dy: &[f32], cols: usize, dx: &mut [f32]) {
    for ((y, dy), dx) in y.chunks(cols).zip(dy.chunks(cols)).zip(dx.chunks_mut(cols)) {
        let dot: f64 = y.iter().zip(dy).map(|(y, g)| f64::from(*y) * f64::from(*g)).sum();
        for j in 0..dx.len() {
            dx[j] = (f64::from(y[j]) * (f64::from(dy[j]) - dot)) as f32;
        }
    }
}

/// See [`crate::dropout`].
pub fn dropout(d: &Dropout, x: &[f32], y: &mut [f32]) {
    let halves = |x: u64| [x as u32, (x >> 32) as u32];
    for i in 0..x.len() {
        let ([low, high], [s0, s1]) = (halves((i / 64 * 16 + i % 16) as u64), halves(d.stream));
        let random = philox([low, high, s0, s1], halves(d.seed))[i % 64 / 16];
        let kept = f64::from(random) / 4_294_967_296.0 >= f64::from(d.p);
        y[i] = x[i] * if kept { 1.0 / (1.0 - d.p) } else { 0.0 };
    }
}
