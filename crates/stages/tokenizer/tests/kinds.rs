//! Training of WordPiece and Unigram tokenizers.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod common;

use std::path::Path;
use std::process::Command;

use common::{corpus, file_of, rayon_pool, run};
use cupola_artifact::stage::{Silent, Stage};
use cupola_tokenizer::{
    SequenceOptions, Tokenizer, TokenizerKind, TokenizerStage, TrainConfig, UnigramTokens, WordPieceTokens, train,
};
use serde_json::{Value, json};
use tokenizers::models::unigram::{Unigram, UnigramTrainer};

fn config(kind: TokenizerKind, vocab_size: usize) -> TrainConfig {
    TrainConfig { kind, vocab_size, min_frequency: 2, character_coverage: 1.0, chat_template: None }
}

fn wordpiece(vocab_size: usize) -> TrainConfig {
    config(TokenizerKind::WordPiece { special: WordPieceTokens::default(), lowercase: true }, vocab_size)
}

fn unigram(vocab_size: usize) -> TrainConfig {
    config(TokenizerKind::Unigram(UnigramTokens::default()), vocab_size)
}

fn sequence(tokenizer: &Tokenizer, text: &str, pair: Option<&str>) -> (Vec<u32>, Vec<u32>) {
    let encoded = tokenizer.encode_sequence(text, pair, &SequenceOptions::default()).unwrap();
    (encoded.ids, encoded.type_ids)
}

#[test]
fn a_wordpiece_surrounds_texts_as_bert_does() {
    let text = corpus(5000);
    let tokenizer = train(&[&text], &wordpiece(300)).unwrap();
    assert_eq!(tokenizer.vocab_size(), 300);
    let roles = [tokenizer.pad(), tokenizer.unk(), tokenizer.cls(), tokenizer.sep(), tokenizer.mask()];
    assert_eq!(roles, [0, 1, 2, 3, 4].map(Some));
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.chat_template()), (None, None, None));
    let (a, b) = (tokenizer.encode("the other").unwrap(), tokenizer.encode("hand").unwrap());
    assert_eq!(sequence(&tokenizer, "the other", None).0, [vec![2], a.clone(), vec![3]].concat());
    let (ids, types) = sequence(&tokenizer, "the other", Some("hand"));
    assert_eq!(ids, [vec![2], a.clone(), vec![3], b.clone(), vec![3]].concat());
    assert_eq!(types, [vec![0; a.len() + 2], vec![1; b.len() + 1]].concat());
    assert_eq!(tokenizer.decode(&ids).unwrap(), "the other hand");
}

#[test]
fn a_wordpiece_learns_frequent_words_and_their_endings() {
    let text = "the singing singer is singing, the swinging swinger is swinging. ".repeat(30);
    let tokenizer = train(&[&text], &wordpiece(60)).unwrap();
    let tokens = |text: &str| -> Vec<String> {
        tokenizer.encode(text).unwrap().iter().map(|&id| tokenizer.id_to_token(id).unwrap()).collect()
    };
    assert_eq!(tokens("the singing"), ["the", "singing"]);
    assert!(tokens("winging").len() > 1 && tokens("winging")[1].starts_with("##"), "{:?}", tokens("winging"));
    assert_eq!(tokens("THE Thé"), ["the", "the"], "small letters without accents");
    assert_eq!(tokens("the 7"), ["the", "[UNK]"]);
    assert_eq!(tokens("[MASK]").len(), tokens("[MASK]").iter().filter(|t| *t != "[MASK]").count());
    let kind = TokenizerKind::WordPiece { special: WordPieceTokens::default(), lowercase: false };
    let cased = train(&["The the The".repeat(10).as_str()], &config(kind, 40)).unwrap();
    assert_ne!(cased.encode("The").unwrap(), cased.encode("the").unwrap());
}

#[test]
fn a_unigram_ends_texts_and_has_sentinels_as_t5_does() {
    let text = corpus(5000);
    let tokenizer = train(&[&text], &unigram(400)).unwrap();
    assert_eq!(tokenizer.vocab_size(), 400);
    assert_eq!((tokenizer.pad(), tokenizer.eos(), tokenizer.unk(), tokenizer.bos()), (Some(0), Some(1), Some(2), None));
    let sentinels: Vec<u32> = (300..400).rev().collect();
    assert_eq!(tokenizer.sentinels(), sentinels);
    assert_eq!(tokenizer.token_to_id("<extra_id_0>"), Some(399));
    let (a, b) = (tokenizer.encode("the other").unwrap(), tokenizer.encode("hand").unwrap());
    assert_eq!(sequence(&tokenizer, "the other", None).0, [a.clone(), vec![1]].concat());
    let (ids, types) = sequence(&tokenizer, "the other", Some("hand"));
    assert_eq!(ids, [a, vec![1], b, vec![1]].concat());
    assert!(types.iter().all(|&t| t == 0));
    assert_eq!(tokenizer.decode(&tokenizer.encode("the other \n hand.").unwrap()).unwrap(), "the other hand.");
    let attack = tokenizer.encode("</s> <extra_id_0> <pad>").unwrap();
    assert!(attack.iter().all(|&id| id == 2 || !tokenizer.is_special(id)), "{attack:?}");
    assert_eq!(tokenizer.encode_special("the<extra_id_3>").unwrap().last(), Some(&396));
}

