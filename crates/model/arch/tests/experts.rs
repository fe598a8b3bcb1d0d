//! Mixtures of experts and latent attention beyond what the reference fixtures hold: counts, checkpointing, caches, balance.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use burn::tensor::Device;
use cupola_arch::{ExpertSizes, Model, Sizes, family};
use cupola_nn::adapters::{AdapterConfig, kind};
use cupola_nn::{Batch, Cache, Module, Step};
use cupola_ops::{IGNORE, to_vec};
use cupola_testkit::{assert_close, fixture};
use serde_json::{Value, json};

const FIXTURES: [&str; 3] = ["mixtral", "qwen3-moe", "deepseek-v3"];

fn load(name: &str) -> Model {
    Model::load(&fixture(name), &Device::flex()).unwrap()
}

/// Two rows of text and what follows each token; the first of each row is not learned.
fn text() -> (Batch, Arc<[i32]>, Arc<[f32]>) {
    let ids: Vec<u32> = (0..48).map(|i| (i * i * 7 + i * 3 + 5) % 99).collect();
    let targets = ids.iter().enumerate().map(|(i, id)| if i % 24 == 0 { IGNORE } else { *id as i32 }).collect();
    (Batch::causal(ids, 2), targets, vec![1.0 / 46.0; 48].into())
}

#[test]
fn products_count_the_chosen_experts_alone() {
    let (d, head) = (32, 99 * 32);
    let grouped = d * d + 2 * 16 * d + d * d;
    let latent = 20 * d + 48 * 20 + 16 * d + 64 * 12 + d * d;
    for (name, want) in [
        ("mixtral", 2 * (grouped + 4 * d + 2 * 3 * 48 * d) + head),
        ("qwen3-moe", 2 * (grouped + 6 * d + 2 * 3 * 16 * d) + head),
        ("deepseek-v3", 2 * latent + 3 * 48 * d + (8 * d + (2 + 1) * 3 * 16 * d) + head),
    ] {
        assert_eq!(load(name).decoder().unwrap().spec().matrix_parameters(), want as u64, "{name}");
    }
}

#[test]
fn a_share_that_is_no_binary_fraction_counts_exactly() {
    let experts = ExpertSizes { count: 7, per_token: 3, ..ExpertSizes::default() };
    let spec = Model::fresh_spec(family("qwen3_moe").unwrap(), &Sizes { experts, ..sizes() }).unwrap();
    let spec = spec.decoder().unwrap();
    // The chosen experts together are as wide as the feed-forward layer.
    let layer = 2 * 32 * 32 + 2 * 16 * 32 + 7 * 32 + 3 * 48 * 32;
    assert_eq!(spec.matrix_parameters(), 2 * layer + 50 * 32);
}

fn sizes() -> Sizes {
    Sizes {
        vocab_size: 50,
        d_model: 32,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        d_head: 8,
        d_ff: 48,
        experts: ExpertSizes::default(),
        max_seq_len: 64,
        tie_embeddings: false,
        bos: None,
        eos: vec![],
        pad: None,
        settings: Default::default(),
    }
}

#[test]
fn checkpointed_blocks_keep_what_routers_add_to_the_loss() {
    let (batch, targets, weights) = text();
    for name in FIXTURES {
        let run = |recompute: bool| {
            let mut model = load(name);
            model.set_trainable(|_| true);
            model.set_recompute(recompute).unwrap();
            let loss = model.decoder().unwrap().loss(&batch, &targets, &weights);
            let value = to_vec(&loss);
            let mut tape = loss.backward();
            let gradients: Vec<_> = model.params_mut().iter().map(|p| p.take_gradient(&mut tape).unwrap()).collect();
            let loads: Vec<_> = model.routers().iter().map(|r| r.take_load()).collect();
            (value, gradients, loads)
        };
        let ((loss, gradients, loads), (again, gradients_again, loads_again)) = (run(false), run(true));
        assert_close(name, &again, &loss, 1e-6, 1e-6);
        for (got, want) in gradients_again.iter().zip(&gradients) {
            assert_close(name, got, want, 1e-6, 1e-4);
        }
        // Each token is counted once for each of its experts, though its block ran twice.
        assert_eq!(loads_again, loads, "{name}");
        assert!(loads.iter().all(|load| load.iter().sum::<u64>() == 2 * 48), "{name}: {loads:?}");
    }
}

