//! Each family against the reference implementation: logits, hidden states, loss, gradients and generation of the reference
//! fixtures, in this repository and in the folder that `CUPOLA_FIXTURES` names.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use cupola_arch::{Model, Network};
use cupola_artifact::{HostTensor, StateDict, read_weights};
use cupola_nn::Module;
use cupola_testkit::{Golden, assert_close, fixture};

mod causal;
mod encoder;
mod seq2seq;

/// A test for each fixture, and their names.
macro_rules! fixtures {
    ($($test:ident: $name:literal,)*) => {
        const FIXTURES: &[&str] = &[$($name),*];

        $(#[test]
        fn $test() {
            folders($name).iter().for_each(|dir| check(dir));
        })*
    };
}

fixtures! {
    parity_albert_mlm: "albert-mlm",
    parity_albert_seqcls: "albert-seqcls",
    parity_albert_tokcls: "albert-tokcls",
    parity_bart: "bart",
    parity_bert_bare: "bert-bare",
    parity_bert_mlm: "bert-mlm",
    parity_bert_regression: "bert-regression",
    parity_bert_seqcls: "bert-seqcls",
    parity_bert_span: "bert-span",
    parity_bert_tokcls: "bert-tokcls",
    parity_bert_untied: "bert-untied",
    parity_bloom: "bloom",
    parity_deepseek_v3: "deepseek-v3",
    parity_distilbert_mlm: "distilbert-mlm",
    parity_distilbert_seqcls: "distilbert-seqcls",
    parity_electra_mlm: "electra-mlm",
    parity_electra_pretraining: "electra-pretraining",
    parity_electra_seqcls: "electra-seqcls",
    parity_falcon: "falcon",
    parity_falcon_alibi: "falcon-alibi",
    parity_gemma2: "gemma2",
    parity_gemma3: "gemma3",
    parity_gpt2: "gpt2",
    parity_gpt2_seqcls: "gpt2-seqcls",
    parity_gpt_neox: "gpt-neox",
    parity_gru: "cupola-gru",
    parity_jamba: "jamba",
    parity_led: "led",
    parity_llama: "llama",
    parity_llama_linear_rope: "llama-linear-rope",
    parity_llama_seqcls: "llama-seqcls",
    parity_llama_sharded_bf16: "llama-sharded-bf16",
    parity_longformer_mlm: "longformer-mlm",
    parity_lstm: "cupola-lstm",
    parity_mamba2: "mamba2",
    parity_mamba: "mamba",
    parity_mistral: "mistral",
    parity_mixtral: "mixtral",
    parity_modernbert_mlm: "modernbert-mlm",
    parity_modernbert_seqcls: "modernbert-seqcls",
    parity_modernbert_span: "modernbert-span",
    parity_modernbert_tokcls: "modernbert-tokcls",
    parity_mt5: "mt5",
    parity_opt: "opt",
    parity_opt_post_norm: "opt-post-norm",
    parity_pegasus: "pegasus",
    parity_phi3: "phi3",
    parity_qwen2: "qwen2",
    parity_qwen3: "qwen3",
    parity_qwen3_moe: "qwen3-moe",
    parity_recurrentgemma: "recurrentgemma",
    parity_rnn: "cupola-rnn",
    parity_roberta_mlm: "roberta-mlm",
    parity_roberta_seqcls: "roberta-seqcls",
    parity_roberta_tokcls: "roberta-tokcls",
    parity_rwkv: "rwkv",
    parity_switch: "switch",
    parity_t5: "t5",
    parity_t5_v1_1: "t5-v1.1",
    parity_zamba2: "zamba2",
}

/// Fixtures of models that see or draw, which are no text architectures.
const OTHERS: &[&str] = &[
    "autoencoder-kl",
    "blip",
    "clip",
    "deit",
    "dinov2",
    "dit",
    "llava",
    "pixart",
    "qwen2-vl",
    "segformer",
    "swin",
    "unet2d-condition",
    "vit",
    "vitpose",
    "vq-model",
    "whisper",
    "yolos",
];

/// Settings that a fixture's configuration needs besides, to be what its golden outputs were computed with.
const SETTINGS: &[(&str, &str, f64)] = &[
    // The reference's eager attention, which made the golden outputs, adds the distances twice.
    ("falcon-alibi", "alibi_scale", 2.0),
];

/// A fixture's model with its configuration as the golden outputs have it.
fn load(dir: &Path) -> Model {
    let load =
        |dir: &Path| Model::load(dir, &Device::flex()).unwrap_or_else(|e| panic!("{}: {}", dir.display(), e.chain()));
    let name = dir.file_name().unwrap().to_str().unwrap();
    let Some((_, key, value)) = SETTINGS.iter().find(|(fixture, ..)| *fixture == name) else { return load(dir) };
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(dir.join("model.safetensors"), copy.path().join("model.safetensors")).unwrap();
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    config[*key] = serde_json::json!(value);
    std::fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
    load(copy.path())
}

/// Where a fixture lies: here, and in the further folder.
fn folders(name: &str) -> Vec<PathBuf> {
    let further = std::env::var_os("CUPOLA_FIXTURES").map(|root| Path::new(&root).join(name));
    [Some(fixture(name)), further.filter(|dir| dir.exists())].into_iter().flatten().collect()
}

