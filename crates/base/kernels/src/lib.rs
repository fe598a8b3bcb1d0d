//! The CPU's hot loops on plain `f32` slices: matrix products, attention, norms, losses, optimizers.
//!
//! Every operation has a plain sibling in [`mod@reference`] that it is tested against. The fast version is chosen at
//! run time ([`simd_name`]). Results are bit-identical from run to run and for every number of threads: the order of
//! each sum depends on shapes alone. Matrices are row-major; a wrong length panics with both sides named.

mod activation;
mod attention;
mod column_sums;
mod dropout;
mod embedding;
mod experts;
mod ffn;
mod gemm;
mod linear;
mod listed;
mod logic;
mod loss;
mod map;
mod memory;
mod min_hash;
mod nf4;
mod norm;
mod optim;
mod peak;
mod quant;
mod recurrent;
pub mod reference;
mod rope;
mod scan;
mod scratch;
mod simd;
mod softmax;

pub use activation::{Activation, activation_backward, activation_forward, gated_backward, gated_forward};
pub use attention::{AttentionGrads, AttentionSaved, AttentionShape, Spans, attention_backward, attention_forward};
pub use column_sums::column_sums;
pub use dropout::{Dropout, dropout, philox};
pub use embedding::{embedding_backward, embedding_forward};
pub use experts::{
    Balance, CombineSaved, ExpertOrder, Scores, expert_combine, expert_combine_backward, expert_gather,
    expert_gather_backward, grouped_input_grad, grouped_matmul, grouped_weight_grad, pick_backward, pick_forward,
    rank_in_groups, router_scores, router_scores_backward, router_z_backward, router_z_loss, top_k,
};
pub use ffn::{
    Affine, AffineGrads, FeedForward, FeedForwardGrads, FeedForwardKept, FeedForwardWants, feed_forward,
    feed_forward_backward, feed_forward_kept, feed_forward_rows,
};
pub use gemm::{Each, How, Mat, PackedB, Precision, matmul, matmul_each, matmul_packed, matmul_sum, matmul_with};
pub use linear::{linear_each, linear_each_input_grad, linear_each_weight_grads};
pub use listed::{
    KeyLists, ListedGrads, ListedSaved, ListedShape, listed_attention_backward, listed_attention_forward,
};
pub use logic::{LOGIC_SPAN, LogicGrads, LogicScan, logic_backward, logic_forward};
pub use loss::{
    IGNORE, LinearLoss, LossForm, linear_cross_entropy, linear_nll_backward, linear_nll_forward, loss_packs, loss_rows,
};
pub use memory::{Allocator, give_back_memory, keep_freed_memory, room};
pub use min_hash::min_hash;
pub use nf4::{NF4, NF4_BLOCK, NF4_NESTED, Nf4, Nf4Parts, dequantize_nf4, nf4_scale_codes, quantize_nf4};
pub use norm::{Norm, NormGrads, NormSaved, NormStats, add_norm_forward, norm_backward, norm_forward};
pub use optim::{
    Adafactor, AdamW, Lion, MUON_COEFFICIENTS, MUON_EPS, MUON_STEPS, Moment, Muon, Sgd, adafactor_matrix,
    adafactor_vector, adamw, add_with_squares, lion, muon, sgd, sum_of_squares,
};
pub use peak::{measure_bandwidth, measure_peak_flops, measure_peak_in, simd_name, threads};
pub use quant::{Q8, dequantize_q8, matmul_q8, quantize_q8};
pub use recurrent::{
    Recurrence, RecurrentGrads, RecurrentKind, RecurrentStates, recurrent_backward, recurrent_forward,
};
pub use rope::{Rope, RopeTable, rope, rope_into};
pub use scan::conv::{CausalConv, ConvGrads, causal_conv_backward, causal_conv_forward};
pub use scan::rglru::{RgLru, RgLruGrads, rg_lru_backward, rg_lru_forward};
pub use scan::selective::{SelectiveGrads, SelectiveScan, selective_scan_backward, selective_scan_forward};
pub use scan::wkv::{Wkv, WkvGrads, wkv_backward, wkv_forward};
pub use simd::{Level, available_levels, with_level};
pub use softmax::{log_softmax_rows, softmax_rows, softmax_rows_backward};
