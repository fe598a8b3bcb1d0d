//! Keeps the k likeliest tokens (Fan et al. 2018), and those as likely as the last of them.

use super::candidates::{best, likelier};
use super::{Apply, Candidates, Processor};
use crate::SamplingParams;

pub const TOP_K: Processor = Processor {
    name: "top_k",
    about: "keeps the k likeliest tokens; 0 keeps all",
    wanted: |params| params.top_k > 0,
    check: |_, _| Ok(()),
    apply: Apply::Candidates(top_k),
};

fn top_k(candidates: &mut Candidates, params: &SamplingParams) {
    if params.top_k < candidates.list.len()
        && let Some(last) = best(params.top_k, candidates.list.iter().copied(), likelier).last()
    {
        candidates.list.retain(|c| c.logit >= last.logit);
    }
}
