//! The fast way against the library's.
#![allow(clippy::unwrap_used, reason = "tests")]

use cupola_testkit::fixture;
use serde_json::json;
use tokenizers::tokenizer::{OffsetReferential, OffsetType, PreTokenizedString};
use tokenizers::{PreTokenizer, PreTokenizerWrapper};

use super::*;
use crate::special::SideFiles;
use crate::template::TemplateSources;
use crate::tokenizer::Tokenizer;

/// The kinds in the test kit that are byte-level BPE.
const KINDS: [&str; 4] = ["gpt2", "llama3", "qwen", "roberta"];

/// A small generator of numbers (Knuth's constants).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }

    /// A text of parts that meet each other in every alternative of the patterns.
    fn text(&mut self, parts: &[&str], most: usize) -> String {
        let count = self.roll(most);
        (0..count)
            .map(|_| if self.roll(40) == 0 { self.any().to_string() } else { parts[self.roll(parts.len())].to_owned() })
            .collect()
    }

    fn any(&mut self) -> char {
        char::from_u32(self.roll(0x11_0000) as u32).unwrap_or('\u{fffd}')
    }
}

/// Classes of characters, what disregarding case makes equal to letters of contractions, and what normalization changes.
const PARTS: [&str; 58] = [
    "a", "B", "the", "word", "é", "e\u{301}", "\u{301}", "日本", "ñ", "ß", "ẞ", "ſ", "ﬅ", "ﬆ", "K", "İ", "ŉ", "ﬁ", "1",
    "23", "٣", "½", "Ⅷ", "²", "'", "'s", "'S", "'ſ", "'t", "'re", "'RE", "'rE", "'ve", "'m", "'LL", "'l", "'d", "’s",
    ".", ",,", "🦀", "\u{200d}", "_", "$", " ", " ", "  ", "\t", "\n", "\n\n", "\r", "\r\n", "\u{b}", "\u{85}",
    "\u{a0}", "\u{2003}", "\u{3000}", "\u{1c}",
];

fn words_of(pre_tokenizer: &Value, text: &str) -> Vec<String> {
    let mut pre_tokenizer = pre_tokenizer.clone();
    // Without the step that writes bytes as letters.
    if let Some(parts) = pre_tokenizer["pretokenizers"].as_array_mut() {
        parts.pop();
    }
    let library: PreTokenizerWrapper = serde_json::from_value(pre_tokenizer).unwrap();
    let mut pre = PreTokenizedString::from(text);
    library.pre_tokenize(&mut pre).unwrap();
    let splits = pre.get_splits(OffsetReferential::Original, OffsetType::Byte);
    splits
        .into_iter()
        .filter(|(_, (start, end), _)| start < end)
        .map(|(_, (start, end), _)| text[start..end].to_owned())
        .collect()
}

fn pre_tokenizer(kind: &str) -> Value {
    let file = std::fs::read(fixture("tokenizers").join(kind).join("tokenizer.json")).unwrap();
    serde_json::from_slice::<Value>(&file).unwrap()["pre_tokenizer"].clone()
}

#[test]
fn words_are_those_of_the_regular_expressions() {
    for kind in KINDS {
        let pre_tokenizer = pre_tokenizer(kind);
        let (words, prefix) = Words::of(&pre_tokenizer).unwrap();
        assert!(!prefix);
        let mut dice = Dice(3);
        for _ in 0..4000 {
            let text = dice.text(&PARTS, 12);
            let ours: Vec<&str> = words.iter(&text).collect();
            assert_eq!(ours, words_of(&pre_tokenizer, &text), "{kind}: {text:?}");
        }
        for c in '\0'..=char::MAX {
            let text = format!("a{c}1");
            assert_eq!(words.iter(&text).collect::<String>(), text, "{kind}: {c:?}");
        }
    }
}

#[test]
fn other_patterns_are_left_to_the_library() {
    let regex = |regex: &str, behavior: &str| {
        let split = json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": behavior, "invert": false });
        let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
        json!({ "type": "Sequence", "pretokenizers": [split, bytes] })
    };
    let known = pre_tokenizer("llama3")["pretokenizers"][0]["pattern"]["Regex"].as_str().unwrap().to_owned();
    assert_eq!(Words::of(&regex(&known, "Isolated")), Some((Words::Cl100k { digits: 3 }, false)));
    assert_eq!(Words::of(&regex(&known, "Removed")), None);
    assert_eq!(Words::of(&regex(r"\s+", "Isolated")), None);
    assert_eq!(Words::of(&json!({ "type": "Whitespace" })), None);
    assert_eq!(Words::of(&Value::Null), None);
}

/// Both ways, on the same text.
fn assert_same(tokenizer: &Tokenizer, text: &str, what: &str) {
    let fast = tokenizer.0.byte_bpe.as_ref().unwrap();
    for (special, library) in [(Special::Plain, &tokenizer.0.plain), (Special::Found, &tokenizer.0.special)] {
        let mut ids = vec![7];
        fast.encode(text, special, &mut ids).unwrap();
        assert_eq!(ids[0], 7);
        assert_eq!(ids[1..], *library.encode_fast(text, false).unwrap().get_ids(), "{what}, {special:?}: {text:?}");
    }
}

fn with_added(kind: &str, change: impl Fn(&mut Value)) -> Tokenizer {
    let file = std::fs::read(fixture("tokenizers").join(kind).join("tokenizer.json")).unwrap();
    let mut root: Value = serde_json::from_slice(&file).unwrap();
    change(&mut root);
    let json = serde_json::to_vec(&root).unwrap();
    Tokenizer::build(json, SideFiles::default(), TemplateSources::default()).unwrap()
}

