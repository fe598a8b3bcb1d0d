//! Every kernel on nothing, on one number and on a few odd sizes, against its definition. Also what Miri is to run: it takes
//! minutes for some of these tests.
mod common;
use common::{assert_close, at_every_level, noise};
use cupola_kernels::*;

#[track_caller]
fn same(what: &str, got: &[f32], want: &[f32]) {
    assert_close(what, got, want, 1e-4);
}

/// `fast` and `plain` fill a result of `len` floats alike.
#[track_caller]
fn fill_alike(what: &str, len: usize, fast: impl Fn(&mut [f32]), plain: impl Fn(&mut [f32])) {
    let (mut got, mut want) = (vec![f32::NAN; len], vec![f32::NAN; len]);
    fast(&mut got);
    plain(&mut want);
    same(what, &got, &want);
}

/// Rows and columns.
const ROWS: [(usize, usize); 5] = [(0, 5), (1, 1), (2, 16), (5, 19), (34, 3)];

#[test]
fn products() {
    at_every_level(|| {
        for (m, k, n) in
            [(0, 3, 2), (2, 0, 3), (3, 2, 0), (0, 0, 0), (1, 1, 1), (1, 17, 5), (7, 9, 33), (15, 11, 19), (66, 5, 9)]
        {
            for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
                product(precision, (m, k, n));
            }
        }
    });
}

/// Of small whole numbers, which every precision holds; all layouts, packed before and not.
fn product(precision: Precision, (m, k, n): (usize, usize, usize)) {
    let whole = |len, seed| noise(len, seed).iter().map(|x| (x * 3.0).round()).collect::<Vec<f32>>();
    let (a, b, bias, start) = (whole(m * k, 1), whole(k * n, 2), whole(n, 3), whole(m * n, 4));
    for a in [Mat::new(&a, m, k), Mat::new(&a, k, m).t()] {
        for b in [Mat::new(&b, k, n), Mat::new(&b, n, k).t()] {
            for accumulate in [false, true] {
                let mut want = start.clone();
                reference::matmul(&mut want, a, b, accumulate);
                let mut got = start.clone();
                matmul_packed(&mut got, a, &PackedB::new(b, precision), accumulate);
                same(&format!("{precision:?} {m}x{k}x{n}, packed"), &got, &want);
                got.copy_from_slice(&start);
                matmul_with(&mut got, a, b, How { accumulate, precision, bias: Some(&bias) });
                want.iter_mut().enumerate().for_each(|(i, x)| *x += bias[i % n]);
                same(&format!("{precision:?} {m}x{k}x{n}"), &got, &want);
            }
        }
    }
}

#[test]
fn attention() {
    at_every_level(|| {
        for (batch, seq_q, seq_k, heads, d_head, d_value) in [
            (0, 3, 3, [1, 1], 2, 2),
            (2, 0, 3, [2, 1], 2, 2),
            (2, 3, 0, [2, 1], 2, 2),
            (1, 20, 0, [1, 1], 3, 2),
            (1, 1, 1, [1, 1], 1, 1),
            (2, 2, 7, [4, 2], 5, 3),
            (1, 11, 13, [2, 1], 3, 17),
            (1, 18, 18, [1, 1], 19, 1),
        ] {
            let slopes = [0.25, 0.5, 0.0, 1.0];
            let plain = AttentionShape { seq_k, d_value, ..AttentionShape::new(batch, seq_q, heads, d_head) };
            let (queries, past) = (batch * seq_q, seq_k.saturating_sub(seq_q));
            let hi: Vec<u32> = (0..queries).map(|i| seq_k.min(past + i % seq_q + 1) as u32).collect();
            let lo: Vec<u32> = (0..queries).map(|i| if i % 4 == 3 { hi[i] } else { hi[i].saturating_sub(9) }).collect();
            let spans = Spans { lo: &lo, hi: &hi };
            let shaped = AttentionShape { soft_cap: Some(1.5), slopes: Some(&slopes[..heads[0]]), ..plain };
            for shape in [plain, shaped] {
                let got = attend(&shape, &spans, attention_forward, attention_backward);
                let want = attend(&shape, &spans, reference::attention_forward, reference::attention_backward);
                let names = ["out", "lse", "dq", "dk", "dv"];
                for ((got, want), name) in got.iter().zip(&want).zip(names) {
                    same(&format!("{name} of {shape:?}"), got, want);
                }
            }
        }
    });
}

