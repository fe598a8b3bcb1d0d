//! Encoders as they are published, and what is refused.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use burn::tensor::Device;
use cupola_arch::Model;
use cupola_artifact::{HostTensor, StateDict};
use cupola_nn::Module;
use cupola_ops::to_vec;
use cupola_testkit::fixture;

/// A copy of a fixture's model with other tensors.
fn changed(name: &str, change: impl FnOnce(StateDict) -> StateDict) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(fixture(name).join("config.json"), dir.path().join("config.json")).unwrap();
    let state = cupola_artifact::read_safetensors(&fixture(name).join("model.safetensors")).unwrap();
    cupola_artifact::write_safetensors(&dir.path().join("model.safetensors"), &change(state), &[]).unwrap();
    dir
}

fn load(dir: &Path) -> cupola_artifact::Result<Model> {
    Model::load(dir, &Device::flex())
}

fn zeros(shape: &[usize]) -> HostTensor {
    HostTensor::from_f32(shape, &vec![0.0; shape.iter().product()])
}

/// The first BERT calls norms' weights otherwise, and its file holds a buffer and both heads of pretraining.
#[test]
fn a_bert_as_it_was_published_loads_with_equal_weights() {
    let old =
        |name: String| name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
    let dir = changed("bert-mlm", |state| {
        let mut state: StateDict = state.into_iter().map(|(name, tensor)| (old(name), tensor)).collect();
        for (name, shape) in [
            ("bert.embeddings.position_ids", &[1, 64][..]),
            ("bert.pooler.dense.weight", &[32, 32]),
            ("bert.pooler.dense.bias", &[32]),
            ("cls.predictions.decoder.weight", &[99, 32]),
            ("cls.predictions.decoder.bias", &[99]),
            ("cls.seq_relationship.weight", &[2, 32]),
            ("cls.seq_relationship.bias", &[2]),
        ] {
            state.insert(name.into(), zeros(shape));
        }
        state
    });
    assert_eq!(load(dir.path()).unwrap().state(), load(&fixture("bert-mlm")).unwrap().state());
}

#[test]
fn a_bare_encoder_loads_from_files_with_and_without_the_models_name() {
    let dir = changed("bert-bare", |state| state.into_iter().map(|(k, v)| (format!("bert.{k}"), v)).collect());
    assert_eq!(load(dir.path()).unwrap().state(), load(&fixture("bert-bare")).unwrap().state());
}

#[test]
fn a_bare_encoder_without_the_layer_over_its_first_token_is_one_of_vectors() {
    let dir = changed("bert-bare", |state| state.into_iter().filter(|(k, _)| !k.starts_with("pooler.")).collect());
    let (bare, whole) = (load(dir.path()).unwrap(), load(&fixture("bert-bare")).unwrap());
    assert!(bare.encoder().unwrap().head().is_none() && whole.encoder().unwrap().head().is_some());
    let batch = bare.encoder().unwrap().spec().batch((5..12).collect(), std::slice::from_ref(&(0..7)));
    let hidden = |model: &Model| to_vec(&model.encoder().unwrap().hidden(&batch));
    assert_eq!(hidden(&bare), hidden(&whole));
}

#[test]
fn a_text_alone_gives_what_it_gives_beside_padding_and_longer_ones() {
    for name in
        ["bert-seqcls", "roberta-seqcls", "albert-seqcls", "distilbert-seqcls", "modernbert-seqcls", "llama-seqcls"]
    {
        let model = load(&fixture(name)).unwrap();
        let encoder = model.encoder().unwrap();
        let (one, two): (Vec<u32>, Vec<u32>) = ((5..12).collect(), (20..33).collect());
        let pad = encoder.spec().pad.unwrap();
        let padded = one.iter().copied().chain(std::iter::repeat_n(pad, 6)).chain(two.iter().copied()).collect();
        let both = encoder.spec().batch(padded, &[0..7, 0..13]);
        let both = to_vec(&encoder.scores(encoder.hidden(&both), &both));
        let width = both.len() / 2;
        for (i, ids) in [one, two].into_iter().enumerate() {
            let len = ids.len();
            let alone = encoder.spec().batch(ids, std::slice::from_ref(&(0..len)));
            let alone = to_vec(&encoder.scores(encoder.hidden(&alone), &alone));
            cupola_testkit::assert_close(name, &alone, &both[i * width..(i + 1) * width], 1e-5, 1e-5);
        }
    }
}

