//! As `sizes.rs`: the kernels of whole layers, experts, recurrences, scans and eight-bit products.
mod common;
use common::{assert_close, at_every_level, noise};
use cupola_kernels::*;

#[track_caller]
fn same(what: &str, got: &[f32], want: &[f32]) {
    assert_close(what, got, want, 1e-4);
}

#[track_caller]
fn finite(what: &str, results: &[&[f32]]) {
    assert!(results.iter().all(|x| x.iter().all(|x| x.is_finite())), "{what}: {results:?}");
}

/// `(B, T, D)`.
const SEQUENCES: [(usize, usize, usize); 6] = [(0, 3, 2), (2, 0, 3), (2, 3, 0), (1, 1, 1), (2, 3, 19), (1, 34, 2)];

#[test]
fn eight_bit_products() {
    at_every_level(|| {
        for (n, rows, cols, group) in
            [(0, 3, 4, 2), (2, 0, 3, 2), (2, 3, 0, 2), (1, 1, 1, 1), (3, 5, 19, 7), (8, 3, 33, 32), (11, 7, 17, 40)]
        {
            let (w, x) = (noise(rows * cols, 1), noise(n * cols, 2));
            let (q, scales) = quantize_q8(&w, rows, cols, group);
            let m = Q8 { q: &q, scales: &scales, rows, cols, group };
            let (mut got, mut want) = (vec![f32::NAN; n * rows], vec![f32::NAN; n * rows]);
            matmul_q8(&x, &m, &mut got);
            match cols {
                0 => want.fill(0.0),
                _ => reference::matmul_q8(&x, &m, &mut want),
            }
            same(&format!("{n} x [{rows}, {cols}] by {group}"), &got, &want);
            let (mut got, mut want) = (vec![f32::NAN; w.len()], vec![f32::NAN; w.len()]);
            dequantize_q8(&m, &mut got);
            reference::dequantize_q8(&m, &mut want);
            assert_eq!(got, want);
        }
    });
}

#[test]
fn experts() {
    at_every_level(|| {
        for (n, k, e, d_in, d_out) in
            [(0, 2, 3, 2, 2), (3, 1, 2, 0, 2), (3, 1, 2, 2, 0), (1, 1, 1, 1, 1), (7, 2, 4, 3, 19), (23, 3, 5, 17, 2)]
        {
            let (logits, x, w, dy) =
                (noise(n * e, 1), noise(n * d_in, 2), noise(e * d_in * d_out, 3), noise(n * d_out, 4));
            let (mut scores, mut plain) = (vec![f32::NAN; n * e], vec![f32::NAN; n * e]);
            router_scores(&logits, e, Scores::Softmax, &mut scores);
            reference::router_scores(&logits, e, Scores::Softmax, &mut plain);
            same("scores", &scores, &plain);
            let chosen = top_k(&scores, e, k, None);
            assert_eq!(chosen, reference::top_k(&scores, e, k, None));
            let (order, rows) = (ExpertOrder::new(&chosen, k, e), n * k);
            let (mut weights, mut xs, mut ys) =
                (vec![f32::NAN; rows], vec![f32::NAN; rows * d_in], vec![f32::NAN; rows * d_out]);
            pick_forward(&scores, e, &chosen, true, &mut weights);
            expert_gather(&x, &order, d_in, &mut xs);
            grouped_matmul(&xs, &w, &order, (d_in, d_out), Precision::F32, &mut ys);
            let mut y = vec![f32::NAN; n * d_out];
            expert_combine(&ys, &weights, &order, d_out, &mut y);
            let want = match x.len() {
                0 => vec![0.0; y.len()],
                _ => reference::mixture(&x, &w, &chosen, &weights, (d_in, d_out)),
            };
            same("mixture", &y, &want);
            let saved = CombineSaved { rows: &ys, weights: &weights, dy: &dy };
            let (mut d_ys, mut d_xs, mut d_weights) = (ys.clone(), vec![f32::NAN; xs.len()], vec![f32::NAN; rows]);
            expert_combine_backward(&saved, &order, d_out, &mut d_ys, &mut d_weights);
            let want = match dy.len() {
                0 => vec![0.0; rows],
                _ => reference::combine_weight_grad(&saved, &order.rows, d_out),
            };
            same("weights' gradient", &d_weights, &want);
            let [mut dw, mut dx, mut d_scores, mut d_logits] =
                [w.len(), x.len(), n * e, n * e].map(|len| vec![f32::NAN; len]);
            grouped_input_grad(&d_ys, &w, &order, (d_in, d_out), Precision::F32, &mut d_xs);
            grouped_weight_grad(&d_ys, &xs, &order, (d_in, d_out), Precision::F32, &mut dw);
            expert_gather_backward(&d_xs, &order, d_in, &mut dx);
            pick_backward(&scores, e, &chosen, true, &d_weights, &mut d_scores);
            router_scores_backward(&scores, &d_scores, e, Scores::Softmax, &mut d_logits);
            finite("gradients", &[&dw, &dx, &d_logits]);
            let mut lse = vec![f32::NAN; n];
            let z = router_z_loss(&logits, e, &mut lse);
            router_z_backward(&logits, e, &lse, 1.0, &mut d_logits);
            finite("gradients of the router's loss", &[&d_logits, &[Balance::new(&chosen, e, n).loss(&scores)]]);
            let want = if n == 0 { 0.0 } else { reference::router_z_loss(&logits, e) };
            assert!((f64::from(z) - want).abs() < 1e-4);
        }
    });
}

