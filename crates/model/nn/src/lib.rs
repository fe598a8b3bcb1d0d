//! The parts that models are made of: parameters, linear layers, adapters, rotary positions, caches, blocks, the decoder.
//!
//! Shapes: `N` tokens (`B` rows of `T`), `D` the model's width, `H` heads of `dh`, `F` the feed-forward width, `V` the
//! vocabulary.

mod attention;
mod batch;
mod block;
mod cell;
mod conv;
mod decoder;
mod embedding;
mod encoder;
mod feed_forward;
mod global_attention;
mod griffin;
mod heads;
mod hybrid;
mod layer;
mod layers;
mod linear;
mod lora;
mod mamba;
mod mamba2;
mod module;
mod norm;
mod param;
mod rng;
mod rope;
mod rwkv;
mod sequences;
mod source;
mod spec;
mod spread;
mod stack;

pub use attention::AttentionSpec;
pub use batch::{Batch, Cache, Step};
pub use block::{BlockSpec, Layout};
pub use cell::CellSpec;
pub use cupola_ops::Activation;
pub use decoder::Decoder;
pub use embedding::{EmbeddingSpec, LearnedPositions};
pub use encoder::{Encoder, EncoderSpec, Shared};
pub use feed_forward::{FeedForwardSpec, FfnKind};
pub use global_attention::GlobalAttentionSpec;
pub use griffin::GriffinSpec;
pub use heads::{DenseSpec, Head, HeadSpec, Output, Pool, Squash, Targets, Task};
pub use hybrid::{HybridSpec, SharedBlockSpec};
pub use layer::{Layer, LayerKind, LayerState, Pass, Reach};
pub use layers::LayerSpec;
pub use linear::{Linear, Weight, scale_name};
pub use lora::{Lora, LoraConfig};
pub use mamba::MambaSpec;
pub use mamba2::Mamba2Spec;
pub use module::{Module, Piece};
pub use norm::{Norm, NormKind, NormSpec};
pub use param::{Param, ParamMut};
pub use rng::Rng;
pub use rope::{Angles, RopeScaling, RopeSpec};
pub use rwkv::{ChannelMixSpec, TimeMixSpec};
pub use source::{Count, Init, Scope, Use, Want, WeightSource};
pub use spec::DecoderSpec;
pub use stack::{Hidden, Stack, StackSpec};