#[test]
fn what_routers_add_is_the_same_however_a_step_is_divided() {
    let model = load("mixtral");
    let decoder = model.decoder().unwrap();
    let ids: Vec<u32> = (0..24).map(|i| (i * 5 + 1) % 99).collect();
    let targets: Arc<[i32]> = ids.iter().map(|id| *id as i32).collect();
    let loss =
        |weight: f32| to_vec(&decoder.loss(&Batch::causal(ids.clone(), 1), &targets, &vec![weight; 24].into()))[0];
    // Two equal halves of a step are worth as much as the step.
    assert_close("loss", &[2.0 * loss(1.0 / 48.0)], &[loss(1.0 / 24.0)], 1e-6, 1e-6);
}

#[test]
fn latent_attention_remembers_the_latent_and_one_rotated_key() {
    let model = load("deepseek-v3");
    let decoder = model.decoder().unwrap();
    let ids: Vec<u32> = (0..40).map(|i| (i * 31 + 7) % 99).collect();
    let whole = to_vec(&decoder.hidden(&Batch::causal(ids.clone(), 1)));
    // A long piece widens the latent, short ones move the widening to the queries.
    for pieces in [vec![30, 1, 2, 7], vec![1, 39], vec![40], vec![20, 20]] {
        let (mut cache, mut got, mut at) = (decoder.cache(), vec![], 0);
        for rows in pieces {
            let new: Arc<[u32]> = ids[at..at + rows].into();
            got.extend(to_vec(&decoder.step(&new, &mut [Step { cache: &mut cache, rows }])));
            at += rows;
            let bytes = 2 * (12 + 4) * at * size_of::<f32>();
            assert_eq!((cache.bytes(), decoder.spec().cache_bytes(at)), (bytes, bytes));
        }
        assert_close("hidden states", &got, &whole, 1e-4, 1e-4);
    }
}

#[test]
fn an_adapter_on_the_widening_of_the_latent_reaches_generation() {
    let mut model = load("deepseek-v3");
    model.adapt(&lora(&["kv_b_proj", "q_a_proj"]), 1).unwrap();
    let adapters = model.network.adapter_params_mut();
    assert_eq!(adapters.len(), 8);
    for mut param in adapters {
        param.update(|numbers| numbers.iter_mut().enumerate().for_each(|(i, x)| *x = (i as f32 * 1.3).sin() * 0.3));
    }
    let ids: Vec<u32> = (0..9).map(|i| i * 11).collect();
    let run = |model: &Model| {
        let decoder = model.decoder().unwrap();
        let mut cache = decoder.cache();
        let step = |cache: &mut Cache, ids: &[u32]| decoder.step(&ids.into(), &mut [Step { cache, rows: ids.len() }]);
        let mut got = to_vec(&step(&mut cache, &ids[..5]));
        got.extend(to_vec(&step(&mut cache, &ids[5..])));
        (got, to_vec(&decoder.hidden(&Batch::causal(ids.clone(), 1))))
    };
    let (steps, whole) = run(&model);
    assert_close("in steps", &steps, &whole, 1e-4, 1e-4);
    let (plain, _) = run(&load("deepseek-v3"));
    assert!(steps.iter().zip(&plain).any(|(a, b)| (a - b).abs() > 1e-2), "the adapter changes nothing");
    model.merge_adapter().unwrap();
    assert_close("merged", &run(&model).0, &whole, 1e-4, 1e-4);
}

#[test]
fn adapters_on_experts_are_refused() {
    for (name, target) in [("mixtral", "w2"), ("qwen3-moe", "up_proj"), ("deepseek-v3", "gate_proj")] {
        let error = load(name).adapt(&lora(&["o_proj", target]), 1).unwrap_err();
        assert!(error.to_string().contains("`target_modules` names model.layers."), "{error}");
        assert!(error.to_string().ends_with(target), "{error}");
        for one in [lora(&["o_proj"]), lora(&[])] {
            let mut model = load(name);
            let trained = model.adapt(&one, 1).unwrap();
            let adapters = model.network.adapter_params_mut();
            assert!(adapters.len() >= 4 && adapters.iter().all(|p| !p.name().contains("experts.")), "{name}");
            assert_eq!(trained, adapters.iter().map(|p| p.numel() as u64).sum::<u64>());
        }
    }
}