/// Everything that can be compared of a fixture, by what its model is.
fn check(dir: &Path) {
    let golden = Golden::load_dir(dir);
    let model = load(dir);
    match &model.network {
        Network::Decoder(_) => causal::check(&golden, &model),
        Network::Encoder(_) => encoder::check(&golden, &model),
        Network::EncoderDecoder(_) => seq2seq::check(&golden, &model),
    }
    counts_are_exact(&model);
    saved_equals_loaded(&model, dir);
    other_configuration(dir);
}

#[test]
fn parity_has_a_test_for_every_fixture_with_a_model() {
    let own = fixture("llama").parent().unwrap().to_path_buf();
    for root in [Some(own), std::env::var_os("CUPOLA_FIXTURES").map(PathBuf::from)].into_iter().flatten() {
        for entry in std::fs::read_dir(&root).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let has = |file: &str| root.join(&name).join(file).exists();
            if has("config.json") && has("golden.json") && !OTHERS.contains(&name.as_str()) {
                assert!(FIXTURES.contains(&name.as_str()), "no family passes the fixture {name} of {}", root.display());
            }
        }
    }
}

/// Zero where padded, as the golden outputs are: `values` `[N, …]`.
fn masked(values: Vec<f32>, real: &[bool]) -> Vec<f32> {
    let width = values.len() / real.len();
    values.iter().enumerate().map(|(i, v)| if real[i / width] { *v } else { 0.0 }).collect()
}

/// Compares outputs at the tokens that are no padding.
fn close(golden: &Golden, key: &str, got: Vec<f32>, real: &[bool]) {
    golden.check(key, &masked(got, real));
}

/// The gradients of a loss as the file's tensors are named and laid out, against the golden ones: those of one layer of
/// each kind whole, and the norms of all.
fn compare_gradients(golden: &Golden, model: &mut Model, loss: burn::tensor::Tensor<1>) {
    compare_scaled_gradients(golden, model, loss, &|_| 1.0);
}

/// The same where the reference's own parameter is not the file's but so many times smaller.
fn compare_scaled_gradients(
    golden: &Golden,
    model: &mut Model,
    loss: burn::tensor::Tensor<1>,
    scale: &dyn Fn(&str) -> f32,
) {
    let mut tape = loss.backward();
    let norms = golden.info["grad_norms"].as_object().unwrap();
    let (mut gradients, mut fixed) = (StateDict::new(), vec![]);
    for param in model.params_mut() {
        // What is never trained is a weight without a gradient for the reference, or none of its parameters.
        if param.fixed() {
            assert!(norms.get(param.name()).is_none_or(|norm| norm == 0.0), "{} is trained", param.name());
            fixed.push(param.name().to_string());
            continue;
        }
        // A weight that the loss does not reach has none; the golden norm is 0 then.
        let gradient = param.take_gradient(&mut tape).unwrap_or_else(|| vec![0.0; param.numel()]);
        gradients.insert(param.name().to_string(), HostTensor::from_f32(param.shape(), &gradient));
    }
    let gradients = model.packed(gradients);
    let (atol, rtol) = golden.tolerance("grad.*");
    let mut names: Vec<_> = gradients.keys().collect();
    names.sort();
    let mut want: Vec<_> = norms.keys().filter(|name| !fixed.contains(name)).collect();
    want.sort();
    assert_eq!(names, want);
    for (name, gradient) in &gradients {
        let gradient: Vec<f32> = gradient.to_f32().unwrap().iter().map(|g| g * scale(name)).collect();
        let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        assert_close(&format!("norm of {name}"), &[norm as f32], &[norms[name].as_f64().unwrap() as f32], atol, rtol);
    }
    for key in golden.names().into_iter().filter(|name| name.starts_with("grad.")) {
        let name = key.trim_start_matches("grad.");
        let (shape, want) = golden.f32(key);
        assert_eq!(gradients[name].shape, shape, "{name}");
        let got: Vec<f32> = gradients[name].to_f32().unwrap().iter().map(|g| g * scale(name)).collect();
        assert_close(key, &got, &want, atol, rtol);
    }
}

/// What a spec says of a model before it is built, against the model.
fn counts_are_exact(model: &Model) {
    let mut copy = model.clone();
    let params = copy.params_mut();
    assert_eq!(model.spec().parameters(), params.iter().map(|p| p.numel() as u64).sum::<u64>(), "parameters");
}

/// A saved model has the tensors of the file that it came from, byte for byte in 32 bits, and loads again.
fn saved_equals_loaded(model: &Model, from: &Path) {
    let dir = tempfile::tempdir().unwrap();
    model.save(dir.path()).unwrap();
    let again = Model::load(dir.path(), &Device::flex()).unwrap();
    assert_eq!(model.spec(), again.spec());
    assert_eq!(model.state(), again.state());
    let wide = |dir: &Path| -> StateDict {
        let widened = |t: HostTensor| HostTensor::from_f32(t.shape.clone(), &t.to_f32().unwrap());
        read_weights(dir).unwrap().into_iter().map(|(name, tensor)| (name, widened(tensor))).collect()
    };
    let (got, want) = (wide(dir.path()), wide(from));
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    got.iter().for_each(|(name, tensor)| assert!(*tensor == want[name], "{name} differs after load and save"));
}

/// The configuration as transformers 4 wrote it says the same.
fn other_configuration(from: &Path) {
    let older = from.join("config.v4.json");
    if older.exists() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(older, dir.path().join("config.json")).unwrap();
        assert_eq!(Model::read_spec(dir.path()).unwrap(), Model::read_spec(from).unwrap());
    }
}
