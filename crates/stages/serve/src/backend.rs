//! What the server needs of a generation engine, so that tests can stand in for one.

use cupola_artifact::{Error, Result};
use cupola_generate::{Beam, BeamOptions, Engine, Request, Sink, Stats};
use cupola_tokenizer::Tokenizer;

/// Generates text for the server.
pub trait Backend: Send + Sync + 'static {
    /// Takes a request; its events go to `sink`. A full queue is a failure; a request that makes no sense is a usage
    /// error.
    fn submit(&self, request: Request, sink: Sink) -> Result<()>;

    /// The best texts of a beam search for each prompt; returns when they are found.
    fn beam_search(&self, _prompts: &[Vec<u32>], _options: &BeamOptions) -> Result<Vec<Vec<Beam>>> {
        Err(Error::usage("there is no beam search here"))
    }

    /// The names of the adapters that a request may choose.
    fn adapters(&self) -> &[String] {
        &[]
    }

    /// Counters and gauges.
    fn stats(&self) -> Stats;

    /// The model's tokenizer.
    fn tokenizer(&self) -> &Tokenizer;

    /// Tokens that the prompt and the answer may have together.
    fn max_seq_len(&self) -> usize;
}

impl Backend for Engine {
    fn submit(&self, request: Request, sink: Sink) -> Result<()> {
        Engine::submit(self, request, sink)
    }

    fn beam_search(&self, prompts: &[Vec<u32>], options: &BeamOptions) -> Result<Vec<Vec<Beam>>> {
        Engine::beam_search(self, prompts, options)
    }

    fn adapters(&self) -> &[String] {
        Engine::adapters(self)
    }

    fn stats(&self) -> Stats {
        Engine::stats(self)
    }

    fn tokenizer(&self) -> &Tokenizer {
        Engine::tokenizer(self)
    }

    fn max_seq_len(&self) -> usize {
        Engine::max_seq_len(self)
    }
}
