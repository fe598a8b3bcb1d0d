//! How likely a model finds given tokens: sums for continuations, perplexity for texts.

use std::sync::Arc;

use cupola_artifact::{Error, Result};
use cupola_nn::{Batch, Decoder};
use cupola_ops::IGNORE;
use cupola_tokenizer::Tokenizer;

/// Tokens of one forward pass; several sequences share it.
const TOKENS_PER_PASS: usize = 2048;

/// A sequence, and which of its tokens are scored.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScoreItem {
    /// The tokens.
    pub ids: Vec<u32>,
    /// Which of them count; the first never does, as nothing precedes it.
    pub scored: Vec<bool>,
}

impl ScoreItem {
    /// A continuation of a context; the continuation is scored.
    pub fn continuation(context: &[u32], continuation: &[u32]) -> Self {
        let scored = (0..context.len() + continuation.len()).map(|i| i >= context.len()).collect();
        Self { ids: [context, continuation].concat(), scored }
    }

    /// Cut on the left, so that the model sees at most `max_seq_len` tokens (the last is only predicted).
    fn cut(&self, max_seq_len: usize) -> (&[u32], &[bool]) {
        let from = self.ids.len().saturating_sub(max_seq_len + 1);
        (&self.ids[from..], &self.scored[from..])
    }
}

/// How likely a model finds the scored tokens of a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Likelihood {
    /// The sum of their log-probabilities, nats.
    pub log_likelihood: f64,
    /// How many they are; fewer than asked for where the sequence was longer than the model's context.
    pub tokens: usize,
}

/// The log-likelihood of each sequence's scored tokens. Sequences longer than the context lose their beginning. Several
/// sequences share one row, each attending only itself, so nothing is spent on padding. `progress` hears how many
/// sequences are done.
///
/// # Errors
/// A token that the model does not know.
pub fn log_likelihoods(
    decoder: &Decoder,
    items: &[ScoreItem],
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Likelihood>> {
    let spec = decoder.spec();
    let unknown = |id: &&u32| **id as usize >= spec.vocab_size;
    if let Some(id) = items.iter().flat_map(|item| &item.ids).find(unknown) {
        return Err(Error::failed(format!(
            "the text has the token {id}, but the model knows only {}",
            spec.vocab_size
        ))
        .with_hint("the tokenizer does not belong to this model"));
    }
    let budget = TOKENS_PER_PASS.max(spec.max_seq_len);
    let mut out = Vec::with_capacity(items.len());
    while out.len() < items.len() {
        let mut pass = Packed::default();
        for (segment, item) in items[out.len()..].iter().enumerate() {
            let (ids, scored) = item.cut(spec.max_seq_len);
            if segment > 0 && pass.ids.len() + ids.len() > budget {
                break;
            }
            pass.add(ids, scored);
        }
        out.extend(pass.run(decoder));
        progress(out.len());
    }
    Ok(out)
}

/// Several sequences in one row.
#[derive(Default)]
struct Packed {
    ids: Vec<u32>,
    targets: Vec<i32>,
    segments: Vec<u32>,
    /// Where each sequence's rows end.
    ends: Vec<usize>,
}

impl Packed {
    fn add(&mut self, ids: &[u32], scored: &[bool]) {
        let segment = self.ends.len() as u32;
        for i in 1..ids.len() {
            self.ids.push(ids[i - 1]);
            self.targets.push(if scored[i] { ids[i] as i32 } else { IGNORE });
            self.segments.push(segment);
        }
        self.ends.push(self.ids.len());
    }

    fn run(self, decoder: &Decoder) -> Vec<Likelihood> {
        let targets: Arc<[i32]> = self.targets.into();
        let nll = match self.ids.is_empty() {
            true => Vec::new(),
            false => cupola_ops::to_vec(&decoder.nll(&Batch::segmented(self.ids, 1, &self.segments), &targets)),
        };
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, &end)| Likelihood {
                // 0 where nothing is scored; the sum is taken in double precision.
                log_likelihood: -nll[start..end].iter().map(|n| f64::from(*n)).sum::<f64>(),
                tokens: targets[start..end].iter().filter(|t| **t != IGNORE).count(),
            })
            .collect()
    }
}

/// How well a model predicts texts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TextScore {
    /// The sum of all tokens' negative log-likelihoods, nats.
    pub nats: f64,
    /// The tokens.
    pub tokens: u64,
    /// The bytes of the texts as UTF-8.
    pub bytes: u64,
}

impl TextScore {
    /// Bits per byte: comparable between tokenizers.
    pub fn bits_per_byte(&self) -> f64 {
        self.nats / std::f64::consts::LN_2 / self.bytes as f64
    }

    /// Perplexity per token.
    pub fn perplexity(&self) -> f64 {
        self.nats_per_token().exp()
    }