#[test]
fn training_gives_the_same_file_every_time_on_any_number_of_threads() {
    let text = corpus(8000);
    let texts = ["the thing", &text, "zß"];
    for config in [wordpiece(500), unigram(500)] {
        let first = file_of(&train(&texts, &config).unwrap());
        for threads in [1, 2, 3, 4] {
            let again = rayon_pool(threads).install(|| file_of(&train(&texts, &config).unwrap()));
            assert!(again == first, "{:?} with {threads} threads", config.kind);
        }
    }
}

/// Tokens that the library's own Unigram training needs for the text.
fn library_tokens(text: &str, vocab_size: u32) -> usize {
    let words: Vec<String> = text.split_whitespace().map(|w| format!("▁{w}")).collect();
    let mut counts = std::collections::BTreeMap::<String, u32>::new();
    words.iter().for_each(|w| *counts.entry(w.clone()).or_default() += 1);
    let trainer = UnigramTrainer::builder().show_progress(false).vocab_size(vocab_size).build().unwrap();
    let mut model = Unigram::default();
    trainer.do_train(counts.into_iter().collect(), &mut model).unwrap();
    words.iter().map(|w| model.encode(w).unwrap().len()).sum()
}

#[test]
fn a_unigram_needs_no_more_tokens_than_the_library_s() {
    // Only letters: ours keep letters, digits and signs apart.
    let text = corpus(20_000).replace(['1', '2', '.'], "");
    let special = UnigramTokens { sentinels: 0, ..UnigramTokens::default() };
    for size in [60, 200, 800] {
        let ours = train(&[&text], &config(TokenizerKind::Unigram(special.clone()), size + 3)).unwrap();
        let (ours, theirs) = (ours.encode(&text).unwrap().len(), library_tokens(&text, size as u32));
        assert!(ours as f64 <= theirs as f64 * 1.01, "{size} pieces: {ours} tokens, the library's {theirs}");
    }
}

#[test]
fn rare_characters_are_left_out_and_become_unknown() {
    let text = format!("{} ж", "aa bb ab ".repeat(1000));
    for kind in [
        TokenizerKind::WordPiece { special: WordPieceTokens::default(), lowercase: true },
        TokenizerKind::Unigram(UnigramTokens::default()),
    ] {
        let config = TrainConfig { character_coverage: 0.9995, ..config(kind, 200) };
        let tokenizer = train(&[&text], &config).unwrap();
        assert_eq!(tokenizer.token_to_id("ж"), None);
        assert_eq!(tokenizer.encode("ж").unwrap().last().copied(), tokenizer.unk());
        let all = TrainConfig { character_coverage: 1.0, ..config };
        assert!(train(&[&text], &all).unwrap().token_to_id("ж").is_some());
    }
}

#[test]
fn a_vocabulary_without_room_for_the_characters_is_refused() {
    for config in [wordpiece(12), unigram(105)] {
        let error = train(&["abcdefghijklmnop"], &config).unwrap_err();
        assert!(error.hint().unwrap().contains("at least"), "{}", error.chain());
    }
}

#[test]
fn saving_and_loading_changes_nothing() {
    let text = corpus(3000);
    for config in [wordpiece(250), unigram(250)] {
        let trained = train(&[&text], &config).unwrap();
        let dir = tempfile::tempdir().unwrap();
        trained.save(dir.path()).unwrap();
        let loaded = Tokenizer::load(dir.path()).unwrap();
        assert_eq!(file_of(&loaded), file_of(&trained));
        assert_eq!((loaded.mask(), loaded.eos(), loaded.pad()), (trained.mask(), trained.eos(), trained.pad()));
        assert_eq!(sequence(&loaded, "ther hand", Some("on")), sequence(&trained, "ther hand", Some("on")));
    }
}

