//! A model with its tokenizer.

use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use cupola_arch::Model;
use cupola_artifact::{Error, Result};
use cupola_neighbours::{MEMORY, Memory};
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

/// The same for what changes a model: one that reads a memory is refused, since the memory holds the hidden states of the
/// model as it is.
///
/// # Errors
/// As [`load_model`]; a directory with a memory.
pub fn load_to_change(dir: &Path, device: &Device) -> Result<(Model, Tokenizer)> {
    if dir.join(MEMORY).exists() {
        let message = format!("the model in {} reads a memory, which would not fit it any longer", dir.display());
        return Err(Error::failed(message)
            .with_hint("take the model that the memory was made for, and make its memory anew afterwards"));
    }
    load_model(dir, device)
}

/// The same with the memory that the directory may have, which the model reads from now on while it predicts.
///
/// # Errors
/// As [`load_model`]; a broken memory, or another model's.
pub fn load_reader(dir: &Path, device: &Device) -> Result<(Model, Tokenizer)> {
    let (mut model, tokenizer) = load_model(dir, device)?;
    if let Some(memory) = Memory::load(dir, model.spec().stack().vocab_size)? {
        let width = model.spec().stack().embedding.width;
        if memory.width() != width {
            let message =
                format!("the memory in {} has keys of {} numbers, but the model's", dir.display(), memory.width());
            return Err(Error::failed(format!("{message} hidden states have {width}"))
                .with_hint("this memory was filled by another model"));
        }
        model.decoder_mut()?.set_readout(Some(Arc::new(memory)));
    }
    Ok((model, tokenizer))
}

/// Whether a model directory holds an encoder.
///
/// # Errors
/// A missing or broken `config.json`.
pub fn is_encoder(dir: &Path) -> Result<bool> {
    let holds = ["config.json", "adapter_config.json"].iter().any(|file| dir.join(file).exists());
    Ok(holds && Model::read_spec(dir)?.encoder().is_ok())
}
