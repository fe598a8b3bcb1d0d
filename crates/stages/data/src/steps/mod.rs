//! All steps. A new one is a file here and a line in [`ALL`].

mod classifier;
mod dedup;
mod filters;
mod lists;
mod normalize;
mod perplexity;
mod words;

use crate::step::Kind;

pub use classifier::{Model as LinearClassifier, Training as ClassifierTraining};
pub use perplexity::{Model as NgramModel, Perplexity};

/// All steps, by the names that a recipe uses.
pub const ALL: &[Kind] = &[
    normalize::NORMALIZE,
    filters::gopher_repetition::GOPHER_REPETITION,
    filters::gopher_quality::GOPHER_QUALITY,
    filters::c4::C4_PAGES,
    filters::fineweb::FINEWEB,
    classifier::CLASSIFIER,
    perplexity::PERPLEXITY,
    lists::word_list::WORD_LIST,
    lists::c4_bad_words::C4_BAD_WORDS,
    lists::url_filter::URL_FILTER,
    dedup::exact::EXACT_DUPLICATES,
    dedup::near::NEAR_DUPLICATES,
];
