//! Each family against transformers: logits, hidden states, loss, gradients and generation of the reference fixtures.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use burn::tensor::Device;
use cupola_arch::Model;
use cupola_artifact::{HostTensor, StateDict};
use cupola_nn::{Batch, KvCache, Positions, Step};
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
    let (mut batch, real) = batch(&golden);
    if model.decoder.spec().positions == Positions::Learned {
        // transformers counts them from the left edge, padded or not.
        batch.positions = (0..batch.ids.len()).map(|i| (i % batch.seq()) as u32).collect();
    }
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
    let mut gradients = StateDict::new();
    for param in model.decoder.params_mut() {
        let gradient = param.take_gradient(&mut grads).unwrap();
        gradients.insert(param.name().to_string(), HostTensor::from_f32(param.shape(), &gradient));
    }
    compare_gradients(&golden, &model.packed(gradients));
}

/// The fixture holds the gradients of one layer of each kind, and the norms of all.
fn compare_gradients(golden: &Golden, gradients: &StateDict) {
    let (atol, rtol) = golden.tolerance("grad.*");
    let norms = golden.info["grad_norms"].as_object().unwrap();
    assert_eq!(gradients.keys().collect::<Vec<_>>(), norms.keys().collect::<Vec<_>>());
    for (name, gradient) in gradients {
        let gradient = gradient.to_f32().unwrap();
        let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        assert_close(&format!("norm of {name}"), &[norm as f32], &[norms[name].as_f64().unwrap() as f32], atol, rtol);
    }
    for key in golden.names().into_iter().filter(|name| name.starts_with("grad.")) {
        let name = key.trim_start_matches("grad.");
        let (shape, want) = golden.f32(key);
        assert_eq!(gradients[name].shape, shape, "{name}");
        assert_close(key, &gradients[name].to_f32().unwrap(), &want, atol, rtol);
    }
}

/// Greedy decoding of each row without its padding, with a cache: the tokens, and the logits of each step.
fn compare_generation(name: &str) {
    let golden = Golden::load(name);
    let model = Model::load(&fixture(name), &Device::flex()).unwrap();
    let ((shape, ids), (_, mask)) = (golden.i64("gen.in.input_ids"), golden.i64("gen.in.attention_mask"));
    let ((_, sequences), (sizes, logits)) = (golden.i64("gen.sequences"), golden.f32("gen.step_logits"));
    let (atol, rtol) = golden.tolerance("gen.step_logits");
    let (steps, vocab) = (sizes[1], sizes[2]);
    for row in 0..shape[0] {
        let columns = row * shape[1]..(row + 1) * shape[1];
        let mut new: Vec<u32> = columns.filter(|i| mask[*i] != 0).map(|i| ids[i] as u32).collect();
        let mut cache = KvCache::new(model.decoder.spec());
        for step in 0..steps {
            let rows = new.len();
            let hidden = model.decoder.step(&new.into(), &mut [Step { cache: &mut cache, rows }]);
            let got = to_vec(&model.decoder.logits(hidden.narrow(0, rows - 1, 1)));
            let want = &logits[(row * steps + step) * vocab..][..vocab];
            assert_close(&format!("{name}, row {row}, step {step}"), &got, want, atol, rtol);
            let best = (0..vocab).max_by(|a, b| got[*a].total_cmp(&got[*b])).unwrap();
            assert_eq!(best as i64, sequences[row * (shape[1] + steps) + shape[1] + step]);
            new = vec![best as u32];
        }
    }
}

#[test]
fn llama_equals_transformers() {
    compare("llama");
}

#[test]
fn gpt2_equals_transformers() {
    compare("gpt2");
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
            model.decoder.set_trainable(|p| trained(p.name()));
            model.decoder.set_recompute(recompute);
            let loss = model.decoder.loss(&batch, &targets, &weights);
            let value = cupola_ops::scalar(&loss);
            let mut grads = loss.backward();
            let gradients = model.decoder.params_mut().iter().map(|p| p.take_gradient(&mut grads)).collect::<Vec<_>>();
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
fn greedy_generation_equals_transformers() {
    ["llama", "gpt2"].into_iter().for_each(compare_generation);
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
    let load = |dir: &std::path::Path| Model::load(dir, &Device::flex()).unwrap().decoder.state();
    assert_eq!(load(dir.path()), load(&fixture("gpt2")));
}

#[test]
fn a_saved_model_loads_with_equal_weights_and_settings_and_equals_the_file_it_came_from() {
    for name in ["llama", "gpt2"] {
        let model = Model::load(&fixture(name), &Device::flex()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        model.save(dir.path()).unwrap();
        let again = Model::load(dir.path(), &Device::flex()).unwrap();
        assert_eq!(model.decoder.spec(), again.decoder.spec());
        assert_eq!(model.decoder.state(), again.decoder.state());
        let file = |dir: &std::path::Path| cupola_artifact::read_safetensors(&dir.join("model.safetensors")).unwrap();
        assert_eq!(file(dir.path()), file(&fixture(name)), "{name}");
    }
}

#[test]
fn a_quantized_gpt2_is_saved_and_loads_with_equal_weights() {
    let mut model = Model::load(&fixture("gpt2"), &Device::flex()).unwrap();
    model.quantize_int8(16);
    let dir = tempfile::tempdir().unwrap();
    model.save(dir.path()).unwrap();
    assert_eq!(Model::load(dir.path(), &Device::flex()).unwrap().decoder.state(), model.decoder.state());
}

#[test]
fn a_spec_counts_the_parameters_that_the_model_has() {
    for name in ["llama", "llama-linear-rope", "gpt2"] {
        let mut model = Model::load(&fixture(name), &Device::flex()).unwrap();
        let spec = model.decoder.spec().clone();
        let params = model.decoder.params_mut();
        assert_eq!(spec.parameters(), params.iter().map(|p| p.numel() as u64).sum::<u64>(), "{name}");
        // Every matrix but the embeddings, and the output layer whether it is the embedding or not.
        let inside =
            params.iter().filter(|p| p.is_matrix() && !p.name().contains("embed") && !p.name().contains(".wte"));
        let inside = inside.filter(|p| !p.name().contains(".wpe") && !p.name().contains("lm_head"));
        let matrices: u64 = inside.map(|p| p.numel() as u64).sum();
        assert_eq!(spec.matrix_parameters(), matrices + (spec.vocab_size * spec.d_model) as u64, "{name}");
    }
}

#[test]
fn gpt2_settings_that_are_not_built_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = std::fs::read_to_string(fixture("gpt2").join("config.json")).unwrap();
    for (old, new, message) in [
        ("\"scale_attn_weights\": true", "\"scale_attn_weights\": false", "`scale_attn_weights` = false"),
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
