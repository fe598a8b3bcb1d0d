//! The fields of a request that say how tokens are chosen.

use std::collections::BTreeMap;

use cupola_generate::SamplingParams;
use serde_json::Value;

use crate::api_error::ApiError;
use crate::fields::{Fields, wrong};

/// Any number; the settings themselves say which make sense.
const ANY: std::ops::RangeInclusive<f64> = f64::MIN..=f64::MAX;

/// Takes the settings out of a request; what it does not say is as in `defaults`.
pub fn take(fields: &mut Fields, defaults: &SamplingParams) -> Result<SamplingParams, ApiError> {
    let mut params = defaults.clone();
    for (name, place) in [
        ("top_p", &mut params.top_p),
        ("min_p", &mut params.min_p),
        ("typical_p", &mut params.typical_p),
        ("top_h", &mut params.top_h),
        ("epsilon_cutoff", &mut params.epsilon_cutoff),
        ("eta_cutoff", &mut params.eta_cutoff),
        ("repetition_penalty", &mut params.repetition_penalty),
        ("frequency_penalty", &mut params.frequency_penalty),
        ("presence_penalty", &mut params.presence_penalty),
    ] {
        if let Some(value) = fields.number(name, ANY)? {
            *place = value as f32;
        }
    }
    for (name, place, least) in [
        ("top_k", &mut params.top_k, 0),
        ("no_repeat_ngram_size", &mut params.no_repeat_ngram_size, 0),
        ("min_tokens", &mut params.min_tokens, 0),
        ("max_tokens", &mut params.max_tokens, 1),
    ] {
        if let Some(value) = fields.size(name, least)? {
            *place = value;
        }
    }
    if let Some(temperature) = fields.number("temperature", 0.0..=2.0)? {
        params.temperature = temperature as f32;
    }
    if let Some(seed) = fields.integer("seed", i64::MIN..=i64::MAX)? {
        params.seed = Some(seed.cast_unsigned());
    }
    if let Some(ignore_eos) = fields.boolean("ignore_eos")? {
        params.ignore_eos = ignore_eos;
    }
    if let Some(stop) = stop(fields)? {
        params.stop = stop;
    }
    if let Some(logit_bias) = logit_bias(fields)? {
        params.logit_bias = logit_bias;
    }
    if let Some(words) = fields.list("bad_words_ids")? {
        params.bad_words_ids =
            words.into_iter().enumerate().map(|(i, word)| bad_word(i, word)).collect::<Result<_, _>>()?;
    }
    params.logprobs = None;
    Ok(params)
}

/// Checks the settings of a request for a model with so many tokens.
pub fn check(params: &SamplingParams, vocab_size: usize) -> Result<(), ApiError> {
    params.check(vocab_size).map_err(|unfit| ApiError::bad_param(unfit.field, unfit.message))
}

fn stop(fields: &mut Fields) -> Result<Option<Vec<String>>, ApiError> {
    let items = match fields.take("stop") {
        None => return Ok(None),
        Some(Value::Array(items)) => items,
        Some(one @ Value::String(_)) => vec![one],
        Some(other) => return Err(wrong("stop", "a string or a list of strings", &other)),
    };
    if items.len() > 4 {
        return Err(ApiError::bad_param("stop", format!("`stop` has {} strings; at most 4 are allowed", items.len())));
    }
    let mut strings = Vec::with_capacity(items.len());
    for (i, item) in items.into_iter().enumerate() {
        match item {
            Value::String(text) if text.is_empty() => {
                return Err(ApiError::bad_param("stop", format!("`stop[{i}]` is an empty string")));
            }
            Value::String(text) => strings.push(text),
            other => return Err(wrong(&format!("stop[{i}]"), "a string", &other)),
        }
    }
    Ok(Some(strings))
}

/// An object from token ids, as strings, to numbers.
fn logit_bias(fields: &mut Fields) -> Result<Option<BTreeMap<u32, f32>>, ApiError> {
    let entries = match fields.take("logit_bias") {
        None => return Ok(None),
        Some(Value::Object(entries)) => entries,
        Some(other) => return Err(wrong("logit_bias", "an object from token ids to numbers", &other)),
    };
    let mut biases = BTreeMap::new();
    for (key, value) in entries {
        let token = key.parse().map_err(|_| {
            let key: String = key.chars().take(40).collect();
            ApiError::bad_param("logit_bias", format!("`logit_bias` must have token ids as keys, but has {key:?}"))
        })?;
        let bias = value.as_f64().ok_or_else(|| wrong(&format!("logit_bias.{token}"), "a number", &value))?;
        biases.insert(token, bias as f32);
    }
    Ok(Some(biases))
}

