//! GFLOP/s of attention, next to the measured peak; operations of attended pairs alone are counted:
//! `cargo run --release -p cupola-kernels --example bench_attention [seconds per figure] [causal|window|full|packed] [f32|f16]`
#![allow(clippy::print_stdout)]

use cupola_kernels::*;
use std::time::Instant;

/// A mask: the span of query `i` of a row of `seq`.
type Spanned = fn(usize, usize) -> (usize, usize);

const MASKS: [(&str, Spanned); 4] = [
    ("causal", |i, _| (0, i + 1)),
    ("window", |i, _| (i.saturating_sub(511), i + 1)),
    ("full", |_, seq| (0, seq)),
    ("packed", |i, _| (i / 300 * 300, i + 1)),
];

/// B, T, H, Hkv, dh
const SIZES: [[usize; 5]; 7] = [
    [1, 4096, 8, 8, 64],
    [2, 512, 12, 12, 64],
    [16, 256, 6, 6, 48],
    [32, 128, 4, 2, 64],
    [2, 2048, 4, 1, 128],
    [4, 1024, 8, 8, 32],
    [2, 1000, 4, 4, 80],
];

fn main() {
    let seconds: f64 = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0.4);
    let only = std::env::args().nth(2).unwrap_or_else(|| "causal".to_owned());
    let halves = std::env::args().nth(3).is_some_and(|precision| precision == "f16");
    let precision = if halves { Precision::F16 } else { Precision::F32 };
    let peak = measure_peak_flops(0.5) / 1e9;
    println!("{} on {} threads: peak {peak:.0} GFLOP/s (32-bit)", simd_name(), threads());
    println!("products in {}: best GFLOP/s (% of the 32-bit peak)", precision.name());
    println!("{:>30} {:>14} {:>14} {:>14}", "B x T x H/Hkv x dh", "forward", "backward", "both");
    for (name, mask) in MASKS.iter().filter(|(name, _)| *name == only) {
        SIZES.iter().for_each(|sizes| line((name, *mask), *sizes, precision, seconds));
    }
}

fn line((name, mask): (&str, Spanned), sizes: [usize; 5], precision: Precision, seconds: f64) {
    let [batch, seq, n_heads, n_kv_heads, d_head] = sizes;
    let shape = AttentionShape { precision, ..AttentionShape::new(batch, seq, [n_heads, n_kv_heads], d_head) };
    let (rows, kv_rows) = (batch * seq * n_heads * d_head, batch * seq * n_kv_heads * d_head);
    let wave = |len: usize| (0..len).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<_>>();
    let (q, k, v, d_out) = (wave(rows), wave(kv_rows), wave(kv_rows), wave(rows));
    let (lo, hi): (Vec<u32>, Vec<u32>) =
        (0..batch * seq).map(|i| mask(i % seq, seq)).map(|(lo, hi)| (lo as u32, hi as u32)).unzip();
    let spans = Spans { lo: &lo, hi: &hi };
    let pairs: u64 = lo.iter().zip(&hi).map(|(lo, hi)| u64::from(hi - lo)).sum();
    // A product takes 2 dh operations per attended pair: two products forward, five backward.
    let flops = (2 * d_head * n_heads) as f64 * pairs as f64;
    let (mut out, mut lse) = (vec![0.0; rows], vec![0.0; batch * n_heads * seq]);
    let (forward, peak) = best(seconds, || attention_forward(&q, &k, &v, &mut out, &mut lse, &shape, &spans));
    let (mut dq, mut dk, mut dv) = (vec![0.0; rows], vec![0.0; kv_rows], vec![0.0; kv_rows]);
    let saved = AttentionSaved { q: &q, k: &k, v: &v, out: &out, lse: &lse };
    let mut grads = AttentionGrads { dq: &mut dq, dk: &mut dk, dv: &mut dv };
    let (backward, peak_b) = best(seconds, || attention_backward(&saved, &d_out, &mut grads, &shape, &spans));
    let peak = peak.max(peak_b);
    let show = |flops: f64, time: f64| format!("{:.0} ({:.0}%)", flops / time / 1e9, 100.0 * flops / time / peak);
    println!(
        "{:>30} {:>14} {:>14} {:>14}",
        format!("{name} {batch} x {seq} x {n_heads}/{n_kv_heads} x {d_head}"),
        show(2.0 * flops, forward),
        show(5.0 * flops, backward),
        show(7.0 * flops, forward + backward)
    );
}

/// The best time of one call, and the peak measured before and after: the machine may be shared.
fn best(seconds: f64, mut f: impl FnMut()) -> (f64, f64) {
    let before = measure_peak_flops(seconds / 4.0);
    let (start, mut best) = (Instant::now(), f64::MAX);
    while start.elapsed().as_secs_f64() < seconds {
        let from = Instant::now();
        f();
        best = best.min(from.elapsed().as_secs_f64());
    }
    (best, before.max(measure_peak_flops(seconds / 4.0)))
}
