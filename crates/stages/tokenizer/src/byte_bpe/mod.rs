//! Encoding with byte-level BPE: the same tokens as the library's, many times as fast.
//!
//! A text is cut at added tokens, brought into normalization form C where the tokenizer says so, cut into words without a
//! regular expression engine ([`Words`]), and words become tokens by [`Merges`] unless they came by lately ([`Cache`]).
//! [`ByteBpe::of`] takes tokenizers of this shape and leaves all others to the library.

mod added;
mod cache;
mod classes;
mod merges;
mod split;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use cupola_artifact::{Context, Result};
use serde_json::{Map, Value};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, NormalizedString, Normalizer, NormalizerWrapper};
use unicode_normalization::{IsNormalized, is_nfc_quick};

use added::{Added, Part};
use cache::Cache;
pub(crate) use cache::{LONGEST as LONGEST_SHORT_WORD, Word as ShortWord};
use merges::{Merges, NONE, Workspace};
pub(crate) use split::Words;

/// A byte-level BPE.
pub(crate) struct ByteBpe {
    words: Words,
    /// Whether a blank is put before a text that begins with none.
    prefix_space: bool,
    /// Normalization form C, by the library.
    normalizer: Option<NormalizerWrapper>,
    /// Added tokens that are found before and after normalization, where special ones are found.
    special: [Added; 2],
    /// The same where special tokens are plain text.
    plain: [Added; 2],
    merges: Merges,
    /// Words that are tokens as they are, whatever the merges say.
    whole: HashMap<Box<[u8]>, u32>,
    /// What nobody uses just now.
    idle: Mutex<Vec<State>>,
}

/// What encoding needs besides; one for each thread.
struct State {
    cache: Cache,
    work: Workspace,
}

/// What [`ByteBpe::encode`] does with special tokens that are written out in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    /// They are text as any other.
    Plain,
    /// They become their ids.
    Found,
}

impl ByteBpe {
    /// The tokenizer of a checked `tokenizer.json`, if it is byte-level BPE with nothing unusual: a known pattern of words,
    /// no normalizer or NFC, a token for every byte, no dropout, no marks inside or at the end of words, no added token
    /// that must be a word of its own.
    pub fn of(root: &Value, library: &tokenizers::Tokenizer) -> Result<Option<Self>> {
        let model = &root["model"];
        let unusual = |key: &str| !matches!(&model[key], Value::Null) && model[key] != "" && model[key] != 0.0;
        let tokens = library.get_added_tokens_decoder();
        if model["type"].as_str().is_some_and(|kind| kind != "BPE")
            || ["dropout", "continuing_subword_prefix", "end_of_word_suffix"].into_iter().any(unusual)
            || tokens.values().any(|token| token.single_word)
        {
            return Ok(None);
        }
        let normalizer = library.get_normalizer().cloned();
        if !matches!(normalizer, None | Some(NormalizerWrapper::NFC(_))) {
            return Ok(None);
        }
        let (Some((words, prefix_space)), Some(vocab)) =
            (Words::of(&root["pre_tokenizer"]), model["vocab"].as_object())
        else {
            return Ok(None);
        };
        let Some(merges) = read_merges(vocab, &model["merges"]) else { return Ok(None) };
        let mut tokens: Vec<(u32, AddedToken)> = tokens.into_iter().collect();
        tokens.sort_by_key(|(id, _)| *id);
        let (late, early): (Vec<_>, Vec<_>) = tokens.into_iter().partition(|(_, token)| token.normalized);
        let late = late
            .into_iter()
            .map(|(id, token)| normalized(normalizer.as_ref(), id, token))
            .collect::<Result<Vec<_>>>()?;
        let found = |plain| {
            Ok::<_, cupola_artifact::Error>([Added::new(early.clone(), plain)?, Added::new(late.clone(), plain)?])
        };
        let whole = if model["ignore_merges"] == true { whole_words(vocab) } else { HashMap::new() };
        let (special, plain) = (found(false)?, found(true)?);
        Ok(Some(Self { words, prefix_space, normalizer, special, plain, merges, whole, idle: Mutex::default() }))
    }

    /// Appends the tokens of a text.
    pub fn encode(&self, text: &str, special: Special, out: &mut Vec<u32>) -> Result<()> {
        let taken = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut state = taken.unwrap_or_else(|| State { cache: Cache::new(), work: Workspace::default() });
        let [early, late] = if special == Special::Plain { &self.plain } else { &self.special };
        early.parts(text, |part| match part {
            Part::Token(id) => {
                out.push(id);
                Ok(())
            }
            Part::Text(text) => self.encode_unnormalized(text, late, &mut state, out),
        })?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(state);
        Ok(())
    }

