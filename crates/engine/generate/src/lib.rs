//! Generation and scoring: what align, eval, compress and serve ask of a finished model.
//!
//! | file | what it holds |
//! |---|---|
//! | `api` | what callers see: requests, events, statistics |
//! | `engine` | the handle: submit, wait, shut down |
//! | `worker` | the thread behind it: admits, steps, samples, sends |
//! | `batch` | one step of continuous batching over ragged rows |
//! | `beam`, `cached_beams` | beam search over a small trait; a decoder with its caches behind it |
//! | `writer` | the models that write: decoders, and encoder-decoders that read the prompt whole |
//! | `processors` | what changes the logits before a token is chosen, a file each |
//! | `reader` | encoders: embeddings, labels, words behind masks |
//! | `sampler`, `stop` | the next token; stop strings in a stream of text |
//! | `generation_config` | what a model folder recommends |
//! | `score`, `logprobs` | log-likelihoods of given tokens, perplexity of texts |

mod api;
mod batch;
mod beam;
mod cached_beams;
mod engine;
mod generation_config;
mod load;
mod logprobs;
pub mod processors;
mod reader;
mod sampler;
mod score;
mod stop;
mod worker;
mod writer;

pub use api::{EngineOptions, Event, FinishReason, Request, SamplingParams, Sink, Stats, TokenLogprob, Usage};
pub use beam::{Beam, BeamModel, BeamOptions, EarlyStopping, beam_search};
pub use cached_beams::{AnswerBeams, CachedBeams};
pub use engine::{Engine, Generated, Sampled};
pub use load::{is_encoder, load_model, load_reader, load_to_change};
pub use reader::{Filling, Reader, Reads};
pub use sampler::Sampler;
pub use score::{
    Likelihood, ScoreItem, ScoreTexts, TextScore, document_start, encode_pair, log_likelihoods, score_texts,
};
