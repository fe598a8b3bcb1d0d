//! Documents as token shards, and shards as sequences to train on.
//!
//! A folder of shards holds pairs of files `tokens-00000.bin` and `.idx`, and `shards.json`, which names them with their
//! checksums. The `.bin` are the documents' tokens one after another, 16 bits each where the vocabulary allows, else 32, so
//! nanoGPT's loaders read them; the `.idx` say where each document is, in the form that Megatron-LM's `MMapIndexedDataset`
//! (version 1) reads ([`format`](mod@format)). Nothing is ever loaded as a whole: a document is read where it lies.
//!
//! [`write_shards`] makes the folder, [`Shards`] reads it. [`Sequences`] arranges documents in rows of a length, packed or
//! in buckets, and [`Shuffle`] gives them an order.

mod export;
mod fim;
mod format;
mod reader;
mod rows;
mod sequences;
mod shuffle;
mod stage;
mod writer;

pub use export::{export_llm_c, export_nanogpt};
pub use fim::{Fim, FimOrder};
pub use format::Width;
pub use reader::{ShardInfo, Shards, ShardsInfo};
pub use rows::{Arrange, Layout, Long, arrange};
pub use sequences::{Row, Sequences};
pub use shuffle::{Permutation, Shuffle};
pub use stage::{PackStage, ROWS_FILE};
pub use writer::{Boundary, PackConfig, write_shards};

/// Mixes a number well (splitmix64).
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}
