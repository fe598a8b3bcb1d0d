//! What choosing one token costs with a vocabulary of 150,000: `cargo run --release --example sampler_cost`.
#![allow(clippy::print_stdout, reason = "an example talks")]

use std::time::Instant;

use cupola_artifact::Result;
use cupola_generate::{Sampler, SamplingParams};
use cupola_nn::Rng;

fn main() -> Result<()> {
    let mut rng = Rng::new(0, "cost");
    // A vocabulary of which some tokens are likely, and one of which all are about as likely.
    let peaked = rng.normal(150_000, 4.0);
    let flat = rng.normal(150_000, 0.1);
    let prompt: Vec<u32> = (0..4096).map(|_| rng.below(150_000) as u32).collect();
    let base = SamplingParams::default;
    let greedy = SamplingParams { temperature: 0.0, ..base() };
    let cases = [
        ("greedy", greedy.clone()),
        ("repetition_penalty", SamplingParams { repetition_penalty: 1.1, ..greedy.clone() }),
        ("no_repeat_ngram_size 3", SamplingParams { no_repeat_ngram_size: 3, ..greedy }),
        ("temperature 0.8", SamplingParams { temperature: 0.8, ..base() }),
        ("top_k 50", SamplingParams { top_k: 50, ..base() }),
        ("top_p 0.95", SamplingParams { top_p: 0.95, ..base() }),
        ("min_p 0.05", SamplingParams { min_p: 0.05, ..base() }),
        ("typical_p 0.9", SamplingParams { typical_p: 0.9, ..base() }),
        ("top_h 0.5", SamplingParams { top_h: 0.5, ..base() }),
        ("epsilon_cutoff 3e-4", SamplingParams { epsilon_cutoff: 3e-4, ..base() }),
        ("eta_cutoff 3e-4", SamplingParams { eta_cutoff: 3e-4, ..base() }),
        ("temperature, top_k, top_p", SamplingParams { temperature: 0.8, top_k: 50, top_p: 0.95, ..base() }),
    ];
    println!("{:28}{:>12}{:>12}", "milliseconds, best of 20", "peaked", "flat");
    for (name, params) in cases {
        let mut best = [f64::INFINITY; 2];
        for (best, logits) in best.iter_mut().zip([&peaked, &flat]) {
            let mut sampler = Sampler::new(&params, 1).with_prompt(&prompt, &[2]);
            for _ in 0..20 {
                let started = Instant::now();
                sampler.sample(logits)?;
                *best = best.min(started.elapsed().as_secs_f64() * 1e3);
            }
        }
        println!("{name:28}{:12.2}{:12.2}", best[0], best[1]);
    }
    Ok(())
}
