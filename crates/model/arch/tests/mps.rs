//! Models of tensor trains: there is no other implementation to compare with, so they are compared with themselves.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use burn::tensor::Device;
use cupola_arch::{Model, Sizes, family};
use cupola_nn::{Batch, Module, Piece, Rng, Step, Weight};
use cupola_ops::{IGNORE, scalar, to_vec};
use cupola_testkit::assert_close;
use serde_json::{Value, json};

fn fresh(settings: Value) -> Model {
    let sizes = Sizes {
        experts: cupola_arch::ExpertSizes::default(),
        vocab_size: 50,
        d_model: 96,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        d_head: 24,
        d_ff: 256,
        max_seq_len: 64,
        tie_embeddings: false,
        bos: Some(1),
        eos: vec![2],
        pad: None,
        settings: settings.as_object().unwrap().clone(),
    };
    Model::fresh(family("cupola_mps").unwrap(), &sizes, 3, &Device::flex()).unwrap()
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
    let mut rng = Rng::new(4, "ids");
    (0..n).map(|_| rng.below(50) as u32).collect()
}

#[test]
fn fresh_weights_deviate_as_those_of_a_dense_model() {
    for model in variants() {
        let (mut squares, mut seen) = ([0.0; 2], [0; 2]);
        let mut copy = model.clone();
        let mut pieces = vec![];
        copy.pieces(&mut pieces);
        for piece in pieces {
            let Piece::Linear(linear) = piece else { continue };
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
        let dir = tempfile::tempdir().unwrap();
        model.save(dir.path()).unwrap();
        let mut again = Model::load(dir.path(), &Device::flex()).unwrap();
        assert_eq!(model.spec(), again.spec());
        assert_eq!(model.state(), again.state());
        assert!(model.state().contains_key("model.layers.1.mlp.down_proj.core_1"));
        let spec = model.spec().clone();
        assert_eq!(spec.parameters(), again.params_mut().iter().map(|p| p.numel() as u64).sum::<u64>());
    }
}

#[test]
fn pieces_of_a_sequence_give_what_the_whole_gives() {
    for model in variants() {
        let decoder = model.decoder().unwrap();
        let ids = ids(24);
        let whole = to_vec(&decoder.hidden(&Batch::causal(ids.clone(), 1)));
        let (mut cache, mut got, mut at) = (decoder.cache(), vec![], 0);
        for rows in [1, 4, 1, 11, 7] {
            let new: Arc<[u32]> = ids[at..at + rows].to_vec().into();
            got.extend(to_vec(&decoder.step(&new, &mut [Step { cache: &mut cache, rows }])));
            at += rows;
        }
        assert_eq!(cache.bytes(), decoder.spec().cache_bytes(24));
        assert_close("hidden states in pieces", &got, &whole, 1e-4, 1e-4);
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
    let dir = tempfile::tempdir().unwrap();
    fresh(json!({})).save(dir.path()).unwrap();
    let config = std::fs::read_to_string(dir.path().join("config.json")).unwrap();
    for (old, new, message) in [
        ("\"tensor_cores\": 2", "\"tensor_cores\": 17", "the most are 16"),
        ("\"tensor_cores\": 2", "\"tensor_cores\": 0", "`tensor_cores` in config.json should be a positive number"),
        ("\"bond_dimension\": 8", "\"bond_dimension\": -1", "should be a positive number"),
        ("\"bond_dimension\": 8", "\"bond_dimension\": null", "has no `bond_dimension`"),
    ] {
        assert!(config.contains(old), "{config}");
        std::fs::write(dir.path().join("config.json"), config.replace(old, new)).unwrap();
        let error = Model::read_spec(dir.path()).unwrap_err();
        assert!(error.chain().contains(message), "{}", error.chain());
    }
    std::fs::write(dir.path().join("config.json"), config.replace("\"bond_dimension\": 8", "\"bond_dimension\": 9"))
        .unwrap();
    let error = Model::load(dir.path(), &Device::flex()).unwrap_err().chain();
    assert!(error.contains("core_0 is") && error.contains("implies"), "{error}");
}
