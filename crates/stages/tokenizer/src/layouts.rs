//! Folders without a `tokenizer.json`: what older libraries wrote, read into the same form.
//!
//! | files | kind | module |
//! |---|---|---|
//! | `vocab.json`, `merges.txt` | byte-level BPE (GPT-2, RoBERTa, BART, Qwen 2) | [`byte_level`] |
//! | `vocab.txt` | WordPiece (BERT, DistilBERT, ELECTRA) | [`wordpiece`] |
//! | `tokenizer.model`, `spiece.model` | sentencepiece, Unigram or BPE (T5, Llama, Gemma, ALBERT, Pegasus) | [`sentencepiece`] |
//!
//! What surrounds a sequence and how text is normalised is not in these files: it follows from the class that
//! `tokenizer_config.json` names, or from the `model_type` in `config.json`.

mod byte_level;
mod protobuf;
mod sentencepiece;
mod wordpiece;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cupola_artifact::{Error, Result};
use serde_json::{Map, Value, json};

use crate::files::{read_limited, read_object};
use crate::special::{SideFiles, token_text};

pub(crate) use sentencepiece::metaspace;
pub(crate) use wordpiece::bert_template;

/// Names of sentencepiece models.
const SENTENCEPIECE: [&str; 4] = ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model"];

/// A vocabulary as an older library wrote it.
pub(crate) enum OldLayout {
    /// `vocab.json` and `merges.txt`.
    ByteLevel(PathBuf),
    /// `vocab.txt`.
    WordPiece(PathBuf),
    /// A sentencepiece model.
    SentencePiece(PathBuf),
}

impl OldLayout {
    /// What there is in a folder, or what a file is.
    pub(crate) fn find(path: &Path) -> Option<Self> {
        if path.is_file() {
            let name = path.file_name()?.to_str()?;
            return match name {
                "vocab.txt" => Some(Self::WordPiece(path.to_path_buf())),
                _ if name.ends_with(".model") => Some(Self::SentencePiece(path.to_path_buf())),
                _ => None,
            };
        }
        let inside = |name: &str| Some(path.join(name)).filter(|file| file.is_file());
        if let (Some(vocab), Some(_)) = (inside("vocab.json"), inside("merges.txt")) {
            return Some(Self::ByteLevel(vocab));
        }
        let model = || SENTENCEPIECE.iter().find_map(|name| inside(name)).map(Self::SentencePiece);
        inside("vocab.txt").map(Self::WordPiece).or_else(model)
    }

    /// The file that gives the layout its name.
    pub(crate) fn file(&self) -> &Path {
        match self {
            Self::ByteLevel(file) | Self::WordPiece(file) | Self::SentencePiece(file) => file,
        }
    }

    /// The text of the `tokenizer.json` that says the same.
    pub(crate) fn convert(&self, files: &SideFiles) -> Result<Vec<u8>> {
        let dir = self.file().parent().unwrap_or(Path::new("."));
        let beside = Beside { dir, files };
        let root = match self {
            Self::ByteLevel(vocab) => byte_level::read(vocab, &beside)?,
            Self::WordPiece(vocab) => wordpiece::read(vocab, &beside)?,
            Self::SentencePiece(model) => sentencepiece::read(&read_limited(model)?, &beside)?,
        };
        serde_json::to_vec(&root).map_err(|e| Error::failed("it cannot be written as a tokenizer.json").with_source(e))
    }
}

/// What lies beside the vocabulary.
struct Beside<'f> {
    dir: &'f Path,
    files: &'f SideFiles,
}

