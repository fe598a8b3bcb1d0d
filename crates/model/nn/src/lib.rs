//! The parts that models are made of: parameters, linear layers, adapters, rotary positions, caches, blocks, the decoder.
//!
//! Shapes: `N` tokens (`B` rows of `T`), `D` the model's width, `H` heads of `dh`, `F` the feed-forward width, `V` the
//! vocabulary.

mod attention;
mod batch;
mod block;
mod decoder;
mod embedding;
mod feed_forward;
mod layer;
mod layers;
mod linear;
mod lora;
mod module;
mod norm;
mod param;
mod rng;
mod rope;
mod source;
mod spec;
mod stack;
mod tensor_train;

pub use attention::AttentionSpec;
pub use batch::{Batch, Cache, Step};
pub use block::{BlockSpec, Layout};
pub use cupola_ops::Activation;
pub use decoder::{Decoder, Readout};
pub use embedding::{EmbeddingSpec, LearnedPositions};
pub use feed_forward::{FeedForwardSpec, FfnKind};
pub use layer::{Layer, LayerKind, LayerState, Pass, Reach};
pub use layers::LayerSpec;
pub use linear::{Linear, Weight, scale_name};
pub use lora::{Lora, LoraConfig};
pub use module::{Module, Piece};
pub use norm::{Norm, NormKind, NormSpec};
pub use param::{Param, ParamMut};
pub use rng::Rng;
pub use rope::{Angles, RopeScaling, RopeSpec};
pub use source::{Count, Init, Scope, Use, Want, WeightSource};
pub use spec::DecoderSpec;
pub use stack::{Hidden, Stack, StackSpec};
pub use tensor_train::{FactoredSpec, TensorTrain, TrainSpec};
