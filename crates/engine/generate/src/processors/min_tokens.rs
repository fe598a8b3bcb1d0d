//! No end before a number of new tokens.

use super::{Apply, History, Processor, Unfit};
use crate::SamplingParams;

pub const MIN_TOKENS: Processor = Processor {
    name: "min_tokens",
    about: "removes the end tokens until as many tokens are generated",
    wanted: |params| params.min_tokens > 0,
    check,
    apply: Apply::Logits(min_tokens),
};

fn check(params: &SamplingParams, _: usize) -> Result<(), Unfit> {
    let SamplingParams { min_tokens, max_tokens, .. } = params;
    match min_tokens > max_tokens {
        true => Err(Unfit {
            field: "min_tokens",
            message: format!("`min_tokens` must be from 0 to `max_tokens` ({max_tokens}), but is {min_tokens}"),
        }),
        false => Ok(()),
    }
}

fn min_tokens(logits: &mut [f32], params: &SamplingParams, history: &History<'_>) {
    if history.generated().len() < params.min_tokens {
        for id in history.stop_ids {
            if let Some(logit) = logits.get_mut(*id as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}
