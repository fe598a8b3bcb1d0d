//! Families of models: one file each with its configuration and its weight names, and model directories.

mod adapter;
mod albert;
mod bart;
mod bert;
mod bloom;
mod config;
mod deepseek_v3;
mod distilbert;
mod electra;
mod falcon;
mod family;
mod fused;
mod gemma2;
mod gemma3;
mod gpt2;
mod gpt_neox;
mod led;
mod likeness;
mod llama;
mod longformer;
mod mistral;
mod mixtral;
mod mixture;
mod model;
mod modernbert;
mod mt5;
mod names;
mod network;
mod opt;
mod pegasus;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod rearrange;
mod roberta;
mod seq2seq;
mod source;
mod switch;
mod t5;
mod tasks;

pub use adapter::{apply as apply_adapter, save_adapter};
pub use config::ConfigJson;
pub use family::{Damage, ExpertSizes, Family, Form, Sizes};
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
    &mixtral::Mixtral,
    &qwen3_moe::Qwen3Moe,
    &deepseek_v3::DeepseekV3,
    &bert::Bert,
    &roberta::ROBERTA,
    &roberta::XLM_ROBERTA,
    &albert::Albert,
    &distilbert::DistilBert,
    &electra::Electra,
    &modernbert::ModernBert,
    &longformer::Longformer,
    &t5::T5,
    &mt5::Mt5,
    &switch::SwitchTransformers,
    &bart::Bart,
    &led::Led,
    &pegasus::Pegasus,
];
