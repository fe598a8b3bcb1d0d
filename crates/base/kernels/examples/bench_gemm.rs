//! GFLOP/s of the matrix products (and tokens' worth of attention), next to the measured peak:
//! `cargo run --release -p cupola-kernels --example bench_gemm [seconds per line] [linear|decode|attention]`
#![allow(clippy::print_stdout)]

use cupola_kernels::*;
use std::time::Instant;

fn main() {
    let seconds: f64 = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0.4);
    let peak = measure_peak_flops(0.5) / 1e9;
    let bandwidth = measure_bandwidth(0.5) / 1e9;
    println!("{} on {} threads: peak {peak:.0} GFLOP/s, reading {bandwidth:.1} GB/s", simd_name(), threads());
    println!(
        "{:>22} {:>14} {:>14} {:>14}   best GFLOP/s (% of the peak just measured)",
        "N x K x M", "x wT", "dy w", "dyT x"
    );
    let shapes = [
        (4096, 256, 256),
        (4096, 256, 768),
        (4096, 256, 1024),
        (4096, 288, 288),
        (4096, 288, 768),
        (4096, 288, 8192),
        (1024, 768, 3072),
        (2048, 2048, 2048),
        (64, 768, 3072),
        (16, 768, 3072),
    ];
    let only = std::env::args().nth(2);
    let wanted = |part| only.as_deref().is_none_or(|only| only == part);
    if wanted("linear") {
        for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
            println!("{} ({})", precision.name(), if precision.is_native() { "native" } else { "rounded" });
            shapes.iter().for_each(|&shape| linear(precision, shape, seconds));
        }
    }
    if wanted("decode") {
        decode(seconds);
    }
    if wanted("attention") {
        attention(seconds);
    }
}

/// The best time of one call, alternating with measurements of the peak: the machine may be shared.
fn best(seconds: f64, mut f: impl FnMut()) -> f64 {
    let (start, mut best) = (Instant::now(), f64::MAX);
    while start.elapsed().as_secs_f64() < seconds {
        let from = Instant::now();
        f();
        best = best.min(from.elapsed().as_secs_f64());
    }
    best
}

fn rate(flops: f64, seconds: f64, f: impl FnMut()) -> String {
    let peak = measure_peak_flops(seconds / 4.0);
    let got = flops / best(seconds, f);
    let peak = peak.max(measure_peak_flops(seconds / 4.0));
    format!("{:.0} ({:.0}%)", got / 1e9, 100.0 * got / peak)
}

/// The three products of a linear layer with N rows, K inputs and M outputs.
fn linear(precision: Precision, (n, k, m): (usize, usize, usize), seconds: f64) {
    let (x, w, dy) = (vec![0.5; n * k], vec![0.25; m * k], vec![0.125; n * m]);
    let (mx, mw, mdy) = (Mat::new(&x, n, k), Mat::new(&w, m, k), Mat::new(&dy, n, m));
    let (mut y, mut dx, mut dw) = (vec![0.0; n * m], vec![0.0; n * k], vec![0.0; m * k]);
    let flops = 2.0 * (n * k * m) as f64;
    let how = How { precision, ..How::default() };
    let forward = rate(flops, seconds, || matmul_with(&mut y, mx, mw.t(), how));
    let input = rate(flops, seconds, || matmul_with(&mut dx, mdy, mw, how));
    let weight = rate(flops, seconds, || matmul_with(&mut dw, mdy.t(), mx, how));
    println!("{:>22} {forward:>14} {input:>14} {weight:>14}", format!("{n} x {k} x {m}"));
}

/// One to eight rows against weights far larger than the caches: bytes of weights per second.
fn decode(seconds: f64) {
    let (m, k) = (16384, 4096);
    let w = vec![0.25; m * k];
    let (q, scales) = quantize_q8(&w, m, k, 64);
    let q8 = Q8 { q: &q, scales: &scales, rows: m, cols: k, group: 64 };
    for n in [1, 4, 8] {
        let (x, mut y) = (vec![0.5; n * k], vec![0.0; n * m]);
        let time = best(seconds, || matmul(&mut y, Mat::new(&x, n, k), Mat::new(&w, m, k).t(), false));
        let time8 = best(seconds, || matmul_q8(&x, &q8, &mut y));
        let bytes = (m * k) as f64 / 1e9;
        println!("{n} rows x [{m}, {k}]: f32 {:.1} GB/s, int8 {:.1} GB/s", 4.0 * bytes / time, bytes / time8);
    }
}

fn attention(seconds: f64) {
    let sizes =
        [[1, 4096, 8, 8, 64], [16, 256, 6, 6, 48], [2, 512, 12, 12, 64], [32, 128, 4, 2, 64], [16, 256, 4, 4, 64]];
    for sizes in sizes {
        [Precision::F32, Precision::F16].into_iter().for_each(|precision| causal(sizes, precision, seconds));
    }
    let (keys, shape) = (16384, |seq_k| AttentionShape { seq_k, ..AttentionShape::new(1, 1, [16, 4], 64) });
    let (q, k, mut out, mut lse) = (vec![0.5; 1024], vec![0.25; keys * 256], vec![0.0; 1024], vec![0.0; 16]);
    let spans = Spans { lo: &[0], hi: &[keys as u32] };
    let time = best(seconds, || attention_forward(&q, &k, &k, &mut out, &mut lse, &shape(keys), &spans));
    println!("decoding over {keys} keys: {:.1} GB/s", (keys * 256 * 8) as f64 / time / 1e9);
}

/// Causal self-attention of `[B, T, H, Hkv, dh]`.
fn causal([batch, seq, n_heads, n_kv_heads, d_head]: [usize; 5], precision: Precision, seconds: f64) {
    let shape = AttentionShape { precision, ..AttentionShape::new(batch, seq, [n_heads, n_kv_heads], d_head) };
    let (rows, kv_rows) = (batch * seq * n_heads * d_head, batch * seq * n_kv_heads * d_head);
    let (q, k, v, d_out) = (vec![0.5; rows], vec![0.25; kv_rows], vec![0.25; kv_rows], vec![0.1; rows]);
    let lo = vec![0; batch * seq];
    let hi: Vec<u32> = (0..batch * seq).map(|i| (i % seq + 1) as u32).collect();
    let spans = Spans { lo: &lo, hi: &hi };
    let (mut out, mut lse) = (vec![0.0; rows], vec![0.0; batch * n_heads * seq]);
    // Two products per attended pair forward, five backward.
    let flops = (2 * d_head * batch * n_heads * seq * (seq + 1) / 2) as f64;
    let forward = rate(2.0 * flops, seconds, || attention_forward(&q, &k, &v, &mut out, &mut lse, &shape, &spans));
    let (mut dq, mut dk, mut dv) = (vec![0.0; rows], vec![0.0; kv_rows], vec![0.0; kv_rows]);
    let saved = AttentionSaved { q: &q, k: &k, v: &v, out: &out, lse: &lse };
    let mut grads = AttentionGrads { dq: &mut dq, dk: &mut dk, dv: &mut dv };
    let backward = rate(5.0 * flops, seconds, || attention_backward(&saved, &d_out, &mut grads, &shape, &spans));
    println!(
        "causal attention B {batch} T {seq} H {n_heads}/{n_kv_heads} dh {d_head} {}: forward {forward}, backward {backward}",
        precision.name()
    );
}
