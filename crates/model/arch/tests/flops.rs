//! The operations that a plan counts are those that a count from the files' tensors and settings gives.
#![allow(clippy::unwrap_used)]

use burn::tensor::Device;
use cupola_arch::Model;
use cupola_nn::Module;
use cupola_testkit::fixture;
use serde_json::Value;

const SEQ: usize = 512;

/// Parts of the names of tensors that are looked up or multiply number by number.
const NO_PRODUCTS: &[&str] = &[
    "embed_tokens",
    "embed_positions",
    "embed_in",
    "embeddings.",
    "embedding.",
    "wte.",
    "wpe.",
    "shared.weight",
    "relative_attention_bias",
    "A_log",
    "tok_embeddings",
];

/// The numbers of the matrices among a model's tensors whose names pass, of experts the share that a token chooses.
fn products(model: &Model, passes: impl Fn(&str) -> bool) -> f64 {
    let count = |names: &[&str]| names.iter().find_map(|name| model.config().get(*name)?.as_f64());
    let chosen = count(&["num_experts_per_tok"]).unwrap_or(1.0);
    let experts = count(&["num_local_experts", "n_routed_experts", "num_experts"]).unwrap_or(1.0);
    let of = |(name, tensor): (String, cupola_artifact::HostTensor)| {
        let matrix = tensor.shape.iter().filter(|n| **n > 1).count() > 1;
        let table = NO_PRODUCTS.iter().any(|part| name.contains(part));
        let share = if name.contains("experts") && !name.contains("shared_expert") { chosen / experts } else { 1.0 };
        if matrix && !table && passes(&name) { share * tensor.shape.iter().product::<usize>() as f64 } else { 0.0 }
    };
    model.state().into_iter().map(of).sum()
}

/// What an output layer multiplies that is the embedding.
fn tied_head(model: &Model) -> f64 {
    let stack = model.spec().stack();
    if model.spec().tie_embeddings() { (stack.vocab_size * stack.embedding.width) as f64 } else { 0.0 }
}

/// The pairs of a query and a key that it attends, for each query of a text.
fn pairs(window: Option<usize>) -> f64 {
    (0..SEQ).map(|i| (i + 1).min(window.unwrap_or(SEQ)) as f64).sum::<f64>() / SEQ as f64
}

fn size(config: &serde_json::Map<String, Value>, names: &[&str]) -> f64 {
    names.iter().find_map(|name| config.get(*name)?.as_f64()).unwrap_or_else(|| panic!("{names:?}"))
}

/// What attention multiplies in all layers: scores and mixes of `d_head` numbers of each head and pair.
fn attention(model: &Model, layers: usize, window: Option<usize>) -> f64 {
    let config = model.config();
    let heads = size(config, &["num_attention_heads", "n_head", "num_heads"]);
    let width = size(config, &["hidden_size", "n_embd", "d_model", "n_embed"]);
    let d_head = config.get("head_dim").and_then(Value::as_f64).unwrap_or(width / heads);
    2.0 * layers as f64 * heads * d_head * pairs(window)
}

/// Multiply-adds of training on a token are thrice those of reading it.
fn same(name: &str, planned: f64, forward: f64) {
    let counted = 6.0 * forward;
    assert!((planned / counted - 1.0).abs() < 4e-3, "{name}: planned {planned}, counted {counted}");
}

#[test]
fn plans_of_decoders_count_what_their_tensors_and_pairs_say() {
    let all = [
        ("llama", 2, None),
        ("gpt2", 2, None),
        ("qwen3", 2, None),
        ("phi3", 2, None),
        ("gpt-neox", 2, None),
        ("opt", 2, None),
        ("bloom", 2, None),
        ("falcon", 2, None),
        ("mixtral", 2, None),
        ("qwen3-moe", 2, None),
        ("mistral", 2, Some(4)),
        ("cupola-rnn", 0, None),
        ("cupola-lstm", 0, None),
        ("cupola-gru", 0, None),
    ];
    for (name, layers, window) in all {
        let model = Model::load(&fixture(name), &Device::flex()).unwrap();
        let mixing = if layers == 0 { 0.0 } else { attention(&model, layers, window) };
        let forward = products(&model, |_| true) + tied_head(&model) + mixing;
        same(name, model.spec().train_flops_per_token(SEQ), forward);
    }
}