    /// The mean loss per token, as in training.
    pub fn nats_per_token(&self) -> f64 {
        self.nats / self.tokens as f64
    }
}

/// The token that stands before a document: what begins one, or else what ends the one before.
///
/// # Errors
/// When tokenizer and model name neither.
pub fn document_start(decoder: &Decoder, tokenizer: &Tokenizer) -> Result<u32> {
    let spec = decoder.spec();
    let token = tokenizer.bos().or(tokenizer.eos()).or(spec.bos).or(spec.eos.first().copied());
    token.ok_or_else(|| {
        Error::failed("neither the tokenizer nor the model says which token begins a document")
            .with_hint("set `bos_token` or `eos_token` in tokenizer_config.json")
    })
}

/// Texts as tokens to score: every token exactly once, in windows that do not overlap, as long as the context, each with
/// the last token of the window before it as its first; before a text stands the token that begins a document. (The
/// "rolling" log-likelihood of lm-evaluation-harness with one token of context.)
pub struct ScoreTexts {
    items: Vec<ScoreItem>,
    tokens: u64,
    bytes: u64,
}

impl ScoreTexts {
    /// Encodes texts for models like `decoder`.
    ///
    /// # Errors
    /// When the tokenizer fails or does not fit the model.
    pub fn encode(decoder: &Decoder, tokenizer: &Tokenizer, texts: &[&str]) -> Result<Self> {
        let (start, window) = (document_start(decoder, tokenizer)?, decoder.spec().max_seq_len);
        let mut all = Self { items: Vec::new(), tokens: 0, bytes: texts.iter().map(|t| t.len() as u64).sum() };
        tokenizer.encode_batch(texts)?.iter().for_each(|ids| all.add(start, ids, window));
        Ok(all)
    }

    /// Documents that are tokens already, each with the token before it first; the bytes of their texts.
    pub fn of_tokens(decoder: &Decoder, documents: &[Vec<u32>], bytes: u64) -> Self {
        let mut all = Self { items: Vec::new(), tokens: 0, bytes };
        for (start, ids) in documents.iter().filter_map(|ids| ids.split_first()) {
            all.add(*start, ids, decoder.spec().max_seq_len);
        }
        all
    }

    /// Adds a document's windows.
    fn add(&mut self, start: u32, ids: &[u32], window: usize) {
        let mut before = start;
        for part in ids.chunks(window) {
            self.items.push(ScoreItem::continuation(&[before], part));
            before = part[part.len() - 1];
        }
        self.tokens += ids.len() as u64;
    }

    /// How well a model predicts them. `progress` hears how many of the tokens are done.
    ///
    /// # Errors
    /// When there is no text, or a token that the model does not know.
    pub fn score(&self, decoder: &Decoder, progress: &mut dyn FnMut(u64, u64)) -> Result<TextScore> {
        let (items, total) = (&self.items, self.tokens);
        if total == 0 {
            return Err(Error::failed("there is no text to measure perplexity on"));
        }
        let mut tell = |done: usize| progress((done as f64 / items.len() as f64 * total as f64) as u64, total);
        let scores = log_likelihoods(decoder, items, &mut tell)?;
        let nats = -scores.iter().map(|s| s.log_likelihood).sum::<f64>();
        let tokens = scores.iter().map(|s| s.tokens as u64).sum();
        Ok(TextScore { nats, tokens, bytes: self.bytes })
    }
}

/// How well a model predicts texts, as [`ScoreTexts`] cuts them. `progress` hears how many of the tokens are done.
///
/// # Errors
/// When there is no text, or the tokenizer does not fit the model.
pub fn score_texts(
    decoder: &Decoder,
    tokenizer: &Tokenizer,
    texts: &[&str],
    progress: &mut dyn FnMut(u64, u64),
) -> Result<TextScore> {
    ScoreTexts::encode(decoder, tokenizer, texts)?.score(decoder, progress)
}

/// The tokens of a context and its continuation by the rules of lm-evaluation-harness: white space at the context's end
/// moves to the continuation, whose tokens are what the whole text has beyond the tokens of the context. An empty
/// context is the token that begins a document.
///
/// # Errors
/// When the text cannot be encoded.
pub fn encode_pair(decoder: &Decoder, tokenizer: &Tokenizer, context: &str, continuation: &str) -> Result<ScoreItem> {
    if context.is_empty() {
        return Ok(ScoreItem::continuation(&[document_start(decoder, tokenizer)?], &tokenizer.encode(continuation)?));
    }
    // What Python's `str.rstrip` takes for white space.
    let kept = context.trim_end_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c));
    let whole = tokenizer.encode(&format!("{context}{continuation}"))?;
    let context = tokenizer.encode(kept)?;
    let at = context.len().min(whole.len());
    Ok(ScoreItem::continuation(&context, &whole[at..]))
}

#[cfg(test)]
#[path = "score_tests.rs"]
mod tests;
