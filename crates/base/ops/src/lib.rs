//! The kernels as differentiable tensor operations with their own backward passes; on other devices the same
//! operations from the tensor library's parts.
//!
//! Activations are `[N, D]` throughout: the rows of all sequences of a batch, one after another.

mod access;
mod activation;
mod attention;
mod cache;
mod device;
mod dropout;
mod embedding;
mod host;
mod linear;
mod loss;
mod norm;
mod quant;
mod rope;
mod softmax;
#[cfg(test)]
mod tests;

pub use access::{from_vec, into_vec, read, scalar, to_vec, update};
pub use activation::{Activation, activation, gated};
pub use attention::{Heads, Mask, attention};
pub use cache::{LayerCache, Span, attention_cached};
pub use device::{NAMES as DEVICES, is_host, open};
pub use dropout::{Dropout, dropout};
pub use embedding::embedding;
pub use linear::linear;
pub use loss::{IGNORE, LossForm, linear_cross_entropy, linear_nll};
pub use norm::{add_layer_norm, add_rms_norm, layer_norm, rms_norm};
pub use quant::{Int8Weight, linear_int8};
pub use rope::{RopeAngles, rope};
pub use softmax::softmax;