#[test]
fn recurrent_layers() {
    at_every_level(|| {
        for kind in [RecurrentKind::Tanh, RecurrentKind::Lstm, RecurrentKind::Gru] {
            for sizes in SEQUENCES {
                let (batch, seq, d) = sizes;
                let g = kind.gates() * d;
                let (x, w, bias, h0) = (noise(batch * seq * g, 1), noise(g * d, 2), noise(g, 3), noise(batch * d, 4));
                let c0 = if kind.has_memory() { noise(batch * d, 5) } else { vec![] };
                let lengths: Vec<u32> = (0..batch).map(|b| (seq - b % (seq + 1)) as u32).collect();
                let r =
                    Recurrence { kind, sizes, x: &x, w: &w, bias: &bias, h0: &h0, c0: &c0, lengths: Some(&lengths) };
                let states = recurrent_forward(&r);
                same(&format!("{kind:?} {sizes:?}"), &states.h, &reference::recurrent(&r).0);
                let grads = recurrent_backward(&r, &states, &noise(batch * seq * d, 6), &noise(c0.len(), 7));
                finite("gradients", &[&grads.dx, &grads.dw, &grads.dbias, &grads.dh0, &grads.dc0]);
            }
        }
    });
}

#[test]
fn scans() {
    at_every_level(|| {
        for sizes in SEQUENCES {
            selective(sizes, 3);
            weighted_keys(sizes);
            linear_recurrence(sizes);
            for k in [1, 4] {
                convolution(sizes, k);
            }
        }
    });
}

fn selective((batch, seq, d): (usize, usize, usize), n: usize) {
    let all = batch * seq * d;
    let [x, dt, b, c, z, dy] =
        [(all, 1), (all, 2), (batch * seq * n, 3), (batch * seq * n, 4), (all, 5), (all, 6)].map(|(l, s)| noise(l, s));
    let (a, skip): (Vec<f32>, _) = (noise(d * n, 7).iter().map(|x| x - 1.1).collect(), noise(d, 8));
    let sizes = (batch, seq, d, n);
    let scan = SelectiveScan { sizes, x: &x, dt: &dt, softplus: true, a: &a, b: &b, c: &c, skip: &skip, z: &z };
    let start = noise(batch * n * d, 9);
    let (mut state, mut want_state) = (start.clone(), start.clone());
    let (mut y, mut want, mut starts) = (vec![f32::NAN; all], vec![f32::NAN; all], vec![f32::NAN; scan.starts_len()]);
    selective_scan_forward(&scan, &mut state, &mut y, &mut starts);
    reference::selective_scan(&scan, &mut want_state, &mut want);
    same(&format!("selective scan {sizes:?}"), &y, &want);
    same("its state", &state, &want_state);
    let mut g = [&x, &dt, &a, &b, &c, &skip, &z].map(|x| vec![f32::NAN; x.len()]);
    let [gx, gdt, ga, gb, gc, gskip, gz] = &mut g;
    let mut grads = SelectiveGrads { x: gx, dt: gdt, a: ga, b: gb, c: gc, skip: gskip, z: gz };
    selective_scan_backward(&scan, &starts, &dy, &mut state, &mut grads);
    g.iter().for_each(|g| finite("gradients of a selective scan", &[g, &state]));
}

