//! `tokenizer.json` to metadata.

use std::collections::HashMap;

use base64::prelude::{BASE64_STANDARD, Engine};
use cupola_artifact::{Context, Error, Result};
use serde_json::{Map, Value};

use super::{BLANK, Kind, SpecialIds, is_byte, key, pieces, split, unused_name};
use crate::value::{Array, Metadata, Value as Entry};

/// Longer vocabularies are none of a model.
const MAX_TOKENS: usize = 1 << 24;

/// Sets the metadata of a tokenizer. `rows` is the number of rows of the model's embedding: those without a token are named
/// as unused.
///
/// # Errors
/// A tokenizer that llama.cpp would not apply as it is meant.
pub fn set_tokenizer(
    metadata: &mut Metadata,
    tokenizer: &Value,
    ids: &SpecialIds,
    template: Option<&str>,
    rows: usize,
) -> Result<()> {
    let model = tokenizer["model"].as_object().ok_or_else(|| Error::failed("tokenizer.json has no `model` part"))?;
    let vocab = Vocab::read(tokenizer, model, rows)?;
    let kind = model.get("type").and_then(Value::as_str).unwrap_or("BPE");
    match kind {
        "BPE" if has(&tokenizer["pre_tokenizer"], "ByteLevel") => byte_bpe(metadata, tokenizer, model, vocab)?,
        "BPE" => piece_bpe(metadata, tokenizer, model, vocab)?,
        "Unigram" => unigram(metadata, tokenizer, model, vocab)?,
        "WordPiece" => word_piece(metadata, tokenizer, model, vocab)?,
        other => {
            return Err(Error::failed(format!("llama.cpp has no tokenizer of the type {other}"))
                .with_hint("it has BPE, Unigram and WordPiece"));
        }
    }
    let (first, last) = added(&tokenizer["post_processor"]);
    let id = |metadata: &mut Metadata, name: &str, id: Option<u32>| {
        id.into_iter().for_each(|id| metadata.set(name, id));
    };
    id(metadata, key::BOS, first.or(ids.bos));
    id(metadata, key::EOS, if kind == "WordPiece" { ids.eos } else { last.or(ids.eos) });
    id(metadata, key::PAD, ids.pad);
    if kind == "WordPiece" {
        id(metadata, key::CLS, first);
        id(metadata, key::SEPARATOR, last);
    } else {
        metadata.set(key::ADD_EOS, last.is_some());
    }
    metadata.set(key::ADD_BOS, first.is_some());
    template.into_iter().for_each(|template| metadata.set(key::TEMPLATE, template));
    Ok(())
}

/// All tokens by id.
struct Vocab {
    tokens: Vec<String>,
    kinds: Vec<Kind>,
    /// Of Unigram's.
    scores: Vec<f32>,
    ids: HashMap<String, usize>,
}

impl Vocab {
    fn read(tokenizer: &Value, model: &Map<String, Value>, rows: usize) -> Result<Self> {
        let mut entries: Vec<(usize, String, Kind, f32)> = Vec::new();
        let wrong = |what: &Value| Error::failed(format!("tokenizer.json has the token {what}, which has no id"));
        match model.get("vocab") {
            Some(Value::Object(vocab)) => {
                for (token, id) in vocab {
                    entries.push((index(id).ok_or_else(|| wrong(id))?, token.clone(), Kind::Normal, 0.0));
                }
            }
            Some(Value::Array(vocab)) => {
                for (id, piece) in vocab.iter().enumerate() {
                    let (token, score) = (piece[0].as_str(), piece[1].as_f64());
                    let (Some(token), Some(score)) = (token, score) else { return Err(wrong(piece)) };
                    entries.push((id, token.to_owned(), Kind::Normal, score as f32));
                }
            }
            _ => return Err(Error::failed("tokenizer.json has no vocabulary")),
        }
        for token in tokenizer["added_tokens"].as_array().into_iter().flatten() {
            let (Some(id), Some(content)) = (index(&token["id"]), token["content"].as_str()) else {
                return Err(wrong(token));
            };
            let kind = if token["special"] == true { Kind::Control } else { Kind::UserDefined };
            entries.push((id, content.to_owned(), kind, 0.0));
        }
        let most = entries.iter().map(|entry| entry.0 + 1).max().unwrap_or(0);
        if rows < most {
            return Err(Error::failed(format!("the tokenizer has {most} tokens, but the model only {rows} rows"))
                .with_hint("the tokenizer is of another model"));
        }
        Self::place(entries, rows)
    }

