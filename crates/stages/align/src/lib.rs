//! The stage `align`: which of two answers is better, by direct preference optimization.

pub mod algorithm;
mod dataset;
pub mod doctor;
pub mod gae;
pub mod loss;
mod losses;
pub mod online;
mod pairs;
mod policies;
pub mod policy;
mod preference;
mod records;
mod reference;
pub mod reward;
pub mod reward_loss;
mod reward_model;
mod rewards;
mod singles;
mod stage;
pub mod unpaired;

pub use records::{Preference, Verdict, read_preference, read_verdicts};
pub use stage::AlignStage;
