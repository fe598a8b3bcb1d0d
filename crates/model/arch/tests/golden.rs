//! Loading and saving of model directories, adapters, and what is refused.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use burn::tensor::Device;
use cupola_arch::Model;
use cupola_artifact::{HostTensor, StateDict};
use cupola_nn::{Batch, Module};
use cupola_ops::IGNORE;
use cupola_testkit::{Golden, fixture};

/// The fixture's batch: padding is a segment of its own, so that no token attends it.
fn batch(golden: &Golden) -> (Batch, Vec<bool>) {
    let (shape, ids) = golden.i64("in.input_ids");
    let (_, mask) = golden.i64("in.attention_mask");
    let segments: Vec<u32> = mask.iter().map(|m| u32::from(*m == 0)).collect();
    let batch = Batch::segmented(ids.iter().map(|id| *id as u32).collect(), shape[0], &segments);
    (batch, mask.iter().map(|m| *m != 0).collect())
}

/// Labels shifted by one, as the causal loss wants them.
fn targets(golden: &Golden, seq: usize) -> Arc<[i32]> {
    let (_, labels) = golden.i64("in.labels");
    labels.chunks(seq).flat_map(|row| row[1..].iter().map(|l| *l as i32).chain([IGNORE])).collect()
}

#[test]
fn blocks_computed_again_change_no_bit_of_loss_and_gradients() {
    for name in ["llama", "gpt2"] {
        let golden = Golden::load(name);
        let (batch, _) = batch(&golden);
        let targets = targets(&golden, batch.seq());
        let weights: Arc<[f32]> = vec![0.1; targets.len()].into();
        let run = |recompute: bool, trained: &dyn Fn(&str) -> bool| {
            let mut model = Model::load(golden.dir(), &Device::flex()).unwrap();
            model.set_trainable(|p| trained(p.name()));
            model.set_recompute(recompute).unwrap();
            let loss = model.decoder().unwrap().loss(&batch, &targets, &weights);
            let value = cupola_ops::scalar(&loss);
            let mut grads = loss.backward();
            let gradients = model.params_mut().iter().map(|p| p.take_gradient(&mut grads)).collect::<Vec<_>>();
            (value, gradients)
        };
        let (all, second) = (|_: &str| true, |name: &str| name.contains(".1."));
        for trained in [&all, &second] as [&dyn Fn(&str) -> bool; 2] {
            let (want, got) = (run(false, trained), run(true, trained));
            assert!(want.1.iter().flatten().count() > 4, "{name} trains nothing");
            assert!(want == got, "{name}: the gradients differ");
        }
    }
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
fn a_gpt2_of_transformers_4_reads_the_same() {
    let dir = tempfile::tempdir().unwrap();
    // As OpenAI's files say it: no `n_inner`, no word on tying, and the context a second time.
    let config = r#"{"activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "bos_token_id": 1,
        "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2", "n_ctx": 64, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64,
        "task_specific_params": {"text-generation": {"do_sample": true}}, "torch_dtype": "float32", "vocab_size": 99}"#;
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    assert_eq!(Model::read_spec(dir.path()).unwrap(), Model::read_spec(&fixture("gpt2")).unwrap());
}

/// The first published files hold the bare model, and causal masks among the weights.
#[test]
fn a_bare_gpt2_with_its_mask_buffers_loads_with_equal_weights() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("gpt2").join("config.json"), dir.path().join("config.json")).unwrap();
    let state = cupola_artifact::read_safetensors(&fixture("gpt2").join("model.safetensors")).unwrap();
    let bare = |name: String| name.trim_start_matches("transformer.").to_string();
    let mut state: StateDict = state.into_iter().map(|(name, tensor)| (bare(name), tensor)).collect();
    state.insert("h.0.attn.bias".into(), HostTensor::from_f32([1, 1, 2, 2], &[1.0, 0.0, 1.0, 1.0]));
    state.insert("h.0.attn.masked_bias".into(), HostTensor::from_f32([], &[-1e4]));
    cupola_artifact::write_safetensors(&dir.path().join("model.safetensors"), &state, &[]).unwrap();
    let load = |dir: &std::path::Path| Model::load(dir, &Device::flex()).unwrap().state();
    assert_eq!(load(dir.path()), load(&fixture("gpt2")));
}

#[test]
fn a_quantized_gpt2_is_saved_and_loads_with_equal_weights() {
    let mut model = Model::load(&fixture("gpt2"), &Device::flex()).unwrap();
    model.quantize_int8(16);
    let dir = tempfile::tempdir().unwrap();
    model.save(dir.path()).unwrap();
    assert_eq!(Model::load(dir.path(), &Device::flex()).unwrap().state(), model.state());
}

#[test]
fn gpt2_settings_that_are_not_built_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = std::fs::read_to_string(fixture("gpt2").join("config.json")).unwrap();
    for (old, new, message) in [
        ("\"add_cross_attention\": false", "\"add_cross_attention\": true", "`add_cross_attention` = true"),
        ("\"gelu_new\"", "\"mish\"", "asks for the activation \"mish\""),
        ("\"n_head\": 4", "\"n_head\": 5", "which n_head = 5 does not divide"),
    ] {
        assert!(config.contains(old), "{old}");
        std::fs::write(dir.path().join("config.json"), config.replace(old, new)).unwrap();
        let error = Model::read_spec(dir.path()).unwrap_err();
        assert!(error.chain().contains(message), "{}", error.chain());
    }
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
