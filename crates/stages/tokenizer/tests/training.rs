//! Training, saving, and the stage.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use common::{corpus, file_of, rayon_pool, run};
use cupola_artifact::stage::{Progress, Silent, Stage};
use cupola_tokenizer::{Message, SpecialTokens, Tokenizer, TokenizerKind, TokenizerStage, TrainConfig, train};
use serde_json::Value;

fn config(vocab_size: usize) -> TrainConfig {
    TrainConfig {
        kind: TokenizerKind::Bpe(SpecialTokens::default()),
        vocab_size,
        min_frequency: 2,
        character_coverage: 1.0,
        chat_template: None,
    }
}

#[test]
fn any_text_round_trips() {
    let tokenizer = train(&[&corpus(2000)], &config(400)).unwrap();
    for text in ["", " ", "the other hand", "\u{0}\r\n\t", "日本語 🦀 é e\u{301}", "<|im_end|>"] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap(), text);
    }
    let ids = tokenizer.encode("日🦀").unwrap();
    assert_eq!(ids.len(), 7, "one token for each byte");
    let mut stream = tokenizer.stream();
    let parts: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).filter(|p| !p.is_empty()).collect();
    assert_eq!(parts, ["日", "🦀"]);
}

#[test]
fn training_gives_the_same_file_every_time_on_any_number_of_threads() {
    let text = corpus(20_000);
    let texts = ["the thing", &text];
    let first = file_of(&train(&texts, &config(1500)).unwrap());
    for threads in [1, 2, 3, 4, 4, 4] {
        let pool = rayon_pool(threads);
        assert_eq!(pool.install(|| file_of(&train(&texts, &config(1500)).unwrap())), first, "{threads} threads");
    }
}

#[test]
fn special_tokens_come_first_then_the_bytes() {
    let tokenizer = train(&[&corpus(500)], &config(300)).unwrap();
    assert_eq!(tokenizer.token_to_id("<|endoftext|>"), Some(0));
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (Some(0), Some(0), Some(3)));
    assert_eq!(tokenizer.stop_ids(), [0, 2]);
    assert_eq!(tokenizer.token_to_id("!"), Some(4));
    assert_eq!(tokenizer.vocab_size(), 300);
    let chat = [Message::new("user", "a"), Message::new("assistant", "b")];
    let text = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n";
    assert_eq!(tokenizer.render_chat(&chat, false).unwrap(), text);
    let (ids, mask) = tokenizer.encode_chat_with_mask(&chat).unwrap();
    let learned: Vec<u32> = ids.iter().zip(&mask).filter(|(_, m)| **m).map(|(id, _)| *id).collect();
    assert_eq!(tokenizer.decode_special(&learned).unwrap(), "b<|im_end|>");
}

#[test]
fn a_vocabulary_too_small_for_the_bytes_is_refused() {
    let error = train(&["abc"], &config(259)).unwrap_err();
    assert!(error.hint().unwrap().contains("at least 260"));
}

#[test]
fn saving_and_loading_changes_nothing() {
    let trained = train(&[&corpus(2000)], &config(500)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    trained.save(dir.path()).unwrap();
    let loaded = Tokenizer::load(dir.path()).unwrap();
    assert_eq!(file_of(&loaded), file_of(&trained));
    assert_eq!(loaded.chat_template(), trained.chat_template());
    assert_eq!((loaded.bos(), loaded.eos(), loaded.pad()), (trained.bos(), trained.eos(), trained.pad()));
    assert_eq!(loaded.stop_ids(), trained.stop_ids());
}

/// Keeps the warnings.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Progress for Warnings {
    fn begin(&self, _: &str, _: Option<u64>, _: &str) {}
    fn update(&self, _: u64, _: &str) {}
    fn end(&self) {}
    fn line(&self, _: &str) {}
    fn warn(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
}

#[test]
fn the_stage_writes_a_tokenizer_and_a_report() {
    let dir = tempfile::tempdir().unwrap();
    let (text, out) = (dir.path().join("text.txt"), dir.path().join("out"));
    std::fs::write(&text, corpus(20_000)).unwrap();
    let report = run("data = 'text.txt'\nvocab_size = 400", &[("data", &text)], &out, &Silent).unwrap();
    assert_eq!(report.metrics["vocab_size"], 400);
    assert!(report.metrics["bytes_per_token"].as_f64().unwrap() > 1.5, "{report:?}");
    assert!(report.metrics["seconds"].is_number() && report.metrics["bytes"].as_u64().unwrap() > 1000);
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "report.json"] {
        assert!(out.join(name).exists(), "{name}");
    }
    let file: Value = serde_json::from_slice(&std::fs::read(out.join("report.json")).unwrap()).unwrap();
    assert_eq!(file["eos"]["token"], "<|endoftext|>");

    // Somebody else's tokenizer is taken over byte for byte.
    let copy = dir.path().join("copy");
    let report = run("from = 'out'\nchat_template = 'hm'", &[("from", &out)], &copy, &Silent).unwrap();
    assert_eq!(report.metrics["vocab_size"], 400);
    let read = |dir: &Path| std::fs::read(dir.join("tokenizer.json")).unwrap();
    assert_eq!(read(&copy), read(&out));
    assert_eq!(Tokenizer::load(&copy).unwrap().chat_template(), Some("hm"));
    assert_eq!(Tokenizer::load(&copy).unwrap().eos(), Some(0));
}

