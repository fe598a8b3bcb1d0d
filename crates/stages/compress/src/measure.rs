//! What compression costs and gains.

use std::path::Path;

use cupola_arch::Model;
use cupola_artifact::{Context, Error, Result};
use cupola_generate::{Engine, EngineOptions, Request, SamplingParams, document_start};
use cupola_nn::Module;
use cupola_tokenizer::Tokenizer;

use crate::method::Method;

/// How often a speed is measured; the best counts, as everything else on the machine only takes away from it.
const ROUNDS: usize = 3;

/// Bytes of a directory's weights.
pub fn weight_bytes(dir: &Path) -> Result<u64> {
    let cannot = || format!("cannot read {}", dir.display());
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).context(cannot)? {
        let entry = entry.context(cannot)?;
        if entry.path().extension().is_some_and(|e| e == "safetensors") {
            bytes += std::fs::metadata(entry.path()).context(cannot)?.len();
        }
    }
    Ok(bytes)
}

/// Tokens per second of one sequence after its first token, for each of two models, measured in turns.
pub fn decode_speeds(models: [&Model; 2], tokenizer: &Tokenizer, tokens: usize) -> Result<[f64; 2]> {
    let start = |model: &Model| Engine::new(model.clone(), tokenizer.clone(), &EngineOptions::default());
    let engines = [start(models[0])?, start(models[1])?];
    let mut best = [0.0_f64; 2];
    for _ in 0..ROUNDS {
        for (engine, best) in engines.iter().zip(&mut best) {
            let prompt = vec![document_start(models[0].decoder()?, tokenizer)?];
            let max_tokens = tokens.min(engine.max_seq_len().saturating_sub(1)).max(2);
            let params = SamplingParams { temperature: 0.0, max_tokens, ignore_eos: true, ..Default::default() };
            let (ids, _, usage) = engine.generate_ids(Request { prompt, params })?;
            let seconds = usage.total_seconds - usage.first_token_seconds;
            if seconds > 0.0 && ids.len() > 1 {
                *best = best.max((ids.len() - 1) as f64 / seconds);
            }
        }
    }
    Ok(best)
}

/// The weight that changed most.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WeightError {
    /// The tensor it is in.
    pub tensor: String,
    /// The largest absolute difference.
    pub largest: f32,
    /// The same over the tensor's largest magnitude.
    pub relative: f32,
}

/// Compares the weights before and after.
pub fn weight_error(before: &Model, after: &Model, method: &dyn Method) -> Result<WeightError> {
    let compressed = after.state();
    let mut worst = WeightError::default();
    for (name, tensor) in before.state() {
        let (old, new) = (tensor.to_f32()?, method.weight(&compressed, &name)?);
        if old.len() != new.len() {
            return Err(Error::failed(format!("{name} has {} numbers before and {} after", old.len(), new.len())));
        }
        let largest = old.iter().zip(&new).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        if largest > worst.largest {
            let magnitude = old.iter().fold(f32::MIN_POSITIVE, |m, w| m.max(w.abs()));
            worst = WeightError { tensor: name, largest, relative: largest / magnitude };
        }
    }
    Ok(worst)
}
