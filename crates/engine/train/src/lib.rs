//! Training: optimizers, schedules, the loop, metrics, checkpoints, loaders.

mod balance;
pub mod batching;
pub mod conversation;
pub mod finetune;
pub mod loader;
mod memory;
pub mod metrics;
pub mod optim;
mod precision;
mod ranks;
pub mod schedule;
mod trainer;

pub use memory::{PROGRAM_BYTES, StepSize, begin_peak, peak_memory, training_bytes};
pub use precision::PrecisionSetting;
pub use trainer::{Objective, Part, TrainIo, TrainSettings, TrainSummary, train};
