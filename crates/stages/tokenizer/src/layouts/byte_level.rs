//! `vocab.json` and `merges.txt`: byte-level BPE.

use std::collections::BTreeMap;
use std::path::Path;

use cupola_artifact::{Error, Result};
use serde_json::{Map, Value, json};

use super::{Beside, added, template, unknown_family};
use crate::files::{read_limited_text, read_object};

/// Families that split words as GPT-2 does and surround nothing.
const GPT2: [&str; 7] = ["", "gpt2", "opt", "codegen", "gptneox", "gpt_neox", "gpt_neo"];
/// Families that write `<s> A </s>` and `<s> A </s></s> B </s>`.
const ROBERTA: [&str; 4] = ["roberta", "bart", "longformer", "led"];
/// Families that split words as Qwen 2 does.
const QWEN2: [&str; 3] = ["qwen2", "qwen3", "qwen2_moe"];

/// The words of Qwen 2: as GPT-2's, but digits one by one, and line breaks behind signs.
const QWEN2_WORDS: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

pub(super) fn read(vocab_file: &Path, beside: &Beside<'_>) -> Result<Value> {
    let family = beside.family();
    let vocab = read_object(vocab_file)?;
    if vocab.is_empty() {
        return Err(Error::failed(format!("{} holds no token", vocab_file.display())));
    }
    let merges = read_limited_text(&beside.dir.join("merges.txt"))?;
    let merges: Vec<&str> = merges.lines().filter(|l| !l.starts_with("#version") && !l.is_empty()).collect();
    let prefix = beside.flag("add_prefix_space", false);
    let byte_level =
        json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true });
    // A vocabulary with RoBERTa's names is RoBERTa's, where nothing else is said.
    let roberta = family.is_empty() && ["<s>", "</s>", "<mask>"].iter().all(|t| vocab.contains_key(*t));
    let mut special = vec![("eos", "<|endoftext|>"), ("bos", "<|endoftext|>"), ("unk", "<|endoftext|>")];
    let (mut normalizer, mut pre_tokenizer) = (Value::Null, byte_level.clone());
    if roberta || ROBERTA.contains(&family.as_str()) {
        special = vec![("bos", "<s>"), ("pad", "<pad>"), ("eos", "</s>"), ("unk", "<unk>"), ("mask", "<mask>")];
        special.extend([("cls", "<s>"), ("sep", "</s>")]);
    } else if QWEN2.contains(&family.as_str()) {
        normalizer = json!({ "type": "NFC" });
        let split =
            json!({ "type": "Split", "pattern": { "Regex": QWEN2_WORDS }, "behavior": "Isolated", "invert": false });
        let bytes =
            json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": false });
        pre_tokenizer = json!({ "type": "Sequence", "pretokenizers": [split, bytes] });
    } else if !GPT2.contains(&family.as_str()) {
        return Err(unknown_family(&family, &["GPT2", "Roberta", "Bart", "Longformer", "LED", "Qwen2"]));
    }
    let added = beside.added_tokens(in_vocabulary(&special, &vocab, beside))?;
    let id = |name: &str| {
        let new = || added.iter().find(|token| token["content"] == name)?["id"].as_u64();
        vocab.get(name).and_then(Value::as_u64).or_else(new)
    };
    let post_processor = if special.len() > 3 {
        roberta_post(beside, prefix, id)?
    } else if beside.flag("add_bos_token", family == "opt") {
        let bos = beside.token("bos", if family == "opt" { "</s>" } else { "<|endoftext|>" });
        let bos = bos.as_str();
        template(&[(bos, 0), ("$A", 0)], &[(bos, 0), ("$A", 0), ("$B", 1)], id)?
    } else {
        json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true })
    };
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": post_processor, "decoder": byte_level,
        "model": { "type": "BPE", "vocab": vocab, "merges": merges },
    }))
}

/// The special tokens of these roles that the vocabulary has, by id.
fn in_vocabulary(roles: &[(&str, &str)], vocab: &Map<String, Value>, beside: &Beside<'_>) -> BTreeMap<u64, Value> {
    let entry = |&(role, default): &(&str, &str)| {
        let name = beside.token(role, default);
        let id = vocab.get(&name)?.as_u64()?;
        let mut token = added(id, &name, true);
        // The blank before a hidden word belongs to it.
        token["lstrip"] = json!(role == "mask");
        Some((id, token))
    };
    roles.iter().filter_map(entry).collect()
}

fn roberta_post(beside: &Beside<'_>, prefix: bool, id: impl Fn(&str) -> Option<u64>) -> Result<Value> {
    let pair = |role: &str, default: &str| {
        let name = beside.token(role, default);
        let id =
            id(&name).ok_or_else(|| Error::failed(format!("the special token {name:?} is not in the vocabulary")))?;
        Ok::<_, Error>(json!([name, id]))
    };
    let (sep, cls) = (pair("sep", "</s>")?, pair("cls", "<s>")?);
    Ok(json!({ "type": "RobertaProcessing", "sep": sep, "cls": cls, "trim_offsets": true, "add_prefix_space": prefix }))
}
