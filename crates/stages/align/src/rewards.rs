//! The kinds of rewards, a file each.

pub mod classifier;
pub mod exact_match;
pub mod length;
pub mod pattern;
pub mod reward_model;
