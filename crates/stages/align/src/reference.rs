//! What the frozen reference finds of answers, computed once.

use std::path::Path;

use cupola_artifact::stage::Progress;
use cupola_artifact::{Context, HostTensor, Result, StateDict, read_safetensors, write_safetensors};
use cupola_nn::Decoder;
use cupola_train::batching::{Layout, groups};
use cupola_train::conversation::Example;

use crate::pairs::logps;

/// The summed log-probabilities of all answers. `file` keeps them, so that a run that goes on need not compute them again.
///
/// # Errors
/// A file that cannot be written.
pub fn reference_logps(
    model: &Decoder,
    answers: &[&Example],
    (layout, pad): (Layout, u32),
    file: &Path,
    progress: &dyn Progress,
) -> Result<Vec<f32>> {
    if let Some(kept) = read_kept(file, answers.len()) {
        return Ok(kept);
    }
    let lengths: Vec<usize> = answers.iter().map(|answer| answer.inputs()).collect();
    let mut out = Vec::with_capacity(answers.len());
    progress.begin("reference", Some(answers.len() as u64), "answers");
    for group in groups(&lengths, None) {
        out.extend(cupola_ops::to_vec(&logps(model, &answers[group], layout, pad).0));
        progress.update(out.len() as u64, "");
    }
    progress.end();
    let state = StateDict::from([("logps".to_owned(), HostTensor::from_f32(vec![out.len()], &out))]);
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).context(|| format!("cannot create {}", folder.display()))?;
    }
    write_safetensors(file, &state, &[])?;
    Ok(out)
}

fn read_kept(file: &Path, answers: usize) -> Option<Vec<f32>> {
    let state = if file.exists() { read_safetensors(file).ok()? } else { return None };
    state.get("logps").filter(|t| t.shape == [answers])?.to_f32().ok()
}
