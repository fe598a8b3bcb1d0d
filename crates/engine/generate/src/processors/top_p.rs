//! Keeps the smallest set of likeliest tokens whose share reaches a bound: nucleus sampling (Holtzman et al. 2020).

use super::candidates::{likelier, reaching};
use super::{Apply, Candidates, Processor, range};
use crate::SamplingParams;

pub const TOP_P: Processor = Processor {
    name: "top_p",
    about: "keeps the likeliest tokens whose probabilities add up to this; 1 keeps all",
    wanted: |params| params.top_p < 1.0,
    check: |params, _| range("top_p", params.top_p, 0.0..=1.0),
    apply: Apply::Candidates(top_p),
};

fn top_p(candidates: &mut Candidates, params: &SamplingParams) {
    let probabilities = candidates.log_probabilities().map(f64::exp);
    let mut weighed: Vec<_> = candidates.list.iter().copied().zip(probabilities).collect();
    let Some((last, _)) = reaching(f64::from(params.top_p), &mut weighed, likelier) else { return };
    candidates.list.retain(|c| likelier(c, &last).is_le());
}
