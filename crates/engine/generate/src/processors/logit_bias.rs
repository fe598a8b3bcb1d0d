//! Adds a number to the logits of given tokens.

use super::{Apply, History, Processor, Unfit, check_token};
use crate::SamplingParams;

pub const LOGIT_BIAS: Processor = Processor {
    name: "logit_bias",
    about: "adds to the logits of given tokens",
    wanted: |params| !params.logit_bias.is_empty(),
    check,
    apply: Apply::Logits(logit_bias),
};

fn check(params: &SamplingParams, vocab_size: usize) -> Result<(), Unfit> {
    for (&token, bias) in &params.logit_bias {
        check_token("logit_bias", token, vocab_size)?;
        if !(-100.0..=100.0).contains(bias) {
            let message = format!("`logit_bias` must be from -100 to 100, but is {bias} for the token {token}");
            return Err(Unfit { field: "logit_bias", message });
        }
    }
    Ok(())
}

fn logit_bias(logits: &mut [f32], params: &SamplingParams, _: &History<'_>) {
    for (token, bias) in &params.logit_bias {
        if let Some(logit) = logits.get_mut(*token as usize) {
            *logit += bias;
        }
    }
}
