//! Vocabularies of older libraries, without a `tokenizer.json`: the same ids as with one, and as by sentencepiece.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use std::path::{Path, PathBuf};

use cupola_testkit::fixture;
use cupola_tokenizer::{SequenceOptions, Tokenizer};
use serde_json::{Value, json};
use tempfile::TempDir;

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn kind(name: &str) -> PathBuf {
    fixture("tokenizers").join(name)
}

/// A folder with `tokenizer_config.json`.
fn folder(config: &Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    dir
}

/// `vocab.json` and `merges.txt` of a fixture.
fn byte_level(name: &str, config: &Value) -> TempDir {
    let dir = folder(config);
    let model = read(&kind(name).join("tokenizer.json"))["model"].clone();
    std::fs::write(dir.path().join("vocab.json"), model["vocab"].to_string()).unwrap();
    let pair = |merge: &Value| match merge {
        Value::String(text) => text.clone(),
        _ => format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()),
    };
    let merges: Vec<String> = model["merges"].as_array().unwrap().iter().map(pair).collect();
    std::fs::write(dir.path().join("merges.txt"), format!("#version: 0.2\n{}\n", merges.join("\n"))).unwrap();
    dir
}

/// `vocab.txt` of the BERT fixture.
fn wordpiece(config: &Value) -> TempDir {
    let dir = folder(config);
    let vocab = read(&kind("bert").join("tokenizer.json"))["model"]["vocab"].clone();
    let mut tokens: Vec<(u64, String)> =
        vocab.as_object().unwrap().iter().map(|(token, id)| (id.as_u64().unwrap(), token.clone())).collect();
    tokens.sort();
    let lines: String = tokens.into_iter().map(|(_, token)| token + "\n").collect();
    std::fs::write(dir.path().join("vocab.txt"), lines).unwrap();
    dir
}

fn sentencepiece(name: &str, file: &str, config: &Value) -> TempDir {
    let dir = folder(config);
    std::fs::copy(kind(name).join("spiece.model"), dir.path().join(file)).unwrap();
    dir
}

/// Compares everything that the fixture `name` holds.
fn assert_golden(name: &str, tokenizer: &Tokenizer) {
    let golden = read(&kind(name).join("golden.json"));
    assert_eq!(tokenizer.vocab_size() as u64, golden["vocab_size"].as_u64().unwrap(), "{name}");
    let options = SequenceOptions { special_in_text: true, ..SequenceOptions::default() };
    for case in golden["encode"].as_array().unwrap().iter().chain(golden["encode_pair"].as_array().unwrap()) {
        let text = case["text"].as_str().unwrap();
        let got = tokenizer.encode_sequence(text, case["pair"].as_str(), &options).unwrap();
        assert_eq!(got.ids, ids(&case["ids"]), "{name}: {text:?}");
        assert_eq!(got.type_ids, ids(&case["type_ids"]), "{name}: {text:?}");
        if let Some(decoded) = case["decoded_skip_special"].as_str() {
            assert_eq!(tokenizer.decode(&got.ids).unwrap(), decoded, "{name}: {text:?}");
        }
    }
    for case in golden["decode_random_ids"].as_array().unwrap() {
        assert_eq!(tokenizer.decode_special(&ids(&case["ids"])).unwrap(), case["decoded"].as_str().unwrap(), "{name}");
    }
}

#[test]
fn vocab_json_and_merges_give_the_reference_ids() {
    for (name, config) in [
        ("gpt2", json!({})),
        ("gpt2", json!({ "tokenizer_class": "GPT2Tokenizer" })),
        ("roberta", json!({ "tokenizer_class": "RobertaTokenizer" })),
        ("roberta", json!({ "tokenizer_class": "BartTokenizerFast" })),
        (
            "qwen",
            json!({ "tokenizer_class": "Qwen2Tokenizer", "additional_special_tokens": ["<|im_start|>", "<|im_end|>"] }),
        ),
    ] {
        let dir = byte_level(name, &config);
        match name {
            "roberta" => {
                let mask = json!({ "480": { "content": "<mask>", "lstrip": true, "special": true } });
                let mut config = config.clone();
                config["added_tokens_decoder"] = mask;
                std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
            }
            "qwen" => {
                let added = json!({ "<|im_start|>": 1, "<|im_end|>": 2 });
                std::fs::write(dir.path().join("added_tokens.json"), added.to_string()).unwrap();
            }
            _ => {}
        }
        assert_golden(name, &Tokenizer::load(dir.path()).unwrap());
    }
}