fn next_id(root: &Value) -> u64 {
    let vocab = root["model"]["vocab"].as_object().unwrap().values();
    let added = root["added_tokens"].as_array().unwrap().iter().map(|token| &token["id"]);
    vocab.chain(added).map(|id| id.as_u64().unwrap() + 1).max().unwrap()
}

fn token(id: u64, content: &str, [special, normalized, lstrip, rstrip, single_word]: [bool; 5]) -> Value {
    json!({ "id": id, "content": content, "special": special, "normalized": normalized, "lstrip": lstrip, "rstrip": rstrip,
        "single_word": single_word })
}

#[test]
fn ids_are_those_of_the_library() {
    for kind in KINDS {
        let tokenizer = with_added(kind, |_| ());
        let mut dice = Dice(11);
        let special = ["<|endoftext|>", "<s>", "<mask>", "<|im_start|>"];
        let parts: Vec<&str> = PARTS.iter().chain(&special).copied().collect();
        for round in 0..800 {
            assert_same(&tokenizer, &dice.text(&parts, if round % 50 == 0 { 400 } else { 20 }), kind);
        }
        for text in ["a".repeat(1000), "ab".repeat(333), "é".repeat(200), " ".repeat(500), "日本語".repeat(99)] {
            assert_same(&tokenizer, &text, kind);
        }
    }
}

#[test]
fn added_tokens_are_found_where_the_library_finds_them() {
    for kind in KINDS {
        for prefix in [false, true] {
            let tokenizer = with_added(kind, |root| {
                if prefix && root["pre_tokenizer"]["type"] == "ByteLevel" {
                    root["pre_tokenizer"]["add_prefix_space"] = json!(true);
                }
                let next = next_id(root);
                let added = root["added_tokens"].as_array_mut().unwrap();
                added.push(token(next, "<a>", [false, false, false, false, false]));
                added.push(token(next + 1, "<a><b>", [true, false, false, false, false]));
                added.push(token(next + 2, "<b><c>", [false, false, true, false, false]));
                added.push(token(next + 3, "  ", [false, false, false, true, false]));
                added.push(token(next + 4, "e\u{301}<", [false, true, false, true, false]));
                added.push(token(next + 5, "<c>", [true, true, true, false, false]));
            });
            let parts = ["<a>", "<b>", "<c>", " ", "\n", "\u{3000}", "x", "e\u{301}", "é", "\u{301}", "<"];
            let mut dice = Dice(5);
            for _ in 0..1000 {
                assert_same(&tokenizer, &dice.text(&parts, 10), kind);
            }
        }
    }
}

#[test]
fn what_is_unusual_is_left_to_the_library() {
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 5] = [
        ("dropout", |root| root["model"]["dropout"] = json!(0.5)),
        ("normalizer", |root| root["normalizer"] = json!({ "type": "Lowercase" })),
        ("pattern", |root| root["pre_tokenizer"] = json!({ "type": "Whitespace" })),
        ("single word", |root| {
            let next = next_id(root);
            let whole = token(next, "hm", [false, false, false, false, true]);
            root["added_tokens"].as_array_mut().unwrap().push(whole);
        }),
        ("a byte without a token", |root| {
            let model = &mut root["model"];
            let without =
                |merge: &Value| !merge[0].as_str().unwrap().contains('ä') && !merge[1].as_str().unwrap().contains('ä');
            model["merges"].as_array_mut().unwrap().retain(without);
            model["vocab"].as_object_mut().unwrap().remove("ä");
        }),
    ];
    assert!(with_added("gpt2", |_| ()).0.byte_bpe.is_some());
    for (what, change) in changes {
        assert!(with_added("gpt2", change).0.byte_bpe.is_none(), "{what}");
    }
}

#[test]
fn long_words_are_merged_as_short_ones() {
    let bytes = Box::new(std::array::from_fn(|byte| byte as u32));
    let mut dice = Dice(9);
    for _ in 0..200 {
        let mut merges: Vec<([u32; 2], u32)> = Vec::new();
        for made in 0..dice.roll(40) as u32 {
            let mut any = || {
                let known = 4 + made as usize;
                let pick = dice.roll(known) as u32;
                if pick < 4 { u32::from(b'a') + pick } else { 252 + pick }
            };
            let pair = [any(), any()];
            if !merges.iter().any(|(other, _)| *other == pair) {
                merges.push((pair, 256 + merges.len() as u32));
            }
        }
        let known = 256 + merges.len() as u32;
        merges.retain(|(pair, _)| pair.iter().all(|id| *id < known));
        let table = Merges::new(Box::clone(&bytes), &merges);
        for length in [3, 10, 48, 49, 200, 1000] {
            let word: Vec<u8> = (0..length).map(|_| b'a' + dice.roll(4) as u8).collect();
            let mut work = Workspace::default();
            let [mut short, mut long] = [vec![], vec![]];
            table.encode_short(&word, &mut work, &mut short);
            table.encode_long(&word, &mut work, &mut long);
            assert_eq!(short, long);
            assert_eq!(obvious(&word, &merges), long);
        }
    }
}

/// The four obvious loops.
fn obvious(word: &[u8], merges: &[([u32; 2], u32)]) -> Vec<u32> {
    let mut ids: Vec<u32> = word.iter().map(|byte| u32::from(*byte)).collect();
    loop {
        let rank = |pair: &[u32]| merges.iter().position(|(merged, _)| pair == merged);
        let Some((rank, at)) = ids.windows(2).zip(0..).filter_map(|(pair, at)| Some((rank(pair)?, at))).min() else {
            return ids;
        };
        ids[at] = merges[rank].1;
        ids.remove(at + 1);
    }
}