type Forward = fn(&[f32], &[f32], &[f32], &mut [f32], &mut [f32], &AttentionShape, &Spans);
type Backward = fn(&AttentionSaved, &[f32], &mut AttentionGrads, &AttentionShape, &Spans);

/// out, lse, dq, dk, dv
fn attend(s: &AttentionShape, spans: &Spans, forward: Forward, backward: Backward) -> [Vec<f32>; 5] {
    let (queries, keys) = (s.batch * s.seq_q * s.n_heads, s.batch * s.seq_k * s.n_kv_heads);
    let (q, k, v) = (noise(queries * s.d_head, 1), noise(keys * s.d_head, 2), noise(keys * s.d_value, 3));
    let d_out = noise(queries * s.d_value, 4);
    let (mut out, mut lse) = (vec![f32::NAN; d_out.len()], vec![f32::NAN; queries]);
    forward(&q, &k, &v, &mut out, &mut lse, s, spans);
    let [mut dq, mut dk, mut dv] = [&q, &k, &v].map(|x| vec![f32::NAN; x.len()]);
    let saved = AttentionSaved { q: &q, k: &k, v: &v, out: &out, lse: &lse };
    backward(&saved, &d_out, &mut AttentionGrads { dq: &mut dq, dk: &mut dk, dv: &mut dv }, s, spans);
    [out, lse, dq, dk, dv]
}

#[test]
fn norms() {
    at_every_level(|| {
        for ((n, d), center) in ROWS.into_iter().flat_map(|shape| [(shape, false), (shape, true)]) {
            let (x, dy, w, b) = (noise(n * d, 1), noise(n * d, 2), noise(d, 3), noise(d, 4));
            let norm = Norm { w: &w, b: center.then_some(&b), eps: 1e-3, center };
            let run = |fast: bool| {
                let (mut sum, mut y, mut dx) = (dy.clone(), vec![f32::NAN; n * d], vec![f32::NAN; n * d]);
                let (mut mean, mut rstd) = (vec![f32::NAN; if center { n } else { 0 }], vec![f32::NAN; n]);
                let (mut dw, mut db) = (vec![f32::NAN; d], vec![f32::NAN; d]);
                let stats = NormStats { mean: &mut mean, rstd: &mut rstd };
                let forward = if fast { add_norm_forward } else { reference::add_norm_forward };
                forward(&norm, &x, &mut sum, &mut y, stats);
                let saved = NormSaved { x: &sum, mean: &mean, rstd: &rstd };
                let grads = NormGrads { dx: &mut dx, dw: &mut dw, db: center.then_some(&mut db) };
                let backward = if fast { norm_backward } else { reference::norm_backward };
                backward(&norm, &saved, &dy, Some(&x), grads);
                if !center {
                    db.fill(0.0);
                }
                [sum, y, mean, rstd, dx, dw, db]
            };
            for (got, want) in run(true).iter().zip(&run(false)) {
                same(&format!("norm of [{n}, {d}]"), got, want);
            }
        }
    });
}

type GatedBackward = fn(Activation, &[f32], &[f32], &[f32], &mut [f32], &mut [f32]);

#[test]
fn rows_and_elements() {
    at_every_level(|| {
        for (n, d) in ROWS {
            let (x, dy, len) = (noise(n * d, 1), noise(n * d, 2), n * d);
            let what = format!("[{n}, {d}]");
            fill_alike(&what, len, |y| log_softmax_rows(&x, d, y), |y| reference::log_softmax_rows(&x, d, y));
            fill_alike(&what, len, |y| softmax_rows(&x, d, y), |y| reference::softmax_rows(&x, d, y));
            let fast = |dx: &mut [f32]| softmax_rows_backward(&x, &dy, d, dx);
            fill_alike(&what, len, fast, |dx| reference::softmax_rows_backward(&x, &dy, d, dx));
            fill_alike(&what, d, |sums| column_sums(&x, sums), |sums| reference::column_sums(&x, sums));
            let drop = Dropout { p: 0.3, seed: 1, stream: 2 };
            fill_alike(&what, len, |y| dropout(&drop, &x, y), |y| reference::dropout(&drop, &x, y));
            for f in Activation::ALL {
                fill_alike(&what, len, |y| activation_forward(f, &x, y), |y| reference::activation_forward(f, &x, y));
                let fast = |dx: &mut [f32]| activation_backward(f, &x, &dy, dx);
                fill_alike(&what, len, fast, |dx| reference::activation_backward(f, &x, &dy, dx));
                let fast = |y: &mut [f32]| gated_forward(f, &x, &dy, y);
                fill_alike(&what, len, fast, |y| reference::gated_forward(f, &x, &dy, y));
                let both = |backward: GatedBackward, d: &mut [f32]| {
                    let (gate, up) = d.split_at_mut(len);
                    backward(f, &x, &dy, &x, gate, up);
                };
                fill_alike(&what, 2 * len, |d| both(gated_backward, d), |d| both(reference::gated_backward, d));
            }
        }
    });
}

