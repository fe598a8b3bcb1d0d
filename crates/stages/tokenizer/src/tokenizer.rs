//! The tokenizer every stage uses.

use std::sync::{Arc, OnceLock};

use cupola_artifact::{Context, Error, Result};
use rayon::prelude::*;
use serde_json::{Map, Value};
use tokenizers::PostProcessor;

use crate::byte_bpe::{ByteBpe, Special};
use crate::special::SpecialIds;
use crate::stream::StreamDecoder;
use crate::template::ChatTemplate;

/// A tokenizer with its special tokens and its chat template. Cheap to clone; can be used from many threads.
#[derive(Clone)]
pub struct Tokenizer(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    /// Takes the strings of special tokens as plain text.
    pub plain: tokenizers::Tokenizer,
    /// Turns the strings of special tokens into their ids.
    pub special: tokenizers::Tokenizer,
    /// Encodes as both, where the tokenizer is of the kind that it knows.
    pub byte_bpe: Option<ByteBpe>,
    /// As `special`, but drops the guard character; made when a message needs it.
    pub guarded: OnceLock<tokenizers::Tokenizer>,
    /// Puts the special tokens around a sequence.
    pub post: Option<tokenizers::PostProcessorWrapper>,
    /// The text of `tokenizer.json`, to be saved as it was read.
    pub json: Vec<u8>,
    /// The content of `tokenizer_config.json`.
    pub config: Map<String, Value>,
    pub ids: SpecialIds,
    pub template: Option<ChatTemplate>,
    /// Further chat templates by name, e.g. `tool_use`.
    pub named: Vec<(String, ChatTemplate)>,
    pub vocab_size: usize,
    pub byte_level: bool,
}

impl Tokenizer {
    /// Encodes plain text: adds no special tokens and recognises none, so nobody's text can contain one.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.ids_of(text, Special::Plain)
    }

    /// Appends the tokens of plain text, as [`encode`](Self::encode) gives them.
    pub fn encode_into(&self, text: &str, out: &mut Vec<u32>) -> Result<()> {
        match &self.0.byte_bpe {
            Some(byte_bpe) => byte_bpe.encode(text, Special::Plain, out)?,
            None => out.extend_from_slice(library(&self.0.plain, text)?.get_ids()),
        }
        Ok(())
    }

    /// Encodes text in which special tokens are written out, such as a rendered chat; adds none.
    pub fn encode_special(&self, text: &str) -> Result<Vec<u32>> {
        self.ids_of(text, Special::Found)
    }

    fn ids_of(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        match (&self.0.byte_bpe, special) {
            (Some(byte_bpe), _) => byte_bpe.encode(text, special, &mut ids)?,
            (None, Special::Plain) => ids.extend_from_slice(library(&self.0.plain, text)?.get_ids()),
            (None, Special::Found) => ids.extend_from_slice(library(&self.0.special, text)?.get_ids()),
        }
        Ok(ids)
    }

    /// Encodes a text as the tokenizer itself frames it, `[CLS] text [SEP]` in BERT, its special tokens where they are
    /// written out; cut to `most` tokens where that is given.
    pub fn encode_framed(&self, text: &str, most: Option<usize>) -> Result<Vec<u32>> {
        let failed = || "cannot encode a text".to_owned();
        let mut encoding = self.0.special.encode_fast(text, false).context(failed)?;
        if let Some(most) = most {
            let around = self.0.post.as_ref().map_or(0, |frame| frame.added_tokens(false));
            encoding.truncate(most.saturating_sub(around), 0, tokenizers::TruncationDirection::Right);
        }
        let framed = match &self.0.post {
            Some(frame) => frame.process(encoding, None, true).context(failed)?,
            None => encoding,
        };
        Ok(framed.get_ids().to_vec())
    }

    /// Encodes many plain texts on all cores.
    pub fn encode_batch(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        texts.par_iter().map(|text| self.encode(text)).collect()
    }

    /// The text of `ids`, without special tokens. Bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.decode_with(ids, true)
    }

    /// The text of `ids`, special tokens written out.
    pub fn decode_special(&self, ids: &[u32]) -> Result<String> {
        self.decode_with(ids, false)
    }

    fn decode_with(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.0.special.decode(ids, skip_special).context(|| "cannot decode token ids".to_owned())
    }

    /// One more than the largest id: the rows a model's embedding needs at least.
    pub fn vocab_size(&self) -> usize {
        self.0.vocab_size
    }

    /// SHA-256 of its `tokenizer.json`, as shards name it.
    pub fn sha256(&self) -> String {
        cupola_artifact::sha256_hex(&self.0.json)
    }

    /// The id of a token, given as the vocabulary writes it.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.special.token_to_id(token)
    }

    /// The token of an id, as the vocabulary writes it.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.0.special.id_to_token(id)
    }

    /// The token that begins a document, if there is one.
    pub fn bos(&self) -> Option<u32> {
        self.0.ids.bos
    }

    /// The token that ends a document, if there is one.
    pub fn eos(&self) -> Option<u32> {
        self.0.ids.eos
    }

    /// The token that fills up a batch, if there is one.
    pub fn pad(&self) -> Option<u32> {
        self.0.ids.pad
    }

    /// The token that begins a sequence of an encoder, if there is one: its place stands for the whole text.
    pub fn cls(&self) -> Option<u32> {
        self.0.ids.cls
    }

    /// The token behind each text of an encoder, if there is one.
    pub fn sep(&self) -> Option<u32> {
        self.0.ids.sep
    }

    /// The token that stands for a hidden one in masked language modelling, if there is one.
    pub fn mask(&self) -> Option<u32> {
        self.0.ids.mask
    }

    /// The token for what the vocabulary cannot express, if there is one.
    pub fn unk(&self) -> Option<u32> {
        self.0.ids.unk
    }

    /// The tokens that stand for hidden spans, `<extra_id_0>` first, as T5's objective numbers them.
    pub fn sentinels(&self) -> &[u32] {
        &self.0.ids.sentinels
    }

    /// Whether an id is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        let token = self.0.special.id_to_token(id);
        token.is_some_and(|token| self.0.special.get_added_vocabulary().is_special_token(&token))
    }

    /// The tokens that end a generation: the end of a document and the end of a turn.
    pub fn stop_ids(&self) -> &[u32] {
        &self.0.ids.stop
    }

    /// The Jinja source of the chat template, if there is one.
    pub fn chat_template(&self) -> Option<&str> {
        self.0.template.as_ref().map(ChatTemplate::source)
    }

    /// Decodes token by token.
    pub fn stream(&self) -> StreamDecoder {
        StreamDecoder::new(self.clone())
    }

    /// How many bytes of UTF-8 one token stands for on these texts.
    pub fn bytes_per_token(&self, texts: &[&str]) -> Result<f64> {
        let tokens: usize = texts.par_iter().map(|t| Ok(self.encode(t)?.len())).sum::<Result<usize>>()?;
        let bytes: usize = texts.iter().map(|t| t.len()).sum();
        if tokens == 0 {
            return Err(Error::failed("bytes per token cannot be measured: the texts are empty"));
        }
        Ok(bytes as f64 / tokens as f64)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.0.vocab_size).field("special", &self.0.ids).finish()
    }
}

fn library(tokenizer: &tokenizers::Tokenizer, text: &str) -> Result<tokenizers::Encoding> {
    tokenizer.encode_fast(text, false).context(|| "cannot encode a text".to_owned())
}
