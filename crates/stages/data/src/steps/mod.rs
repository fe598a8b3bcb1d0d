//! All steps. A new one is a file here and a line in [`ALL`].

mod boilerplate_lines;
mod chinese;
mod classifier;
mod cut;
mod decontaminate;
mod dedup;
mod extract;
mod filters;
mod kind;
mod language;
mod lists;
mod media;
mod normalize;
mod perplexity;
mod privacy;
mod synthesize;
mod word_hashes;
mod words;

use crate::step::Kind;

pub use classifier::{Model as LinearClassifier, Training as ClassifierTraining};
pub use decontaminate::{HITS, hit_items};
pub use perplexity::{Model as NgramModel, Perplexity};
pub use privacy::kinds as privacy_kinds;

/// All steps, by the names that a recipe uses.
pub const ALL: &[Kind] = &[
    media::MEDIA,
    extract::EXTRACT,
    boilerplate_lines::BOILERPLATE_LINES,
    normalize::NORMALIZE,
    language::LANGUAGE,
    kind::KIND,
    chinese::CHINESE,
    privacy::PRIVACY,
    filters::gopher_repetition::GOPHER_REPETITION,
    filters::gopher_quality::GOPHER_QUALITY,
    filters::c4::C4_PAGES,
    filters::fineweb::FINEWEB,
    dedup::url::URL_DUPLICATES,
    classifier::CLASSIFIER,
    perplexity::PERPLEXITY,
    lists::word_list::WORD_LIST,
    lists::c4_bad_words::C4_BAD_WORDS,
    lists::url_filter::URL_FILTER,
    dedup::exact::EXACT_DUPLICATES,
    dedup::near::NEAR_DUPLICATES,
    dedup::lines::LINE_DUPLICATES,
    dedup::lines::PARAGRAPH_DUPLICATES,
    dedup::substring::SUBSTRING_DUPLICATES,
    dedup::semantic::SEMANTIC_DUPLICATES,
    decontaminate::DECONTAMINATE,
    synthesize::SYNTHESIZE,
];
