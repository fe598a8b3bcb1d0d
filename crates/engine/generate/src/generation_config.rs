//! What a model folder says about sampling: `generation_config.json`.

use std::path::Path;

use cupola_artifact::{Context, Error, Result, read_text};
use serde_json::{Map, Value, json};

use crate::SamplingParams;

const FILE: &str = "generation_config.json";

/// transformers' names and ours.
const NAMES: &[(&str, &str)] = &[
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("top_k", "top_k"),
    ("min_p", "min_p"),
    ("typical_p", "typical_p"),
    ("top_h", "top_h"),
    ("epsilon_cutoff", "epsilon_cutoff"),
    ("eta_cutoff", "eta_cutoff"),
    ("repetition_penalty", "repetition_penalty"),
    ("no_repeat_ngram_size", "no_repeat_ngram_size"),
    ("bad_words_ids", "bad_words_ids"),
    ("forced_bos_token_id", "forced_first_token"),
    ("forced_eos_token_id", "forced_last_token"),
    ("min_new_tokens", "min_tokens"),
    ("max_new_tokens", "max_tokens"),
];

impl SamplingParams {
    /// What `generation_config.json` of a model folder recommends; the defaults where it, or the file, says nothing.
    /// `do_sample: false` is a temperature of 0; settings of beam search and of assisted generation are not read.
    ///
    /// # Errors
    /// A file that cannot be read, or a setting in it that makes no sense.
    pub fn of_model(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        if !path.is_file() {
            return Ok(Self::default());
        }
        let told: Map<String, Value> =
            serde_json::from_str(&read_text(&path)?).context(|| format!("{} is not a JSON object", path.display()))?;
        let mut settings = Map::new();
        for (theirs, ours) in NAMES {
            let Some(value) = told.get(*theirs).filter(|value| !value.is_null()) else { continue };
            serde_json::from_value::<Self>(json!({ *ours: value }))
                .map_err(|e| Error::failed(format!("`{theirs}` in {} is {value}", path.display())).with_source(e))?;
            settings.insert((*ours).to_owned(), value.clone());
        }
        if told.get("do_sample") == Some(&Value::Bool(false)) {
            settings.insert("temperature".into(), json!(0.0));
        }
        let params: Self =
            serde_json::from_value(settings.into()).context(|| format!("cannot use {}", path.display()))?;
        params.check(usize::MAX).map_err(|unfit| Error::failed(format!("{}: {}", path.display(), unfit.message)))?;
        Ok(params)
    }

    /// These settings, and another's where these are the defaults.
    ///
    /// # Errors
    /// None for settings that are numbers.
    pub fn or(&self, other: &Self) -> Result<Self> {
        let fields = |params: &Self| serde_json::to_value(params).context(|| "cannot read sampling settings".into());
        let (mut own, default, other) = (fields(self)?, fields(&Self::default())?, fields(other)?);
        for (name, value) in own.as_object_mut().into_iter().flatten() {
            if *value == default[name] {
                *value = other[name].clone();
            }
        }
        serde_json::from_value(own).context(|| "cannot read sampling settings".into())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use cupola_testkit::{TempDir, fixture};

    use super::*;

    fn of(text: &str) -> Result<SamplingParams> {
        let dir = TempDir::new("generation-config");
        std::fs::write(dir.path().join(FILE), text).unwrap();
        SamplingParams::of_model(dir.path())
    }

    #[test]
    fn what_the_model_recommends_is_read() {
        let base = SamplingParams::default;
        let text = r#"{"do_sample": true, "temperature": 0.6, "top_p": 0.9, "top_k": null, "max_new_tokens": 9,
            "min_new_tokens": 2, "bad_words_ids": [[1, 2]], "repetition_penalty": 1.05, "eos_token_id": [1, 2],
            "num_beams": 1, "forced_eos_token_id": 2, "transformers_version": "5.0"}"#;
        let want = SamplingParams {
            temperature: 0.6,
            top_p: 0.9,
            max_tokens: 9,
            min_tokens: 2,
            bad_words_ids: vec![vec![1, 2]],
            repetition_penalty: 1.05,
            forced_last_token: Some(2),
            ..base()
        };
        assert_eq!(of(text).unwrap(), want);
        assert_eq!(of(r#"{"do_sample": false, "temperature": 0.6}"#).unwrap().temperature, 0.0);
        assert_eq!(SamplingParams::of_model(&fixture("llama")).unwrap(), base());
        assert_eq!(SamplingParams::of_model(TempDir::new("empty").path()).unwrap(), base());
    }

    #[test]
    fn what_makes_no_sense_names_file_and_setting() {
        for (text, words) in [
            ("[]", ["generation_config.json", "not a JSON object"]),
            (r#"{"temperature": "hot"}"#, ["`temperature` in", "is \"hot\""]),
            (r#"{"top_p": 3}"#, ["generation_config.json", "`top_p` must be from 0 to 1, but is 3"]),
            (r#"{"top_k": -1}"#, ["`top_k` in", "is -1"]),
        ] {
            let error = of(text).unwrap_err().chain();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
    }

    #[test]
    fn settings_of_ones_own_come_before_the_models() {
        let own = SamplingParams { temperature: 0.2, seed: Some(u64::MAX), ..Default::default() };
        let model = SamplingParams { temperature: 0.6, top_p: 0.9, ..Default::default() };
        assert_eq!(own.or(&model).unwrap(), SamplingParams { top_p: 0.9, ..own.clone() });
        assert_eq!(own.or(&SamplingParams::default()).unwrap(), own);
    }
}
