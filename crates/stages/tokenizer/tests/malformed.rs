//! Broken files: a clear error that names the file and the cause, never a panic or a wrong tokenizer.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use cupola_tokenizer::Tokenizer;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/malformed").join(name)
}

#[test]
fn the_valid_file_loads_and_round_trips() {
    let tokenizer = Tokenizer::load(&file("valid_tokenizer.json")).unwrap();
    assert_eq!(tokenizer.vocab_size(), 600);
    let ids = tokenizer.encode("First Citizen:").unwrap();
    assert_eq!(tokenizer.decode(&ids).unwrap(), "First Citizen:");
}

#[test]
fn each_broken_file_is_refused_with_its_cause() {
    for (name, cause) in [
        ("truncated_tokenizer.json", "line 1 column"),
        ("merge_unknown_token_tokenizer.json", "not in the vocabulary"),
        ("duplicate_ids_tokenizer.json", "share the id"),
        ("unknown_model_tokenizer.json", "model type is `"),
        ("added_token_id_range_tokenizer.json", "1000000000"),
    ] {
        let error = Tokenizer::load(&file(name)).expect_err(name);
        let chain = error.chain();
        assert!(chain.contains(name), "{name}: {chain}");
        assert!(chain.contains(cause), "{name}: {chain}");
        assert!(error.hint().is_some(), "{name}: {chain}");
    }
}

#[test]
fn an_absent_tokenizer_says_what_is_looked_for() {
    let error = Tokenizer::load(Path::new("no/such/folder")).unwrap_err();
    assert!(error.chain().contains("no/such/folder/tokenizer.json"), "{}", error.chain());
    assert!(error.hint().unwrap().contains("tokenizer.json"));
}

#[test]
fn other_json_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for text in ["", "[]", "{}", "{\"model\": {\"type\": \"BPE\"}}", "{\"model\": {\"vocab\": {\"a\": -1}}}"] {
        std::fs::write(dir.path().join("tokenizer.json"), text).unwrap();
        let error = Tokenizer::load(dir.path()).unwrap_err();
        assert!(error.chain().contains("tokenizer.json"), "{text}: {}", error.chain());
    }
}
