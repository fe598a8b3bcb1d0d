//! The kernels beside what the machine reaches and, for products, the crate `gemm` (with the feature of that name); one
//! JSON line per figure:
//! `cargo run --release -p cupola-kernels --features gemm --example bench_kernels -- [seconds per line] [products|memory]`
//!
//! Sides that are compared take turns call by call, since the machine may be shared; the best call counts.
#![allow(clippy::print_stdout)]

use cupola_kernels::*;
use std::time::Instant;

/// `c = a · b`
type Product = fn(&mut [f32], Mat, Mat);

/// The arithmetic of a product: its name in the rows, ours, the peak it is held against, and the crate `gemm`'s.
struct Precision {
    name: &'static str,
    matmul: Product,
    peak: fn(f64) -> f64,
    gemm: Option<Product>,
}

/// Each precision is a line here.
const PRECISIONS: &[Precision] =
    &[Precision { name: "f32", matmul: |c, a, b| matmul(c, a, b, false), peak: measure_peak_flops, gemm: GEMM }];

#[cfg(feature = "gemm")]
const GEMM: Option<Product> = Some(gemm_crate);
#[cfg(not(feature = "gemm"))]
const GEMM: Option<Product> = None;

/// Rows, inputs and outputs of a linear layer; the last has the vocabulary of GPT-2.
const SHAPES: [(usize, usize, usize); 7] = [
    (256, 256, 256),
    (512, 512, 512),
    (4096, 288, 768),
    (4096, 288, 8192),
    (1024, 768, 3072),
    (1024, 768, 50257),
    (2048, 2048, 2048),
];

/// Floats of a large array in the rows that memory limits: 128 MiB.
const FLOATS: usize = 32 << 20;
/// Columns of its rows.
const D: usize = 2048;

fn main() {
    let seconds: f64 = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0.3);
    let only = std::env::args().nth(2);
    let wanted = |part| only.as_deref().is_none_or(|only| only == part);
    if wanted("products") {
        for precision in PRECISIONS {
            SHAPES.iter().for_each(|&shape| products(precision, shape, seconds));
        }
    }
    if wanted("memory") {
        memory(seconds);
    }
}

/// What stands in every row.
struct Row<'a> {
    name: &'a str,
    precision: &'a str,
    unit: &'a str,
    limit: f64,
}

impl Row<'_> {
    fn print(&self, who: &str, value: f64) {
        let Row { name, precision, unit, limit } = self;
        println!(
            r#"{{"name": "{name}", "precision": "{precision}", "who": "{who}", "value": {:.2}, "limit": {:.2}, "unit": "{unit}", "threads": {}, "simd": "{}"}}"#,
            value / 1e9,
            limit / 1e9,
            threads(),
            simd_name()
        );
    }
}

/// The best time of a call of each, over about `seconds` for each, two calls at least.
fn best(seconds: f64, works: &mut [&mut dyn FnMut()]) -> Vec<f64> {
    let mut best = vec![f64::MAX; works.len()];
    let (start, mut calls) = (Instant::now(), 0);
    while calls < 2 || start.elapsed().as_secs_f64() < seconds * works.len() as f64 {
        for (best, work) in best.iter_mut().zip(works.iter_mut()) {
            let from = Instant::now();
            work();
            *best = best.min(from.elapsed().as_secs_f64());
        }
        calls += 1;
    }
    best
}

/// Numbers between -1 and 1.
fn noise(len: usize) -> Vec<f32> {
    let mut state = len as u32 | 1;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(next).collect()
}

/// The three products of a linear layer with N rows, K inputs and M outputs.
fn products(precision: &Precision, (n, k, m): (usize, usize, usize), seconds: f64) {
    let (x, w, dy) = (noise(n * k), noise(m * k), noise(n * m));
    let (x, w, dy) = (Mat::new(&x, n, k), Mat::new(&w, m, k), Mat::new(&dy, n, m));
    for (product, a, b) in [("x wT", x, w.t()), ("dy w", dy, w), ("dyT x", dy.t(), x)] {
        let (mut c, mut theirs) = (vec![0.0; a.rows * b.cols], vec![0.0; a.rows * b.cols]);
        let peak = (precision.peak)(seconds / 4.0);
        let mut ours = || (precision.matmul)(&mut c, a, b);
        let times = match precision.gemm {
            Some(gemm) => best(seconds, &mut [&mut ours, &mut || gemm(&mut theirs, a, b)]),
            None => best(seconds, &mut [&mut ours]),
        };
        let limit = peak.max((precision.peak)(seconds / 4.0));
        let name = format!("{n}x{k}x{m} {product}");
        let row = Row { name: &name, precision: precision.name, unit: "GFLOP/s", limit };
        let flops = 2.0 * (n * k * m) as f64;
        row.print("cupola", flops / times[0]);
        if let Some(time) = times.get(1) {
            row.print("gemm 0.19", flops / time);
            let far = c.iter().zip(&theirs).map(|(c, t)| (c - t).abs()).fold(0.0, f32::max);
            assert!(far < 1e-4 * a.cols as f32, "{name}: the two products differ by {far}");
        }
    }
}

