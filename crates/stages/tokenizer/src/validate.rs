//! Checks of a `tokenizer.json` that the library leaves out or reports unclearly.

use std::collections::{HashMap, HashSet};

use cupola_artifact::{Error, Result};
use serde_json::{Map, Value};

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
    let Some(vocab) = model.get("vocab").and_then(Value::as_object) else { return Ok(()) };
    check_ids(vocab)?;
    check_merges(model, vocab)
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
