//! The parts that models are made of: parameters, linear layers, adapters, rotary positions, caches, the decoder.
//!
//! Shapes: `N` tokens (`B` rows of `T`), `D` the model's width, `H` heads of `dh`, `F` the feed-forward width, `V` the
//! vocabulary.

mod decoder;
mod linear;
mod lora;
mod param;
mod rng;
mod rope;

pub use decoder::{Batch, Decoder, DecoderSpec, KvCache, Role, Step, WeightSource};
pub use linear::{Linear, Weight, scale_name};
pub use lora::{Lora, LoraConfig};
pub use param::{Param, ParamMut};
pub use rng::Rng;
pub use rope::{RopeScaling, RopeSpec};
