//! What callers of the engine see: requests, events, statistics.

use serde::{Deserialize, Serialize};

/// How the next token is chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SamplingParams {
    /// Divides the logits; 0 chooses the most likely token.
    pub temperature: f32,
    /// Keeps the smallest set of tokens whose probabilities add up to this (nucleus sampling).
    pub top_p: f32,
    /// Keeps the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// The most tokens to generate.
    pub max_tokens: usize,
    /// Strings that end the generation; they are not part of the text.
    pub stop: Vec<String>,
    /// Makes sampling repeatable.
    pub seed: Option<u64>,
    /// Goes on past the end-of-text token; for measuring.
    pub ignore_eos: bool,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self { temperature: 1.0, top_p: 1.0, top_k: 0, max_tokens: 256, stop: vec![], seed: None, ignore_eos: false }
    }
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

/// What the engine tells about a sequence.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
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
