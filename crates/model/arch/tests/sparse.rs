//! Models of block-sparse attention and of graphs: there is no other implementation to compare with, so they are compared with
//! themselves, and a pattern that leaves nothing out with a Llama.
#![allow(clippy::unwrap_used)]

mod small;

use std::sync::Arc;

use burn::tensor::Device;
use cupola_arch::Model;
use cupola_nn::{Batch, Cache, Decoder, Module, Rng, Step};
use cupola_ops::{IGNORE, scalar, to_vec};
use cupola_testkit::assert_close;
use serde_json::{Value, json};

fn fresh(name: &str, settings: Value) -> Model {
    let mut model = small::fresh(name, [12, 24, 32], settings);
    // Fresh weights are so small, and shifts and scales so alike, that much would go unseen.
    let mut rng = Rng::new(8, "weights");
    for mut param in model.params_mut() {
        let noise = rng.normal(param.numel(), 0.2);
        param.update(|numbers| numbers.iter_mut().zip(&noise).for_each(|(x, by)| *x += by));
    }
    model
}

fn variants() -> Vec<Model> {
    vec![
        fresh("cupola_block_sparse", json!({})),
        fresh("cupola_block_sparse", json!({"block_size": 3, "near_blocks": 1, "random_blocks": 1, "pattern_seed": 4})),
        fresh(
            "cupola_block_sparse",
            json!({"block_size": 12, "near_blocks": 1, "global_blocks": 0, "random_blocks": 1}),
        ),
        fresh("cupola_graph", json!({})),
        fresh("cupola_graph", json!({"previous_tokens": 2, "same_tokens": 2, "phrases": 2, "phrase_length": 3})),
        fresh("cupola_graph", json!({"previous_tokens": 2, "same_tokens": 0, "phrases": 2, "phrase_length": 2})),
    ]
}

fn ids(n: usize) -> Vec<u32> {
    small::ids(n, 12, 4)
}

fn hidden(decoder: &Decoder, batch: &Batch) -> Vec<f32> {
    to_vec(&decoder.hidden(batch))
}

#[test]
fn saved_sparse_models_load_with_equal_weights_and_counts_are_exact() {
    for model in variants() {
        let (again, batch) = (small::loaded_again(&model), Batch::causal(ids(50), 1));
        assert_eq!(hidden(model.decoder().unwrap(), &batch), hidden(again.decoder().unwrap(), &batch));
    }
}

#[test]
fn a_token_changes_nothing_before_it_and_something_after() {
    for model in variants() {
        let decoder = model.decoder().unwrap();
        let ids = ids(40);
        let whole = hidden(decoder, &Batch::causal(ids.clone(), 1));
        // A block's last token is not seen by the next where no block before is near.
        for at in [0, 1, 7, 18, 36, 39] {
            let mut changed = ids.clone();
            changed[at] = (changed[at] + 1) % 12;
            let other = hidden(decoder, &Batch::causal(changed, 1));
            let (before, after) = (at * 24, at * 24 + 24);
            assert_eq!(whole[..before], other[..before], "token {at} is seen earlier");
            assert!(whole[before..after] != other[before..after]);
            assert!(at == 39 || whole[after..] != other[after..], "token {at} is not seen later");
        }
    }
}

#[test]
fn pieces_of_a_sequence_give_what_the_whole_gives() {
    for model in variants() {
        small::assert_goes_on(&model, &ids(60), &[1, 4, 1, 1, 1, 11, 7, 9, 1, 23, 1]);
    }
}

