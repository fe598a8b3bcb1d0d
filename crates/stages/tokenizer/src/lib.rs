//! Tokenizers: training, loading, saving, encoding and decoding, chat templates; and the stage that makes one.
//!
//! A tokenizer is a folder in Hugging Face's layout: `tokenizer.json`, `tokenizer_config.json`,
//! `special_tokens_map.json`.

mod byte_bpe;
mod charsmap;
mod chat;
mod files;
mod gguf;
mod layouts;
pub mod pack;
mod pycompat;
mod sequence;
mod special;
mod stage;
mod stream;
mod template;
mod tokenizer;
mod train;
mod validate;

pub use chat::Message;
pub use sequence::{EncodedSequence, SequenceOptions};
pub use stage::TokenizerStage;
pub use stream::StreamDecoder;
pub use template::{ChatTemplate, RenderOptions};
pub use tokenizer::Tokenizer;
pub use train::{
    SpecialTokens, TokenizerKind, TrainConfig, UnigramTokens, WordPieceTokens, default_chat_template, train,
};