fn convolution((batch, seq, d): (usize, usize, usize), k: usize) {
    let all = batch * seq * d;
    let (x, w, bias, dy) = (noise(all, 1), noise(d * k, 2), noise(d, 3), noise(all, 4));
    let conv = CausalConv { sizes: (batch, seq, d, k), x: &x, w: &w, bias: &bias };
    let (mut y, mut want, mut last) = (vec![f32::NAN; all], vec![f32::NAN; all], vec![0.0; batch * (k - 1) * d]);
    causal_conv_forward(&conv, &mut last, &mut y);
    reference::causal_conv(&conv, &mut want);
    same("convolution", &y, &want);
    let [mut dx, mut dw, mut db] = [all, d * k, d].map(|len| vec![f32::NAN; len]);
    causal_conv_backward(&conv, &dy, &mut ConvGrads { x: &mut dx, w: &mut dw, bias: &mut db });
    finite("gradients of a convolution", &[&last, &dx, &dw, &db]);
}

fn weighted_keys(sizes: (usize, usize, usize)) {
    let (batch, seq, d) = sizes;
    let all = batch * seq * d;
    let w: Vec<f32> = noise(d, 1).iter().map(|x| x.abs()).collect();
    let (u, k, v, dy) = (noise(d, 2), noise(all, 3), noise(all, 4), noise(all, 5));
    let wkv = Wkv { sizes, w: &w, u: &u, k: &k, v: &v };
    let (mut y, mut want, mut starts) = (vec![f32::NAN; all], vec![f32::NAN; all], vec![f32::NAN; wkv.starts_len()]);
    wkv_forward(&wkv, &mut wkv.empty_state(), &mut y, &mut starts);
    reference::wkv(&wkv, &mut want);
    same("wkv", &y, &want);
    let [mut dw, mut du, mut dk, mut dv] = [d, d, all, all].map(|len| vec![f32::NAN; len]);
    wkv_backward(&wkv, &starts, &dy, &mut WkvGrads { w: &mut dw, u: &mut du, k: &mut dk, v: &mut dv });
    finite("gradients of wkv", &[&dw, &du, &dk, &dv]);
}

fn linear_recurrence(sizes: (usize, usize, usize)) {
    let (batch, seq, d) = sizes;
    let all = batch * seq * d;
    let (x, r, i, lambda, h0) = (noise(all, 1), noise(all, 2), noise(all, 3), noise(d, 4), noise(batch * d, 5));
    let lru = RgLru { sizes, x: &x, r: &r, i: &i, lambda: &lambda, h0: &h0 };
    let (mut h, mut want) = (vec![f32::NAN; all], vec![f32::NAN; all]);
    rg_lru_forward(&lru, &mut h);
    reference::rg_lru(&lru, &mut want);
    same("linear recurrence", &h, &want);
    let mut g = [all, all, all, d, batch * d].map(|len| vec![f32::NAN; len]);
    let [gx, gr, gi, gl, g0] = &mut g;
    rg_lru_backward(&lru, &h, &x, &mut RgLruGrads { x: gx, r: gr, i: gi, lambda: gl, h0: g0 });
    g.iter().for_each(|g| finite("gradients of a linear recurrence", &[g]));
}
