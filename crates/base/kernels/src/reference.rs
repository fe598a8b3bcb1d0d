//! Every operation as its definition reads: plain loops, sums in double precision. What the fast versions are tested
//! against, and where to look up what they compute.

use crate::{AttentionGrads, AttentionSaved, AttentionShape, IGNORE, LinearLoss, Mat, Q8, RopeTable, Spans};

mod optim;

pub use optim::{adafactor_matrix, adafactor_vector, adamw, add_with_squares, lion, muon, sgd, sum_of_squares};

mod experts;
mod recurrent;
mod scan;

pub use experts::*;
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

/// See [`crate::rms_norm_forward`].
pub fn rms_norm_forward(x: &[f32], w: &[f32], eps: f32, y: &mut [f32], rstd: &mut [f32]) {
    let d = w.len();
    for i in 0..rstd.len() {
        let mean = x[i * d..][..d].iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / d as f64;
        rstd[i] = (1.0 / (mean + f64::from(eps)).sqrt()) as f32;
        for j in 0..d {
            y[i * d + j] = x[i * d + j] * rstd[i] * w[j];
        }
    }
}

/// See [`crate::rms_norm_backward`].
pub fn rms_norm_backward(x: &[f32], w: &[f32], rstd: &[f32], dy: &[f32], dx: &mut [f32], dw: &mut [f32]) {
    let d = w.len();
    let mut sums = vec![0.0f64; d];
    for i in 0..rstd.len() {
        let r = f64::from(rstd[i]);
        let (x, dy) = (&x[i * d..][..d], &dy[i * d..][..d]);
        let dot: f64 = (0..d).map(|j| f64::from(dy[j]) * f64::from(w[j]) * f64::from(x[j])).sum();
        for j in 0..d {
            let g = f64::from(dy[j]) * f64::from(w[j]);
            dx[i * d + j] = (r * (g - f64::from(x[j]) * r * r * dot / d as f64)) as f32;
            sums[j] += f64::from(dy[j]) * f64::from(x[j]) * r;
        }
    }
    dw.iter_mut().zip(sums).for_each(|(dw, sum)| *dw = sum as f32);
}

/// See [`crate::rope`].
pub fn rope(x: &mut [f32], positions: &[u32], table: &RopeTable, n_heads: usize, d_head: usize, inverse: bool) {
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

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// See [`crate::swiglu_forward`].
pub fn swiglu_forward(gate: &[f32], up: &[f32], y: &mut [f32]) {
    for i in 0..y.len() {
        let g = f64::from(gate[i]);
        y[i] = (g * sigmoid(g) * f64::from(up[i])) as f32;
    }
}

/// See [`crate::swiglu_backward`].
pub fn swiglu_backward(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    for i in 0..dy.len() {
        let (g, u, dy) = (f64::from(gate[i]), f64::from(up[i]), f64::from(dy[i]));
        let sig = sigmoid(g);
        dgate[i] = (dy * u * sig * (1.0 + g * (1.0 - sig))) as f32;
        dup[i] = (dy * g * sig) as f32;
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
            (nll[i], lse[i]) = ((sum - z[t as usize]) as f32, sum as f32);
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
            let hit = if v == t as usize { 1.0 } else { 0.0 };
            let dz = ((z[v] - lse).exp() - hit) * f64::from(d_nll[i]);
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
