//! Checks of a `tokenizer.json` that the library leaves out or reports unclearly.

use std::collections::{HashMap, HashSet};

use cupola_artifact::{Error, Result};
use serde_json::{Map, Value};

use crate::charsmap::{self, from_base64};

const MODELS: [&str; 4] = ["BPE", "Unigram", "WordPiece", "WordLevel"];

/// What is wrong with the file, if anything: an unknown model, two tokens with one id, a merge of unknown tokens.
pub(crate) fn check_model(root: &Value) -> Result<()> {
    let model = root.get("model").and_then(Value::as_object).ok_or_else(|| {
        Error::failed("it has no `model` part").with_hint("is this the tokenizer.json of a Hugging Face model?")
    })?;
    if let Some(kind) = model.get("type").and_then(Value::as_str)
        && !MODELS.contains(&kind)
    {
        return Err(Error::failed(format!("its model type is `{kind}`"))
            .with_hint(format!("the known types are {}", MODELS.join(", "))));
    }
    check_charsmaps(root.get("normalizer").unwrap_or(&Value::Null))?;
    check_decoder(root.get("decoder").unwrap_or(&Value::Null))?;
    check_post(root.get("post_processor").unwrap_or(&Value::Null))?;
    let Some(vocab) = model.get("vocab").and_then(Value::as_object) else { return check_pieces(model) };
    check_ids(vocab)?;
    check_unknown(model, vocab)?;
    check_merges(model, vocab)
}

/// A Unigram model's list of pieces: pairs of a text and a score.
fn check_pieces(model: &Map<String, Value>) -> Result<()> {
    let Some(pieces) = model.get("vocab").and_then(Value::as_array) else { return Ok(()) };
    if pieces.is_empty() {
        return Err(
            Error::failed("its model has no pieces").with_hint("get the file again, or train the tokenizer anew")
        );
    }
    match pieces.iter().position(|p| !(p[0].is_string() && p[1].is_number()) || p[0] == "") {
        Some(id) => Err(Error::failed(format!("piece {id} is {}, which is no text with a score", pieces[id]))),
        None => Ok(()),
    }
}

/// The token for unknown words, without which such a word would be an error.
fn check_unknown(model: &Map<String, Value>, vocab: &Map<String, Value>) -> Result<()> {
    match model.get("unk_token").and_then(Value::as_str) {
        Some(unk) if !vocab.contains_key(unk) => {
            Err(Error::failed(format!("its unk_token {unk:?} is not in the vocabulary"))
                .with_hint("vocabulary and settings come from different tokenizers, or the file was edited"))
        }
        _ => Ok(()),
    }
}

/// The steps of a normalizer, decoder or post-processor: itself, or those in its list.
fn steps<'v>(part: &'v Value, list: &str) -> Vec<&'v Value> {
    match part.get(list).and_then(Value::as_array) {
        Some(inner) => inner.iter().flat_map(|step| steps(step, list)).collect(),
        None => vec![part],
    }
}

fn check_charsmaps(normalizer: &Value) -> Result<()> {
    for step in steps(normalizer, "normalizers") {
        if let Some(text) = step.get("precompiled_charsmap").and_then(Value::as_str) {
            let table = from_base64(text).ok_or_else(|| Error::failed("its precompiled_charsmap is no base64"))?;
            charsmap::check(&table)?;
        }
    }
    Ok(())
}

/// The library cannot strip the end of an empty text.
fn check_decoder(decoder: &Value) -> Result<()> {
    match steps(decoder, "decoders").into_iter().find(|s| s["type"] == "Strip" && s["stop"].as_u64() != Some(0)) {
        Some(strip) => Err(Error::failed(format!("its decoder strips the end of texts (stop = {})", strip["stop"]))
            .with_hint("only `start` is supported in a decoder of the type Strip")),
        None => Ok(()),
    }
}

