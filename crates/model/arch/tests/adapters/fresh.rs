//! Fresh adapters of every kind on models of many families: what they change, count, save and remember.

use std::sync::Arc;

use burn::tensor::Tensor;
use cupola_arch::{Model, Network, Spec, adapter_parameters, mergeable, save_adapter};
use cupola_nn::adapters::{ALL, AdapterConfig, kind};
use cupola_nn::{Batch, Module, ParamMut, Step};
use cupola_ops::{scalar, to_vec};
use cupola_testkit::{assert_close, fixture};
use serde_json::{Value, json};

use crate::load;

/// Settings small enough for tiny models, and further forms of some kinds.
const VARIANTS: &[(&str, &str)] = &[
    ("lora", r#"{"r": 2}"#),
    ("lora", r#"{"r": 2, "target_modules": ["q_proj", "embed_tokens", "lm_head"], "modules_to_save": ["norm"]}"#),
    ("rslora", r#"{"r": 4}"#),
    ("dora", r#"{"r": 2}"#),
    ("lora_plus", r#"{"r": 2, "lr_ratio": 4}"#),
    ("adalora", r#"{"r": 3, "target_r": 2}"#),
    ("loha", r#"{"r": 2}"#),
    ("lokr", r#"{"r": 2, "factor": 4}"#),
    ("lokr", r#"{"r": 1, "factor": 4, "decompose_both": true}"#),
    ("oft", r#"{"block_size": 4}"#),
    ("oft", r#"{"block_size": 4, "series": false}"#),
    ("oft", r#"{"block_size": 0, "blocks": 4, "share": true, "terms": 3}"#),
    ("ia3", "{}"),
    ("layer_norm", "{}"),
    ("houlsby", r#"{"width": 3}"#),
    ("houlsby", r#"{"width": 3, "activation": "tanh"}"#),
    ("pfeiffer", r#"{"width": 3, "activation": "gelu"}"#),
    ("llama_adapter", r#"{"tokens": 3, "last_layers": 1}"#),
    ("prompt_tuning", r#"{"tokens": 3}"#),
    ("prompt_tuning", r#"{"tokens": 2, "start": "random"}"#),
    ("p_tuning", r#"{"tokens": 3, "encoder_width": 5}"#),
    ("prefix_tuning", r#"{"tokens": 3}"#),
    ("prefix_tuning", r#"{"tokens": 3, "projection": true, "encoder_width": 5}"#),
];

fn config(name: &str, settings: &str) -> AdapterConfig {
    let settings: Value = serde_json::from_str(settings).unwrap();
    AdapterConfig::new(kind(name).unwrap(), settings.as_object().unwrap().clone()).unwrap()
}

fn logits(model: &Model, batch: &Batch) -> Vec<f32> {
    let decoder = model.decoder().unwrap();
    to_vec(&decoder.logits(decoder.hidden(batch)))
}

fn ids(n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 37 + 5) % 90 + 3).collect()
}

/// Gives an adapter's numbers values that show.
fn shaken(mut model: Model) -> Model {
    let names = model.adapter_names();
    for mut param in model.params_mut().into_iter().filter(|p| names.iter().any(|name| name == p.name())) {
        let scale = if param.name().contains("ia3") || param.name().contains("norm") { 0.1 } else { 0.2 };
        param.update(|numbers| {
            numbers.iter_mut().enumerate().for_each(|(i, x)| *x += (i as f32 * 1.7 + 0.3).sin() * scale)
        });
    }
    model
}

fn adapted(base: &str, name: &str, settings: &str) -> Model {
    let mut model = load(&fixture(base));
    model.adapt(&config(name, settings), 7).unwrap_or_else(|e| panic!("{name} on {base}: {}", e.chain()));
    model
}

#[test]
fn every_kind_has_a_variant() {
    ALL.iter().for_each(|kind| assert!(VARIANTS.iter().any(|(name, _)| *name == kind.name()), "{}", kind.name()));
}

#[test]
fn every_setting_is_listed_with_its_default() {
    for kind in ALL {
        let listed: Vec<&str> = kind.fields().iter().map(|field| field.name).collect();
        assert_eq!(listed, kind.defaults().keys().map(String::as_str).collect::<Vec<_>>(), "{}", kind.name());
        AdapterConfig::new(*kind, serde_json::Map::new()).unwrap();
    }
}

#[test]
fn a_fresh_adapter_changes_nothing_but_where_something_stands_before_the_text() {
    let batch = Batch::causal(ids(12), 2);
    let want = logits(&load(&fixture("llama")), &batch);
    for (name, settings) in VARIANTS {
        let got = logits(&adapted("llama", name, settings), &batch);
        let before_text = ["prompt_tuning", "p_tuning", "prefix_tuning"].contains(name);
        match before_text {
            true => assert!(got.iter().zip(&want).any(|(g, w)| (g - w).abs() > 1e-3), "{name}"),
            false => assert_close(name, &got, &want, 1e-4, 1e-4),
        }
    }
}

#[test]
fn counts_before_a_model_is_built_are_those_of_the_model() {
    let bases = [
        "llama",
        "gpt2",
        "phi3",
        "bloom",
        "falcon",
        "gemma2",
        "opt",
        "mamba",
        "mixtral",
        "bert-mlm",
        "modernbert-mlm",
        "t5",
        "deepseek-v3",
        "llama-seqcls",
    ];
    let mut placed = 0;
    for base in bases {
        let model = load(&fixture(base));
        for (name, settings) in VARIANTS.iter().filter(|(_, settings)| !settings.contains("embed_tokens")) {
            let config = config(name, settings);
            let counted = adapter_parameters(model.family(), model.spec(), &config);
            let mut copy = model.clone();
            match (copy.adapt(&config, 1), counted) {
                (Ok(trained), Ok(counted)) => {
                    assert_eq!(trained, counted, "{name} on {base}");
                    let names = copy.adapter_names();
                    let params = copy.params_mut();
                    let own = params.iter().filter(|p| names.iter().any(|name| name == p.name()));
                    assert_eq!(trained, own.map(|p| p.numel() as u64).sum::<u64>(), "{name} on {base}");
                    placed += 1;
                }
                (Err(one), Err(other)) => assert_eq!(one.to_string(), other.to_string(), "{name} on {base}"),
                (one, other) => panic!("{name} on {base}: {one:?} and {other:?}"),
            }
        }
    }
    assert!(placed > 200, "{placed}");
}

#[test]
fn fused_layers_have_one_adapter_and_merge_into_the_files_layout() {
    for (base, module) in [
        ("gpt2", "attn.c_attn"),
        ("phi3", "self_attn.qkv_proj"),
        ("bloom", "self_attention.query_key_value"),
        ("falcon", "self_attention.query_key_value"),
        ("gpt-neox", "attention.query_key_value"),
    ] {
        for (name, settings) in
            [("lora", r#"{"r": 2}"#), ("dora", r#"{"r": 2}"#), ("oft", r#"{"block_size": 4}"#), ("ia3", "{}")]
        {
            let mut model = shaken(adapted(base, name, settings));
            assert!(model.adapter_names().iter().any(|n| n.contains(&format!("{module}."))), "{name} on {base}");
            let batch = Batch::causal(ids(10), 1);
            let want = logits(&model, &batch);
            let plain = logits(&load(&fixture(base)), &batch);
            assert!(want.iter().zip(&plain).any(|(a, b)| (a - b).abs() > 1e-2), "{name} on {base}");
            model.merge_adapter().unwrap();
            assert_close(&format!("{name} on {base}"), &logits(&model, &batch), &want, 2e-3, 1e-3);
            let dir = tempfile::tempdir().unwrap();
            model.save(dir.path()).unwrap();
            assert_close("saved", &logits(&load(dir.path()), &batch), &want, 2e-3, 1e-3);
        }
    }
}

#[test]
fn encoders_have_adapters_on_fused_and_plain_layers() {
    for base in ["modernbert-mlm", "bert-mlm", "albert-mlm", "distilbert-mlm", "llama-seqcls"] {
        for (name, settings) in [
            ("lora", r#"{"r": 2}"#),
            ("ia3", "{}"),
            ("houlsby", r#"{"width": 3}"#),
            ("prompt_tuning", r#"{"tokens": 3}"#),
        ] {
            let model = shaken(adapted(base, name, settings));
            let scores = |model: &Model| {
                let encoder = model.encoder().unwrap();
                let batch = encoder.spec().batch(ids(12), &[0..6, 1..5]);
                to_vec(&encoder.scores(encoder.hidden(&batch), &batch))
            };
            let (got, plain) = (scores(&model), scores(&load(&fixture(base))));
            assert_eq!(got.len(), plain.len());
            assert!(got.iter().zip(&plain).any(|(a, b)| (a - b).abs() > 1e-3), "{name} on {base}");
            if mergeable(&config(name, settings)) {
                let mut merged = model.clone();
                merged.merge_adapter().unwrap();
                assert_close(&format!("{name} on {base}"), &scores(&merged), &got, 1e-3, 1e-3);
            }
        }
    }
}

#[test]
fn encoder_decoders_have_adapters_on_both_sides() {
    let mut model = shaken(adapted("t5", "lora", r#"{"r": 2}"#));
    let names = model.adapter_names();
    for part in ["encoder.block.0.layer.0.SelfAttention.q.", "decoder.block.0.layer.1.EncDecAttention.k."] {
        assert!(names.iter().any(|name| name.contains(part)), "{part} in {names:?}");
    }
    assert!(matches!(model.spec(), Spec::EncoderDecoder(_)));
    let before = model.state();
    model.merge_adapter().unwrap();
    assert_ne!(before, model.state());
}

#[test]
fn a_saved_adapter_loads_with_equal_logits_and_bytes() {
    let batch = Batch::causal(ids(12), 2);
    for (name, settings) in VARIANTS {
        let model = shaken(adapted("llama", name, settings));
        let (dir, again) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let base = fixture("llama").canonicalize().unwrap();
        save_adapter(&model, base.to_str().unwrap(), dir.path()).unwrap();
        let loaded = load(dir.path());
        assert_eq!(logits(&loaded, &batch), logits(&model, &batch), "{name} {settings}");
        save_adapter(&loaded, base.to_str().unwrap(), again.path()).unwrap();
        for file in ["adapter_model.safetensors", "adapter_config.json"] {
            let read = |dir: &std::path::Path| std::fs::read(dir.join(file)).unwrap();
            assert!(read(dir.path()) == read(again.path()), "{name}: {file} differs after load and save");
        }
    }
}

#[test]
fn steps_with_caches_give_what_whole_texts_give() {
    for base in ["llama", "gpt2", "mistral"] {
        for (name, settings) in VARIANTS.iter().filter(|(_, settings)| base == "llama" || !settings.contains("proj\""))
        {
            let model = shaken(adapted(base, name, settings));
            let (decoder, ids) = (model.decoder().unwrap(), ids(11));
            let whole = to_vec(&decoder.hidden(&Batch::causal(ids.clone(), 1)));
            let (mut cache, mut got, mut at) = (decoder.cache(), vec![], 0);
            assert!(cache.is_empty());
            for rows in [4, 1, 3, 1, 2] {
                let new: Arc<[u32]> = ids[at..at + rows].into();
                got.extend(to_vec(&decoder.step(&new, &mut [Step { cache: &mut cache, rows }])));
                at += rows;
                assert_eq!(cache.len(), at);
            }
            assert_close(&format!("{name} {settings} on {base}"), &got, &whole, 2e-4, 1e-3);
        }
    }
}

#[test]
fn texts_that_share_a_row_have_their_own_beginnings() {
    for (name, settings) in VARIANTS {
        let model = shaken(adapted("llama", name, settings));
        let (decoder, ids) = (model.decoder().unwrap(), ids(12));
        let packed = Batch::segmented(ids.clone(), 2, &[0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1]);
        let got = to_vec(&decoder.hidden(&packed));
        let parts =
            [0..2, 2..6, 6..10, 10..12].map(|part| to_vec(&decoder.hidden(&Batch::causal(ids[part].to_vec(), 1))));
        assert_close(&format!("{name} {settings}"), &got, &parts.concat(), 1e-4, 1e-4);
    }
}

/// The loss of a model, and the gradient of each of its trained parameters.
fn loss(model: &Model, batch: &Batch) -> Tensor<1> {
    let targets: Arc<[i32]> = batch.ids.iter().map(|id| (*id as i32 * 7) % 90).collect();
    let weights: Arc<[f32]> = vec![1.0 / targets.len() as f32; targets.len()].into();
    match &model.network {
        Network::Decoder(decoder) => decoder.loss(batch, &targets, &weights),
        _ => panic!("a decoder"),
    }
}

#[test]
fn gradients_equal_differences() {
    let mut variants: Vec<(&str, &str, &str)> =
        VARIANTS.iter().map(|(name, settings)| ("llama", *name, *settings)).collect();
    variants.extend([
        ("gpt2", "lora", r#"{"r": 2}"#),
        ("bloom", "loha", r#"{"r": 2}"#),
        ("phi3", "oft", r#"{"block_size": 4}"#),
    ]);
    variants.push(("gpt2", "llama_adapter", r#"{"tokens": 2}"#));
    for (base, name, settings) in variants {
        let mut model = shaken(adapted(base, name, settings));
        let names = model.adapter_names();
        model.set_trainable(|p| names.iter().any(|name| name == p.name()));
        let batch = Batch::segmented(ids(10), 2, &[0, 0, 0, 1, 1, 0, 0, 0, 0, 0]);
        let mut tape = loss(&model, &batch).backward();
        let gradients: Vec<(String, Vec<f32>)> = model
            .params_mut()
            .iter()
            .filter_map(|p| Some((p.name().to_string(), p.take_gradient(&mut tape)?)))
            .collect();
        assert_eq!(gradients.len(), names.len(), "{name} on {base}: not all are reached");
        let largest = gradients.iter().flat_map(|(_, g)| g).fold(0.0f32, |top, g| top.max(g.abs()));
        for (param, gradient) in &gradients {
            // DoRA takes the lengths of rows for constants, so that its matrices' gradients are no differences.
            if name == "dora" && !param.contains("magnitude") {
                continue;
            }
            let at = (0..gradient.len()).max_by(|a, b| gradient[*a].abs().total_cmp(&gradient[*b].abs())).unwrap();
            let value = |by: f32| {
                let mut moved = model.frozen();
                let find = |p: &ParamMut<'_>| p.name() == param;
                moved.params_mut().into_iter().find(find).unwrap().update(|numbers| numbers[at] += by);
                f64::from(scalar(&loss(&moved, &batch)))
            };
            let step = 1e-2;
            let difference = ((value(step) - value(-step)) / f64::from(2.0 * step)) as f32;
            let allowed = 0.03 * gradient[at].abs() + 2e-3 * largest + 1e-4;
            assert!(
                (difference - gradient[at]).abs() <= allowed,
                "{name} {settings} on {base}: {param} has {}, not {difference}",
                gradient[at]
            );
        }
    }
}

#[test]
fn blocks_computed_again_change_no_gradient_of_an_adapter() {
    for (name, settings) in VARIANTS.iter().filter(|(name, _)| *name != "prefix_tuning") {
        let run = |again: bool| {
            let mut model = shaken(adapted("llama", name, settings));
            let names = model.adapter_names();
            model.set_trainable(|p| names.iter().any(|name| name == p.name()));
            model.set_recompute(again).unwrap();
            let loss = loss(&model, &Batch::causal(ids(10), 2));
            let (value, mut tape) = (scalar(&loss), loss.backward());
            (value, model.params_mut().iter().filter_map(|p| p.take_gradient(&mut tape)).collect::<Vec<_>>())
        };
        let ((a, one), (b, two)) = (run(false), run(true));
        assert_eq!((a, one.len()), (b, two.len()), "{name}");
        one.iter().zip(&two).for_each(|(one, two)| assert_close(name, two, one, 1e-6, 1e-4));
    }
}

#[test]
fn patterns_blocks_and_exclusions_choose_layers() {
    for (settings, wanted) in [
        (json!({"target_modules": "all-linear"}), 14),
        (json!({}), 14),
        (json!({"target_modules": "model\\.layers\\.\\d+\\.mlp\\..*_proj"}), 6),
        (json!({"target_modules": ["q_proj", "self_attn.v_proj"], "layers": [1]}), 2),
        (json!({"target_modules": "all-linear", "exclude_modules": ["down_proj"]}), 12),
        (json!({"rank_pattern": {"v_proj": 5}, "r": 1}), 14),
    ] {
        let mut model = load(&fixture("llama"));
        model.adapt(&config("lora", &settings.to_string()), 1).unwrap();
        let params = model.network.adapter_params_mut();
        assert_eq!(params.len(), 2 * wanted, "{settings}");
        let ranks = params.iter().filter(|p| p.name().ends_with("v_proj.lora_A.weight")).map(|p| p.shape()[0]);
        assert!(
            ranks.eq(vec![if settings.get("rank_pattern").is_some() { 5 } else { ranks_of(&settings) }; 2]
                .into_iter()
                .take(params.iter().filter(|p| p.name().ends_with("v_proj.lora_A.weight")).count()))
        );
    }
}

fn ranks_of(settings: &Value) -> usize {
    settings["r"].as_u64().unwrap_or(8) as usize
}
