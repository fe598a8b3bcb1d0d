//! Sequences of tokens that must not be written: the last token of one is removed when the others stand there.

use super::{Apply, History, Processor, Unfit, check_token};
use crate::SamplingParams;

pub const BAD_WORDS: Processor = Processor {
    name: "bad_words_ids",
    about: "removes tokens that would complete one of these sequences",
    wanted: |params| !params.bad_words_ids.is_empty(),
    check,
    apply: Apply::Logits(bad_words),
};

fn check(params: &SamplingParams, vocab_size: usize) -> Result<(), Unfit> {
    let field = "bad_words_ids";
    if params.bad_words_ids.iter().any(Vec::is_empty) {
        return Err(Unfit { field, message: format!("`{field}` has a sequence of no tokens") });
    }
    params.bad_words_ids.iter().flatten().try_for_each(|token| check_token(field, *token, vocab_size))
}

fn bad_words(logits: &mut [f32], params: &SamplingParams, history: &History<'_>) {
    for word in &params.bad_words_ids {
        let Some((last, before)) = word.split_last() else { continue };
        // A lone end token stays, as in transformers: without it nothing ends.
        let ends = before.is_empty() && history.stop_ids.contains(last);
        if let Some(logit) = logits.get_mut(*last as usize).filter(|_| !ends && history.ids.ends_with(before)) {
            *logit = f32::NEG_INFINITY;
        }
    }
}