/// `c = a · b` by the crate `gemm`, on all threads.
#[cfg(feature = "gemm")]
fn gemm_crate(c: &mut [f32], a: Mat, b: Mat) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert_eq!(c.len(), m * n);
    let strides = |x: &Mat| (x.col_stride as isize, x.row_stride as isize);
    let ((a_cs, a_rs), (b_cs, b_rs)) = (strides(&a), strides(&b));
    let (c, a, b) = (c.as_mut_ptr(), a.data.as_ptr(), b.data.as_ptr());
    let (plain, all) = (false, gemm::Parallelism::Rayon(0));
    // SAFETY: `c` holds m x n floats and is borrowed alone; `Mat::new` checked that a and b hold their elements, and
    // nothing here makes a `Mat` otherwise but by turning one.
    unsafe {
        gemm::gemm(m, n, k, c, 1, n as isize, false, a, a_cs, a_rs, b, b_cs, b_rs, 0.0, 1.0, plain, plain, plain, all);
    }
}

/// A row that memory limits; an array read or written once counts once, one changed in place twice.
fn moves(name: &str, floats: usize, seconds: f64, mut work: impl FnMut()) {
    let reading = measure_bandwidth(seconds / 3.0);
    let time = best(seconds, &mut [&mut work])[0];
    let limit = reading.max(measure_bandwidth(seconds / 3.0));
    Row { name, precision: "f32", unit: "GB/s", limit }.print("cupola", (4 * floats) as f64 / time);
}

fn memory(seconds: f64) {
    norm(seconds);
    swiglu(seconds);
    optimizer(seconds);
    embedding(seconds);
    rotary(seconds);
    softmax(seconds);
}

fn norm(seconds: f64) {
    let (x, w, mut y, mut rstd) = (noise(FLOATS), noise(D), vec![0.0; FLOATS], vec![0.0; FLOATS / D]);
    let norm = Norm { w: &w, b: None, eps: 1e-5, center: false };
    moves("rms_norm", 2 * FLOATS, seconds, || {
        norm_forward(&norm, &x, &mut y, NormStats { mean: &mut [], rstd: &mut rstd });
    });
    let (mut dx, mut dw) = (vec![0.0; FLOATS], vec![0.0; D]);
    let saved = NormSaved { x: &x, mean: &[], rstd: &rstd };
    moves("rms_norm backward", 3 * FLOATS, seconds, || {
        norm_backward(&norm, &saved, &y, None, NormGrads { dx: &mut dx, dw: &mut dw, db: None });
    });
}

fn swiglu(seconds: f64) {
    let (gate, up, mut y) = (noise(FLOATS), noise(FLOATS), vec![0.0; FLOATS]);
    moves("swiglu", 3 * FLOATS, seconds, || gated_forward(Activation::Silu, &gate, &up, &mut y));
    let (mut dgate, mut dup) = (vec![0.0; FLOATS], vec![0.0; FLOATS]);
    moves("swiglu backward", 5 * FLOATS, seconds, || {
        gated_backward(Activation::Silu, &gate, &up, &y, &mut dgate, &mut dup);
    });
}

fn optimizer(seconds: f64) {
    let (mut p, g, mut m, mut v) = (noise(FLOATS), noise(FLOATS), vec![0.0; FLOATS], vec![0.0; FLOATS]);
    let h = AdamW { lr: 1e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step: 10, grad_scale: 1.0 };
    moves("adamw", 7 * FLOATS, seconds, || adamw(&mut p, &g, &mut m, &mut v, &h));
}

fn embedding(seconds: f64) {
    let (rows, d, n) = (50257, 768, 16384);
    let ids: Vec<u32> = noise(n).iter().map(|x| ((x + 1.0) * 0.5 * (rows - 1) as f32) as u32).collect();
    let (mut table, mut y) = (noise(rows * d), vec![0.0; n * d]);
    moves("embedding", 2 * n * d, seconds, || embedding_forward(&table, &ids, d, &mut y));
    let floats = n * d + rows * d;
    moves("embedding backward", floats, seconds, || embedding_backward(&y, &ids, d, &mut table));
}

fn rotary(seconds: f64) {
    let (d_head, context) = (64, 4096);
    let mut x = noise(FLOATS);
    let positions: Vec<u32> = (0..FLOATS / D).map(|i| (i % context) as u32).collect();
    let angle = |i: usize| (i / (d_head / 2)) as f32 * 1e-4_f32.powf((i % (d_head / 2)) as f32 / (d_head / 2) as f32);
    let cos: Vec<f32> = (0..context * d_head / 2).map(|i| angle(i).cos()).collect();
    let sin: Vec<f32> = (0..context * d_head / 2).map(|i| angle(i).sin()).collect();
    let table = RopeTable { cos: &cos, sin: &sin, rotary_dim: d_head };
    let how = Rope { positions: &positions, table, n_heads: D / d_head, d_head, inverse: false };
    moves("rope", 2 * FLOATS, seconds, || rope(&mut x, &how));
}

fn softmax(seconds: f64) {
    let (x, mut y) = (noise(FLOATS), vec![0.0; FLOATS]);
    moves("log_softmax", 2 * FLOATS, seconds, || log_softmax_rows(&x, 8192, &mut y));
}
