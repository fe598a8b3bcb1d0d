//! A request, and its answer from the server or from what it answered before.

use std::path::Path;

use cupola_artifact::{Error, Result, sha256_hex};
use cupola_client::{Answer, Api, Failure};
use serde_json::{Map, Value, json};

use super::answers::Answers;

/// Digits of a request's hash that stand for it.
const DIGITS: usize = 32;

/// Asks a server, each request once.
pub struct Asker {
    api: Api,
    answers: Answers,
    fields: Map<String, Value>,
    seed: u64,
}

impl Asker {
    /// Keeps answers in the folder `work`; `fields` are those of every request.
    pub fn new(api: Api, work: &Path, fields: Map<String, Value>, seed: u64) -> Result<Self> {
        Ok(Self { answers: Answers::open(work)?, api, fields, seed })
    }

    /// The server's name.
    pub fn host(&self) -> &str {
        self.api.host()
    }

    /// The answer to these messages; further attempts are other requests.
    pub fn ask(&self, messages: &[Value], attempt: u64) -> Result<Answer, Failure> {
        let mut request = self.fields.clone();
        request.insert("messages".into(), Value::Array(messages.to_vec()));
        // JSON's integers are exact up to 2^53, and some servers take no more than 32 bits.
        const MOST: u64 = i32::MAX as u64;
        request.entry("seed").or_insert(json!(self.seed.wrapping_add(attempt) & MOST));
        let body = Value::Object(request).to_string();
        let hash = sha256_hex(format!("{}\n{body}", self.api.url()).as_bytes());
        let hash = u128::from_str_radix(&hash[..DIGITS], 16).unwrap_or_default();
        if let Some(answer) = self.answers.get(hash).map_err(Failure::Run)? {
            return Ok(answer);
        }
        let private: String = messages.iter().filter_map(|message| message["content"].as_str()).collect();
        let answer = self.api.ask(body.as_bytes(), &private)?;
        self.answers.put(hash, &answer).map_err(Failure::Run)?;
        Ok(answer)
    }
}

/// Whether further fields leave alone what the step itself says.
pub fn check_extra(extra: &toml::Table) -> Result<()> {
    match extra.keys().find(|name| ["messages", "model", "stream", "n"].contains(&name.as_str())) {
        Some(name) => Err(Error::usage(format!("`extra` of `synthesize` cannot hold `{name}`"))
            .with_hint("the step says that itself; `extra` is for fields like `top_p` and `reasoning_effort`")),
        None => json_of(extra).map(drop),
    }
}

/// A table as JSON.
pub fn json_of(table: &toml::Table) -> Result<Map<String, Value>> {
    match serde_json::to_value(table) {
        Ok(Value::Object(fields)) => Ok(fields),
        _ => Err(Error::usage("`extra` of `synthesize` is nothing that JSON can say")),
    }
}