    fn place(entries: Vec<(usize, String, Kind, f32)>, rows: usize) -> Result<Self> {
        let mut vocab = Self {
            tokens: (0..rows).map(unused_name).collect(),
            kinds: vec![Kind::Unused; rows],
            scores: vec![0.0; rows],
            ids: HashMap::new(),
        };
        for (id, token, kind, score) in entries {
            if let Some(other) = vocab.ids.insert(token.clone(), id).filter(|other| *other != id) {
                return Err(Error::failed(format!("tokenizer.json has {token:?} under the ids {other} and {id}"))
                    .with_hint("llama.cpp wants each token once"));
            }
            vocab.tokens[id] = token;
            vocab.scores[id] = if kind == Kind::Normal { score } else { vocab.scores[id] };
            vocab.kinds[id] = kind;
        }
        let unused = |id: &usize| vocab.kinds[*id] == Kind::Unused && vocab.ids.contains_key(&vocab.tokens[*id]);
        match (0..rows).find(unused) {
            Some(id) => Err(Error::failed(format!("the name {:?} of an unused row is a token, too", vocab.tokens[id]))),
            None => Ok(vocab),
        }
    }

    /// The id of a token that the model names.
    fn id_of(&self, token: Option<&Value>) -> Option<usize> {
        self.ids.get(token?.as_str()?).copied()
    }

    fn set(self, metadata: &mut Metadata, model: &str) {
        metadata.set(key::MODEL, model);
        metadata.set(key::TYPES, self.kinds.iter().map(|kind| *kind as i32).collect::<Vec<i32>>());
        metadata.set(key::TOKENS, self.tokens);
    }
}

fn index(id: &Value) -> Option<usize> {
    id.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|id| *id < MAX_TOKENS)
}

fn byte_bpe(metadata: &mut Metadata, tokenizer: &Value, model: &Map<String, Value>, vocab: Vocab) -> Result<()> {
    let normalizer = &tokenizer["normalizer"];
    // Texts are nearly always composed already; llama.cpp's own converter leaves it out as well.
    if !normalizer.is_null() && normalizer["type"] != "NFC" {
        return Err(cannot("the normalizer", normalizer));
    }
    for setting in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if model.get(setting).is_some_and(|v| !v.is_null() && v != "") {
            return Err(cannot(setting, &model[setting]));
        }
    }
    let ignores_merges = model.get("ignore_merges") == Some(&Value::Bool(true));
    let way = split::name_of(&tokenizer["pre_tokenizer"], ignores_merges)?;
    let merges: Vec<String> = merges(model)?.into_iter().map(|(left, right)| format!("{left} {right}")).collect();
    if let Some(unknown) = vocab.id_of(model.get("unk_token")) {
        metadata.set(key::UNKNOWN, unknown as u32);
    }
    vocab.set(metadata, "gpt2");
    metadata.set(key::PRE, way);
    metadata.set(key::MERGES, merges);
    Ok(())
}

fn piece_bpe(metadata: &mut Metadata, tokenizer: &Value, model: &Map<String, Value>, mut vocab: Vocab) -> Result<()> {
    if model.get("byte_fallback") != Some(&Value::Bool(true)) {
        let hint = "it has BPE on bytes (GPT-2's), and on characters with bytes for unknown ones (Llama's)";
        return Err(Error::failed("llama.cpp has no BPE of this kind").with_hint(hint));
    }
    vocab.scores = pieces::scores(&vocab.tokens, &merges(model)?);
    let bytes =
        vocab.tokens.iter().zip(&mut vocab.kinds).filter(|(token, kind)| **kind == Kind::Normal && is_byte(token));
    bytes.for_each(|(_, kind)| *kind = Kind::Byte);
    set_unknown(metadata, &mut vocab, model.get("unk_token"));
    metadata.set(key::SCORES, std::mem::take(&mut vocab.scores));
    vocab.set(metadata, "llama");
    metadata.set(key::PRE, "default");
    metadata.set(key::ADD_SPACE, adds_space(tokenizer)?);
    Ok(())
}

fn unigram(metadata: &mut Metadata, tokenizer: &Value, model: &Map<String, Value>, mut vocab: Vocab) -> Result<()> {
    let mut merges_spaces = false;
    for part in parts(&tokenizer["normalizer"], "normalizers") {
        match part["type"].as_str() {
            Some("Precompiled") => {
                let text = part["precompiled_charsmap"].as_str().unwrap_or_default();
                let bytes = BASE64_STANDARD.decode(text).context(|| "the precompiled_charsmap is no base64".into())?;
                metadata.set(key::CHARSMAP, Entry::Array(Array::U8(bytes)));
            }
            Some("Replace") if part["pattern"]["Regex"] == " {2,}" => merges_spaces = true,
            Some("Strip") => {}
            _ => return Err(cannot("the normalizer", part)),
        }
    }
    // Splitting at white space drops what is double.
    merges_spaces |= has(&tokenizer["pre_tokenizer"], "WhitespaceSplit");
    let unknown = model.get("unk_id").and_then(index).and_then(|id| vocab.tokens.get(id)).cloned();
    set_unknown(metadata, &mut vocab, unknown.map(Value::String).as_ref());
    metadata.set(key::SCORES, std::mem::take(&mut vocab.scores));
    vocab.set(metadata, "t5");
    metadata.set(key::PRE, "default");
    metadata.set(key::ADD_SPACE, adds_space(tokenizer)?);
    metadata.set(key::MERGE_SPACES, merges_spaces);
    Ok(())
}