#[test]
fn vocab_txt_gives_the_reference_ids() {
    let dir = wordpiece(&json!({ "tokenizer_class": "BertTokenizer", "do_lower_case": true }));
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    assert_golden("bert", &tokenizer);
    assert_golden("bert", &Tokenizer::load(&dir.path().join("vocab.txt")).unwrap());
    assert_eq!((tokenizer.pad(), tokenizer.unk(), tokenizer.cls()), (Some(0), Some(1), Some(2)));
    assert_eq!((tokenizer.sep(), tokenizer.mask()), (Some(3), Some(4)));
    let cased = wordpiece(&json!({ "do_lower_case": false }));
    let cased = Tokenizer::load(cased.path()).unwrap();
    assert_ne!(cased.encode("Hello").unwrap(), tokenizer.encode("Hello").unwrap());
    assert_eq!(cased.encode("hello").unwrap(), tokenizer.encode("Hello").unwrap());
}

#[test]
fn sentencepiece_models_give_the_reference_ids() {
    let llama = sentencepiece("sentencepiece-bpe", "tokenizer.model", &json!({ "tokenizer_class": "LlamaTokenizer" }));
    assert_golden("llama2", &Tokenizer::load(llama.path()).unwrap());
    let t5 = json!({ "tokenizer_class": "T5Tokenizer", "extra_ids": 0 });
    let t5 = sentencepiece("sentencepiece-unigram", "spiece.model", &t5);
    assert_golden("t5", &Tokenizer::load(t5.path()).unwrap());
}

#[test]
fn plain_text_is_encoded_as_the_sentencepiece_library_does() {
    let other = std::env::var_os("CUPOLA_FIXTURES").map(|root| Path::new(&root).join("tokenizers"));
    for root in std::iter::once(fixture("tokenizers")).chain(other.filter(|dir| dir.exists())) {
        for name in ["sentencepiece-bpe", "sentencepiece-unigram"] {
            let tokenizer = Tokenizer::load(&root.join(name).join("spiece.model")).unwrap();
            let golden = read(&root.join(name).join("golden.json"));
            assert_eq!(tokenizer.vocab_size() as u64, golden["vocab_size"].as_u64().unwrap());
            let cases = golden["encode"].as_array().unwrap();
            assert!(cases.len() >= 49);
            for case in cases {
                let text = case["text"].as_str().unwrap();
                let got = tokenizer.encode(text).unwrap();
                assert_eq!(got, ids(&case["ids"]), "{name}: {text:?}");
                // The library writes what is unknown as a sign of its own.
                let decoded = tokenizer.decode_special(&got).unwrap().replace("<unk>", " \u{2047} ");
                assert_eq!(decoded, case["decoded"].as_str().unwrap(), "{name}: {text:?}");
            }
        }
    }
}

