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
mod experts;
mod ffn;
mod host;
mod linear;
mod listed;
mod logic;
mod loss;
mod mask;
mod nf4;
mod norm;
mod quant;
mod recompute;
mod recurrent;
mod rope;
mod scan;
mod softmax;
#[cfg(test)]
mod tests;

pub use access::{from_vec, into_vec, read, scalar, to_vec, update};
pub use activation::{Activation, activation, gated};
pub use attention::{AttentionOptions, Heads, alibi_slopes, attention, attention_biased, attention_with};
pub use cache::{
    LayerCache, Span, StepBias, attention_cached, attention_cached_biased, attention_cached_listed, cached_rows,
};
pub use cupola_kernels::{ExpertOrder, RecurrentKind, Scores};
pub use cupola_kernels::{Precision, feed_forward_kept, feed_forward_rows, loss_packs, loss_rows};
pub use device::{NAMES as DEVICES, is_host, open};
pub use dropout::{Dropout, dropout};
pub use embedding::embedding;
pub use experts::router::{
    balance_loss, choose_experts, choose_in_groups, expert_weights, router_scores, router_z_loss,
};
pub use experts::{ExpertWeights, combine, experts_gated, grouped_linear, permute};
pub use ffn::{LinearTensors, feed_forward};
pub use host::erase as unranked;
pub use linear::{linear, linear_three};
pub use listed::{KeyLists, attention_listed};
pub use logic::{LOGIC_SPAN, LogicReading, beliefs_len, logic, logic_from};
pub use loss::{IGNORE, LossForm, linear_cross_entropy, linear_nll};
pub use mask::Mask;
pub use nf4::{Nf4Weight, linear_nf4};
pub use norm::{add_layer_norm, add_rms_norm, layer_norm, rms_norm};
pub use quant::{Int8Weight, linear_int8};
pub use recompute::{Part, recompute};
pub use recurrent::{RecurrentState, RecurrentWeights, recurrent};
pub use rope::{RopeAngles, rope};
pub use scan::conv::{causal_conv, causal_conv_from};
pub use scan::rglru::{GatedRecurrence, rg_lru};
pub use scan::selective::{Selective, selective_scan, selective_scan_from};
pub use scan::wkv::{wkv, wkv_from, wkv_start};
pub use softmax::softmax;
