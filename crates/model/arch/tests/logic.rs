//! Models with a logic program inside: there is no other implementation to compare with, so they are compared with
//! themselves. The program is compared with its possible worlds where it is defined.
#![allow(clippy::unwrap_used)]

mod small;

use std::sync::Arc;

use burn::tensor::Tensor;
use cupola_arch::Model;
use cupola_nn::{Batch, Cache, Module, Rng, Step};
use cupola_ops::{IGNORE, scalar, to_vec};
use cupola_testkit::assert_close;
use serde_json::{Value, json};

fn fresh(settings: Value) -> Model {
    small::fresh("cupola_logic", [50, 32, 64], settings)
}

/// A model whose output layer, rules and predicates are far from where they begin, so that the program matters.
fn lively(settings: Value) -> Model {
    let mut model = fresh(settings);
    let mut rng = Rng::new(5, "lively");
    for mut param in model.params_mut() {
        let deviation = if param.name().ends_with("logic.rules") { 0.2 } else { 1.2 };
        if param.name().contains(".logic.") {
            let numbers = rng.normal(param.numel(), deviation);
            param.update(|values| values.iter_mut().zip(&numbers).for_each(|(v, n)| *v += n));
        }
    }
    model
}

fn variants() -> Vec<Model> {
    vec![
        lively(json!({})),
        lively(json!({"logic_constants": 5, "logic_relations": 3, "logic_block": 1})),
        lively(json!({"logic_constants": 2, "logic_relations": 1})),
        lively(json!({"logic_constants": 1, "logic_relations": 1})),
    ]
}

fn ids(n: usize, salt: u64) -> Vec<u32> {
    small::ids(n, 50, salt)
}

fn hidden(model: &Model, batch: &Batch) -> Vec<f32> {
    to_vec(&model.decoder().unwrap().hidden(batch))
}

/// The loss of the next tokens within each segment.
fn loss(model: &Model, batch: &Batch, segments: &[u32]) -> Tensor<1> {
    let last = |i: usize| (i + 1).is_multiple_of(batch.seq()) || segments[i] != segments[i + 1];
    let target = |i: usize| if last(i) { IGNORE } else { batch.ids[i + 1] as i32 };
    let targets: Arc<[i32]> = (0..batch.ids.len()).map(target).collect();
    let weights: Arc<[f32]> = vec![0.1; targets.len()].into();
    model.decoder().unwrap().loss(batch, &targets, &weights)
}

fn gradients(model: &mut Model, batch: &Batch, segments: &[u32]) -> (f32, Vec<Vec<f32>>) {
    let loss = loss(model, batch, segments);
    let mut tape = loss.backward();
    (scalar(&loss), model.params_mut().iter().map(|p| p.take_gradient(&mut tape).unwrap()).collect())
}

#[test]
fn saved_models_load_with_equal_weights_and_counts_are_exact() {
    for model in variants() {
        let again = small::loaded_again(&model);
        assert_eq!(again.state().keys().filter(|name| name.ends_with("logic.rules")).count(), 1);
    }
}

