//! The tasks.

pub mod exact_match;
pub mod multiple_choice;
pub mod perplexity;
pub mod preference;
