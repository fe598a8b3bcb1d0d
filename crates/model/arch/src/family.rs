//! What a family of models has to say about itself.

use cupola_artifact::{Error, Result};
use cupola_nn::{DecoderSpec, Role};
use serde_json::{Map, Value};

/// A family: how its `config.json` reads, and how its weights are named.
pub trait Family: Send + Sync {
    /// `model_type` in `config.json`.
    fn model_type(&self) -> &'static str;

    /// The class that transformers uses for it.
    fn architecture(&self) -> &'static str;

    /// Reads `config.json`.
    ///
    /// # Errors
    /// Names the setting that is missing, has a wrong type, or asks for what is not there.
    fn read(&self, config: &ConfigJson) -> Result<DecoderSpec>;

    /// Writes `config.json`.
    fn write(&self, spec: &DecoderSpec) -> Map<String, Value>;

    /// A weight's name without `.weight`, e.g. `model.layers.0.self_attn.q_proj`.
    fn module(&self, role: Role, layer: usize) -> String;
}

/// A `config.json` that answers in types and complains in sentences.
pub struct ConfigJson<'a> {
    /// The settings.
    pub values: &'a Map<String, Value>,
}

impl ConfigJson<'_> {
    /// A setting that is there and not null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|v| !v.is_null())
    }

    fn wrong(&self, key: &str, want: &str, found: &Value) -> Error {
        Error::failed(format!("`{key}` in config.json should be {want}, not `{found}`"))
    }

    /// A positive whole number, if it is there.
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        self.get(key)
            .map(|v| {
                v.as_u64().filter(|n| (1..=1 << 40).contains(n)).ok_or_else(|| self.wrong(key, "a positive number", v))
            })
            .transpose()
            .map(|n| n.map(|n| n as usize))
    }

    /// A positive whole number that must be there.
    pub fn required_size(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| {
            Error::failed(format!("config.json has no `{key}`"))
                .with_hint("is this a complete Hugging Face model directory?")
        })
    }

    /// A number, or a default.
    pub fn number(&self, key: &str, default: f64) -> Result<f64> {
        self.get(key).map_or(Ok(default), |v| v.as_f64().ok_or_else(|| self.wrong(key, "a number", v)))
    }

    /// True or false, or a default.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        self.get(key).map_or(Ok(default), |v| v.as_bool().ok_or_else(|| self.wrong(key, "true or false", v)))
    }

    /// A token id, if it is there.
    pub fn token(&self, key: &str) -> Result<Option<u32>> {
        Ok(self.tokens(key)?.first().copied())
    }

    /// One token id, or several, or none.
    pub fn tokens(&self, key: &str) -> Result<Vec<u32>> {
        let Some(value) = self.get(key) else { return Ok(vec![]) };
        let one = |v: &Value| {
            let id = v.as_u64().and_then(|n| u32::try_from(n).ok());
            id.ok_or_else(|| self.wrong(key, "a token id or a list of them", value))
        };
        match value {
            Value::Array(ids) => ids.iter().map(one).collect(),
            single => Ok(vec![one(single)?]),
        }
    }
}
