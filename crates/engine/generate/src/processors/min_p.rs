//! Keeps the tokens that are at least a share as likely as the likeliest (Nguyen et al. 2024).

use super::{Apply, Candidates, Processor, range};
use crate::SamplingParams;

pub const MIN_P: Processor = Processor {
    name: "min_p",
    about: "removes tokens less likely than this share of the likeliest one's probability; 0 keeps all",
    wanted: |params| params.min_p > 0.0,
    check: |params, _| range("min_p", params.min_p, 0.0..=1.0),
    apply: Apply::Candidates(min_p),
};

fn min_p(candidates: &mut Candidates, params: &SamplingParams) {
    let max = f64::from(candidates.max());
    candidates.list.retain(|c| (f64::from(c.logit) - max).exp() >= f64::from(params.min_p));
}
