//! A text, or a pair of texts, as a model takes it: with the special tokens around it, cut and filled up.

use cupola_artifact::{Context, Error, Result};
use tokenizers::utils::padding::PaddingDirection;
use tokenizers::utils::truncation::{TruncationParams, truncate_encodings};
use tokenizers::{Encoding, PostProcessor, PostProcessorWrapper};

use crate::tokenizer::Tokenizer;

/// How [`Tokenizer::encode_sequence`] makes a sequence.
#[derive(Clone, Debug, Default)]
pub struct SequenceOptions {
    /// Cuts the texts so that the whole is no longer than this; of a pair, the longer text first.
    pub max_len: Option<usize>,
    /// Fills up with the padding token to this length.
    pub pad_to: Option<usize>,
    /// The padding token, if it is to be another than the tokenizer's.
    pub pad_id: Option<u32>,
    /// Whether special tokens that are written out in the texts become special tokens. Leave it off for texts of others.
    pub special_in_text: bool,
}

/// A sequence of tokens; all fields have one element for each token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodedSequence {
    /// The tokens.
    pub ids: Vec<u32>,
    /// Their texts as the vocabulary writes them; what is unknown to a Unigram model stands as in the text.
    pub tokens: Vec<String>,
    /// Beginning and end of each token in its text, counted in Unicode scalar values; `(0, 0)` for added tokens.
    pub offsets: Vec<(usize, usize)>,
    /// 1 for the second text of a pair where the model tells them apart, else 0.
    pub type_ids: Vec<u32>,
    /// Whether the token was added around the texts.
    pub added: Vec<bool>,
    /// Whether the token counts: false for padding.
    pub attention: Vec<bool>,
}

impl Tokenizer {
    /// The tokens of a text, or of a pair, with the special tokens that the model expects: `[CLS] A [SEP] B [SEP]` for
    /// BERT's kind, `A </s>` for T5's, as the tokenizer's post-processor says; nothing where it has none.
    pub fn encode_sequence(
        &self,
        text: &str,
        pair: Option<&str>,
        options: &SequenceOptions,
    ) -> Result<EncodedSequence> {
        let post = self.0.post.as_ref();
        let first = self.encode_part(text, 0, options)?;
        let second = pair.map(|text| self.encode_part(text, 1, options)).transpose()?;
        let added = post.map_or(0, |post| post.added_tokens(pair.is_some()));
        let (first, second) = cut(first, second, options.max_len, added)?;
        let mut whole =
            join(post, first, second).context(|| "cannot add the special tokens of a sequence".to_owned())?;
        if let Some(length) = options.pad_to.filter(|&length| length > whole.len()) {
            let pad = options.pad_id.or_else(|| self.pad()).ok_or_else(|| {
                Error::failed("this tokenizer has no padding token")
                    .with_hint("set `pad_token` in tokenizer_config.json")
            })?;
            let token = self.id_to_token(pad).unwrap_or_default();
            whole.pad(length, pad, 0, &token, PaddingDirection::Right);
        }
        let flags = |mask: &[u32]| mask.iter().map(|&m| m == 1).collect();
        Ok(EncodedSequence {
            ids: whole.get_ids().to_vec(),
            tokens: whole.get_tokens().to_vec(),
            offsets: whole.get_offsets().to_vec(),
            type_ids: whole.get_type_ids().to_vec(),
            added: flags(whole.get_special_tokens_mask()),
            attention: flags(whole.get_attention_mask()),
        })
    }

    /// How many special tokens are put around a text, or around a pair.
    pub fn added_tokens(&self, pair: bool) -> usize {
        self.0.post.as_ref().map_or(0, |post| post.added_tokens(pair))
    }

    fn encode_part(&self, text: &str, type_id: u32, options: &SequenceOptions) -> Result<Encoding> {
        let tokenizer = if options.special_in_text { &self.0.special } else { &self.0.plain };
        let encoded = tokenizer.encode_char_offsets(text, false);
        let mut encoding = encoded.context(|| "cannot encode a text".to_owned())?;
        encoding.set_type_ids(vec![type_id; encoding.len()]);
        Ok(encoding)
    }
}

/// The texts cut so that with the added tokens they are no longer than `max_len`.
fn cut(
    first: Encoding,
    second: Option<Encoding>,
    max_len: Option<usize>,
    added: usize,
) -> Result<(Encoding, Option<Encoding>)> {
    let Some(max_len) = max_len else { return Ok((first, second)) };
    let max_length = max_len.checked_sub(added).ok_or_else(|| {
        Error::failed(format!("a sequence of {max_len} tokens has no room for the {added} special tokens"))
            .with_hint(format!("the longest sequence must be at least {added}"))
    })?;
    let params = TruncationParams { max_length, ..TruncationParams::default() };
    truncate_encodings(first, second, &params).context(|| "cannot shorten a text".to_owned())
}

fn join(
    post: Option<&PostProcessorWrapper>,
    first: Encoding,
    second: Option<Encoding>,
) -> tokenizers::Result<Encoding> {
    match post {
        Some(post) => post.process(first, second, true),
        None => Ok(Encoding::merge(std::iter::once(first).chain(second), false)),
    }
}
