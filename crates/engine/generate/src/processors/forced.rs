//! Tokens that are given: the first of an answer (the target language of a translation), and the last that has room.

use super::{Apply, History, Processor, Unfit, check_token};
use crate::SamplingParams;

pub const FORCED: Processor = Processor {
    name: "forced_first_token",
    about: "is the first token; `forced_last_token` is the one that uses up `max_tokens`",
    wanted: |params| params.forced_first_token.or(params.forced_last_token).is_some(),
    check,
    apply: Apply::Logits(forced),
};

fn check(params: &SamplingParams, vocab_size: usize) -> Result<(), Unfit> {
    let tokens = [("forced_first_token", params.forced_first_token), ("forced_last_token", params.forced_last_token)];
    tokens.into_iter().try_for_each(|(field, token)| token.map_or(Ok(()), |t| check_token(field, t, vocab_size)))
}

fn forced(logits: &mut [f32], params: &SamplingParams, history: &History<'_>) {
    let done = history.generated().len();
    let first = params.forced_first_token.filter(|_| done == 0);
    let last = params.forced_last_token.filter(|_| done + 1 == params.max_tokens);
    // Where one token is both first and last, the last wins: it is applied later.
    if let Some(token) = last.or(first).filter(|token| (*token as usize) < logits.len()) {
        logits.fill(f32::NEG_INFINITY);
        logits[token as usize] = 0.0;
    }
}
