//! Generation and scoring: what align, eval, compress and serve ask of a finished model.
//!
//! | file | what it holds |
//! |---|---|
//! | `api` | what callers see: requests, events, statistics |
//! | `engine` | the handle: submit, wait, shut down |
//! | `worker` | the thread behind it: admits, steps, samples, sends |
//! | `batch` | one step of continuous batching over ragged rows |
//! | `sampler`, `stop` | the next token; stop strings in a stream of text |
//! | `score` | log-likelihoods of given tokens, perplexity of texts |

mod api;
mod batch;
mod engine;
mod load;
mod sampler;
mod score;
mod stop;
mod worker;

pub use api::{EngineOptions, Event, FinishReason, Request, SamplingParams, Sink, Stats, Usage};
pub use engine::{Engine, Generated};
pub use load::load_model;
pub use sampler::{Sampler, distribution};
pub use score::{
    Likelihood, ScoreItem, ScoreTexts, TextScore, document_start, encode_pair, log_likelihoods, score_texts,
};