#[test]
fn rows_of_no_numbers_are_taken() {
    log_softmax_rows(&[], 0, &mut []);
    softmax_rows(&[], 0, &mut []);
    softmax_rows_backward(&[], &[], 0, &mut []);
    column_sums(&[], &mut []);
    let norm = Norm { w: &[], b: None, eps: 1e-3, center: false };
    let mut rstd = [f32::NAN; 3];
    norm_forward(&norm, &[], &mut [], NormStats { mean: &mut [], rstd: &mut rstd });
    let saved = NormSaved { x: &[], mean: &[], rstd: &rstd };
    norm_backward(&norm, &saved, &[], None, NormGrads { dx: &mut [], dw: &mut [], db: None });
    assert!(rstd.iter().all(|x| x.is_finite()));
}

#[test]
fn positions_and_embeddings() {
    at_every_level(|| {
        for (n, heads, d_head, rotary) in [(0, 2, 4, 4), (3, 0, 4, 4), (3, 2, 4, 0), (1, 1, 2, 2), (2, 3, 41, 38)] {
            let angles = noise(5 * rotary / 2, 1);
            let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
            let (table, x) = (RopeTable { cos: &cos, sin: &sin, rotary_dim: rotary }, noise(n * heads * d_head, 2));
            let positions: Vec<u32> = (0..n as u32).collect();
            let how = Rope { positions: &positions, table, n_heads: heads, d_head, inverse: true };
            let turn = |f: fn(&mut [f32], &Rope), y: &mut [f32]| {
                y.copy_from_slice(&x);
                f(y, &how);
            };
            fill_alike("rope", x.len(), |y| turn(rope, y), |y| turn(reference::rope, y));
            fill_alike("rope", x.len(), |y| rope_into(&x, y, &how), |y| turn(reference::rope, y));
        }
    });
    for (n, v, d) in [(0, 0, 3), (0, 4, 3), (5, 4, 0), (1, 1, 1), (7, 3, 5)] {
        let (table, dy) = (noise(v * d, 1), noise(n * d, 2));
        let ids: Vec<u32> = (0..n as u32).map(|i| i * i % v as u32).collect();
        let fast = |y: &mut [f32]| embedding_forward(&table, &ids, d, y);
        fill_alike("embedding", n * d, fast, |y| reference::embedding_forward(&table, &ids, d, y));
        let fast = |dt: &mut [f32]| embedding_backward(&dy, &ids, d, dt);
        fill_alike("embedding's gradient", v * d, fast, |dt| reference::embedding_backward(&dy, &ids, d, dt));
    }
}

#[test]
fn losses() {
    at_every_level(|| {
        for (n, d, v) in [(0, 3, 4), (2, 0, 3), (0, 0, 0), (1, 1, 1), (5, 3, 19), (70, 2, 5)] {
            let (x, w, weights) = (noise(n * d, 1), noise(v * d, 2), noise(n, 3));
            let targets: Vec<i32> = (0..n).map(|i| if i % 5 == 3 { IGNORE } else { (i % v) as i32 }).collect();
            for precision in [Precision::F32, Precision::Bf16] {
                let form = LossForm { label_smoothing: 0.1, z_loss: 0.01 };
                let l = LinearLoss { x: &x, w: &w, targets: &targets, d_model: d, vocab: v, precision, form };
                let [mut nll, mut lse, mut rnll, mut rlse, mut nll1] = [(); 5].map(|()| vec![f32::NAN; n]);
                let [mut dx, mut rdx, mut dx1] = [(); 3].map(|()| vec![f32::NAN; n * d]);
                let [mut dw, mut rdw, mut dw1] = [(); 3].map(|()| vec![f32::NAN; v * d]);
                linear_nll_forward(&l, &mut nll, &mut lse);
                linear_nll_backward(&l, &lse, &weights, &mut dx, &mut dw);
                linear_cross_entropy(&l, &weights, &mut nll1, &mut dx1, &mut dw1);
                reference::linear_nll_forward(&l, &mut rnll, &mut rlse);
                reference::linear_nll_backward(&l, &weights, &mut rdx, &mut rdw);
                let got = [&nll, &lse, &dx, &dw, &nll1, &dx1, &dw1];
                let want = [&rnll, &rlse, &rdx, &rdw, &rnll, &rdx, &rdw];
                let rounding = if precision == Precision::F32 { 1e-4 } else { 0.05 };
                for (got, want) in got.iter().zip(want) {
                    assert_close(&format!("loss of [{n}, {d}, {v}]"), got, want, rounding);
                }
            }
        }
    });
}

