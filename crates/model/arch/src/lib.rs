//! Families of models: one file each with its configuration and its weight names, and model directories.

mod adapters;
mod albert;
mod bart;
mod bert;
mod block_sparse;
mod block_sparse_encoder;
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
mod graph;
mod jamba;
mod led;
mod likeness;
mod llama;
mod logic;
mod longformer;
mod mamba;
mod mamba2;
mod mistral;
mod mixtral;
mod mixture;
mod model;
mod modernbert;
mod mps;
mod mt5;
mod names;
mod network;
mod opt;
mod parts;
mod pegasus;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod rearrange;
mod recurrent;
mod recurrent_gemma;
mod rnn;
mod roberta;
mod rwkv;
mod seq2seq;
mod source;
mod switch;
mod t5;
mod tasks;
mod zamba2;

pub use adapters::{Adapted, Adapter, adapter_parameters, combine_adapters, mergeable, save_adapter, virtual_tokens};
pub use config::ConfigJson;
pub use family::{Damage, ExpertSizes, Family, Form, Sizes};
pub use fused::Fused;
pub use model::{Model, family};
pub use names::{NameTable, Names};
pub use network::{Network, Spec};
pub use parts::{Parts, is_gguf};
pub use rearrange::Rearrangement;
pub use tasks::{NewHead, Problem};

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
    &mamba::Mamba,
    &mamba2::Mamba2,
    &rwkv::Rwkv,
    &recurrent_gemma::RecurrentGemma,
    &rnn::ELMAN,
    &rnn::LSTM,
    &rnn::GRU,
    &zamba2::Zamba2,
    &jamba::Jamba,
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
    &mps::Mps,
    &block_sparse::BlockSparse,
    &block_sparse_encoder::BlockSparseEncoder,
    &graph::Graph,
    &logic::Logic,
];