#[test]
fn gradients_are_the_slopes_of_the_loss() {
    let (segments, mut rng) = ([vec![0; 9], vec![1; 6], vec![2; 1]].concat(), Rng::new(6, "directions"));
    for (variant, mut model) in variants().into_iter().take(3).enumerate() {
        model.set_trainable(|_| true);
        let batch = Batch::segmented(ids(16, 4), 1, &segments);
        let (_, gradients) = gradients(&mut model, &batch, &segments);
        let names: Vec<String> = model.params_mut().iter().map(|p| p.name().to_string()).collect();
        for (i, gradient) in gradients.iter().enumerate() {
            // Along the gradient, bent a little: what the loss says of it is large enough to be seen in 32 bits.
            let norm = gradient.iter().map(|g| g * g).sum::<f32>().sqrt();
            let bent = rng.normal(gradient.len(), 0.3 / (gradient.len() as f32).sqrt());
            let direction: Vec<f32> = gradient.iter().zip(bent).map(|(g, b)| g / norm.max(1e-20) + b).collect();
            let want: f32 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
            let step = 0.004 / norm.max(1.0);
            let mut at = |factor: f32| {
                let change = |values: &mut [f32]| values.iter_mut().zip(&direction).for_each(|(v, d)| *v += factor * d);
                model.params_mut()[i].update(change);
                let value = f64::from(scalar(&loss(&model, &batch, &segments)));
                model.params_mut()[i].update(|v| v.iter_mut().zip(&direction).for_each(|(v, d)| *v -= factor * d));
                value
            };
            let got = (at(step) - at(-step)) / f64::from(2.0 * step);
            let near = (got - f64::from(want)).abs() < 0.02 * f64::from(want.abs()) + 4e-4;
            assert!(near, "{}: {want}, but the loss changes by {got}", names[i]);
        }
        // Each is larger than what the comparison lets pass; that of rules, of which random words hardly ask, is compared at
        // the operation and at the kernel. In the third, the only relation is that of every token.
        let weights = names.iter().zip(&gradients).filter(|(name, _)| name.contains(".logic."));
        for (name, gradient) in weights.filter(|(name, _)| !name.ends_with("bias") && !name.ends_with("rules")) {
            let norm = gradient.iter().map(|g| g * g).sum::<f32>().sqrt();
            assert!(norm > 5e-4 || variant == 2, "{name} has a gradient of {norm} alone");
        }
    }
}

#[test]
fn a_later_token_changes_nothing_before_it() {
    for model in variants() {
        let text = ids(20, 7);
        let whole = hidden(&model, &Batch::causal(text.clone(), 1));
        let width = whole.len() / 20;
        for changed in [1, 9, 19] {
            let mut other = text.clone();
            other[changed] = (other[changed] + 1) % 50;
            let got = hidden(&model, &Batch::causal(other, 1));
            assert_eq!(got[..changed * width], whole[..changed * width]);
            assert_ne!(got[changed * width..], whole[changed * width..]);
        }
    }
}

#[test]
fn documents_packed_into_one_row_do_not_see_each_other() {
    let lengths = [5, 1, 11, 7, 8, 3, 13];
    let segments: Vec<u32> = lengths.iter().enumerate().flat_map(|(i, n)| vec![i as u32; *n]).collect();
    let text = ids(48, 1);
    for mut model in variants() {
        model.set_trainable(|_| true);
        let packed = Batch::segmented(text.clone(), 2, &segments);
        let together = hidden(&model, &packed);
        let (loss, of_all) = gradients(&mut model, &packed, &segments);
        let (mut alone, mut sum, mut at) = (vec![], 0.0, 0);
        let mut sums: Vec<Vec<f32>> = of_all.iter().map(|g| vec![0.0; g.len()]).collect();
        for length in lengths {
            let one = Batch::causal(text[at..at + length].to_vec(), 1);
            alone.extend(hidden(&model, &one));
            let (loss, of_one) = gradients(&mut model, &one, &vec![0; length]);
            sum += loss;
            sums.iter_mut().zip(of_one).for_each(|(s, g)| s.iter_mut().zip(g).for_each(|(s, g)| *s += g));
            at += length;
        }
        assert_close("hidden states", &together, &alone, 1e-5, 1e-4);
        assert_close("loss", &[loss], &[sum], 1e-5, 1e-5);
        for (got, want) in of_all.iter().zip(&sums) {
            assert_close("gradient", got, want, 5e-5, 1e-3);
        }
    }
}

