//! The server's settings.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use cupola_artifact::{Error, Result};
use cupola_generate::{EngineOptions, SamplingParams};
use serde::{Deserialize, Serialize};

/// The environment variable that the API key is read from when no setting gives one.
pub const API_KEY_VARIABLE: &str = "CUPOLA_API_KEY";

/// A secret: it is neither printed nor written anywhere.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` as a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Whether `given` is the secret; takes the same time wherever the two differ.
    pub fn matches(&self, given: &[u8]) -> bool {
        let own = self.0.as_bytes();
        let mut difference = own.len() ^ given.len();
        for (i, &byte) in given.iter().enumerate() {
            let expected = own.get(i % own.len().max(1)).copied().unwrap_or(0);
            difference |= usize::from(std::hint::black_box(byte ^ expected));
        }
        std::hint::black_box(difference) == 0
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(set)")
    }
}

/// Where the server listens, what it calls its model, and its limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServeConfig {
    /// The address to listen on. `127.0.0.1` is reachable from this machine only, `0.0.0.0` from everywhere.
    pub host: String,
    /// The port; 0 takes a free one.
    pub port: u16,
    /// What clients must send as `Authorization: Bearer …`; else `CUPOLA_API_KEY`; else nothing. Never written to a file.
    #[serde(skip_serializing)]
    pub api_key: Option<Secret>,
    /// The model's name in the API; the name of its directory by default.
    pub model_name: Option<String>,
    /// Adapters of the model by the names that requests ask for as their model, and their folders; of a command line.
    #[serde(skip)]
    pub adapters: BTreeMap<String, PathBuf>,
    /// The largest request body.
    pub max_body_bytes: usize,
    /// The most sequences that one request may ask for: prompts times `n`.
    pub max_choices: usize,
    /// How long running requests may go on after the server was told to stop.
    pub shutdown_seconds: u64,
    /// What a request that does not say otherwise gets.
    pub sampling: SamplingParams,
    /// The engine's limits.
    pub engine: EngineOptions,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 8000,
            api_key: None,
            model_name: None,
            adapters: BTreeMap::new(),
            max_body_bytes: 1 << 20,
            max_choices: 32,
            shutdown_seconds: 10,
            sampling: SamplingParams::default(),
            engine: EngineOptions::default(),
        }
    }
}

impl ServeConfig {
    /// Takes the API key from the environment when no setting gives one.
    #[must_use]
    pub fn with_environment(mut self) -> Self {
        if self.api_key.is_none() {
            self.api_key = std::env::var(API_KEY_VARIABLE).ok().filter(|key| !key.is_empty()).map(Secret::new);
        }
        self
    }

    /// Checks that the settings make sense.
    pub fn validate(&self) -> Result<()> {
        let sampling = &self.sampling;
        if self.host.is_empty() {
            return Err(Error::usage("`host` is empty").with_hint("127.0.0.1 listens on this machine only"));
        }
        if self.api_key.as_ref().is_some_and(Secret::is_empty) {
            return Err(Error::usage("`api_key` is empty").with_hint("leave it out to serve without a key"));
        }
        if self.model_name.as_ref().is_some_and(String::is_empty) {
            return Err(Error::usage("`model_name` is empty"));
        }
        if !(0.0..=2.0).contains(&sampling.temperature) {
            return Err(Error::usage(format!("`sampling.temperature` is {}, not in 0..=2", sampling.temperature)));
        }
        sampling.check(usize::MAX).map_err(|unfit| Error::usage(format!("`sampling`: {}", unfit.message)))?;
        for (name, value) in [
            ("max_body_bytes", self.max_body_bytes),
            ("max_choices", self.max_choices),
            ("sampling.max_tokens", sampling.max_tokens),
            ("engine.max_batch", self.engine.max_batch),
            ("engine.prefill_chunk", self.engine.prefill_chunk),
        ] {
            if value == 0 {
                return Err(Error::usage(format!("`{name}` is 0, but must be at least 1")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_secret_matches_only_itself_and_never_shows() {
        let secret = Secret::new("sk-123");
        assert!(secret.matches(b"sk-123"));
        for wrong in [&b""[..], b"sk-12", b"sk-124", b"sk-1234", b"sk-123sk-123"] {
            assert!(!secret.matches(wrong), "{wrong:?}");
        }
        let config = ServeConfig { api_key: Some(secret), ..ServeConfig::default() };
        assert!(!format!("{config:?}").contains("sk-123"));
        assert!(!serde_json::to_string(&config).unwrap().contains("sk-123"));
    }

    #[test]
    fn settings_without_sense_are_usage_errors_that_name_the_setting() {
        let mut config = ServeConfig::default();
        config.validate().unwrap();
        config.sampling.temperature = f32::NAN;
        assert!(config.validate().unwrap_err().to_string().contains("sampling.temperature"));
        config = ServeConfig { max_choices: 0, ..ServeConfig::default() };
        assert!(config.validate().unwrap_err().to_string().contains("max_choices"));
    }
}
