//! One training measurement; prints one JSON line: `bench_step CASE PRECISION [--steps N] [--forward] [--seq T]
//! [--batch B] [--family NAME] [--recompute]`. The peer's side is `bench/train/peer.py`, which has the same cases.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use cupola_arch::{ExpertSizes, Model, Sizes};
use cupola_nn::{Batch, Module};
use cupola_train::optim::{Optimizer, OptimizerConfig};
use cupola_train::{PrecisionSetting, StepSize, peak_memory, training_bytes};
use serde_json::json;

#[global_allocator]
static ALLOCATOR: cupola_kernels::Allocator = cupola_kernels::Allocator;

struct Case {
    family: &'static str,
    d_model: usize,
    layers: usize,
    heads: usize,
    d_ff: usize,
    vocab: usize,
    seq: usize,
    batch: usize,
}

fn case(name: &str) -> Case {
    match name {
        "S" => Case { family: "llama", d_model: 288, layers: 6, heads: 6, d_ff: 768, vocab: 8192, seq: 256, batch: 16 },
        // A mixture of experts as wide as S for each token: two of eight, half as wide.
        "E" => {
            Case { family: "mixtral", d_model: 288, layers: 6, heads: 6, d_ff: 384, vocab: 8192, seq: 256, batch: 16 }
        }
        "L" => {
            Case { family: "llama", d_model: 512, layers: 8, heads: 8, d_ff: 1376, vocab: 8192, seq: 4096, batch: 1 }
        }
        "M" => {
            Case { family: "gpt2", d_model: 768, layers: 12, heads: 12, d_ff: 3072, vocab: 50257, seq: 512, batch: 2 }
        }
        other => panic!("there is no case {other}: S, E, M or L"),
    }
}

impl Case {
    fn sizes(&self) -> Sizes {
        Sizes {
            vocab_size: self.vocab,
            d_model: self.d_model,
            n_layers: self.layers,
            n_heads: self.heads,
            n_kv_heads: self.heads,
            d_head: self.d_model / self.heads,
            d_ff: self.d_ff,
            experts: ExpertSizes::default(),
            max_seq_len: self.seq,
            tie_embeddings: self.family == "gpt2",
            bos: None,
            eos: vec![],
            pad: None,
            settings: Default::default(),
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = args.iter().position(|a| a == name)?;
        Some(args.get(at + 1).and_then(|v| v.parse().ok()).unwrap_or_else(|| panic!("{name} wants a number")))
    };
    let [name, precision, ..] = args.as_slice() else { panic!("bench_step CASE PRECISION [--steps N] …") };
    let precision: PrecisionSetting = serde_json::from_value(json!(precision)).expect("a precision");
    let precision = precision.resolve();
    let mut case = case(name);
    case.seq = value("--seq").unwrap_or(case.seq);
    case.batch = value("--batch").unwrap_or(case.batch);
    let (steps, forward) = (value("--steps").unwrap_or(5), args.iter().any(|a| a == "--forward"));

    cupola_kernels::keep_freed_memory();
    let named = args.iter().position(|a| a == "--family").map(|at| args[at + 1].as_str());
    let family = cupola_arch::family(named.unwrap_or(case.family)).unwrap();
    let mut model = Model::fresh(family, &case.sizes(), 1, &Device::flex()).unwrap();
    let spec = model.decoder().unwrap().spec().clone();
    model.network.set_precision(precision);
    let recompute = args.iter().any(|a| a == "--recompute");
    model.set_recompute(recompute).unwrap();
    model.set_trainable(|_| !forward);
    let mut optimizer = Optimizer::new(&OptimizerConfig::default()).unwrap();
    let tokens = case.batch * case.seq;
    let mut state = 1u64;
    let ids: Vec<u32> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32 % case.vocab as u32
    })
    .take(tokens + 1)
    .collect();
    let targets: Arc<[i32]> = ids[1..].iter().map(|id| *id as i32).collect();
    let weights: Arc<[f32]> = vec![1.0 / tokens as f32; tokens].into();
    let batch = Batch::causal(ids[..tokens].to_vec(), case.batch);

    let peak = cupola_kernels::measure_peak_in(precision, 0.3);
    let (mut times, mut loss) = (Vec::new(), 0.0);
    for step in 0..steps + 2 {
        let begun = Instant::now();
        let value = model.decoder().unwrap().loss(&batch, &targets, &weights);
        loss = cupola_ops::scalar(&value);
        if !forward {
            update(&mut model, &mut optimizer, value, step as u64 + 1);
        }
        if step >= 2 {
            times.push(begun.elapsed().as_secs_f64());
        }
    }
    times.sort_by(f64::total_cmp);
    let planned =
        training_bytes(model.spec(), StepSize { rows: tokens, accumulates: false, recompute, precision, state: 8.0 });
    let flops = spec.train_flops_per_token(case.seq) / if forward { 3.0 } else { 1.0 };
    println!(
        "{}",
        json!({
            "case": name, "who": format!("cupola {}", precision.name()), "threads": cupola_kernels::threads(),
            "parameters": spec.parameters(), "loss": (f64::from(loss) * 1e4).round() / 1e4,
            "tokens_per_second": (tokens as f64 / times[times.len() / 2] * 10.0).round() / 10.0, "steps": steps,
            "peak_memory": peak_memory(), "planned_memory": planned, "flops_per_token": flops, "peak_flops": peak.max(cupola_kernels::measure_peak_in(precision, 0.3)),
        })
    );
}

/// Backward and the optimizer's step.
fn update(model: &mut Model, optimizer: &mut Optimizer, loss: Tensor<1>, step: u64) {
    let mut tape = loss.backward();
    drop(loss);
    let gradients = model.params_mut().iter().map(|p| p.take_gradient(&mut tape)).collect();
    drop(tape);
    optimizer.step(model.params_mut(), &gradients, 1e-4, step, 1.0);
}
