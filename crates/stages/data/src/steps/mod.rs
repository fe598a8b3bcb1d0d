//! All steps. A new one is a file here and a line in [`ALL`].

mod dedup;
mod filters;
mod normalize;
mod synthesize;

use crate::step::Kind;

/// All steps, by the names that a recipe uses.
pub const ALL: &[Kind] = &[
    normalize::NORMALIZE,
    filters::gopher_repetition::GOPHER_REPETITION,
    filters::gopher_quality::GOPHER_QUALITY,
    filters::c4::C4_PAGES,
    filters::fineweb::FINEWEB,
    dedup::exact::EXACT_DUPLICATES,
    dedup::near::NEAR_DUPLICATES,
    synthesize::SYNTHESIZE,
];
