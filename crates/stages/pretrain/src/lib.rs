//! Pretraining: from documents and a tokenizer to a model.

mod config;
mod corpus;
mod corruption;
mod denoising;
mod masked;
mod masking;
mod mixture;
mod objective;
mod rows;
mod shards;
mod stage;
mod stream;

pub use config::{Derived, PretrainConfig};
pub use stage::PretrainStage;
