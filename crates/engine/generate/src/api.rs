//! What callers of the engine see: requests, events, statistics.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// How the next token is chosen; [`crate::processors::ALL`] says in which order. The names are transformers' and OpenAI's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingParams {
    /// Divides the logits; 0 chooses the most likely token.
    pub temperature: f32,
    /// Keeps the smallest set of tokens whose probabilities add up to this (nucleus sampling).
    pub top_p: f32,
    /// Keeps the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Removes tokens less likely than this share of the likeliest one's probability; 0 removes none.
    pub min_p: f32,
    /// Keeps the tokens of most typical surprise whose probabilities add up to this; 1 keeps all.
    pub typical_p: f32,
    /// Keeps the likeliest tokens that hold this share of the entropy; 1 keeps all.
    pub top_h: f32,
    /// Removes tokens with a smaller probability; 0 removes none.
    pub epsilon_cutoff: f32,
    /// The same with a bound that falls with the entropy; 0 removes none.
    pub eta_cutoff: f32,
    /// Makes tokens of the prompt and the answer less likely; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Taken from a token's logit for each time that it was generated.
    pub frequency_penalty: f32,
    /// Taken from the logit of each token that was generated.
    pub presence_penalty: f32,
    /// No so many tokens in a row occur twice; 0 lets them.
    pub no_repeat_ngram_size: usize,
    /// Added to the logits of tokens.
    #[serde(deserialize_with = "token_keys")]
    pub logit_bias: BTreeMap<u32, f32>,
    /// Sequences of tokens that are not written.
    pub bad_words_ids: Vec<Vec<u32>>,
    /// The first token of the answer.
    pub forced_first_token: Option<u32>,
    /// The token that uses up `max_tokens`.
    pub forced_last_token: Option<u32>,
    /// The fewest tokens to generate before an end token.
    pub min_tokens: usize,
    /// The most tokens to generate.
    pub max_tokens: usize,
    /// Strings that end the generation; they are not part of the text.
    pub stop: Vec<String>,
    /// Makes sampling repeatable.
    pub seed: Option<u64>,
    /// Goes on past the end-of-text token; for measuring.
    pub ignore_eos: bool,
    /// Tells the log-probability of each token, and of so many of the likeliest in its place. Of one request, not a
    /// setting.
    #[serde(skip)]
    pub logprobs: Option<usize>,
    /// The adapter that writes, by its name; none is the model alone. Of one request, not a setting.
    #[serde(skip)]
    pub adapter: Option<String>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            typical_p: 1.0,
            top_h: 1.0,
            epsilon_cutoff: 0.0,
            eta_cutoff: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            no_repeat_ngram_size: 0,
            logit_bias: BTreeMap::new(),
            bad_words_ids: vec![],
            forced_first_token: None,
            forced_last_token: None,
            min_tokens: 0,
            max_tokens: 256,
            stop: vec![],
            seed: None,
            ignore_eos: false,
            logprobs: None,
            adapter: None,
        }
    }
}

/// Numbers by token; the keys of JSON and TOML are strings.
fn token_keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<u32, f32>, D::Error> {
    let entries = BTreeMap::<String, f32>::deserialize(deserializer)?.into_iter();
    let token = |key: &str| key.parse().map_err(|_| D::Error::custom(format!("{key:?} is no token id")));
    entries.map(|(key, value)| Ok((token(&key)?, value))).collect()
}

/// One sequence to generate.
#[derive(Clone, Debug)]
pub struct Request {
    /// The prompt's token ids; not empty.
    pub prompt: Vec<u32>,
    /// How to sample.
    pub params: SamplingParams,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// An end token or a stop string.
    Stop,
    /// `max_tokens` or the model's context is used up.
    Length,
    /// The caller went away.
    Cancelled,
}

/// What one sequence cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, the end token included.
    pub completion_tokens: usize,
    /// Seconds from submission to the first token.
    pub first_token_seconds: f64,
    /// Seconds from submission to the end.
    pub total_seconds: f64,
}

/// How likely the model found a token, before any setting changed the logits.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: u32,
    /// The logarithm of its probability.
    pub logprob: f32,
    /// The likeliest tokens in its place, likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// What the engine tells about a sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A token was chosen that does not end the sequence; told where `logprobs` asks for it, before its text.
    Token(TokenLogprob),
    /// Text that is final: never part of a stop string, always whole characters.
    Text(String),
    /// The sequence ended; nothing follows.
    Done(FinishReason, Usage),
    /// The sequence failed; nothing follows.
    Failed(String),
}

/// Takes a sequence's events, in order, on the engine's thread; must not block. `false` cancels the sequence.
pub type Sink = Box<dyn FnMut(Event) -> bool + Send>;

/// The engine's limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineOptions {
    /// Sequences that are generated at the same time; more wait.
    pub max_batch: usize,
    /// Requests that may wait; more are refused.
    pub max_waiting: usize,
    /// Prompt tokens processed in one step, so that a long prompt does not hold up the others.
    pub prefill_chunk: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { max_batch: 16, max_waiting: 256, prefill_chunk: 256 }
    }
}

/// Counters and gauges since the engine started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// Sequences being generated now.
    pub running: usize,
    /// Sequences waiting now.
    pub waiting: usize,
    /// Sequences ended, cancelled and failed ones included.
    pub finished: u64,
    /// Prompt tokens processed.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Seconds spent in the model.
    pub busy_seconds: f64,
    /// Bytes of key-value cache in use.
    pub cache_bytes: usize,
}