#[test]
fn the_stage_trains_each_kind() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.txt");
    std::fs::write(&text, corpus(10_000)).unwrap();
    for (settings, class, role) in [
        ("kind = 'wordpiece'\nlowercase = false\nspecial.more = ['[ENT]']", "BertTokenizer", "mask"),
        ("kind = 'unigram'\nspecial.sentinels = 20", "T5Tokenizer", "sentinels"),
    ] {
        let out = dir.path().join(role);
        let settings = format!("data = 'text.txt'\nvocab_size = 400\n{settings}");
        let report = run(&settings, &[("data", &text)], &out, &Silent).unwrap();
        assert_eq!(report.metrics["vocab_size"], 400);
        assert!(report.metrics["bytes_per_token"].as_f64().unwrap() > 1.5, "{report:?}");
        let read = |name: &str| -> Value { serde_json::from_slice(&std::fs::read(out.join(name)).unwrap()).unwrap() };
        assert_eq!(read("tokenizer_config.json")["tokenizer_class"], class);
        assert!(!read("report.json")[role].is_null());
        assert!(Tokenizer::load(&out).unwrap().unk().is_some());
    }
}

#[test]
fn wrong_settings_are_usage_errors() {
    for (settings, part) in [
        ("kind = 'wordpeice'", "wordpeice"),
        ("kind = 'unigram'\nlowercase = true", "`lowercase` has no meaning"),
        ("character_coverage = 0.9", "`character_coverage` has no meaning"),
        ("kind = 'unigram'\ncharacter_coverage = 1.5", "is no share"),
        ("kind = 'wordpiece'\n[special]\nturn_start = '<x>'", "turn_start"),
        ("kind = 'wordpiece'\n[special]\ncls = '[SEP]'", "given twice"),
        ("kind = 'unigram'\n[special]\nsentinels = 1000000", "too large"),
        ("kind = 'unigram'\n[special]\neos = '<extra_id_4>'", "given twice"),
        ("vocab_size = 400000000000", "too large"),
    ] {
        let error = TokenizerStage.configure(format!("data = 'x'\n{settings}").parse().unwrap()).err().unwrap();
        assert_eq!(error.class(), cupola_artifact::Class::Usage);
        assert!(error.chain().contains(part), "{settings}: {}", error.chain());
    }
}

#[test]
fn the_effective_settings_name_all_special_tokens() {
    let settings = "data = 'x'\nkind = 'wordpiece'\n[special]\ncls = '<cls>'";
    let configured = TokenizerStage.configure(settings.parse().unwrap()).unwrap();
    let effective = configured.effective_config();
    assert_eq!((&effective["special"]["cls"], &effective["special"]["sep"]), (&json!("<cls>"), &json!("[SEP]")));
    assert_eq!((&effective["lowercase"], &effective["character_coverage"]), (&json!(true), &json!(0.9999)));
    assert_eq!(effective["kind"], "wordpiece");
}

#[test]
fn transformers_loads_what_was_saved_and_agrees() {
    let Some(python) = std::env::var_os("CUPOLA_PEER_PYTHON") else {
        eprintln!("skipped: CUPOLA_PEER_PYTHON names no Python interpreter with transformers");
        return;
    };
    let text = corpus(5000);
    for config in [wordpiece(400), unigram(400)] {
        let dir = tempfile::tempdir().unwrap();
        let tokenizer = train(&[&text], &config).unwrap();
        tokenizer.save(dir.path()).unwrap();
        let texts =
            ["the other hand", "  blanks  \n\n", "日本語 🦀 ﬁ", "It's 2024, isn't it?", "a[MASK] b<extra_id_0>c ▁x"];
        let case = |text: &str, pair: Option<&str>| {
            let options = SequenceOptions { special_in_text: true, ..SequenceOptions::default() };
            let encoded = tokenizer.encode_sequence(text, pair, &options).unwrap();
            json!({ "text": text, "pair": pair, "ids": encoded.ids, "type_ids": encoded.type_ids })
        };
        let mut sequences: Vec<Value> = texts.iter().map(|text| case(text, None)).collect();
        sequences.extend(texts.iter().map(|text| case("in the", Some(text))));
        let plain: Vec<Vec<u32>> = texts.iter().map(|t| tokenizer.encode(t).unwrap()).collect();
        let special: Vec<Vec<u32>> = texts.iter().map(|t| tokenizer.encode_special(t).unwrap()).collect();
        let expected = json!({
            "texts": texts, "plain": plain, "special": special, "sequences": sequences,
            "vocab_size": tokenizer.vocab_size(), "pad": tokenizer.pad(), "unk": tokenizer.unk(),
            "eos": tokenizer.eos(), "cls": tokenizer.cls(), "sep": tokenizer.sep(), "mask": tokenizer.mask(),
        });
        let file = dir.path().join("expected.json");
        std::fs::write(&file, expected.to_string()).unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peer_tokenizer.py");
        let output = Command::new(&python).arg(script).arg(dir.path()).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
    }
}