impl Beside<'_> {
    /// The family, in small letters: the class without `Tokenizer` and `Fast`, or the model type. Empty where unknown.
    fn family(&self) -> String {
        let text = |file: &Map<String, Value>, key: &str| file.get(key).and_then(Value::as_str).map(str::to_lowercase);
        let class = text(&self.files.tokenizer_config, "tokenizer_class").map(|class| {
            let class = class.trim_end_matches("fast");
            class.strip_suffix("tokenizer").unwrap_or(class).to_owned()
        });
        // Classes of no family say nothing.
        let class = class.filter(|class| class != "pretrained" && class != "auto" && class != "pretrainedtokenizer");
        class.or_else(|| text(&self.files.config, "model_type")).unwrap_or_default()
    }

    /// The text of the special token of a role.
    fn token(&self, role: &str, default: &str) -> String {
        let key = format!("{role}_token");
        let files = [&self.files.tokenizer_config, &self.files.special_tokens_map];
        files.into_iter().find_map(|file| token_text(file.get(&key)?)).unwrap_or(default).to_owned()
    }

    fn flag(&self, key: &str, default: bool) -> bool {
        self.files.tokenizer_config.get(key).and_then(Value::as_bool).unwrap_or(default)
    }

    fn number(&self, key: &str, default: u64) -> u64 {
        self.files.tokenizer_config.get(key).and_then(Value::as_u64).unwrap_or(default)
    }

    /// The added tokens by id: those given, then `added_tokens.json` and `added_tokens_decoder`, which may say more.
    fn added_tokens(&self, mut known: BTreeMap<u64, Value>) -> Result<Vec<Value>> {
        let special: Vec<&str> = [&self.files.tokenizer_config, &self.files.special_tokens_map]
            .into_iter()
            .flat_map(Map::iter)
            .filter(|(key, _)| key.ends_with("_token") || key.as_str() == "additional_special_tokens")
            .flat_map(|(_, value)| value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice))
            .filter_map(token_text)
            .collect();
        for (content, id) in read_object(&self.dir.join("added_tokens.json"))? {
            let id = id.as_u64().ok_or_else(|| {
                Error::failed(format!("added_tokens.json gives the token {content:?} the id {id}, which is no number"))
            })?;
            known.entry(id).or_insert_with(|| added(id, &content, special.contains(&content.as_str())));
        }
        let decoder = self.files.tokenizer_config.get("added_tokens_decoder").and_then(Value::as_object);
        for (id, token) in decoder.into_iter().flatten() {
            let (Ok(id), Some(content)) = (id.parse::<u64>(), token["content"].as_str()) else {
                return Err(Error::failed(format!(
                    "added_tokens_decoder has the entry {id:?}: {token}, which is no token"
                )));
            };
            let mut full = added(id, content, special.contains(&content));
            for key in ["single_word", "lstrip", "rstrip", "normalized", "special"] {
                if let Some(flag) = token[key].as_bool() {
                    full[key] = json!(flag);
                }
            }
            known.insert(id, full);
        }
        Ok(known.into_values().collect())
    }
}

/// An entry of `added_tokens`.
pub(crate) fn added(id: u64, content: &str, special: bool) -> Value {
    json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": special })
}

/// A part of a sequence: a text (`$A`, `$B`) or a special token, and its type id.
pub(crate) type Part<'p> = (&'p str, u32);

/// A post-processor that surrounds a text, or a pair, with special tokens.
pub(crate) fn template(single: &[Part<'_>], pair: &[Part<'_>], id: impl Fn(&str) -> Option<u64>) -> Result<Value> {
    let mut tokens = Map::new();
    for (name, _) in single.iter().chain(pair).filter(|(name, _)| !name.starts_with('$')) {
        let id = id(name).ok_or_else(|| {
            Error::failed(format!("the special token {name:?} is not in the vocabulary"))
                .with_hint("the vocabulary and tokenizer_config.json come from different tokenizers")
        })?;
        tokens.insert((*name).to_owned(), json!({ "id": name, "ids": [id], "tokens": [name] }));
    }
    let parts = |parts: &[Part<'_>]| -> Vec<Value> {
        let part = |&(name, type_id): &Part<'_>| match name.strip_prefix('$') {
            Some(sequence) => json!({ "Sequence": { "id": sequence, "type_id": type_id } }),
            None => json!({ "SpecialToken": { "id": name, "type_id": type_id } }),
        };
        parts.iter().map(part).collect()
    };
    Ok(json!({ "type": "TemplateProcessing", "single": parts(single), "pair": parts(pair), "special_tokens": tokens }))
}

/// A family whose layout is known by another name only to transformers.
fn unknown_family(family: &str, known: &[&str]) -> Error {
    Error::failed(format!("its class is of the family `{family}`, whose layout is not known")).with_hint(format!(
        "known without a tokenizer.json: {}; else make one with transformers: \
         AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
        known.join(", ")
    ))
}
