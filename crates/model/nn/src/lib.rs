//! The parts that models are made of: parameters, linear layers, adapters, rotary positions, caches, the decoder.
//!
//! Shapes: `N` tokens (`B` rows of `T`), `D` the model's width, `H` heads of `dh`, `F` the feed-forward width, `V` the
//! vocabulary.

mod block;
mod decoder;
mod linear;
mod lora;
mod norm;
mod param;
mod rng;
mod rope;
mod spec;

pub use cupola_ops::Activation;
pub use decoder::{Batch, Decoder, KvCache, Step};
pub use linear::{Linear, Weight, scale_name};
pub use lora::{Lora, LoraConfig};
pub use norm::{Norm, NormKind};
pub use param::{Param, ParamMut};
pub use rng::Rng;
pub use rope::{RopeScaling, RopeSpec};
pub use spec::{DecoderSpec, FfnKind, Positions, Role, WeightSource};
