//! Keeps the likeliest tokens whose share of the entropy stays below a bound (Potraghloo et al. 2025), counted within the
//! 100 likeliest as transformers does.

use super::candidates::{best, likelier};
use super::{Apply, Candidates, Processor, range_above};
use crate::SamplingParams;

/// How many tokens are looked at.
const LOOKED_AT: usize = 100;

pub const TOP_H: Processor = Processor {
    name: "top_h",
    about: "keeps the likeliest tokens that hold this share of the entropy of the 100 likeliest; 1 keeps all",
    wanted: |params| params.top_h < 1.0,
    check: |params, _| range_above("top_h", params.top_h, 0.0..=1.0),
    apply: Apply::Candidates(top_h),
};

fn top_h(candidates: &mut Candidates, params: &SamplingParams) {
    let likeliest = best(LOOKED_AT, candidates.list.iter().copied(), likelier);
    let likeliest = Candidates { list: likeliest };
    let terms: Vec<f64> = likeliest.log_probabilities().map(|log| -log * log.exp()).collect();
    let bound = terms.iter().sum::<f64>() * f64::from(params.top_h);
    let mut sum = 0.0;
    let fits = terms.iter().take_while(|term| {
        sum += **term;
        sum <= bound
    });
    let last = likeliest.list.get(fits.count().saturating_sub(1)).copied();
    candidates.list.retain(|c| last.is_some_and(|last| likelier(c, &last).is_le()));
}