/// LoRA of rank 2 on some layers, or on those that it takes where none are named.
fn lora(targets: &[&str]) -> AdapterConfig {
    let mut settings = serde_json::json!({"r": 2, "alpha": 4.0});
    if !targets.is_empty() {
        settings["target_modules"] = serde_json::json!(targets);
    }
    AdapterConfig::new(kind("lora").unwrap(), settings.as_object().unwrap().clone()).unwrap()
}

#[test]
fn a_bias_moves_against_the_load() {
    let mut model = load("deepseek-v3");
    let mut routers = model.routers();
    let before = to_vec(&routers[0].bias_mut().unwrap().value());
    routers[0].balance(&[5, 3, 4, 4, 0, 8, 4, 4]);
    let moved = to_vec(&routers[0].bias_mut().unwrap().value());
    let steps: Vec<f32> = moved.iter().zip(&before).map(|(after, before)| ((after - before) * 1e3).round()).collect();
    assert_eq!(steps, [-1.0, 1.0, 0.0, 0.0, 1.0, -1.0, 0.0, 0.0]);
}

#[test]
fn padding_is_no_load() {
    let (batch, targets, weights) = text();
    let mut model = load("qwen3-moe");
    model.set_trainable(|_| true);
    let real = (0..48).map(|i| i % 24 < 20).collect();
    model.decoder().unwrap().loss(&Batch { real: Some(real), ..batch }, &targets, &weights);
    assert!(model.routers().iter().all(|r| r.take_load().iter().sum::<u64>() == 2 * 40));
    // What was taken is gone, and evaluation counts nothing.
    let (batch, ..) = text();
    model.frozen().decoder().unwrap().loss(&batch, &targets, &weights);
    assert!(model.routers().iter().all(|r| r.take_load().iter().sum::<u64>() == 0));
}

#[test]
fn configurations_that_contradict_themselves_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (name, key, value, message) in [
        ("mixtral", "num_experts_per_tok", json!(5), "to 5 experts"),
        ("mixtral", "num_local_experts", Value::Null, "no `num_local_experts`"),
        ("mixtral", "router_jitter_noise", json!(0.1), "`router_jitter_noise`"),
        ("qwen3-moe", "decoder_sparse_step", json!(0), "`decoder_sparse_step` in config.json is 0"),
        ("qwen3-moe", "mlp_only_layers", json!("all"), "`mlp_only_layers` in config.json should be a list"),
        ("deepseek-v3", "n_group", json!(3), "which n_group = 3 does not divide"),
        ("deepseek-v3", "topk_group", json!(5), "from 5 (`topk_group`) of 4 groups"),
        ("deepseek-v3", "num_experts_per_tok", json!(5), "chooses 5 experts from 2"),
        ("deepseek-v3", "qk_rope_head_dim", json!(3), "cannot be rotated in pairs"),
        ("deepseek-v3", "scoring_func", json!("softmax"), "`scoring_func`"),
        ("deepseek-v3", "n_shared_experts", json!(1_u64 << 40), ""),
        (
            "deepseek-v3",
            "rope_parameters",
            json!({"rope_type": "yarn", "factor": 0.0}),
            "`factor` of the rotary positions in config.json is 0",
        ),
    ] {
        let text = std::fs::read_to_string(fixture(name).join("config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config[key] = value;
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let found = Model::read_spec(dir.path());
        if !message.is_empty() {
            let error = found.unwrap_err().chain();
            assert!(error.contains(message), "{name}, {key}: {error}");
        }
    }
}

#[test]
fn layers_can_be_dense_as_qwen3_says() {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(fixture("qwen3-moe").join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config["num_hidden_layers"] = json!(6);
    config["decoder_sparse_step"] = json!(2);
    config["mlp_only_layers"] = json!([3]);
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let spec = Model::read_spec(dir.path()).unwrap();
    let mixtures: Vec<bool> = spec.stack().blocks.iter().map(|b| b.experts().is_some()).collect();
    assert_eq!(mixtures, [false, true, false, false, false, true]);
}

#[test]
fn what_predicts_further_tokens_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("deepseek-v3").join("config.json"), dir.path().join("config.json")).unwrap();
    let mut state = cupola_artifact::read_safetensors(&fixture("deepseek-v3").join("model.safetensors")).unwrap();
    let norm = state["model.norm.weight"].clone();
    state.insert("model.layers.2.enorm.weight".into(), norm);
    cupola_artifact::write_safetensors(&dir.path().join("model.safetensors"), &state, &[]).unwrap();
    assert_eq!(Model::load(dir.path(), &Device::flex()).unwrap().state(), load("deepseek-v3").state());
}
