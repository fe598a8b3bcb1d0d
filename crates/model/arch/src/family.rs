//! What a family of models has to say about itself.

use cupola_artifact::{Error, Result};
use cupola_nn::{Activation, DecoderSpec, FfnKind, NormKind, Role};
use serde_json::{Map, Value, json};

use crate::fused::Fused;

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

    /// The modules that stand otherwise in files than [`Self::module`] says: several in one, or on their side.
    fn fused(&self, _spec: &DecoderSpec) -> Vec<Fused> {
        Vec::new()
    }

    /// What a name in a file is called now; `None` for what is no weight.
    fn rename(&self, name: &str) -> Option<String> {
        (!name.ends_with("rotary_emb.inv_freq")).then(|| name.to_string())
    }

    /// What a fresh model of the family is made of.
    fn form(&self) -> Form {
        Form {
            norm: NormKind::Rms,
            ffn: FfnKind::Gated(Activation::Silu),
            rotary: true,
            biases: false,
            grouped_queries: true,
        }
    }
}

/// What a fresh model is made of, its sizes apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Form {
    /// The norms.
    pub norm: NormKind,
    /// The feed-forward layers.
    pub ffn: FfnKind,
    /// Whether positions are rotary, or learned.
    pub rotary: bool,
    /// Whether linear layers have biases.
    pub biases: bool,
    /// Whether query heads may share keys and values.
    pub grouped_queries: bool,
}

/// The names of activations in `config.json`; the first of each is the one that is written.
const ACTIVATIONS: &[(&str, Activation)] = &[
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu", Activation::GeluErf),
    ("relu", Activation::Relu),
    ("relu2", Activation::ReluSquared),
];

/// The activation that a setting names.
pub(crate) fn activation_by_name(config: &ConfigJson<'_>, key: &str, default: &str) -> Result<Activation> {
    let value = config.get(key).cloned().unwrap_or_else(|| json!(default));
    let found = ACTIVATIONS.iter().find(|(name, _)| value == *name);
    found.map(|found| found.1).ok_or_else(|| {
        let known: Vec<_> = ACTIVATIONS.iter().map(|a| a.0).collect();
        Error::failed(format!("`{key}` in config.json asks for the activation {value}"))
            .with_hint(format!("this build knows: {}", known.join(", ")))
    })
}

/// An activation's name in `config.json`.
pub(crate) fn activation_name(f: Activation) -> &'static str {
    ACTIVATIONS.iter().find(|(_, activation)| *activation == f).map_or("silu", |found| found.0)
}

/// Token ids as `config.json` has them: null, one, or a list.
pub(crate) fn token_list(ids: &[u32]) -> Value {
    match ids {
        [] => Value::Null,
        [one] => json!(one),
        several => json!(several),
    }
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