fn word_piece(metadata: &mut Metadata, tokenizer: &Value, model: &Map<String, Value>, mut vocab: Vocab) -> Result<()> {
    let normalizer = &tokenizer["normalizer"];
    if normalizer["type"] != "BertNormalizer" {
        return Err(cannot("the normalizer", normalizer));
    }
    let lowercase = normalizer["lowercase"] == true;
    metadata.set(key::LOWERCASE, lowercase);
    metadata.set(key::STRIP_ACCENTS, normalizer["strip_accents"].as_bool().unwrap_or(lowercase));
    let mask = vocab.ids.get("[MASK]").copied();
    mask.into_iter().for_each(|id| metadata.set(key::MASK, id as u32));
    set_unknown(metadata, &mut vocab, model.get("unk_token"));
    // Pieces within a word stand bare, those that begin one after a mark.
    for (token, kind) in vocab.tokens.iter_mut().zip(&vocab.kinds) {
        if *kind == Kind::Normal {
            *token = token.strip_prefix("##").map_or_else(|| format!("{BLANK}{token}"), str::to_owned);
        }
    }
    vocab.set(metadata, "bert");
    metadata.set(key::PRE, "default");
    // The model's own number, where that has said it.
    if metadata.get(key::TYPE_COUNT).is_none() {
        metadata.set(key::TYPE_COUNT, 2u32);
    }
    Ok(())
}

fn set_unknown(metadata: &mut Metadata, vocab: &mut Vocab, token: Option<&Value>) {
    if let Some(id) = vocab.id_of(token) {
        vocab.kinds[id] = Kind::Unknown;
        metadata.set(key::UNKNOWN, id as u32);
    }
}

fn cannot(what: &str, value: &Value) -> Error {
    Error::failed(format!("tokenizer.json asks for {what} {value}, which llama.cpp cannot do"))
        .with_hint("the exported model would read texts otherwise; use another tokenizer")
}

/// The merges, written as texts or as pairs.
fn merges(model: &Map<String, Value>) -> Result<Vec<(String, String)>> {
    let pair = |merge: &Value| -> Option<(String, String)> {
        let (left, right) = match merge {
            Value::String(text) => text.split_once(' ')?,
            pair => (pair[0].as_str()?, pair[1].as_str()?),
        };
        Some((left.to_owned(), right.to_owned()))
    };
    let all = model.get("merges").and_then(Value::as_array).into_iter().flatten();
    all.map(|m| pair(m).ok_or_else(|| Error::failed(format!("tokenizer.json has the merge {m}, which is no pair"))))
        .collect()
}

/// A value and, if it is a sequence, its parts instead.
fn parts<'a>(value: &'a Value, list: &str) -> Vec<&'a Value> {
    match value[list].as_array() {
        Some(several) => several.iter().collect(),
        None if value.is_null() => Vec::new(),
        None => vec![value],
    }
}

fn has(pre_tokenizer: &Value, kind: &str) -> bool {
    parts(pre_tokenizer, "pretokenizers").iter().any(|part| part["type"] == kind)
}

/// Whether a blank goes before each text, however the file says it.
fn adds_space(tokenizer: &Value) -> Result<bool> {
    let mut adds = false;
    for part in parts(&tokenizer["normalizer"], "normalizers") {
        match part["type"].as_str() {
            Some("Prepend") if part["prepend"] == BLANK => adds = true,
            Some("Replace") if part["content"] == BLANK || part["content"] == " " => {}
            Some("Precompiled" | "Strip") => {}
            _ => return Err(cannot("the normalizer", part)),
        }
    }
    for part in parts(&tokenizer["pre_tokenizer"], "pretokenizers") {
        match part["type"].as_str() {
            // `prepend_scheme` took the place of `add_prefix_space`.
            Some("Metaspace") => {
                adds |= part["prepend_scheme"].as_str().map_or(part["add_prefix_space"] != false, |s| s != "never");
            }
            Some("WhitespaceSplit") => {}
            // Gemma's: blanks have become marks before, so it never splits.
            Some("Split") if part["pattern"]["String"] == " " => {}
            _ => return Err(cannot("the pre-tokenizer", part)),
        }
    }
    Ok(adds)
}

/// The ids that are put before and after each text.
fn added(post_processor: &Value) -> (Option<u32>, Option<u32>) {
    let number = |id: &Value| index(id).map(|id| id as u32);
    match post_processor["type"].as_str() {
        Some("Sequence") => {
            let all = post_processor["processors"].as_array().into_iter().flatten().map(added);
            all.fold((None, None), |found, next| (found.0.or(next.0), found.1.or(next.1)))
        }
        Some("BertProcessing" | "RobertaProcessing") => {
            (number(&post_processor["cls"][1]), number(&post_processor["sep"][1]))
        }
        Some("TemplateProcessing") => {
            let single = post_processor["single"].as_array().map(Vec::as_slice).unwrap_or_default();
            let special = |piece: Option<&Value>| {
                let name = piece?["SpecialToken"]["id"].as_str()?;
                number(&post_processor["special_tokens"][name]["ids"][0])
            };
            (special(single.first()), special(single.last()))
        }
        _ => (None, None),
    }
}
