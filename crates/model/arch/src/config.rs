//! `config.json`: settings that answer in types and complain in sentences.

use cupola_artifact::{Error, Result};
use cupola_nn::{Activation, RopeScaling, RopeSpec};
use serde_json::{Map, Value, json};

/// No size of a model is larger; the product of two fits a word.
const LARGEST: u64 = 1 << 31;

/// No model has more blocks.
const MOST_BLOCKS: usize = 1 << 16;

/// The names of activations in `config.json`.
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

/// Token ids as `config.json` has them: null, one, or a list.
pub(crate) fn token_list(ids: &[u32]) -> Value {
    match ids {
        [] => Value::Null,
        [one] => json!(one),
        several => json!(several),
    }
}

/// How much longer what is rotated becomes with YaRN's stretch by `factor`.
fn yarn_length(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// Refuses more blocks than any model has.
pub(crate) fn few_blocks(what: &str, n: usize) -> Result<usize> {
    if n > MOST_BLOCKS {
        return Err(Error::failed(format!("`{what}` in config.json asks for {n} blocks; the most are {MOST_BLOCKS}")));
    }
    Ok(n)
}

/// A `config.json`.
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

    /// A positive whole number, if it is there. None of a model's is larger than 2^31.
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        self.get(key)
            .map(|v| {
                v.as_u64().filter(|n| (1..=LARGEST).contains(n)).ok_or_else(|| self.wrong(key, "a positive number", v))
            })
            .transpose()
            .map(|n| n.map(|n| n as usize))
    }

    /// A positive whole number, or what the reference derives where it is absent or `"auto"`.
    pub fn size_or_auto(&self, key: &str, derived: usize) -> Result<usize> {
        if self.get(key).is_some_and(|value| value == "auto") {
            return Ok(derived);
        }
        Ok(self.size(key)?.unwrap_or(derived))
    }

    /// A positive whole number that must be there.
    pub fn required_size(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| {
            Error::failed(format!("config.json has no `{key}`"))
                .with_hint("is this a complete Hugging Face model directory?")
        })
    }

    /// The number of blocks.
    pub fn blocks(&self, key: &str) -> Result<usize> {
        few_blocks(key, self.required_size(key)?)
    }

    /// A number, or a default.
    pub fn number(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.optional_number(key)?.unwrap_or(default))
    }

    /// A number, if it is there.
    pub fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key).map(|v| v.as_f64().ok_or_else(|| self.wrong(key, "a number", v))).transpose()
    }

    /// True or false, or a default.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        self.get(key).map_or(Ok(default), |v| v.as_bool().ok_or_else(|| self.wrong(key, "true or false", v)))
    }

    /// A text, or a default.
    pub fn text<'s>(&'s self, key: &str, default: &'s str) -> Result<&'s str> {
        self.get(key).map_or(Ok(default), |v| v.as_str().ok_or_else(|| self.wrong(key, "a text", v)))
    }

    /// A list of texts, if it is there.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&str>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let all = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        all.map(Some).ok_or_else(|| self.wrong(key, "a list of texts", value))
    }

    /// Settings inside this one.
    pub fn section(&self, key: &str) -> Result<Option<ConfigJson<'_>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let values = value.as_object().ok_or_else(|| self.wrong(key, "a group of settings", value))?;
        Ok(Some(ConfigJson { values }))
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

    /// The activation that a setting names.
    pub fn activation(&self, key: &str, default: &str) -> Result<Activation> {
        let name = self.text(key, default)?;
        let found = ACTIVATIONS.iter().find(|(known, _)| *known == name);
        found.map(|found| found.1).ok_or_else(|| {
            let known: Vec<_> = ACTIVATIONS.iter().map(|a| a.0).collect();
            Error::failed(format!("`{key}` in config.json asks for the activation \"{name}\""))
                .with_hint(format!("this build knows: {}", known.join(", ")))
        })
    }

    /// Refuses settings that change the mathematics and are not built: each must be absent or have the given value.
    pub fn only(&self, neutral: &[(&str, Value)]) -> Result<()> {
        match neutral.iter().find(|(key, value)| self.get(key).is_some_and(|found| found != value)) {
            Some((key, value)) => Err(Error::failed(format!(
                "`{key}` = {} in config.json is not supported",
                self.get(key).unwrap_or(&Value::Null)
            ))
            .with_hint(format!("this build knows {key} = {value}"))),
            None => Ok(()),
        }
    }

    /// Checks that one setting divides another.
    pub fn divides(&self, (what, n): (&str, usize), (by_what, by): (&str, usize)) -> Result<usize> {
        if by == 0 || !n.is_multiple_of(by) {
            return Err(Error::failed(format!("config.json has {what} = {n}, which {by_what} = {by} does not divide")));
        }
        Ok(n / by)
    }

    /// [`Self::rope`] of a family that rotates another part of each head than all of it where nothing is said.
    pub fn rope_with_share(&self, d_head: usize, share: f64) -> Result<RopeSpec> {
        let said = self.section("rope_parameters")?.is_some_and(|s| s.get("partial_rotary_factor").is_some());
        let mut values = self.values.clone();
        if !said {
            values.entry("partial_rotary_factor").or_insert_with(|| json!(share));
        }
        ConfigJson { values: &values }.rope(d_head)
    }

    /// The rotary settings as transformers 5 (`rope_parameters`) or 4 (`rope_theta`, `rope_scaling`) writes them, for
    /// heads of `d_head`.
    pub fn rope(&self, d_head: usize) -> Result<RopeSpec> {
        let empty = Map::new();
        let found = match self.section("rope_parameters")? {
            Some(found) => Some(found),
            None => self.section("rope_scaling")?,
        };
        let settings = found.unwrap_or(ConfigJson { values: &empty });
        self.rope_of(&settings, d_head)
    }

    /// The same where the settings stand elsewhere.
    pub fn rope_of(&self, settings: &ConfigJson<'_>, d_head: usize) -> Result<RopeSpec> {
        let theta = settings.number("rope_theta", self.number("rope_theta", 10_000.0)?)?;
        let share = settings.number("partial_rotary_factor", self.number("partial_rotary_factor", 1.0)?)?;
        let rotary_dim = (d_head as f64 * share) as usize;
        // The reference rounds an odd number up and leaves the exponents as they were.
        let odd = rotary_dim;
        let rotary_dim = odd + odd % 2;
        let theta = if odd % 2 == 1 { theta.powf(rotary_dim as f64 / odd as f64) } else { theta };
        if rotary_dim == 0 || rotary_dim > d_head {
            return Err(Error::failed(format!(
                "{rotary_dim} of a head of {d_head} numbers cannot be rotated in pairs"
            )));
        }
        let kind = settings.text("rope_type", settings.text("type", "default")?)?;
        let positive =
            ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings", "attention_factor"];
        for key in positive {
            if let Some(value) = settings.optional_number(key)?
                && value < 1e-3
            {
                return Err(Error::failed(format!("`{key}` of the rotary positions in config.json is {value}")));
            }
        }
        let scaling = match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: settings.number("factor", 1.0)? },
            "llama3" => RopeScaling::Llama3 {
                factor: settings.number("factor", 8.0)?,
                low_freq_factor: settings.number("low_freq_factor", 1.0)?,
                high_freq_factor: settings.number("high_freq_factor", 4.0)?,
                original_max_seq_len: settings.number("original_max_position_embeddings", 8192.0)?,
            },
            "dynamic" => RopeScaling::Dynamic {
                factor: settings.number("factor", 1.0)?,
                original_max_seq_len: self.original_len(settings)?,
            },
            "yarn" => self.yarn(settings)?,
            "longrope" | "su" => self.long_rope(settings, rotary_dim)?,
            other => {
                return Err(Error::failed(format!("config.json asks for rotary scaling `{other}`"))
                    .with_hint("this build knows default, linear, dynamic, yarn, llama3 and longrope"));
            }
        };
        Ok(RopeSpec { theta, rotary_dim, scaling })
    }

    /// The context that a model with a rotary scaling was first trained on.
    fn original_len(&self, settings: &ConfigJson<'_>) -> Result<f64> {
        let key = "original_max_position_embeddings";
        let here = settings.optional_number(key)?.or(self.optional_number(key)?);
        Ok(here.unwrap_or(self.number("max_position_embeddings", 2048.0)?))
    }

    /// What DeepSeek's scores are multiplied by besides `1 / sqrt(d_head)`, with a stretch of rotary positions that asks
    /// for it.
    pub fn stretched_scale(&self) -> Result<f64> {
        let settings = match self.section("rope_parameters")? {
            Some(found) => Some(found),
            None => self.section("rope_scaling")?,
        };
        let Some(settings) = settings else { return Ok(1.0) };
        let (kind, all_dim) =
            (settings.text("rope_type", settings.text("type", "default")?)?, settings.number("mscale_all_dim", 0.0)?);
        match kind != "default" && all_dim != 0.0 {
            true => Ok(yarn_length(settings.number("factor", 1.0)?, all_dim).powi(2)),
            false => Ok(1.0),
        }
    }

    /// A whole number that may be 0, or a default.
    pub fn count(&self, key: &str, default: usize) -> Result<usize> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let count = value.as_u64().filter(|n| *n <= LARGEST);
        count.map(|n| n as usize).ok_or_else(|| self.wrong(key, "a whole number", value))
    }

    /// A list of whole numbers, empty where there is none.
    pub fn counts(&self, key: &str) -> Result<Vec<usize>> {
        let Some(value) = self.get(key) else { return Ok(vec![]) };
        let all = value.as_array().and_then(|list| list.iter().map(|n| n.as_u64().map(|n| n as usize)).collect());
        all.ok_or_else(|| self.wrong(key, "a list of whole numbers", value))
    }

    fn yarn(&self, settings: &ConfigJson<'_>) -> Result<RopeScaling> {
        let original_max_seq_len = self.original_len(settings)?;
        let factor =
            settings.number("factor", self.number("max_position_embeddings", 2048.0)? / original_max_seq_len)?;
        // A zero counts as absent.
        let beta = |key: &str, default: f64| settings.number(key, default).map(|b| if b == 0.0 { default } else { b });
        let derived = match (settings.optional_number("mscale")?, settings.optional_number("mscale_all_dim")?) {
            (Some(some), Some(all)) if some != 0.0 && all != 0.0 => {
                yarn_length(factor, some) / yarn_length(factor, all)
            }
            _ => yarn_length(factor, 1.0),
        };
        Ok(RopeScaling::Yarn {
            factor,
            beta_fast: beta("beta_fast", 32.0)?,
            beta_slow: beta("beta_slow", 1.0)?,
            truncate: settings.flag("truncate", true)?,
            attention_factor: settings.number("attention_factor", derived)?,
            original_max_seq_len,
        })
    }

    fn long_rope(&self, settings: &ConfigJson<'_>, rotary_dim: usize) -> Result<RopeScaling> {
        let original = self.original_len(settings)?;
        let factors = |key: &str| {
            let list = settings.get(key).and_then(Value::as_array);
            let numbers: Option<Vec<f64>> = list.and_then(|list| list.iter().map(Value::as_f64).collect());
            numbers.filter(|n| n.len() == rotary_dim / 2).ok_or_else(|| {
                Error::failed(format!("`{key}` of the rotary scaling in config.json is no list of {}", rotary_dim / 2))
            })
        };
        let longest = self.number("max_position_embeddings", original)?;
        let factor = settings.number("factor", longest / original)?;
        let derived = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
        Ok(RopeScaling::Long {
            short: factors("short_factor")?,
            long: factors("long_factor")?,
            attention_factor: settings.number("attention_factor", derived)?,
            original_max_seq_len: original,
        })
    }
}
