//! The parts that models are made of: parameters, linear layers, adapters, rotary positions, caches, blocks, the decoder.
//!
//! Shapes: `N` tokens (`B` rows of `T`), `D` the model's width, `H` heads of `dh`, `F` the feed-forward width, `V` the
//! vocabulary.

mod attention;
mod batch;
mod block;
mod cross_attention;
mod decoder;
mod embedding;
mod encoder;
mod encoder_decoder;
mod experts;
mod feed_forward;
mod global_attention;
mod heads;
mod latent_attention;
mod layer;
mod layers;
mod linear;
mod lora;
mod module;
mod norm;
mod pairs;
mod param;
mod relative;
mod rng;
mod rope;
mod router;
mod source;
mod spec;
mod stack;
mod switch;

pub use attention::AttentionSpec;
pub use batch::{Batch, Cache, Step};
pub use block::{BlockSpec, Layout};
pub use cross_attention::{CrossAttentionSpec, Memory};
pub use cupola_ops::{Activation, Scores};
pub use decoder::Decoder;
pub use embedding::{EmbeddingSpec, LearnedPositions};
pub use encoder::{Encoder, EncoderSpec, Shared};
pub use encoder_decoder::{EncoderDecoder, EncoderDecoderSpec, HiddenStates};
pub use experts::ExpertsSpec;
pub use feed_forward::{FeedForwardSpec, FfnKind};
pub use global_attention::GlobalAttentionSpec;
pub use heads::{DenseSpec, Head, HeadSpec, Output, Pool, Squash, Targets, Task, cross_entropy, pooled};
pub use latent_attention::LatentAttentionSpec;
pub use layer::{Layer, LayerKind, LayerState, Pass, Reach};
pub use layers::LayerSpec;
pub use linear::{Linear, Weight, scale_name};
pub use lora::{Lora, LoraConfig};
pub use module::{Module, Piece};
pub use norm::{Norm, NormKind, NormSpec};
pub use pairs::{Pairs, shifted};
pub use param::{Param, ParamMut};
pub use relative::RelativeSpec;
pub use rng::Rng;
pub use rope::{Angles, RopeScaling, RopeSpec};
pub use router::{Router, RouterSpec, Routing, balance_loss};
pub use source::{Count, Init, Scope, Use, Want, WeightSource};
pub use spec::DecoderSpec;
pub use stack::{Hidden, Stack, StackSpec};
pub use switch::{SwitchSpec, row_balance};