#[test]
fn the_family_decides_what_surrounds_a_sequence() {
    let unigram = |config: &Value| {
        let dir = sentencepiece("sentencepiece-unigram", "spiece.model", config);
        Tokenizer::load(dir.path()).unwrap()
    };
    let sequence = |t: &Tokenizer| t.encode_sequence("a model", Some("a"), &SequenceOptions::default()).unwrap().ids;
    let plain = |t: &Tokenizer, text: &str| t.encode(text).unwrap();

    let t5 = unigram(&json!({ "tokenizer_class": "T5Tokenizer" }));
    assert_eq!(t5.vocab_size(), 347);
    assert_eq!((t5.sentinels()[0], t5.sentinels()[99], t5.sentinels().len()), (346, 247, 100));
    assert_eq!(t5.encode_special("<extra_id_0>").unwrap(), [346]);
    assert!(!t5.encode("<extra_id_0> </s>").unwrap().iter().any(|&id| id == 346 || id == 1));
    assert_eq!(sequence(&t5), [plain(&t5, "a model"), vec![1], plain(&t5, "a"), vec![1]].concat());

    let pegasus = unigram(&json!({ "tokenizer_class": "PegasusTokenizer" }));
    assert_eq!(pegasus.vocab_size(), 247 + 103);
    let shifted: Vec<u32> = plain(&t5, "a model").iter().map(|id| id + 103).collect();
    assert_eq!(plain(&pegasus, "a model"), shifted);
    assert_eq!(sequence(&pegasus), [plain(&pegasus, "a model"), plain(&pegasus, "a"), vec![1]].concat());
    assert_eq!(pegasus.token_to_id("<mask_2>"), Some(3));

    let llama = |config: &Value| {
        let dir = sentencepiece("sentencepiece-bpe", "tokenizer.model", config);
        Tokenizer::load(dir.path()).unwrap()
    };
    let ends = llama(&json!({ "tokenizer_class": "LlamaTokenizer", "add_bos_token": false, "add_eos_token": true }));
    assert_eq!(sequence(&ends), [plain(&ends, "a model"), vec![2], plain(&ends, "a"), vec![2]].concat());
    // Without the old ways, only the text's beginning gets a blank before it.
    let new = llama(&json!({ "tokenizer_class": "LlamaTokenizer", "legacy": false }));
    let old = llama(&json!({ "tokenizer_class": "LlamaTokenizer" }));
    assert_eq!(new.encode("a model").unwrap(), old.encode("a model").unwrap());
    let blank = old.token_to_id("▁").unwrap();
    assert_eq!(old.encode_special("<s>1</s>2").unwrap().iter().filter(|&&id| id == blank).count(), 2);
    assert_eq!(new.encode_special("<s>1</s>2").unwrap().iter().filter(|&&id| id == blank).count(), 0);
}

#[test]
fn the_model_type_stands_in_for_the_class() {
    let dir = sentencepiece("sentencepiece-unigram", "spiece.model", &json!({ "extra_ids": 3 }));
    std::fs::write(dir.path().join("config.json"), r#"{"model_type": "t5"}"#).unwrap();
    assert_eq!(Tokenizer::load(dir.path()).unwrap().sentinels().len(), 3);
}

#[test]
fn a_folder_read_from_an_old_layout_is_saved_as_a_new_one() {
    for dir in [
        sentencepiece(
            "sentencepiece-unigram",
            "spiece.model",
            &json!({ "tokenizer_class": "T5Tokenizer", "extra_ids": 0 }),
        ),
        wordpiece(&json!({})),
        byte_level("gpt2", &json!({})),
    ] {
        let before = Tokenizer::load(dir.path()).unwrap();
        let out = tempfile::tempdir().unwrap();
        before.save(out.path()).unwrap();
        let after = Tokenizer::load(out.path()).unwrap();
        for text in ["Hello, world! 你好", "[CLS] </s> <|endoftext|>"] {
            let options = SequenceOptions::default();
            let sequence = |t: &Tokenizer| t.encode_sequence(text, None, &options).unwrap();
            assert_eq!(sequence(&after), sequence(&before));
        }
    }
}

#[test]
fn what_cannot_be_read_is_refused_with_a_hint() {
    let model = |bytes: &[u8], config: Value| {
        let dir = folder(&config);
        std::fs::write(dir.path().join("tokenizer.model"), bytes).unwrap();
        dir
    };
    let good = std::fs::read(kind("sentencepiece-bpe").join("spiece.model")).unwrap();
    for (dir, part) in [
        (model(b"IQ== 0\nIg== 1\n", json!({})), "tiktoken"),
        (model(&good[..good.len() / 2], json!({})), "too early"),
        (model(b"", json!({})), "holds no pieces"),
        (model(&good, json!({ "tokenizer_class": "XLMRobertaTokenizer" })), "xlmroberta"),
        (byte_level("gpt2", &json!({ "tokenizer_class": "CLIPTokenizer" })), "clip"),
        (wordpiece(&json!({ "cls_token": "<nowhere>" })), "<nowhere>"),
        (wordpiece(&json!({ "added_tokens_decoder": { "9000": { "content": "far" } } })), "9000"),
    ] {
        let error = Tokenizer::load(dir.path()).unwrap_err();
        assert!(error.chain().contains(part), "{part}: {}", error.chain());
        assert!(error.hint().is_some(), "{}", error.chain());
    }
}