#[test]
fn optimizers() {
    at_every_level(|| {
        for (rows, cols) in [(0, 3), (3, 0), (1, 1), (3, 7), (5, 17)] {
            each_rule::<f32>((rows, cols), 1e-4);
            each_rule::<u16>((rows, cols), 0.02);
            let (x, len) = (noise(rows * cols, 1), rows * cols);
            assert!((sum_of_squares(&x) - reference::sum_of_squares(&x)).abs() < 1e-9);
            let add = |f: fn(&mut [f32], &[f32]) -> f64, y: &mut [f32]| {
                y.copy_from_slice(&x);
                f(y, &x);
            };
            fill_alike("sum", len, |y| add(add_with_squares, y), |y| add(reference::add_with_squares, y));
        }
    });
}

/// A step of the kernel or of its definition, with two moments.
type Rule<'a, T> = &'a dyn Fn(bool, &mut [f32], &mut [T], &mut [T]);

/// One step of every rule with moments of `T`; they differ from their definitions by `tolerance` at most.
fn each_rule<T: Moment>(shape: (usize, usize), tolerance: f32) {
    let (rows, cols) = shape;
    let (len, step, lr, weight_decay, grad_scale) = (rows * cols, 1, 0.01, 0.1, 0.5);
    let start = noise(len, 1);
    let g = noise(len, 2);
    let check = |name: &str, rule: Rule<T>| {
        let run = |fast: bool| {
            let zeros = || vec![T::from_f32(0.0, 0); len];
            let (mut p, mut m, mut v) = (start.clone(), zeros(), zeros());
            rule(fast, &mut p, &mut m, &mut v);
            m.iter().chain(&v).map(|x| x.to_f32()).chain(p).collect::<Vec<f32>>()
        };
        assert_close(&format!("{name} of {shape:?}"), &run(true), &run(false), tolerance);
    };
    let h = AdamW { lr, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay, step, grad_scale };
    check("adamw", &|fast, p, m, v| if fast { adamw(p, &g, m, v, &h) } else { reference::adamw(p, &g, m, v, &h) });
    let h = Lion { lr, beta1: 0.9, beta2: 0.99, weight_decay, step, grad_scale };
    check("lion", &|fast, p, m, _| if fast { lion(p, &g, m, &h) } else { reference::lion(p, &g, m, &h) });
    let h = Sgd { lr, momentum: 0.9, nesterov: true, weight_decay, step, grad_scale };
    check("sgd", &|fast, p, m, _| if fast { sgd(p, &g, m, &h) } else { reference::sgd(p, &g, m, &h) });
    let h = Muon { lr, momentum: 0.95, nesterov: true, lr_ratio: 1.0, weight_decay, step, grad_scale };
    check("muon", &|fast, p, m, _| {
        if fast { muon(p, &g, m, shape, &h) } else { reference::muon(p, &g, m, shape, &h) }
    });
    let (eps, eps_scale) = (f32::EPSILON, 1e-3);
    let h = Adafactor { lr, beta2_decay: -0.8, eps, eps_scale, clip: 1.0, weight_decay, step, grad_scale };
    check("adafactor", &|fast, p, _, _| {
        let (mut row, mut col, mut v) = (vec![0.0; rows], vec![0.0; cols], vec![0.0; len]);
        if fast {
            adafactor_matrix(p, &g, &mut row, &mut col, &h);
            adafactor_vector(p, &g, &mut v, &h);
        } else {
            reference::adafactor_matrix(p, &g, &mut row, &mut col, &h);
            reference::adafactor_vector(p, &g, &mut v, &h);
        }
    });
}
