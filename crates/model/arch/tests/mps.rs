//! Models of tensor trains: there is no other implementation to compare with, so they are compared with themselves.
#![allow(clippy::unwrap_used)]

mod small;

use std::sync::Arc;

use burn::tensor::Device;
use cupola_arch::Model;
use cupola_nn::{Batch, Module, Weight};
use cupola_ops::{IGNORE, scalar, to_vec};
use serde_json::{Value, json};

fn fresh(settings: Value) -> Model {
    small::fresh("cupola_mps", [50, 96, 256], settings)
}

fn variants() -> Vec<Model> {
    vec![
        fresh(json!({})),
        fresh(json!({"bond_dimension": 5, "tensor_cores": 3})),
        fresh(json!({"bond_dimension": 6, "factored_attention": true})),
        fresh(json!({"bond_dimension": 64, "tensor_cores": 4, "factored_attention": true})),
    ]
}

fn ids(n: usize) -> Vec<u32> {
    small::ids(n, 50, 4)
}

#[test]
fn fresh_weights_deviate_as_those_of_a_dense_model() {
    for model in variants() {
        let (mut squares, mut seen) = ([0.0; 2], [0; 2]);
        let mut copy = model.clone();
        for linear in copy.linears_mut() {
            if !matches!(linear.weight, Weight::Train(_)) {
                continue;
            }
            let (name, numbers) = (linear.weight.name(), to_vec(&linear.weight.dense()));
            let out = usize::from(name.contains("down_proj") || name.contains("o_proj"));
            squares[out] += numbers.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>() / numbers.len() as f64;
            seen[out] += 1;
        }
        assert!(seen == [4, 2] || seen == [10, 4], "{seen:?} tensor trains");
        // Two layers write to the residual stream in each of two blocks.
        for (out, want) in [0.02, 0.02 / 2.0].into_iter().enumerate() {
            let deviation = (squares[out] / f64::from(seen[out])).sqrt();
            // The elements of a train depend on each other, so that their sample deviates more than as many numbers would.
            assert!((deviation / want - 1.0).abs() < 0.2, "{deviation}, not {want}");
        }
    }
}

#[test]
fn saved_models_of_tensor_trains_load_with_equal_weights_and_counts_are_exact() {
    for model in variants() {
        assert!(small::loaded_again(&model).state().contains_key("model.layers.1.mlp.down_proj.core_1"));
    }
}

#[test]
fn pieces_of_a_sequence_give_what_the_whole_gives() {
    for model in variants() {
        small::assert_goes_on(&model, &ids(24), &[1, 4, 1, 11, 7]);
    }
}

#[test]
fn blocks_computed_again_give_equal_losses_and_gradients() {
    let ids = ids(40);
    let targets: Arc<[i32]> = ids[1..].iter().map(|id| *id as i32).chain([IGNORE]).collect();
    let weights: Arc<[f32]> = vec![0.1; 40].into();
    let run = |recompute: bool| {
        let mut model = fresh(json!({"bond_dimension": 5, "tensor_cores": 3}));
        model.set_trainable(|_| true);
        model.set_recompute(recompute).unwrap();
        let loss = model.decoder().unwrap().loss(&Batch::causal(ids.clone(), 1), &targets, &weights);
        let value = scalar(&loss);
        let mut tape = loss.backward();
        (value, model.params_mut().iter().map(|p| p.take_gradient(&mut tape).unwrap()).collect::<Vec<_>>())
    };
    let (kept, computed) = (run(false), run(true));
    assert!(kept.1.iter().all(|gradient| gradient.iter().any(|g| *g != 0.0)), "a parameter has no gradient");
    assert!(kept == computed);
}

#[test]
fn settings_that_make_no_weight_are_refused() {
    let model = fresh(json!({}));
    small::assert_refused(
        &model,
        &[
            ("\"tensor_cores\": 2", "\"tensor_cores\": 17", "the most are 16"),
            ("\"tensor_cores\": 2", "\"tensor_cores\": 0", "`tensor_cores` in config.json should be a positive number"),
            ("\"bond_dimension\": 8", "\"bond_dimension\": -1", "should be a positive number"),
            ("\"bond_dimension\": 8", "\"bond_dimension\": null", "has no `bond_dimension`"),
        ],
    );
    let dir = tempfile::tempdir().unwrap();
    model.save(dir.path()).unwrap();
    let path = dir.path().join("config.json");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, config.replace("\"bond_dimension\": 8", "\"bond_dimension\": 9")).unwrap();
    let error = Model::load(dir.path(), &Device::flex()).unwrap_err().chain();
    assert!(error.contains("core_0 is") && error.contains("implies"), "{error}");
}
