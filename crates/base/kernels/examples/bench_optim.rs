//! What the optimizers move per second next to the bandwidth of reading, measured by turns:
//! `cargo run --release -p cupola-kernels --example bench_optim [rounds]`
#![allow(clippy::print_stdout)]

use cupola_kernels::*;
use std::hint::black_box;
use std::time::Instant;

const ROWS: usize = 4 << 10;
const COLS: usize = 4 << 10;
const N: usize = ROWS * COLS;

fn main() {
    let rounds: usize = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(10);
    let (mut p, g) = (vec![0.5f32; N], vec![0.1f32; N]);
    let (mut m, mut v) = (vec![0.0f32; N], vec![0.0f32; N]);
    let (mut m16, mut v16) = (vec![0u16; N], vec![0u16; N]);
    let (mut row, mut col) = (vec![0.0; ROWS], vec![0.0; COLS]);
    let (lr, weight_decay, step, grad_scale) = (1e-2, 0.1, 3, 0.5);
    let adam = AdamW { lr, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay, step, grad_scale };
    let li = Lion { lr, beta1: 0.9, beta2: 0.99, weight_decay, step, grad_scale };
    let descent = Sgd { lr, momentum: 0.9, nesterov: true, weight_decay, step, grad_scale };
    let (beta2_decay, eps, eps_scale, clip) = (-0.8, f32::EPSILON, 1e-3, 1.0);
    let factor = Adafactor { lr, beta2_decay, eps, eps_scale, clip, weight_decay, step, grad_scale };
    const LINES: [(&str, usize); 8] = [
        ("adamw", 28),
        ("adamw, bf16", 20),
        ("lion", 20),
        ("lion, bf16", 16),
        ("sgd", 20),
        ("adafactor", 24),
        ("sum of squares", 4),
        ("add with squares", 12),
    ];
    let (mut best, mut read) = ([f64::MAX; LINES.len()], 0.0f64);
    for _ in 0..rounds {
        read = read.max(measure_bandwidth(0.0) / 1e9);
        for (i, best) in best.iter_mut().enumerate() {
            let from = Instant::now();
            match i {
                0 => adamw(&mut p, &g, &mut m, &mut v, &adam),
                1 => adamw(&mut p, &g, &mut m16, &mut v16, &adam),
                2 => lion(&mut p, &g, &mut m, &li),
                3 => lion(&mut p, &g, &mut m16, &li),
                4 => sgd(&mut p, &g, &mut v, &descent),
                5 => adafactor_matrix(&mut p, &g, &mut row, &mut col, &factor),
                6 => drop(black_box(sum_of_squares(&g))),
                _ => drop(black_box(add_with_squares(&mut p, &g))),
            }
            *best = best.min(from.elapsed().as_secs_f64());
        }
    }
    println!("{} on {} threads: reading {read:.1} GB/s", simd_name(), threads());
    for ((name, bytes), seconds) in LINES.iter().zip(best) {
        let rate = (bytes * N) as f64 / seconds / 1e9;
        println!("{name:>18}: {bytes:>2} bytes per parameter, {rate:5.1} GB/s, {:4.2} of reading", rate / read);
    }
}
