//! A model under evaluation.

use std::path::Path;
use std::sync::OnceLock;

use cupola_arch::Model;
use cupola_artifact::Result;
use cupola_generate::{Engine, EngineOptions, load_reader};
use cupola_tokenizer::Tokenizer;

/// A model, its tokenizer, and an engine once a task generates.
pub struct Subject {
    /// What the report calls it.
    pub name: String,
    /// The model.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    engine: OnceLock<Engine>,
}

impl Subject {
    /// Loads a model directory.
    ///
    /// # Errors
    /// As [`load_reader`].
    pub fn load(name: &str, dir: &Path, device: &str) -> Result<Self> {
        let (model, tokenizer) = load_reader(dir, &cupola_ops::open(device)?)?;
        Ok(Self { name: name.to_owned(), model, tokenizer, engine: OnceLock::new() })
    }

    /// The engine, which shares the model's weights.
    ///
    /// # Errors
    /// When its thread cannot be started.
    pub fn engine(&self) -> Result<&Engine> {
        if let Some(engine) = self.engine.get() {
            return Ok(engine);
        }
        let engine = Engine::new(self.model.clone(), self.tokenizer.clone(), &EngineOptions::default())?;
        Ok(self.engine.get_or_init(|| engine))
    }
}
