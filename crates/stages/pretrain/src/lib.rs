//! Pretraining: from documents and a tokenizer to a model.

mod config;
mod corruption;
mod denoising;
mod masked;
mod masking;
mod objective;
mod stage;
mod stream;

pub use config::{Derived, PretrainConfig};
pub use stage::PretrainStage;
