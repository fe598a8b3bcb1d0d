//! The routes over encoders, whose answers follow from the golden outputs of the reference fixtures.

use std::path::Path;
use std::sync::Arc;

use crate::common::{MODEL, Running, State};
use cupola_generate::Reader;
use cupola_serve::{Secret, ServeConfig, Server, reading_router};
use cupola_testkit::{Golden, assert_close, fixture};
use serde_json::{Value, json};

/// A tokenizer of 99 words `w5`, `w6`, …, whose texts stand between two tokens; one word is the mask.
pub fn write_tokenizer(dir: &Path, mask: u32) {
    let special = |id: u32| [(3, "<cls>"), (4, "<sep>"), (mask, "<mask>")].into_iter().find(|s| s.0 == id);
    let word = |id: u32| special(id).map_or_else(|| format!("w{id}"), |(_, name)| name.to_string());
    let vocab: serde_json::Map<String, Value> = (0..99).map(|id| (word(id), json!(id))).collect();
    let added = |id: u32| {
        json!({"id": id, "content": word(id), "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let around = |id: u32| json!({"SpecialToken": {"id": word(id), "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let named = |id: u32| json!({"id": word(id), "ids": [id], "tokens": [word(id)]});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [added(3), added(4), added(mask)],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {"type": "TemplateProcessing", "single": [around(3), text, around(4)],
            "pair": [around(3), text, around(4)], "special_tokens": {"<cls>": named(3), "<sep>": named(4)}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": false},
        "model": {"type": "WordPiece", "unk_token": "w0", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab},
    });
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

/// A server over a fixture's encoder.
fn start(name: &str, mask: u32, config: ServeConfig) -> Running {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture(name).join(file), dir.path().join(file)).unwrap();
    }
    write_tokenizer(dir.path(), mask);
    let reader = Reader::load(dir.path(), "cpu").unwrap_or_else(|e| panic!("{}", e.chain()));
    let config = ServeConfig { port: 0, ..config };
    let handle = Server::bind(&config).unwrap().spawn(reading_router(reader, &config, MODEL)).unwrap();
    Running { handle, state: Arc::<State>::default() }
}

/// The first row of the golden batch, which has no padding.
fn first_row(golden: &Golden) -> Vec<u32> {
    let (shape, ids) = golden.i64("in.input_ids");
    ids[..shape[1]].iter().map(|id| *id as u32).collect()
}

fn softmax(scores: &[f32]) -> Vec<f32> {
    let sum: f32 = scores.iter().map(|s| s.exp()).sum();
    scores.iter().map(|s| s.exp() / sum).collect()
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

#[test]
fn embeddings_are_the_mean_of_the_golden_hidden_states_at_length_one() {
    let golden = Golden::load("roberta-mlm");
    let ids = first_row(&golden);
    let (shape, hidden) = golden.f32("out.hidden_states.2");
    let (len, width) = (shape[1], shape[2]);
    let mean: Vec<f32> =
        (0..width).map(|i| (0..len).map(|t| hidden[t * width + i]).sum::<f32>() / len as f32).collect();
    let norm = mean.iter().map(|v| v * v).sum::<f32>().sqrt();
    let want: Vec<f32> = mean.iter().map(|v| v / norm).collect();

    let server = start("roberta-mlm", 98, ServeConfig::default());
    let answer = server.post("/v1/embeddings", &json!({"model": MODEL, "input": ids})).json();
    assert_eq!((&answer["object"], &answer["data"][0]["object"]), (&json!("list"), &json!("embedding")));
    assert_eq!(answer["usage"], json!({"prompt_tokens": len, "total_tokens": len}));
    assert_close("embedding", &numbers(&answer["data"][0]["embedding"]), &want, 1e-4, 1e-4);

    // The same beside a longer text, and as bytes.
    let body =
        json!({"input": [ids, [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]], "encoding_format": "base64"});
    let several = server.post("/v1/embeddings", &body).json();
    let alone = server.post("/v1/embeddings", &json!({"input": ids, "encoding_format": "base64"})).json();
    assert_eq!(several["data"][1]["index"], 1);
    let text = alone["data"][0]["embedding"].as_str().unwrap();
    assert_eq!(text.len(), (4 * width).div_ceil(3) * 4);
    let listed = server.post("/embed", &json!({"inputs": ["w5 w6", "w7"]})).json();
    let framed = server.post("/v1/embeddings", &json!({"input": [3, 7, 4]})).json();
    assert_close("framed", &numbers(&listed[1]), &numbers(&framed["data"][0]["embedding"]), 1e-5, 1e-5);
}

#[test]
fn a_mask_is_filled_with_the_likeliest_words_of_the_golden_scores() {
    let golden = Golden::load("roberta-mlm");
    let ids = first_row(&golden);
    let at = (0..ids.len()).find(|at| ids.iter().filter(|id| **id == ids[*at]).count() == 1 && ids[*at] > 4).unwrap();
    let (shape, logits) = golden.f32("out.logits");
    let shares = softmax(&logits[at * shape[2]..(at + 1) * shape[2]]);
    let best = (0..shares.len()).max_by(|a, b| shares[*a].total_cmp(&shares[*b])).unwrap();

    let server = start("roberta-mlm", ids[at], ServeConfig::default());
    for path in ["/", "/models/echo"] {
        let answer = server.post(path, &json!({"inputs": [ids], "parameters": {"top_k": 3}})).json();
        assert_eq!(answer[0].as_array().unwrap().len(), 3);
        assert_eq!(answer[0][0]["token"], best);
        assert_close("score", &[answer[0][0]["score"].as_f64().unwrap() as f32], &[shares[best]], 1e-4, 1e-3);
    }
    let text = server.post("/", &json!({"inputs": "w5 <mask> w7"})).json();
    let first = &text[0];
    let sequence = first["sequence"].as_str().unwrap();
    assert_eq!(sequence, format!("w5 {} w7", first["token_str"].as_str().unwrap()));
    let two = server.post("/", &json!({"inputs": "w5 <mask> <mask>"})).json();
    assert_eq!((two.as_array().unwrap().len(), two[0].as_array().unwrap().len()), (2, 5));
    server.post("/", &json!({"inputs": "w5 w6"})).error(400);
    server.post("/predict", &json!({"inputs": "w5"})).error(400);
}

#[test]
fn texts_are_labelled_with_the_golden_probabilities() {
    let golden = Golden::load("roberta-seqcls");
    let ids = first_row(&golden);
    let (shape, logits) = golden.f32("out.logits");
    let shares = softmax(&logits[..shape[1]]);
    let server = start("roberta-seqcls", 98, ServeConfig::default());
    let one = server.post("/predict", &json!({"inputs": ids})).json();
    let listed = server.post("/", &json!({"inputs": ids})).json();
    assert_eq!(listed, json!([one]), "Hugging Face's API lists the labels of a single text, too");
    for label in one.as_array().unwrap() {
        let name = label["label"].as_str().unwrap();
        let number: usize = name.trim_start_matches("LABEL_").parse().unwrap();
        assert_close(name, &[label["score"].as_f64().unwrap() as f32], &[shares[number]], 1e-4, 1e-3);
    }
    let scores: Vec<f32> = one.as_array().unwrap().iter().map(|l| l["score"].as_f64().unwrap() as f32).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
    let best = server.post("/", &json!({"inputs": ["w5", "w6 w7"], "parameters": {"top_k": 1}})).json();
    assert_eq!((best.as_array().unwrap().len(), best[1].as_array().unwrap().len()), (2, 1));
}

#[test]
fn what_encoders_cannot_read_is_refused_by_name() {
    let server = start("roberta-mlm", 98, ServeConfig::default());
    let refused = |path: &str, body: Value, message: &str| {
        let error = server.post(path, &body).error(400);
        let told = error["error"]["message"].as_str().or(error["message"].as_str()).unwrap().to_string();
        assert!(told.contains(message), "{told}");
    };
    refused("/v1/embeddings", json!({}), "`input` is missing");
    refused("/v1/embeddings", json!({"input": []}), "`input` is empty");
    refused("/v1/embeddings", json!({"input": {"a": 1}}), "`input` must be a text");
    refused("/v1/embeddings", json!({"input": [1, 400]}), "the token 400, but the model knows only 99");
    refused("/v1/embeddings", json!({"input": "w5 ".repeat(70)}), "but the model reads at most 62");
    refused("/v1/embeddings", json!({"input": "w5", "dimensions": 8}), "vectors have 32");
    refused("/v1/embeddings", json!({"input": "w5", "tools": 8}), "`tools` is not supported");
    refused("/embed", json!({"inputs": "w5", "normalize": false}), "the length 1");
    server.post("/embed", &json!({"inputs": "w5 ".repeat(70), "truncate": true})).json();
    server.post("/v1/embeddings", &json!({"input": "w5", "model": "other"})).error(404);
    server.get("/nowhere").error(404);
    let locked = start("roberta-mlm", 98, ServeConfig { api_key: Some(Secret::new("k")), ..ServeConfig::default() });
    locked.post("/embed", &json!({"inputs": "w5"})).error(401);
    assert_eq!(locked.get("/health").status, 200);
}