/// A template for one text that asks for a second, or a special token with as many ids as it has not names.
fn check_post(post: &Value) -> Result<()> {
    for step in steps(post, "processors") {
        let single = step["single"].as_array().into_iter().flatten();
        if let Some(second) = single.into_iter().find(|part| part["Sequence"]["id"] == "B") {
            return Err(Error::failed(format!("its template for one text holds a second one: {second}")));
        }
        for (name, token) in step["special_tokens"].as_object().into_iter().flatten() {
            let length = |key: &str| token[key].as_array().map_or(0, Vec::len);
            if length("ids") != length("tokens") {
                return Err(Error::failed(format!(
                    "the special token {name:?} of its template has {} ids and {} names",
                    length("ids"),
                    length("tokens")
                )));
            }
        }
    }
    Ok(())
}

fn check_ids(vocab: &Map<String, Value>) -> Result<()> {
    let mut owners: HashMap<u64, &str> = HashMap::with_capacity(vocab.len());
    for (token, id) in vocab {
        let id = id
            .as_u64()
            .filter(|&id| id < u64::from(u32::MAX))
            .ok_or_else(|| Error::failed(format!("the token {token:?} has the id {id}, which is no 32-bit number")))?;
        if let Some(other) = owners.insert(id, token) {
            return Err(Error::failed(format!("the tokens {other:?} and {token:?} share the id {id}"))
                .with_hint("the file was damaged or edited: get it again, or train the tokenizer anew"));
        }
    }
    Ok(())
}

fn check_merges(model: &Map<String, Value>, vocab: &Map<String, Value>) -> Result<()> {
    let Some(merges) = model.get("merges").and_then(Value::as_array) else { return Ok(()) };
    let prefix = model.get("continuing_subword_prefix").and_then(Value::as_str).unwrap_or_default();
    for (rank, merge) in merges.iter().enumerate() {
        let parts: Vec<&str> = match merge {
            Value::String(text) => text.split(' ').collect(),
            Value::Array(parts) => parts.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        if parts.len() != 2 {
            return Err(Error::failed(format!("merge {rank} is {merge}, which is no pair of tokens")));
        }
        if let Some(unknown) = parts.iter().find(|part| !vocab.contains_key(**part)) {
            return Err(Error::failed(format!(
                "merge {rank} ({:?} + {:?}) names {unknown:?}, which is not in the vocabulary",
                parts[0], parts[1]
            ))
            .with_hint("vocabulary and merges come from different tokenizers, or the file was edited"));
        }
        // Inside a word, the prefix of the second part falls away.
        let whole = parts[1].get(prefix.len()..).map(|rest| format!("{}{rest}", parts[0]));
        if !whole.as_ref().is_some_and(|whole| vocab.contains_key(whole)) {
            return Err(Error::failed(format!(
                "merge {rank} ({:?} + {:?}) gives {whole:?}, which is not in the vocabulary",
                parts[0], parts[1]
            ))
            .with_hint("vocabulary and merges come from different tokenizers, or the file was edited"));
        }
    }
    Ok(())
}

/// Whether every added token got the id that the file says. The library numbers them itself and only logs a difference,
/// which would make every later text decode wrongly.
pub(crate) fn check_added(root: &Value, tokenizer: &tokenizers::Tokenizer) -> Result<()> {
    let Some(added) = root.get("added_tokens").and_then(Value::as_array) else { return Ok(()) };
    let mut ids = HashSet::new();
    for token in added {
        let (Some(content), Some(id)) = (token["content"].as_str(), token["id"].as_u64()) else { continue };
        if !ids.insert(id) {
            return Err(Error::failed(format!("the added token {content:?} has the id {id}, as another one has")));
        }
        match tokenizer.token_to_id(content) {
            Some(given) if u64::from(given) != id => {
                return Err(Error::failed(format!(
                    "the added token {content:?} has the id {id}, but the next free id is {given}"
                ))
                .with_hint("added tokens must continue the vocabulary without a gap, or be in it under the same id"));
            }
            _ => {}
        }
    }
    Ok(())
}
