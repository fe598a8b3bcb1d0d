//! What tests of families without another implementation share: small models, and that they are the same in other ways.
#![allow(dead_code, clippy::unwrap_used, reason = "each file of tests uses a part")]

use std::sync::Arc;

use burn::tensor::Device;
use cupola_arch::{Model, Sizes, family};
use cupola_nn::{Batch, Module, Rng, Step};
use cupola_ops::to_vec;
use cupola_testkit::assert_close;
use serde_json::Value;

/// A fresh model of two blocks and four heads, half as many for keys.
pub fn fresh(name: &str, [vocab_size, d_model, d_ff]: [usize; 3], settings: Value) -> Model {
    let sizes = Sizes {
        experts: cupola_arch::ExpertSizes::default(),
        vocab_size,
        d_model,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        d_head: d_model / 4,
        d_ff,
        max_seq_len: 64,
        tie_embeddings: false,
        bos: Some(1),
        eos: vec![2],
        pad: None,
        settings: settings.as_object().unwrap().clone(),
    };
    Model::fresh(family(name).unwrap(), &sizes, 3, &Device::flex()).unwrap()
}

pub fn ids(n: usize, below: usize, salt: u64) -> Vec<u32> {
    let mut rng = Rng::new(salt, "ids");
    (0..n).map(|_| rng.below(below) as u32).collect()
}

/// Saves a model; gives what loads again, which is equal and has as many parameters as the plan counts.
pub fn loaded_again(model: &Model) -> Model {
    let dir = tempfile::tempdir().unwrap();
    model.save(dir.path()).unwrap();
    let mut again = Model::load(dir.path(), &Device::flex()).unwrap();
    assert_eq!(model.spec(), again.spec());
    assert_eq!(model.state(), again.state());
    assert_eq!(model.spec().parameters(), again.params_mut().iter().map(|p| p.numel() as u64).sum::<u64>());
    again
}

/// A sequence in pieces gives what the whole gives, from a cache of the size that the plan counts.
pub fn assert_goes_on(model: &Model, ids: &[u32], pieces: &[usize]) {
    let decoder = model.decoder().unwrap();
    let whole = to_vec(&decoder.hidden(&Batch::causal(ids.to_vec(), 1)));
    let (mut cache, mut got, mut at) = (decoder.cache(), vec![], 0);
    for &rows in pieces {
        let new: Arc<[u32]> = ids[at..at + rows].to_vec().into();
        got.extend(to_vec(&decoder.step(&new, &mut [Step { cache: &mut cache, rows }])));
        at += rows;
        assert_eq!(cache.bytes(), decoder.spec().cache_bytes(at));
    }
    assert_eq!(at, ids.len());
    assert_close("hidden states in pieces", &got, &whole, 1e-4, 1e-4);
}

/// A model's `config.json` is refused where a text in it is another, with a message that has the third.
pub fn assert_refused(model: &Model, cases: &[(&str, &str, &str)]) {
    let dir = tempfile::tempdir().unwrap();
    model.save(dir.path()).unwrap();
    let path = dir.path().join("config.json");
    let config = std::fs::read_to_string(&path).unwrap();
    for (old, new, message) in cases {
        assert!(config.contains(old), "{config}");
        std::fs::write(&path, config.replace(old, new)).unwrap();
        let error = Model::read_spec(dir.path()).unwrap_err();
        assert!(error.chain().contains(message), "{}", error.chain());
    }
}