#[test]
fn a_corpus_too_small_for_the_vocabulary_is_warned_about() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.txt");
    std::fs::write(&text, "to be or not to be\n".repeat(20)).unwrap();
    let warnings = Warnings::default();
    let report = run("data = 'x'\nvocab_size = 5000", &[("data", &text)], dir.path(), &warnings).unwrap();
    let reached = report.metrics["vocab_size"].as_u64().unwrap();
    assert!(reached < 300);
    let warnings = warnings.0.lock().unwrap();
    assert!(warnings.iter().any(|w| w.contains(&format!("{reached} tokens instead of 5000"))), "{warnings:?}");
}

#[test]
fn wrong_settings_are_usage_errors() {
    for (settings, part) in [
        ("vocab_size = 300", "needs `data`"),
        ("data = 'x'\nvocab_sise = 300", "vocab_sise"),
        ("data = 'x'\n[special]\npad = '<|im_end|>'", "given twice"),
        ("data = 'x'\n[special]\npad = ''", "too short"),
    ] {
        let error = TokenizerStage.configure(settings.parse().unwrap()).err().unwrap();
        assert_eq!(error.class(), cupola_artifact::Class::Usage);
        assert!(error.chain().contains(part), "{settings}: {}", error.chain());
    }
}

#[test]
fn transformers_loads_what_was_saved_and_agrees() {
    let Some(python) = std::env::var_os("CUPOLA_PEER_PYTHON") else {
        eprintln!("skipped: CUPOLA_PEER_PYTHON names no Python interpreter with transformers");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = train(&[&corpus(5000)], &config(600)).unwrap();
    tokenizer.save(dir.path()).unwrap();
    let texts = ["the other hand", "  blanks  \n\n", "日本語 🦀", "It's 2024, isn't it?", "a<|im_end|>b"];
    let plain: Vec<Vec<u32>> = texts.iter().map(|t| tokenizer.encode(t).unwrap()).collect();
    let special: Vec<Vec<u32>> = texts.iter().map(|t| tokenizer.encode_special(t).unwrap()).collect();
    let chat = [Message::new("system", "Be kind."), Message::new("user", "Hi ü"), Message::new("assistant", "Ho!")];
    let (chat_ids, mask) = tokenizer.encode_chat_with_mask(&chat).unwrap();
    let expected = serde_json::json!({
        "texts": texts, "plain": plain, "special": special, "chat": chat,
        "rendered": tokenizer.render_chat(&chat, false).unwrap(),
        "prompt": tokenizer.render_chat(&chat[..2], true).unwrap(),
        "chat_ids": chat_ids, "chat_mask": mask, "vocab_size": tokenizer.vocab_size(),
        "bos": tokenizer.bos(), "eos": tokenizer.eos(), "pad": tokenizer.pad(),
    });
    let file = dir.path().join("expected.json");
    std::fs::write(&file, expected.to_string()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peer_tokenizer.py");
    let output = Command::new(python).arg(script).arg(dir.path()).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
}
