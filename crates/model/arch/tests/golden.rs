//! Llama against transformers: logits, hidden states, loss and gradients of the reference fixtures.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use burn::tensor::Device;
use cupola_arch::Model;
use cupola_nn::Batch;
use cupola_ops::{IGNORE, to_vec};
use cupola_testkit::{Golden, assert_close, fixture};

/// The fixture's batch: padding is a segment of its own, so that no token attends it.
fn batch(golden: &Golden) -> (Batch, Vec<bool>) {
    let (shape, ids) = golden.i64("in.input_ids");
    let (_, mask) = golden.i64("in.attention_mask");
    let segments: Vec<u32> = mask.iter().map(|m| u32::from(*m == 0)).collect();
    let batch = Batch::segmented(ids.iter().map(|id| *id as u32).collect(), shape[0], &segments);
    (batch, mask.iter().map(|m| *m != 0).collect())
}

/// Zero where padded, as the golden outputs are.
fn masked(values: Vec<f32>, real: &[bool]) -> Vec<f32> {
    let width = values.len() / real.len();
    values.iter().enumerate().map(|(i, v)| if real[i / width] { *v } else { 0.0 }).collect()
}

/// Labels shifted by one, as the causal loss wants them.
fn targets(golden: &Golden, seq: usize) -> Arc<[i32]> {
    let (_, labels) = golden.i64("in.labels");
    labels.chunks(seq).flat_map(|row| row[1..].iter().map(|l| *l as i32).chain([IGNORE])).collect()
}

fn compare(name: &str) {
    let golden = Golden::load(name);
    let mut model = Model::load(&fixture(name), &Device::flex()).unwrap();
    let (batch, real) = batch(&golden);
    let states = model.decoder.hidden_states(&batch);
    for (i, state) in states.iter().enumerate() {
        let key = format!("out.hidden_states.{i}");
        let (atol, rtol) = golden.tolerance(&key);
        assert_close(&key, &masked(to_vec(state), &real), &golden.f32(&key).1, atol, rtol);
    }
    let logits = model.decoder.logits(states.last().unwrap().clone());
    let (atol, rtol) = golden.tolerance("out.logits");
    assert_close("out.logits", &masked(to_vec(&logits), &real), &golden.f32("out.logits").1, atol, rtol);

    model.decoder.set_trainable(|_| true);
    let targets = targets(&golden, batch.seq());
    let counted = targets.iter().filter(|t| **t != IGNORE).count() as f32;
    let weights: Arc<[f32]> = vec![1.0 / counted; targets.len()].into();
    let loss = model.decoder.loss(&batch, &targets, &weights);
    let (atol, rtol) = golden.tolerance("out.loss");
    assert_close("out.loss", &to_vec(&loss), &golden.f32("out.loss").1, atol, rtol);
    let mut grads = loss.backward();
    let stored = golden.names();
    let mut compared = 0;
    for param in model.decoder.params_mut() {
        let key = format!("grad.{}", param.name());
        let (atol, rtol) = golden.tolerance("grad.*");
        let gradient = param.take_gradient(&mut grads).unwrap();
        // The fixture holds the gradients of one layer of each kind, and the norms of all.
        let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        let want = golden.info["grad_norms"][param.name()].as_f64().unwrap();
        assert_close(&format!("norm of {key}"), &[norm as f32], &[want as f32], atol, rtol);
        if stored.contains(&key.as_str()) {
            assert_close(&key, &gradient, &golden.f32(&key).1, atol, rtol);
            compared += 1;
        }
    }
    assert_eq!(compared, stored.iter().filter(|n| n.starts_with("grad.")).count());
}

#[test]
fn llama_equals_transformers() {
    compare("llama");
}

#[test]
fn llama_with_linear_rope_equals_transformers() {
    compare("llama-linear-rope");
}

#[test]
fn sharded_bfloat16_llama_equals_transformers() {
    compare("llama-sharded-bf16");
}

#[test]
fn configurations_of_transformers_4_read_the_same() {
    for name in ["llama", "llama-linear-rope", "llama-sharded-bf16"] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(fixture(name).join("config.v4.json"), dir.path().join("config.json")).unwrap();
        assert_eq!(Model::read_spec(dir.path()).unwrap(), Model::read_spec(&fixture(name)).unwrap(), "{name}");
    }
}

#[test]
fn a_saved_model_loads_with_equal_weights_and_settings() {
    let model = Model::load(&fixture("llama"), &Device::flex()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    model.save(dir.path()).unwrap();
    let again = Model::load(dir.path(), &Device::flex()).unwrap();
    assert_eq!(model.decoder.spec(), again.decoder.spec());
    assert_eq!(model.decoder.state(), again.decoder.state());
}

#[test]
fn peft_lora_equals_peft_with_the_adapter_merged_and_without() {
    let golden = Golden::load("peft-lora");
    let mut model = Model::load(&fixture("peft-lora"), &Device::flex()).unwrap();
    let (batch, real) = batch(&golden);
    let check = |model: &Model, key: &str| {
        let logits = to_vec(&model.decoder.logits(model.decoder.hidden(&batch)));
        let (atol, rtol) = golden.tolerance(key);
        assert_close(key, &masked(logits, &real), &golden.f32(key).1, atol, rtol);
    };
    check(&model, "out.logits");
    model.decoder.merge_lora().unwrap();
    check(&model, "merged.logits");
    check(&Model::load(&fixture("llama"), &Device::flex()).unwrap(), "base.logits");
}

#[test]
fn a_written_adapter_reads_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let model = Model::load(&fixture("peft-lora"), &Device::flex()).unwrap();
    let config = cupola_nn::LoraConfig { r: 4, alpha: 8.0, ..Default::default() };
    let base = fixture("llama");
    cupola_arch::save_adapter(&model, &config, base.to_str().unwrap(), dir.path()).unwrap();
    let again = Model::load(dir.path(), &Device::flex()).unwrap();
    assert_eq!(model.decoder.lora_state(), again.decoder.lora_state());
}

#[test]
fn a_checkpoint_that_disagrees_with_its_configuration_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let from = fixture("llama");
    std::fs::copy(from.join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    let config = std::fs::read_to_string(from.join("config.json")).unwrap();
    for (change, message) in [
        (("\"hidden_size\": 32", "\"hidden_size\": 64"), "but config.json implies"),
        (("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"), "has no `model.layers.2"),
        (("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1"), "no place for"),
        (("\"model_type\": \"llama\"", "\"model_type\": \"lama\""), "does not know the model type"),
        (("\"hidden_size\": 32", "\"hidden_size\": \"wide\""), "should be a positive number"),
    ] {
        let (old, new) = change;
        assert!(config.contains(old), "{old}");
        std::fs::write(dir.path().join("config.json"), config.replace(old, new)).unwrap();
        let error = Model::load(dir.path(), &Device::flex()).unwrap_err();
        assert!(error.chain().contains(message), "{}", error.chain());
    }
}
