//! How fast the neighbours of queries are found: exactly, and by cells, with the share that cells find.
//!
//!     cargo run --release -p cupola-neighbours --example bench_search [PAIRS] [WIDTH]
#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::time::Instant;

use cupola_neighbours::{Cells, Found, Keys};
use cupola_nn::Rng;

const K: usize = 32;

/// Vectors around middles that are drawn anew, as hidden states lie in groups.
fn vectors(count: usize, width: usize, seed: u64) -> Vec<f32> {
    let middles = Rng::new(1, "middles").normal(2000 * width, 1.0);
    let mut rng = Rng::new(seed, "vectors");
    let mut out = Vec::with_capacity(count * width);
    for _ in 0..count {
        let middle = rng.below(2000) * width;
        let noise = rng.normal(width, 0.7);
        out.extend(middles[middle..middle + width].iter().zip(noise).map(|(m, n)| m + n));
    }
    out
}

/// The best of three, milliseconds for each query.
fn time(queries: usize, find: impl Fn() -> Vec<Vec<Found>>) -> (f64, Vec<Vec<Found>>) {
    let mut best = f64::INFINITY;
    let mut found = vec![];
    for _ in 0..3 {
        let started = Instant::now();
        found = find();
        best = best.min(started.elapsed().as_secs_f64() * 1000.0 / queries as f64);
    }
    (best, found)
}

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|a| a.parse::<usize>().ok());
    let (pairs, width) = (numbers.next().unwrap_or(1_000_000), numbers.next().unwrap_or(288));
    let keys = Keys::new(width, vectors(pairs, width, 2));
    let queries = vectors(64, width, 3);
    println!("{pairs} keys of {width} numbers, {K} neighbours, {} threads", rayon::current_num_threads());
    for count in [1, 8, 64] {
        let (ms, _) = time(count, || keys.nearest(&queries[..count * width], K));
        println!("exact, {count} queries at once: {ms:.2} ms each");
    }
    let exact = keys.nearest(&queries, K);
    let started = Instant::now();
    let (cells, order) = Cells::build(&keys, (pairs as f64).sqrt() as usize, 4);
    let sorted = keys.reordered(&order);
    println!("{} cells in {:.1} s", cells.centroids.len(), started.elapsed().as_secs_f64());
    for probes in [1, 4, 16, 64] {
        let (one, _) = time(1, || cells.nearest(&sorted, &queries[..width], K, probes));
        let (all, found) = time(64, || cells.nearest(&sorted, &queries, K, probes));
        let pairs = exact.iter().zip(&found);
        let has = |found: &[Found], at: usize| found.iter().any(|f| order[f.at] as usize == at);
        let hits: usize = pairs.map(|(exact, found)| exact.iter().filter(|e| has(found, e.at)).count()).sum();
        let recall = 100.0 * hits as f64 / (64 * K) as f64;
        println!("{probes} of the cells: {one:.3} ms for one query, {all:.3} ms each of 64; {recall:.1}% found");
    }
}