#[test]
fn sequences_side_by_side_give_what_each_gives() {
    for model in variants() {
        let decoder = model.decoder().unwrap();
        let ids = ids(60);
        let texts = [&ids[..7], &ids[10..43], &ids[43..44]];
        let alone = texts.map(|text| hidden(decoder, &Batch::causal(text.to_vec(), 1)));
        // Packed into a row, padding behind them.
        let packed: Vec<u32> = texts.concat().into_iter().chain([0; 5]).collect();
        let segments: Vec<u32> =
            texts.iter().zip(0..).flat_map(|(text, s)| vec![s; text.len()]).chain([9; 5]).collect();
        let packed = hidden(decoder, &Batch::segmented(packed, 1, &segments));
        assert_close("packed texts", &packed[..41 * 24], &alone.concat(), 1e-4, 1e-4);
        // Rows of a batch.
        let rows = hidden(decoder, &Batch::causal([&ids[..33], &ids[10..43]].concat(), 2));
        assert_close("the first row", &rows[..7 * 24], &alone[0], 1e-4, 1e-4);
        assert_close("the second row", &rows[33 * 24..], &alone[1], 1e-4, 1e-4);
        // Continued at once, by different numbers of tokens.
        let mut caches: Vec<Cache> = texts.iter().map(|_| decoder.cache()).collect();
        let (mut got, mut at) = ([vec![], vec![], vec![]], [0; 3]);
        while (0..3).any(|i| at[i] < texts[i].len()) {
            let rows = [0, 1, 2].map(|i: usize| (texts[i].len() - at[i]).min([3, 10, 1][i]));
            let new: Vec<u32> = (0..3).flat_map(|i| texts[i][at[i]..at[i] + rows[i]].to_vec()).collect();
            let going = caches.iter_mut().zip(rows).filter(|(_, rows)| *rows > 0);
            let mut steps: Vec<Step<'_>> = going.map(|(cache, rows)| Step { cache, rows }).collect();
            let mut out = &to_vec(&decoder.step(&new.into(), &mut steps))[..];
            for i in 0..3 {
                let (own, rest) = out.split_at(rows[i] * 24);
                got[i].extend(own.to_vec());
                (out, at[i]) = (rest, at[i] + rows[i]);
            }
        }
        assert_close("texts that grow together", &got.concat(), &alone.concat(), 1e-4, 1e-4);
    }
}

/// A loss over 40 tokens in two texts, and what it is of.
fn loss(model: &Model) -> burn::tensor::Tensor<1> {
    let ids = ids(40);
    let targets: Arc<[i32]> = ids[1..].iter().map(|id| *id as i32).chain([IGNORE]).collect();
    let segments: Vec<u32> = (0..40).map(|i| u32::from(i >= 29)).collect();
    model.decoder().unwrap().loss(&Batch::segmented(ids, 1, &segments), &targets, &vec![0.1; 40].into())
}

#[test]
fn gradients_are_slopes() {
    for (variant, mut model) in variants().into_iter().enumerate() {
        model.set_trainable(|_| true);
        let mut tape = loss(&model).backward();
        let count = model.params_mut().len();
        for p in 0..count {
            let (name, gradient) = {
                let params = model.params_mut();
                (params[p].name().to_string(), params[p].take_gradient(&mut tape))
            };
            // Nobody asks what came after an earlier occurrence where there are no edges to it.
            let unused = name.contains("relations.same") || name.contains("relations.follows");
            let Some(gradient) = gradient.filter(|g| g.iter().any(|x| *x != 0.0)) else {
                assert!(unused && variant == 5, "{name} has no gradient");
                continue;
            };
            let length = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            let step = 4e-3;
            let mut moved = |by: f64| {
                let params = &mut model.params_mut()[p];
                params.update(|x| {
                    x.iter_mut().zip(&gradient).for_each(|(x, g)| *x += (by * f64::from(*g) / length) as f32);
                });
                f64::from(scalar(&loss(&model)))
            };
            let (up, down) = (moved(step), moved(-2.0 * step));
            moved(step);
            let slope = (up - down) / (2.0 * step);
            assert!(
                (slope - length).abs() < 2e-3 + 0.02 * length,
                "{name}: gradient {length}, differences say {slope}"
            );
        }
    }
}

#[test]
fn blocks_computed_again_give_equal_losses_and_gradients() {
    let run = |mut model: Model, recompute: bool| {
        model.set_trainable(|_| true);
        model.set_recompute(recompute).unwrap();
        let loss = loss(&model);
        let value = scalar(&loss);
        let mut tape = loss.backward();
        (value, model.params_mut().iter().map(|p| p.take_gradient(&mut tape)).collect::<Vec<_>>())
    };
    for (kept, computed) in variants().into_iter().zip(variants()) {
        let ((kept, one), (computed, other)) = (run(kept, false), run(computed, true));
        assert_eq!(kept, computed);
        let zero = |g: &Option<Vec<f32>>| g.as_ref().is_none_or(|g| g.iter().all(|x| *x == 0.0));
        assert!(one.iter().zip(&other).all(|(a, b)| a == b || (zero(a) && zero(b))));
    }
}

