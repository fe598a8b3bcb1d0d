//! A model with its tokenizer.

use std::path::Path;

use burn::tensor::Device;
use cupola_arch::Model;
use cupola_artifact::{Error, Result};
use cupola_tokenizer::Tokenizer;

/// Loads a model directory: the model, and the tokenizer that lies beside it.
///
/// # Errors
/// A missing or broken file; a tokenizer with more tokens than the model knows.
pub fn load_model(dir: &Path, device: &Device) -> Result<(Model, Tokenizer)> {
    let model = Model::load(dir, device)?;
    let tokenizer = Tokenizer::load(dir)?;
    let (known, used) = (model.spec().stack().vocab_size, tokenizer.vocab_size());
    if used > known {
        let message = format!("the tokenizer in {} has {used} tokens, but the model knows only {known}", dir.display());
        return Err(Error::failed(message).with_hint("this tokenizer.json belongs to another model"));
    }
    Ok((model, tokenizer))
}
