//! Families of models: one file each with its configuration and its weight names, and model directories.

mod adapter;
mod family;
mod fused;
mod gpt2;
mod llama;
mod model;
mod source;

pub use adapter::{apply as apply_adapter, save_adapter};
pub use family::{ConfigJson, Family, Form};
pub use fused::Fused;
pub use model::{Model, family};

/// Every family.
pub const ALL: &[&dyn Family] = &[&llama::Llama, &gpt2::Gpt2];