#[test]
fn blocks_that_leave_nothing_out_are_plain_attention() {
    let sparse = fresh("cupola_block_sparse", json!({"block_size": 7, "near_blocks": 2, "random_blocks": 100}));
    let dense = fresh("llama", json!({}));
    assert_eq!(sparse.state(), dense.state());
    let batch = Batch::causal(ids(60), 1);
    let [sparse, dense] = [&sparse, &dense].map(|model| hidden(model.decoder().unwrap(), &batch));
    assert_close("all blocks", &sparse, &dense, 1e-5, 1e-5);
}

/// The hidden states of texts at these places of a batch's rows, one after another.
fn encoded(model: &Model, ids: Vec<u32>, texts: &[std::ops::Range<usize>]) -> Vec<f32> {
    let encoder = model.encoder().unwrap();
    let (seq, batch) = (ids.len() / texts.len(), encoder.spec().batch(ids, texts));
    let hidden = to_vec(&encoder.hidden(&batch));
    let rows = texts.iter().enumerate().map(|(row, text)| row * seq + text.start..row * seq + text.end);
    rows.flat_map(|rows| hidden[rows.start * 24..rows.end * 24].to_vec()).collect()
}

#[test]
fn an_encoders_blocks_that_leave_nothing_out_are_plain_attention() {
    let settings = json!({"block_size": 7, "near_blocks": 2, "random_blocks": 100});
    let sparse = fresh("cupola_block_sparse_encoder", settings);
    let dir = tempfile::tempdir().unwrap();
    sparse.save(dir.path()).unwrap();
    let path = dir.path().join("config.json");
    let config = std::fs::read_to_string(&path).unwrap();
    let plain = config.replace("cupola_block_sparse_encoder", "modernbert");
    std::fs::write(&path, plain.replace("CupolaBlockSparseForMaskedLM", "ModernBertForMaskedLM")).unwrap();
    let dense = Model::load(dir.path(), &Device::flex()).unwrap();
    assert_eq!(sparse.state(), dense.state());
    let texts = [0..50, 3..20];
    let [sparse, dense] = [&sparse, &dense].map(|model| encoded(model, ids(100), &texts));
    assert_close("all blocks", &sparse, &dense, 1e-5, 1e-5);
}

#[test]
fn an_encoder_reads_a_text_alike_wherever_it_stands_and_to_both_sides() {
    let settings = json!({"block_size": 3, "near_blocks": 2, "random_blocks": 1});
    let model = fresh("cupola_block_sparse_encoder", settings);
    let ids = ids(40);
    let alone = encoded(&model, ids.clone(), std::slice::from_ref(&(0..40)));
    let padded: Vec<u32> = [&[0; 5][..], &ids, &[0; 2], &ids[..30], &[0; 17]].concat();
    let both = encoded(&model, padded, &[5..45, 0..30]);
    assert_close("beside padding", &both[..40 * 24], &alone, 1e-4, 1e-4);
    let mut changed = ids;
    changed[20] = (changed[20] + 1) % 12;
    let other = encoded(&model, changed, std::slice::from_ref(&(0..40)));
    let moved = |t: usize| alone[t * 24..][..24] != other[t * 24..][..24];
    assert!(moved(0) && moved(17) && moved(20) && moved(23) && moved(39));
}

#[test]
fn work_per_token_does_not_grow_with_the_text() {
    for model in variants() {
        let flops = |len| model.decoder().unwrap().spec().train_flops_per_token(len);
        assert!(flops(1 << 20) < 1.01 * flops(1 << 12), "{} and {}", flops(1 << 12), flops(1 << 20));
    }
    let dense = fresh("llama", json!({}));
    let flops = |len| dense.decoder().unwrap().spec().train_flops_per_token(len);
    assert!(flops(1 << 20) > 100.0 * flops(1 << 12));
}

#[test]
fn settings_of_no_pattern_are_refused() {
    for (name, changes) in [
        (
            "cupola_block_sparse",
            [
                ("\"block_size\": 8", "\"block_size\": 0", "`block_size` in config.json should be a positive number"),
                ("\"near_blocks\": 2", "\"near_blocks\": null", "has no `near_blocks`"),
                ("\"random_blocks\": 2", "\"random_blocks\": -2", "should be a whole number"),
            ],
        ),
        (
            "cupola_graph",
            [
                ("\"phrase_length\": 8", "\"phrase_length\": 0", "should be a positive number"),
                ("\"previous_tokens\": 16", "\"previous_tokens\": \"all\"", "should be a positive number"),
                ("\"same_tokens\": 4", "\"same_tokens\": 0.5", "should be a whole number"),
            ],
        ),
    ] {
        small::assert_refused(&fresh(name, json!({})), &changes);
    }
}