#[test]
fn padding_on_either_side_changes_no_text() {
    for model in variants() {
        let texts = [ids(9, 2), ids(5, 3)];
        let alone: Vec<Vec<f32>> = texts.iter().map(|t| hidden(&model, &Batch::causal(t.clone(), 1))).collect();
        // The first row full; the second padded on the left, then on the right.
        for left in [true, false] {
            let (padding, own) = (vec![0; 4], texts[1].clone());
            let row = if left { [padding, own] } else { [own, padding] }.concat();
            let segments = [
                [0; 9].to_vec(),
                if left { [[1; 4].to_vec(), vec![2; 5]] } else { [[1; 5].to_vec(), vec![2; 4]] }.concat(),
            ];
            let both = hidden(&model, &Batch::segmented([texts[0].clone(), row].concat(), 2, &segments.concat()));
            let (width, from) = (both.len() / 18, if left { 13 } else { 9 });
            assert_close("the full row", &both[..9 * width], &alone[0], 1e-5, 1e-4);
            assert_close("the padded row", &both[from * width..(from + 5) * width], &alone[1], 1e-5, 1e-4);
        }
    }
}

#[test]
fn sequences_of_different_lengths_go_on_together() {
    for model in variants() {
        let decoder = model.decoder().unwrap();
        let texts = [ids(9, 2), ids(6, 3), ids(7, 4)];
        let whole: Vec<Vec<f32>> = texts.iter().map(|text| hidden(&model, &Batch::causal(text.clone(), 1))).collect();
        let mut caches: Vec<Cache> = texts.iter().map(|_| decoder.cache()).collect();
        let mut got = vec![vec![]; texts.len()];
        for rows in [[4, 3, 0], [2, 1, 5], [1, 1, 1], [1, 1, 1], [1, 0, 0]] {
            let part = |i: usize| &texts[i][caches[i].len()..][..rows[i]];
            let new: Arc<[u32]> = (0..3).flat_map(|i| part(i).to_vec()).collect();
            let steps = caches.iter_mut().zip(rows).filter(|(_, rows)| *rows > 0);
            let mut steps: Vec<Step<'_>> = steps.map(|(cache, rows)| Step { cache, rows }).collect();
            let hidden = to_vec(&decoder.step(&new, &mut steps));
            let (width, mut at) = (hidden.len() / new.len(), 0);
            for (got, rows) in got.iter_mut().zip(rows) {
                got.extend_from_slice(&hidden[at * width..(at + rows) * width]);
                at += rows;
            }
        }
        for (i, (got, whole)) in got.iter().zip(&whole).enumerate() {
            assert_close(&format!("sequence {i}"), got, whole, 2e-5, 1e-4);
            assert_eq!(caches[i].bytes(), decoder.spec().cache_bytes(texts[i].len()));
        }
    }
}

#[test]
fn blocks_computed_again_give_equal_losses_and_gradients() {
    let segments: Vec<u32> = (0..24).map(|i| u32::from(i > 7) + u32::from(i > 18)).collect();
    let run = |recompute: bool| {
        let mut model = lively(json!({"logic_constants": 5, "logic_relations": 3}));
        model.set_trainable(|_| true);
        model.set_recompute(recompute).unwrap();
        gradients(&mut model, &Batch::segmented(ids(24, 5), 1, &segments), &segments)
    };
    assert!(run(false) == run(true));
}

#[test]
fn settings_that_make_no_program_are_refused() {
    small::assert_refused(
        &fresh(json!({})),
        &[
            ("\"logic_constants\": 16", "\"logic_constants\": 257", "the most are 256"),
            ("\"logic_constants\": 16", "\"logic_constants\": 0", "should be a positive number"),
            ("\"logic_relations\": 8", "\"logic_relations\": 33", "the most are 32"),
            ("\"logic_relations\": 8", "\"logic_relations\": null", "has no `logic_relations`"),
            ("\"logic_block\": 0", "\"logic_block\": 2", "the model has 2 blocks, counted from 0"),
            ("\"logic_block\": 0", "\"logic_block\": -1", "should be a whole number"),
        ],
    );
}
