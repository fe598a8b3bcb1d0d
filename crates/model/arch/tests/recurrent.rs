//! What holds for layers that carry a state: documents in one row do not see each other, sequences go on from where they
//! are, blocks can be computed again, and fresh models learn what takes a memory.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use burn::tensor::Device;
use cupola_arch::{Model, Sizes, family};
use cupola_nn::{Batch, Cache, Module, Rng, Step};
use cupola_ops::{IGNORE, scalar, to_vec};
use cupola_testkit::{assert_close, fixture};
use serde_json::Value;

/// A fixture of every family with such layers.
const FIXTURES: &[&str] =
    &["mamba", "mamba2", "rwkv", "recurrentgemma", "zamba2", "jamba", "cupola-rnn", "cupola-lstm", "cupola-gru"];

/// A fixture's model without a loss of its routers, which is no sum over documents.
fn load(name: &str) -> Model {
    let (from, dir) = (fixture(name), tempfile::tempdir().unwrap());
    let mut config: Value = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    config["router_aux_loss_coef"] = 0.0.into();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    std::fs::copy(from.join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    Model::load(dir.path(), &Device::flex()).unwrap()
}

fn tokens(n: usize, salt: u64) -> Vec<u32> {
    let mut rng = Rng::new(salt, "tokens");
    (0..n).map(|_| 5 + rng.below(50) as u32).collect()
}

/// The loss of the next tokens within each segment, each with the same weight, and the gradients of all parameters.
fn loss_and_gradients(model: &mut Model, batch: &Batch, segments: &[u32]) -> (f32, Vec<Option<Vec<f32>>>) {
    let last = |i: usize| (i + 1).is_multiple_of(batch.seq()) || segments[i] != segments[i + 1];
    let target = |i: usize| if last(i) { IGNORE } else { batch.ids[i + 1] as i32 };
    let targets: Arc<[i32]> = (0..batch.ids.len()).map(target).collect();
    let weights: Arc<[f32]> = vec![0.1; targets.len()].into();
    let loss = model.decoder().unwrap().loss(batch, &targets, &weights);
    let mut tape = loss.backward();
    (scalar(&loss), model.params_mut().iter().map(|p| p.take_gradient(&mut tape)).collect())
}

#[test]
fn documents_packed_into_one_row_do_not_see_each_other() {
    // Two rows of 24; lengths that share a grid and lengths that do not.
    let lengths = [5, 1, 11, 7, 8, 3, 13];
    let segments: Vec<u32> = lengths.iter().enumerate().flat_map(|(i, n)| vec![i as u32; *n]).collect();
    let ids = tokens(48, 1);
    for name in FIXTURES {
        let mut model = load(name);
        model.set_trainable(|_| true);
        let packed = Batch::segmented(ids.clone(), 2, &segments);
        let together = to_vec(&model.decoder().unwrap().hidden(&packed));
        let (loss, gradients) = loss_and_gradients(&mut model, &packed, &segments);
        let (mut alone, mut sum, mut at) = (vec![], 0.0, 0);
        let mut sums: Vec<Option<Vec<f32>>> = vec![None; gradients.len()];
        for length in lengths {
            let one = Batch::causal(ids[at..at + length].to_vec(), 1);
            alone.extend(to_vec(&model.decoder().unwrap().hidden(&one)));
            let (loss, gradients) = loss_and_gradients(&mut model, &one, &vec![0; length]);
            sum += loss;
            for (sum, gradient) in sums.iter_mut().zip(gradients) {
                match (sum, gradient) {
                    (Some(sum), Some(gradient)) => sum.iter_mut().zip(gradient).for_each(|(s, g)| *s += g),
                    (sum, gradient) => *sum = gradient,
                }
            }
            at += length;
        }
        assert_close(&format!("{name}: hidden states"), &together, &alone, 1e-5, 1e-4);
        assert_close(&format!("{name}: loss"), &[loss], &[sum], 1e-5, 1e-5);
        for (i, (got, want)) in gradients.iter().zip(&sums).enumerate() {
            let (got, want) = (got.as_ref().unwrap(), want.as_ref().unwrap());
            assert_close(&format!("{name}: gradient {i}"), got, want, 5e-5, 1e-3);
        }
    }
}

#[test]
fn sequences_of_different_lengths_go_on_together() {
    for name in FIXTURES {
        let model = load(name);
        let decoder = model.decoder().unwrap();
        let texts = [tokens(9, 2), tokens(6, 3), tokens(7, 4)];
        let whole: Vec<Vec<f32>> =
            texts.iter().map(|text| to_vec(&decoder.hidden(&Batch::causal(text.clone(), 1)))).collect();
        let mut caches: Vec<Cache> = texts.iter().map(|_| decoder.cache()).collect();
        let mut got = vec![vec![]; texts.len()];
        // Prompts at once, one that begins while others go on, equal steps, and one that is done.
        for rows in [[4, 3, 0], [2, 1, 5], [1, 1, 1], [1, 1, 1], [1, 0, 0]] {
            let part = |i: usize| &texts[i][caches[i].len()..][..rows[i]];
            let ids: Arc<[u32]> = (0..3).flat_map(|i| part(i).to_vec()).collect();
            let mut steps: Vec<Step<'_>> = caches
                .iter_mut()
                .zip(rows)
                .filter(|(_, rows)| *rows > 0)
                .map(|(cache, rows)| Step { cache, rows })
                .collect();
            let hidden = to_vec(&decoder.step(&ids, &mut steps));
            let (width, mut at) = (hidden.len() / ids.len(), 0);
            for (got, rows) in got.iter_mut().zip(rows) {
                got.extend_from_slice(&hidden[at * width..(at + rows) * width]);
                at += rows;
            }
        }
        for (i, (got, whole)) in got.iter().zip(&whole).enumerate() {
            assert_close(&format!("{name}: sequence {i}"), got, whole, 2e-5, 1e-4);
            assert_eq!(caches[i].bytes(), decoder.spec().cache_bytes(texts[i].len()), "{name}");
        }
    }
}

#[test]
fn recurrent_blocks_computed_again_change_no_bit() {
    let segments: Vec<u32> = (0..24).map(|i| u32::from(i > 7) + u32::from(i > 18)).collect();
    for name in FIXTURES.iter().filter(|name| **name != "zamba2") {
        let batch = Batch::segmented(tokens(24, 5), 1, &segments);
        let run = |recompute: bool| {
            let mut model = load(name);
            model.set_trainable(|_| true);
            model.set_recompute(recompute).unwrap();
            loss_and_gradients(&mut model, &batch, &segments)
        };
        assert!(run(false) == run(true), "{name}");
    }
    let refused = load("zamba2").set_recompute(true).unwrap_err().to_string();
    assert!(refused.contains("`activation_checkpointing` is not for `zamba2`"), "{refused}");
}

/// Rows in which every token is the one three before it.
fn echoes(rows: usize, seq: usize, rng: &mut Rng) -> Vec<u32> {
    let mut ids = Vec::with_capacity(rows * seq);
    for _ in 0..rows {
        let start = ids.len();
        (0..seq).for_each(|t| ids.push(if t < 3 { rng.below(8) as u32 } else { ids[start + t - 3] }));
    }
    ids
}

#[test]
fn fresh_models_learn_what_takes_a_memory() {
    let sizes = Sizes {
        vocab_size: 8,
        d_model: 32,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 4,
        d_head: 8,
        d_ff: 64,
        max_seq_len: 32,
        tie_embeddings: false,
        bos: None,
        eos: vec![],
        pad: None,
        settings: Default::default(),
        experts: Default::default(),
    };
    let (rows, seq, steps) = (16, 18, 200);
    for name in
        ["mamba", "mamba2", "rwkv", "recurrent_gemma", "zamba2", "jamba", "cupola_rnn", "cupola_lstm", "cupola_gru"]
    {
        let mut model = Model::fresh(family(name).unwrap(), &sizes, 1, &Device::flex()).unwrap();
        model.set_trainable(|_| true);
        let (mut rng, mut first, mut loss) = (Rng::new(1, "echoes"), None, 0.0);
        let mut moments: Vec<[Vec<f32>; 2]> =
            model.params_mut().iter().map(|p| [vec![0.0; p.numel()], vec![0.0; p.numel()]]).collect();
        for step in 1..=steps {
            let ids = echoes(rows, seq, &mut rng);
            let target = |i: usize| if i % seq < 2 || (i + 1).is_multiple_of(seq) { IGNORE } else { ids[i + 1] as i32 };
            let targets: Arc<[i32]> = (0..ids.len()).map(target).collect();
            let counted = targets.iter().filter(|t| **t != IGNORE).count() as f32;
            let weights: Arc<[f32]> = vec![1.0 / counted; targets.len()].into();
            let tensor = model.decoder().unwrap().loss(&Batch::causal(ids.clone(), rows), &targets, &weights);
            loss = scalar(&tensor);
            first.get_or_insert(loss);
            let mut tape = tensor.backward();
            for (mut p, [m, v]) in model.params_mut().into_iter().zip(&mut moments) {
                let Some(gradient) = p.take_gradient(&mut tape) else { continue };
                // Adam (Kingma and Ba 2015) without correction of the first steps.
                p.update(|values| {
                    for (i, g) in gradient.iter().enumerate() {
                        m[i] += 0.1 * (g - m[i]);
                        v[i] += 0.02 * (g * g - v[i]);
                        let warm = (step as f32 / 10.0).min(1.0);
                        values[i] -= 0.01 * warm * m[i] / (v[i].sqrt() + 1e-8);
                    }
                });
            }
        }
        // ln(8) = 2.08 is what a model without memory of three tokens is left with.
        let first = first.unwrap();
        assert!((1.8..2.6).contains(&first), "{name} begins at {first}");
        assert!(loss < 1.0, "{name} ends at {loss}");
    }
}
