//! Broken files: a clear error that names the file and the cause, never a panic or a wrong tokenizer.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};

use cupola_tokenizer::{SequenceOptions, Tokenizer};
use serde_json::{Value, json};

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

/// A small generator of numbers (Knuth's constants), so that the test does the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

/// Changes one place: going down from the root, each child is as likely.
fn damage(value: &mut Value, dice: &mut Dice) {
    let stop = dice.roll(6) == 0;
    match value {
        Value::Object(fields) if !fields.is_empty() && !stop => {
            let key = fields.keys().nth(dice.roll(fields.len())).unwrap().clone();
            if dice.roll(8) == 0 {
                fields.remove(&key);
            } else {
                damage(&mut fields[&key], dice);
            }
        }
        Value::Array(items) if !items.is_empty() && !stop => {
            let place = dice.roll(items.len());
            match dice.roll(10) {
                0 => drop(items.remove(place)),
                1 => items.push(items[place].clone()),
                2 => items.truncate(place),
                _ => damage(&mut items[place], dice),
            }
        }
        Value::String(text) if dice.roll(2) == 0 && !text.is_empty() => {
            let mut letters: Vec<char> = text.chars().collect();
            let place = dice.roll(letters.len());
            letters[place] = ['A', 'é', '<', ' ', '▁'][dice.roll(5)];
            *text = letters.into_iter().collect();
        }
        _ => {
            let other = [
                json!(null),
                json!(true),
                json!(0),
                json!(-1),
                json!(3),
                json!(1.5e300),
                json!(1u64 << 40),
                json!(""),
                json!("a"),
                json!("B"),
                json!("▁"),
                json!([]),
                json!({}),
                json!([["a", 1]]),
                json!({ "type": "Fuse" }),
            ];
            *value = other[dice.roll(other.len())].clone();
        }
    }
}

/// Uses a tokenizer in every way; errors are fine, panics are not.
fn use_up(tokenizer: &Tokenizer) {
    let options =
        |special_in_text| SequenceOptions { max_len: Some(6), pad_to: Some(9), special_in_text, pad_id: Some(0) };
    for text in
        ["", " ", "Hello, world! It's 2024.", "ﬁne ½ e\u{301} 你好 🦀\n", "a</s><|endoftext|>[MASK] b<extra_id_0>"]
    {
        let _ = tokenizer.encode(text);
        let _ = tokenizer.encode_special(text);
        for special in [false, true] {
            let _ = tokenizer.encode_sequence(text, None, &options(special));
            let _ = tokenizer.encode_sequence(text, Some("pair"), &options(special));
        }
    }
    for ids in [vec![], vec![0], (0..40).rev().collect::<Vec<u32>>(), vec![u32::MAX, 1 << 30]] {
        let _ = tokenizer.decode(&ids);
        let _ = tokenizer.decode_special(&ids);
        let mut stream = tokenizer.stream();
        ids.iter().for_each(|&id| drop(stream.push(id)));
        stream.finish();
    }
}

#[test]
fn a_damaged_tokenizer_json_never_panics() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokenizer.json");
    let mut dice = Dice(3);
    let (mut loaded, mut refused) = (0, 0);
    for (kind, times) in
        [("bert", 200), ("gpt2", 150), ("llama2", 150), ("llama3", 150), ("roberta", 150), ("unigram", 200), ("t5", 25)]
    {
        let path = cupola_testkit::fixture("tokenizers").join(kind).join("tokenizer.json");
        let whole: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        for _ in 0..times {
            let mut changed = whole.clone();
            (0..=dice.roll(2)).for_each(|_| damage(&mut changed, &mut dice));
            std::fs::write(&file, changed.to_string()).unwrap();
            match Tokenizer::load(dir.path()) {
                Ok(tokenizer) => {
                    loaded += 1;
                    use_up(&tokenizer);
                }
                Err(error) => {
                    refused += 1;
                    assert!(error.chain().contains("tokenizer.json"), "{}", error.chain());
                }
            }
        }
    }
    assert!(loaded > 100 && refused > 100, "{loaded} loaded, {refused} refused");
}

#[test]
fn a_damaged_sentencepiece_model_never_panics() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("spiece.model");
    let mut dice = Dice(5);
    for (kind, times) in [("sentencepiece-bpe", 200), ("sentencepiece-unigram", 60)] {
        let path = cupola_testkit::fixture("tokenizers").join(kind).join("spiece.model");
        let whole = std::fs::read(path).unwrap();
        for _ in 0..times {
            let mut changed = whole.clone();
            for _ in 0..=dice.roll(3) {
                // Half of the changes hit the settings at the end or the beginning, the others any byte.
                let place = match dice.roll(4) {
                    0 => changed.len() - 1 - dice.roll(600),
                    1 => dice.roll(600),
                    _ => dice.roll(changed.len()),
                };
                changed[place] = dice.roll(256) as u8;
            }
            if dice.roll(5) == 0 {
                changed.truncate(dice.roll(changed.len()));
            }
            std::fs::write(&file, changed).unwrap();
            match Tokenizer::load(dir.path()) {
                Ok(tokenizer) => use_up(&tokenizer),
                Err(error) => assert!(error.chain().contains("spiece.model"), "{}", error.chain()),
            }
        }
    }
}

#[test]
fn a_file_far_too_large_is_refused_unread() {
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(dir.path().join("tokenizer.json")).unwrap();
    file.set_len(40 << 30).unwrap();
    let error = Tokenizer::load(dir.path()).unwrap_err();
    assert!(error.chain().contains("40960 MiB"), "{}", error.chain());
    assert!(error.hint().unwrap().contains("weights"));
}
