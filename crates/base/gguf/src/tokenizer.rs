//! Tokenizers: Hugging Face's `tokenizer.json` as metadata under `tokenizer.ggml`, and back.
//!
//! | `tokenizer.ggml.model` | what it is in `tokenizer.json` |
//! |---|---|
//! | `gpt2` | BPE on bytes; `tokenizer.ggml.pre` names how words are split off |
//! | `llama` | BPE on characters, blanks written as U+2581, unknown characters as bytes; scores stand for the order of merges |
//! | `t5` | Unigram |
//! | `bert` | WordPiece |

mod pieces;
mod read;
mod split;
mod write;

pub use read::{TokenizerFiles, tokenizer_files};
pub use write::set_tokenizer;

/// How metadata is called.
mod key {
    pub const MODEL: &str = "tokenizer.ggml.model";
    pub const PRE: &str = "tokenizer.ggml.pre";
    pub const TOKENS: &str = "tokenizer.ggml.tokens";
    pub const TYPES: &str = "tokenizer.ggml.token_type";
    pub const SCORES: &str = "tokenizer.ggml.scores";
    pub const MERGES: &str = "tokenizer.ggml.merges";
    pub const BOS: &str = "tokenizer.ggml.bos_token_id";
    pub const EOS: &str = "tokenizer.ggml.eos_token_id";
    pub const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
    /// The format spells it so.
    pub const SEPARATOR: &str = "tokenizer.ggml.seperator_token_id";
    pub const CLS: &str = "tokenizer.ggml.cls_token_id";
    pub const MASK: &str = "tokenizer.ggml.mask_token_id";
    pub const PAD: &str = "tokenizer.ggml.padding_token_id";
    pub const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
    pub const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
    pub const ADD_SPACE: &str = "tokenizer.ggml.add_space_prefix";
    pub const MERGE_SPACES: &str = "tokenizer.ggml.remove_extra_whitespaces";
    pub const CHARSMAP: &str = "tokenizer.ggml.precompiled_charsmap";
    pub const LOWERCASE: &str = "tokenizer.ggml.normalizer.lowercase";
    pub const STRIP_ACCENTS: &str = "tokenizer.ggml.normalizer.strip_accents";
    pub const TYPE_COUNT: &str = "tokenizer.ggml.token_type_count";
    pub const TEMPLATE: &str = "tokenizer.chat_template";
}

/// What a token is, as `token_type` numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal = 1,
    Unknown = 2,
    /// Special: hidden in text.
    Control = 3,
    /// Added, but shown in text.
    UserDefined = 4,
    /// A row of the embedding without a token.
    Unused = 5,
    /// A byte, written `<0xXX>`.
    Byte = 6,
}

impl Kind {
    fn from_number(number: i64) -> Self {
        match number {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }
}

/// The ids that begin, end and fill up, where `tokenizer.json` does not say them itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begins a document.
    pub bos: Option<u32>,
    /// Ends a document.
    pub eos: Option<u32>,
    /// Fills up a batch.
    pub pad: Option<u32>,
}

/// The mark for a blank.
const BLANK: &str = "\u{2581}";

/// The name of a row of the embedding without a token.
fn unused_name(id: usize) -> String {
    format!("[PAD{id}]")
}

/// Whether a token is a byte, written `<0xXX>`.
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|d| d.len() == 2 && u8::from_str_radix(d, 16).is_ok())
}
