//! Requests that are answered by beam search instead of sampling.

use std::sync::Arc;

use cupola_artifact::{Class, Error};
use cupola_generate::{Beam, BeamOptions, EarlyStopping, FinishReason};
use cupola_tokenizer::Tokenizer;
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

use crate::api_error::ApiError;
use crate::backend::Backend;
use crate::fields::{Fields, wrong};
use crate::request::Common;

/// Takes what a request says about beam search; `None` when it does not ask for it.
pub fn take(fields: &mut Fields) -> Result<Option<BeamOptions>, ApiError> {
    let asked = fields.boolean("use_beam_search")?.unwrap_or(false);
    let length_penalty = fields.number("length_penalty", -10.0..=10.0)?;
    let early_stopping = match fields.take("early_stopping") {
        None => None,
        Some(Value::Bool(true)) => Some(EarlyStopping::AtOnce),
        Some(Value::Bool(false)) => Some(EarlyStopping::Likely),
        Some(Value::String(never)) if never == "never" => Some(EarlyStopping::Never),
        Some(other) => return Err(wrong("early_stopping", "true, false or \"never\"", &other)),
    };
    let given = [("length_penalty", length_penalty.is_some()), ("early_stopping", early_stopping.is_some())];
    if let Some((name, _)) = given.iter().find(|(_, given)| *given && !asked) {
        return Err(ApiError::bad_param(name, format!("`{name}` needs `use_beam_search` to be true")));
    }
    Ok(asked.then(|| BeamOptions {
        length_penalty: length_penalty.unwrap_or(1.0),
        early_stopping: early_stopping.unwrap_or_default(),
        ..BeamOptions::default()
    }))
}

/// Refuses what beam search does not do.
pub fn check(common: &Common) -> Result<(), ApiError> {
    let refused = [
        ("stream", common.stream),
        ("stop", !common.params.stop.is_empty()),
        ("logprobs", common.params.logprobs.is_some()),
    ];
    match refused.iter().find(|(_, given)| *given && common.beams.is_some()) {
        Some((name, _)) => {
            Err(ApiError::unsupported(name, format!("`{name}` is not supported with `use_beam_search`")))
        }
        None => Ok(()),
    }
}

/// The texts of all prompts, why each ended, and how many tokens they have together. A search goes on when its client
/// goes away, and gives its place back at its end.
pub async fn search(
    backend: Arc<dyn Backend>,
    prompts: Vec<Vec<u32>>,
    options: BeamOptions,
    place: OwnedSemaphorePermit,
) -> Result<(Vec<(String, FinishReason)>, usize), ApiError> {
    let work = move || {
        let _place = place;
        let found = backend.beam_search(&prompts, &options)?.concat();
        let tokens = found.iter().map(|beam| beam.ids.len()).sum();
        let texts = found.into_iter().map(|beam| text(backend.tokenizer(), beam, options.params.ignore_eos));
        Ok((texts.collect::<Result<_, Error>>()?, tokens))
    };
    let done = tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::server("the beam search failed"))?;
    done.map_err(|error: Error| match error.class() {
        Class::Usage => ApiError::bad_request(error.chain()),
        Class::Failed => ApiError::server(error.chain()),
    })
}

fn text(tokenizer: &Tokenizer, beam: Beam, ignore_eos: bool) -> Result<(String, FinishReason), Error> {
    let ended = !ignore_eos && beam.ids.last().is_some_and(|id| tokenizer.stop_ids().contains(id));
    let reason = if ended { FinishReason::Stop } else { FinishReason::Length };
    Ok((tokenizer.decode(&beam.ids)?, reason))
}
