//! Families of models: one file each with its configuration and its weight names, and model directories.

mod adapter;
mod bloom;
mod config;
mod falcon;
mod family;
mod fused;
mod gemma2;
mod gemma3;
mod gpt2;
mod gpt_neox;
mod likeness;
mod llama;
mod mistral;
mod model;
mod mps;
mod names;
mod network;
mod opt;
mod phi3;
mod qwen2;
mod qwen3;
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
pub const ALL: &[&dyn Family] = &[
    &llama::Llama,
    &gpt2::Gpt2,
    &mistral::Mistral,
    &qwen2::Qwen2,
    &qwen3::Qwen3,
    &phi3::Phi3,
    &gemma2::Gemma2,
    &gemma3::Gemma3,
    &gpt_neox::GptNeox,
    &opt::Opt,
    &bloom::Bloom,
    &falcon::Falcon,
    &mps::Mps,
];
