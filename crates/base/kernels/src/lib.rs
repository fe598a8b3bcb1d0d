//! The CPU's hot loops on plain `f32` slices: matrix products, attention, norms, losses, optimizers.
//!
//! Every operation has a plain sibling in [`mod@reference`] that it is tested against. The fast version is chosen at
//! run time ([`simd_name`]). Results are bit-identical from run to run and for every number of threads: the order of
//! each sum depends on shapes alone. Matrices are row-major; a wrong length panics with both sides named.

mod activation;
mod attention;
mod dropout;
mod embedding;
mod gemm;
mod loss;
mod map;
mod norm;
mod optim;
mod peak;
mod quant;
pub mod reference;
mod rope;
mod scratch;
mod simd;
mod softmax;

pub use activation::{Activation, activation_backward, activation_forward, gated_backward, gated_forward};
pub use attention::{AttentionGrads, AttentionSaved, AttentionShape, Spans, attention_backward, attention_forward};
pub use dropout::{Dropout, dropout, philox};
pub use embedding::{embedding_backward, embedding_forward};
pub use gemm::{Mat, matmul};
pub use loss::{IGNORE, LinearLoss, LossForm, linear_cross_entropy, linear_nll_backward, linear_nll_forward};
pub use norm::{Norm, NormGrads, NormSaved, NormStats, add_norm_forward, norm_backward, norm_forward};
pub use optim::{AdamW, adamw, sum_of_squares};
pub use peak::{measure_bandwidth, measure_peak_flops, simd_name, threads};
pub use quant::{Q8, dequantize_q8, matmul_q8, quantize_q8};
pub use rope::{RopeTable, rope};
pub use simd::{Level, available_levels, with_level};
pub use softmax::{log_softmax_rows, softmax_rows, softmax_rows_backward};
