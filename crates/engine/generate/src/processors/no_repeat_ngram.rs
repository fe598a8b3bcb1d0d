//! No n tokens in a row occur twice, the prompt included (Paulus et al. 2017).

use super::{Apply, History, Processor};
use crate::SamplingParams;

pub const NO_REPEAT_NGRAM: Processor = Processor {
    name: "no_repeat_ngram_size",
    about: "removes tokens that would repeat as many tokens in a row; 0 removes none",
    wanted: |params| params.no_repeat_ngram_size > 0,
    check: |_, _| Ok(()),
    apply: Apply::Logits(no_repeat_ngram),
};

fn no_repeat_ngram(logits: &mut [f32], params: &SamplingParams, history: &History<'_>) {
    let (ids, n) = (history.ids, params.no_repeat_ngram_size);
    if ids.len() < n {
        return;
    }
    let start = &ids[ids.len() + 1 - n..];
    for window in ids.windows(n).filter(|window| window.starts_with(start)) {
        if let Some(logit) = logits.get_mut(window[n - 1] as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
}