/// One layer in two, or in three, reaches everything; DeepSeek's keys are longer than its values.
#[test]
fn plans_of_decoders_with_several_kinds_of_attention_count_each() {
    for (name, full, near) in [("gemma2", 1, 1), ("gemma3", 1, 1)] {
        let model = Model::load(&fixture(name), &Device::flex()).unwrap();
        let config = model.config();
        let types = config["layer_types"].as_array().unwrap();
        let of = |kind: &str| types.iter().filter(|t| *t == kind).count();
        assert!(of("full_attention") >= full && of("sliding_attention") >= near, "{name}");
        let window = config["sliding_window"].as_u64().map(|w| w as usize);
        let mixing = attention(&model, of("full_attention"), None) + attention(&model, of("sliding_attention"), window);
        let forward = products(&model, |_| true) + tied_head(&model) + mixing;
        same(name, model.spec().train_flops_per_token(SEQ), forward);
    }
    let model = Model::load(&fixture("deepseek-v3"), &Device::flex()).unwrap();
    let config = model.config();
    let pair =
        size(config, &["qk_nope_head_dim"]) + size(config, &["qk_rope_head_dim"]) + size(config, &["v_head_dim"]);
    let mixing = size(config, &["num_hidden_layers"]) * size(config, &["num_attention_heads"]) * pair * pairs(None);
    same("deepseek-v3", model.spec().train_flops_per_token(SEQ), products(&model, |_| true) + mixing);
}

/// What recurrences do besides products, operation by operation of a step; halved, since two make a multiply-add.
#[test]
fn plans_of_recurrent_decoders_count_their_steps() {
    let load = |name: &str| Model::load(&fixture(name), &Device::flex()).unwrap();
    let check = |name: &str, model: &Model, operations: f64| {
        let forward = products(model, |_| true) + tied_head(model) + operations / 2.0;
        same(name, model.spec().train_flops_per_token(SEQ), forward);
    };
    // The convolution's multiply-adds; of each state: step times rate, its exponential, times the state, step times input,
    // added, and the multiply-add of the output.
    let model = load("mamba");
    let config = model.config();
    let of = |name: &str| size(config, &[name]);
    check(
        "mamba",
        &model,
        of("num_hidden_layers") * of("intermediate_size") * (2.0 * of("conv_kernel") + 7.0 * of("state_size")),
    );
    // One decay for a head: of each state a product, an input's product with the step, a sum, and a multiply-add, and one more.
    let model = load("mamba2");
    let config = model.config();
    let of = |name: &str| size(config, &[name]);
    let inner = of("num_heads") * of("head_dim");
    let convolved = inner + 2.0 * of("n_groups") * of("state_size");
    check(
        "mamba2",
        &model,
        of("num_hidden_layers") * (2.0 * convolved * of("conv_kernel") + 6.0 * inner * of("state_size")),
    );
    let model = load("rwkv");
    let config = model.config();
    let inner = config.get("attention_hidden_size").and_then(Value::as_f64).unwrap_or(size(config, &["hidden_size"]));
    check("rwkv", &model, size(config, &["num_hidden_layers"]) * 16.0 * inner);
    // Layers with recurrences and layers with attention.
    let model = load("recurrentgemma");
    let config = model.config();
    let kinds = config.get("block_types").or_else(|| config.get("_block_types")).unwrap().as_array().unwrap();
    let kind = |i: usize| kinds[i % kinds.len()].as_str().unwrap();
    let layers = size(config, &["num_hidden_layers"]) as usize;
    let attends = (0..layers).filter(|i| kind(*i) == "attention").count();
    let window = size(config, &["attention_window_size"]) as usize;
    let inner = config.get("lru_width").and_then(Value::as_f64).unwrap_or(size(config, &["hidden_size"]));
    let recurrent = (layers - attends) as f64 * inner * (2.0 * size(config, &["conv1d_width"]) + 8.0);
    let mixing = 2.0 * attention(&model, attends, Some(window));
    check("recurrentgemma", &model, recurrent + mixing);
}

/// The encoder sees all of its text, keys and values of cross-attention are made of the encoder's tokens.
#[test]
fn plans_of_encoder_decoders_count_both_texts() {
    for name in ["t5", "t5-v1.1", "mt5"] {
        let model = Model::load(&fixture(name), &Device::flex()).unwrap();
        let config = model.config();
        let of_source = |name: &str| {
            name.starts_with("encoder.") || name.contains("EncDecAttention.k") || name.contains("EncDecAttention.v")
        };
        let source = products(&model, of_source);
        let target = products(&model, |name| !of_source(name)) + tied_head(&model);
        let width = size(config, &["num_heads"]) * size(config, &["d_kv"]);
        let (above, below) = (size(config, &["num_layers"]), size(config, &["num_decoder_layers"]));
        let spec = model.encoder_decoder().unwrap().spec();
        for (n, m) in [(SEQ, SEQ), (SEQ, 2 * SEQ), (4 * SEQ, SEQ)] {
            let (n, m) = (n as f64, m as f64);
            let pairs = above * n * n + below * (m * (m + 1.0) / 2.0 + n * m);
            same(name, spec.train_flops(n as usize, m as usize), source * n + target * m + 2.0 * width * pairs);
        }
    }
}

#[test]
fn plans_of_encoders_count_all_pairs() {
    let model = Model::load(&fixture("bert-mlm"), &Device::flex()).unwrap();
    let config = model.config();
    let mixing = 2.0 * size(config, &["num_hidden_layers"]) * size(config, &["hidden_size"]) * SEQ as f64;
    let forward = products(&model, |_| true) + tied_head(&model) + mixing;
    same("bert-mlm", model.spec().train_flops_per_token(SEQ), forward);
}