    fn encode_unnormalized(&self, text: &str, late: &Added, state: &mut State, out: &mut Vec<u32>) -> Result<()> {
        let changed = match &self.normalizer {
            // What newer tables call normalized is so by older ones, too.
            Some(normalizer) if !text.is_ascii() && is_nfc_quick(text.chars()) != IsNormalized::Yes => {
                let mut changed = NormalizedString::from(text);
                normalizer.normalize(&mut changed).context(|| "cannot normalize a text".to_owned())?;
                Some(changed)
            }
            _ => None,
        };
        late.parts(changed.as_ref().map_or(text, NormalizedString::get), |part| {
            match part {
                Part::Token(id) => out.push(id),
                Part::Text("") => {}
                Part::Text(text) if self.prefix_space && !text.starts_with(' ') => {
                    self.encode_words(&format!(" {text}"), state, out);
                }
                Part::Text(text) => self.encode_words(text, state, out),
            }
            Ok(())
        })
    }

    fn encode_words(&self, text: &str, state: &mut State, out: &mut Vec<u32>) {
        match self.words {
            Words::Gpt2 => self.encode_by(text, |start| Words::Gpt2.end(text, start), state, out),
            words => self.encode_by(text, |start| words.end(text, start), state, out),
        }
    }

    #[inline]
    fn encode_by(&self, text: &str, end_of: impl Fn(usize) -> usize, state: &mut State, out: &mut Vec<u32>) {
        let bytes = text.as_bytes();
        let mut start = 0;
        while start < bytes.len() {
            let end = end_of(start);
            if end - start <= LONGEST_SHORT_WORD {
                let word = ShortWord::new(bytes, start, end);
                if !state.cache.get(word, out) {
                    let before = out.len();
                    self.encode_word(&bytes[start..end], &mut state.work, out);
                    state.cache.put(word, &out[before..]);
                }
            } else {
                self.encode_word(&bytes[start..end], &mut state.work, out);
            }
            start = end;
        }
    }

    fn encode_word(&self, word: &[u8], work: &mut Workspace, out: &mut Vec<u32>) {
        if !self.whole.is_empty()
            && let Some(id) = self.whole.get(word)
        {
            out.push(*id);
            return;
        }
        self.merges.encode(word, work, out);
    }
}

/// An added token as it looks in a normalized text.
fn normalized(normalizer: Option<&NormalizerWrapper>, id: u32, mut token: AddedToken) -> Result<(u32, AddedToken)> {
    if let Some(normalizer) = normalizer {
        let mut content = NormalizedString::from(token.content.as_str());
        normalizer.normalize(&mut content).context(|| "cannot normalize an added token".to_owned())?;
        token.content = content.get().to_owned();
    }
    Ok((id, token))
}

/// The merges of a checked vocabulary; `None` where a byte has no token, or a merge is not a pair.
fn read_merges(vocab: &Map<String, Value>, merges: &Value) -> Option<Merges> {
    let id = |token: &str| vocab.get(token)?.as_u64().and_then(|id| u32::try_from(id).ok());
    let mut bytes = Box::new([NONE; 256]);
    for (letter, byte) in byte_letters() {
        bytes[usize::from(byte)] = id(&letter.to_string())?;
    }
    let pair = |merge: &Value| {
        let (a, b) = match merge {
            Value::String(text) => text.split_once(' ')?,
            merge => (merge[0].as_str()?, merge[1].as_str()?),
        };
        Some(([id(a)?, id(b)?], id(&format!("{a}{b}"))?))
    };
    // A file may begin its list with the version of the format.
    let listed = merges.as_array()?.iter().filter(|m| !m.as_str().is_some_and(|text| text.starts_with("#version")));
    let merges: Vec<_> = listed.map(pair).collect::<Option<_>>()?;
    Some(Merges::new(bytes, &merges))
}

/// The vocabulary as bytes; tokens that are no letters for bytes are left out, as no word can be one.
fn whole_words(vocab: &Map<String, Value>) -> HashMap<Box<[u8]>, u32> {
    let letters: HashMap<char, u8> = byte_letters().collect();
    let word = |(token, id): (&String, &Value)| {
        let bytes: Option<Box<[u8]>> = token.chars().map(|c| letters.get(&c).copied()).collect();
        Some((bytes?, u32::try_from(id.as_u64()?).ok()?))
    };
    vocab.iter().filter_map(word).collect()
}

/// The character that stands for each byte in a byte-level vocabulary: those that can be seen stand for themselves, the
/// others follow in order from U+0100 on.
pub(crate) fn byte_letters() -> impl Iterator<Item = (char, u8)> {
    let mut letters: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    letters.sort_unstable();
    let visible: Vec<u8> = letters.iter().filter_map(|c| u8::try_from(*c).ok()).collect();
    let hidden: Vec<u8> = (0..=u8::MAX).filter(|byte| !visible.contains(byte)).collect();
    letters.into_iter().zip(visible.into_iter().chain(hidden))
}

#[cfg(test)]
mod tests;
