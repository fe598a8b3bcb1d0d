//! The kinds of rewards, a file each.

pub mod classifier;
pub mod code;
pub mod exact_match;
pub mod judge;
pub mod length;
pub mod pattern;
pub mod reward_model;