#[test]
fn settings_that_are_not_built_and_labels_that_do_not_add_up_are_refused() {
    for (name, old, new, message) in [
        ("bert-mlm", "\"BertForMaskedLM\"", "\"BertLMHeadModel\"", "asks for the class BertLMHeadModel"),
        ("bert-mlm", "\"is_decoder\": false", "\"is_decoder\": true", "`is_decoder` = true"),
        ("bert-mlm", "\"hidden_act\": \"gelu\"", "\"hidden_act\": \"mish\"", "the activation \"mish\""),
        ("bert-seqcls", "\"2\": \"LABEL_2\"", "\"7\": \"LABEL_2\"", "has 3 labels, but none for 2"),
        ("bert-seqcls", "single_label_classification", "ranking", "`problem_type` in config.json is \"ranking\""),
        ("albert-mlm", "\"num_hidden_groups\": 1", "\"num_hidden_groups\": 9", "num_hidden_groups = 9 of 2 layers"),
        ("longformer-mlm", "    4,\n", "    3,\n", "`attention_window` in config.json is `[3,6]`"),
        (
            "modernbert-mlm",
            "\"sliding_attention\"\n",
            "\"chunked_attention\"\n",
            "the layer type \"chunked_attention\"",
        ),
        ("modernbert-seqcls", "\"mean\"", "\"max\"", "classifier_pooling = \"max\""),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let config = std::fs::read_to_string(fixture(name).join("config.json")).unwrap();
        assert!(config.contains(old), "{name}: {old}");
        std::fs::write(dir.path().join("config.json"), config.replace(old, new)).unwrap();
        let error = Model::read_spec(dir.path()).unwrap_err();
        assert!(error.chain().contains(message), "{}", error.chain());
    }
}

#[test]
fn a_surplus_tensor_of_no_head_is_named() {
    let dir = changed("bert-mlm", |mut state| {
        state.insert("bert.encoder.layer.9.output.dense.bias".into(), zeros(&[32]));
        state
    });
    let error = load(dir.path()).unwrap_err();
    assert!(error.chain().contains("no place for, e.g. `bert.encoder.layer.9"), "{}", error.chain());
}

/// Twice as many runs of the same blocks cost twice the work and no parameter.
#[test]
fn shared_blocks_count_once_as_parameters_and_each_time_as_work() {
    let dir = tempfile::tempdir().unwrap();
    let config = std::fs::read_to_string(fixture("albert-mlm").join("config.json")).unwrap();
    let spec = |layers: usize| {
        let config = config.replace("\"num_hidden_layers\": 2", &format!("\"num_hidden_layers\": {layers}"));
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        Model::read_spec(dir.path()).unwrap().encoder().unwrap().clone()
    };
    let (two, four) = (spec(2), spec(4));
    assert_eq!(two.parameters(), four.parameters());
    // Four blocks of 4 · 32² in attention and 2 · 32 · 48 in the feed-forward layer.
    assert_eq!(four.matrix_parameters() - two.matrix_parameters(), 4 * (4 * 32 * 32 + 2 * 32 * 48));
    let mixing = |spec: &cupola_nn::EncoderSpec| spec.train_flops_per_token(10) - 6.0 * spec.matrix_parameters() as f64;
    assert_eq!(mixing(&four), 2.0 * mixing(&two));
    // Scores and mix of each block: 4 · 32 · 10, three times over.
    assert_eq!(mixing(&two), 4.0 * 3.0 * 4.0 * 320.0);
}
