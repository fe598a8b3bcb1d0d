//! `vocab.txt`: WordPiece, one token a line; the line's number is the id.

use std::collections::BTreeMap;
use std::path::Path;

use cupola_artifact::{Error, Result};
use serde_json::{Map, Value, json};

use super::{Beside, added, template, unknown_family};
use crate::files::read_limited_text;

const FAMILIES: [&str; 8] = ["", "bert", "distilbert", "electra", "mobilebert", "squeezebert", "convbert", "basic"];
const ROLES: [(&str, &str); 5] =
    [("pad", "[PAD]"), ("unk", "[UNK]"), ("cls", "[CLS]"), ("sep", "[SEP]"), ("mask", "[MASK]")];

pub(super) fn read(file: &Path, beside: &Beside<'_>) -> Result<Value> {
    let family = beside.family();
    if !FAMILIES.contains(&family.as_str()) {
        return Err(unknown_family(&family, &["Bert", "DistilBert", "Electra"]));
    }
    let mut vocab = Map::new();
    for (id, line) in read_limited_text(file)?.lines().enumerate() {
        // Only line ends are cut off: published vocabularies have tokens that are other white space.
        if vocab.insert(line.trim_end_matches('\r').to_owned(), json!(id)).is_some() {
            return Err(Error::failed(format!("{}: line {} repeats the token {line:?}", file.display(), id + 1)));
        }
    }
    let names: Vec<(&str, String)> = ROLES.iter().map(|&(role, text)| (role, beside.token(role, text))).collect();
    let mut special = BTreeMap::new();
    for (role, name) in &names {
        match vocab.get(name).and_then(Value::as_u64) {
            Some(id) => drop(special.insert(id, added(id, name, true))),
            None if *role == "pad" || *role == "mask" => {}
            None => {
                return Err(Error::failed(format!("{} has no token {name:?}", file.display()))
                    .with_hint(format!("name the token with `{role}_token` in tokenizer_config.json")));
            }
        }
    }
    let name = |role: &str| names.iter().find(|(r, _)| *r == role).map_or("", |(_, name)| name.as_str());
    let (cls, sep) = (name("cls"), name("sep"));
    let post_processor = bert_template(cls, sep, |name| vocab.get(name)?.as_u64())?;
    let accents = beside.files.tokenizer_config.get("strip_accents").cloned().unwrap_or(Value::Null);
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": beside.added_tokens(special)?,
        "normalizer": { "type": "BertNormalizer", "clean_text": true,
            "handle_chinese_chars": beside.flag("tokenize_chinese_chars", true),
            "strip_accents": accents, "lowercase": beside.flag("do_lower_case", true) },
        "pre_tokenizer": { "type": "BertPreTokenizer" }, "post_processor": post_processor,
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": { "type": "WordPiece", "unk_token": name("unk"), "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab },
    }))
}

/// `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`, the second text of type 1.
pub(crate) fn bert_template(cls: &str, sep: &str, id: impl Fn(&str) -> Option<u64>) -> Result<Value> {
    let single = [(cls, 0), ("$A", 0), (sep, 0)];
    template(&single, &[(cls, 0), ("$A", 0), (sep, 0), ("$B", 1), (sep, 1)], id)
}
