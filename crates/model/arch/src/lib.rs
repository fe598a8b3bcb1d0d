//! Families of models: one file each with its configuration and its weight names, and model directories.

mod adapter;
mod config;
mod family;
mod fused;
mod gpt2;
mod likeness;
mod llama;
mod mamba;
mod model;
mod names;
mod network;
mod rearrange;
mod source;

pub use adapter::{apply as apply_adapter, save_adapter};
pub use config::ConfigJson;
pub use family::{Family, Form, Sizes};
pub use fused::Fused;
pub use model::{Model, family};
pub use names::{NameTable, Names};
pub use network::{Network, Spec};
pub use rearrange::Rearrangement;

/// Every family.
pub const ALL: &[&dyn Family] = &[&llama::Llama, &gpt2::Gpt2, &mamba::Mamba];
