//! The stage `align`: which of two answers is better, by direct preference optimization.

pub mod algorithm;
mod dataset;
pub mod gae;
pub mod loss;
mod losses;
mod pairs;
mod policies;
pub mod policy;
mod preference;
mod records;
mod reference;
pub mod reward_loss;
mod reward_model;
mod singles;
mod stage;
pub mod unpaired;

pub use records::{Preference, Verdict, read_preference, read_verdicts};
pub use stage::AlignStage;
