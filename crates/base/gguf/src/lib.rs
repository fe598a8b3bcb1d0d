//! GGUF: files that hold a model whole, as llama.cpp reads them: metadata, tokenizer, tensors in block formats.

mod formats;
pub mod models;
mod read;
mod split;
mod tokenizer;
mod value;
mod write;

pub use formats::{FORMATS, Format, format_by_name};
pub use read::{Gguf, TensorInfo};
pub use tokenizer::{SpecialIds, TokenizerFiles, set_tokenizer, tokenizer_files};
pub use value::{Array, Metadata, Value};
pub use write::{Planned, write_gguf};

/// What files begin with.
const MAGIC: [u8; 4] = *b"GGUF";
/// The version that is written.
const VERSION: u32 = 3;
/// The key of the alignment of tensors, and what holds without it.
const ALIGNMENT_KEY: &str = "general.alignment";
const ALIGNMENT: u64 = 32;
/// The most dimensions a tensor has.
const MAX_DIMS: usize = 4;