fn bad_word(index: usize, word: Value) -> Result<Vec<u32>, ApiError> {
    let name = format!("bad_words_ids[{index}]");
    match word {
        Value::Array(ids) => token_ids(&name, ids),
        other => Err(wrong(&name, "a list of token ids", &other)),
    }
}

/// A list of token ids.
pub fn token_ids(name: &str, items: Vec<Value>) -> Result<Vec<u32>, ApiError> {
    let id = |(i, item): (usize, Value)| {
        item.as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| wrong(&format!("{name}[{i}]"), "a token id", &item))
    };
    items.into_iter().enumerate().map(id).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn taken(body: &Value) -> Result<SamplingParams, ApiError> {
        let mut fields = Fields::parse(body.to_string().as_bytes())?;
        let params = take(&mut fields, &SamplingParams::default())?;
        crate::parameters::check_rest(fields)?;
        check(&params, 100)?;
        Ok(params)
    }

    #[test]
    fn every_field_reaches_its_setting() {
        let body = json!({
            "temperature": 0.5, "top_p": 0.25, "top_k": 3, "min_p": 0.125, "typical_p": 0.75, "top_h": 0.5,
            "epsilon_cutoff": 0.25, "eta_cutoff": 0.5, "repetition_penalty": 1.5, "frequency_penalty": -1.5,
            "presence_penalty": 2, "no_repeat_ngram_size": 4, "min_tokens": 5, "max_tokens": 6, "seed": -1,
            "stop": "x", "logit_bias": {"7": -100, "8": 0.5}, "bad_words_ids": [[1, 2], [3]], "ignore_eos": true,
        });
        let want = SamplingParams {
            adapter: None,
            temperature: 0.5,
            top_p: 0.25,
            top_k: 3,
            min_p: 0.125,
            typical_p: 0.75,
            top_h: 0.5,
            epsilon_cutoff: 0.25,
            eta_cutoff: 0.5,
            repetition_penalty: 1.5,
            frequency_penalty: -1.5,
            presence_penalty: 2.0,
            no_repeat_ngram_size: 4,
            min_tokens: 5,
            max_tokens: 6,
            seed: Some(u64::MAX),
            stop: vec!["x".into()],
            logit_bias: BTreeMap::from([(7, -100.0), (8, 0.5)]),
            bad_words_ids: vec![vec![1, 2], vec![3]],
            ignore_eos: true,
            forced_first_token: None,
            forced_last_token: None,
            logprobs: None,
        };
        assert_eq!(taken(&body).unwrap(), want);
        assert_eq!(taken(&json!({})).unwrap(), SamplingParams::default());
    }

    #[test]
    fn a_wrong_value_names_field_and_range() {
        for (body, param, message) in [
            (json!({"temperature": 2.5}), "temperature", "from 0 to 2, but is 2.5"),
            (json!({"top_p": 1.5}), "top_p", "from 0 to 1, but is 1.5"),
            (json!({"min_p": 1e300}), "min_p", "from 0 to 1, but is inf"),
            (json!({"typical_p": 0}), "typical_p", "above 0 and at most 1, but is 0"),
            (json!({"repetition_penalty": 0}), "repetition_penalty", "above 0, but is 0"),
            (json!({"frequency_penalty": 2.5}), "frequency_penalty", "from -2 to 2, but is 2.5"),
            (json!({"presence_penalty": -3}), "presence_penalty", "from -2 to 2, but is -3"),
            (json!({"no_repeat_ngram_size": -1}), "no_repeat_ngram_size", "at least 0, but is -1"),
            (json!({"min_tokens": 9, "max_tokens": 3}), "min_tokens", "from 0 to `max_tokens` (3), but is 9"),
            (json!({"logit_bias": {"a": 1}}), "logit_bias", "token ids as keys, but has \"a\""),
            (json!({"logit_bias": {"5": "x"}}), "logit_bias.5", "a number, but is the string \"x\""),
            (json!({"logit_bias": {"5": 101}}), "logit_bias", "from -100 to 100, but is 101 for the token 5"),
            (json!({"logit_bias": {"100": 1}}), "logit_bias", "the token 100"),
            (json!({"logit_bias": [1]}), "logit_bias", "an object from token ids"),
            (json!({"bad_words_ids": [1]}), "bad_words_ids[0]", "a list of token ids"),
            (json!({"bad_words_ids": [[]]}), "bad_words_ids", "no tokens"),
        ] {
            let error = taken(&body).unwrap_err().body();
            assert_eq!(error["error"]["param"], param, "{body}");
            assert!(error["error"]["message"].as_str().unwrap().contains(message), "{error}");
        }
    }
}
