//! Filling in the middle (Bavarian et al. 2022, arXiv:2207.14255): a document is cut in three at two random characters and
//! its parts change places, so that a model learns to write what stands between two texts.

use cupola_artifact::{Error, Result};
use serde::{Deserialize, Serialize};

use super::mix;
use crate::tokenizer::Tokenizer;

/// In which order the three parts stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FimOrder {
    /// `<prefix> A <suffix> C <middle> B`.
    Psm,
    /// `<prefix> <suffix> C <middle> A B`, as the paper's SPM is written for models that know both orders.
    Spm,
    /// One or the other, as likely.
    Both,
}

/// How documents are rearranged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fim {
    /// The share of documents that are rearranged; 0 for none. The paper finds 0.5 to 0.9 to cost nothing.
    pub rate: f64,
    /// The order of the parts.
    pub order: FimOrder,
    /// Only documents whose source or id ends in one of these, such as `.rs`; none given: all.
    pub endings: Vec<String>,
    /// The token before the first part; StarCoder's name.
    pub prefix: String,
    /// The token before what stands behind the gap.
    pub suffix: String,
    /// The token before what fills the gap.
    pub middle: String,
}

impl Default for Fim {
    fn default() -> Self {
        Self {
            rate: 0.0,
            order: FimOrder::Both,
            endings: Vec::new(),
            prefix: "<fim_prefix>".to_owned(),
            suffix: "<fim_suffix>".to_owned(),
            middle: "<fim_middle>".to_owned(),
        }
    }
}

/// A [`Fim`] with its tokens.
pub(super) struct Rearranging<'a> {
    fim: &'a Fim,
    prefix: u32,
    suffix: u32,
    middle: u32,
    seed: u64,
}

impl Fim {
    /// Finds the tokens; `None` where nothing is rearranged.
    pub(super) fn ready(&self, tokenizer: &Tokenizer, seed: u64) -> Result<Option<Rearranging<'_>>> {
        if !(0.0..=1.0).contains(&self.rate) {
            return Err(
                Error::usage(format!("fim.rate = {} is no share", self.rate)).with_hint("it is between 0 and 1")
            );
        }
        if self.rate == 0.0 {
            return Ok(None);
        }
        let id = |key: &str, token: &str| {
            tokenizer.token_to_id(token).ok_or_else(|| {
                Error::usage(format!("fim.{key} = {token:?} is no token of the tokenizer"))
                    .with_hint("add it with `special.more` when the tokenizer is trained, or name the one it has")
            })
        };
        let [prefix, suffix, middle] =
            [("prefix", &self.prefix), ("suffix", &self.suffix), ("middle", &self.middle)].map(|(k, t)| id(k, t));
        Ok(Some(Rearranging { fim: self, prefix: prefix?, suffix: suffix?, middle: middle?, seed }))
    }
}

impl Rearranging<'_> {
    /// Appends the tokens of a document rearranged, if it is one of those that are; else nothing and `false`. What happens
    /// to a document depends on the seed and its number alone.
    pub fn encode(
        &self,
        tokenizer: &Tokenizer,
        text: &str,
        names: [&str; 2],
        number: u64,
        out: &mut Vec<u32>,
    ) -> Result<bool> {
        let code = |ending: &String| names.iter().any(|name| name.ends_with(ending.as_str()));
        if !self.fim.endings.is_empty() && !self.fim.endings.iter().any(code) {
            return Ok(false);
        }
        let base = mix(self.seed ^ mix(number));
        let draw = |n: u64| mix(base.wrapping_add(n));
        // 53 bits are what a float holds.
        if (draw(0) >> 11) as f64 / (1u64 << 53) as f64 >= self.fim.rate {
            return Ok(false);
        }
        let place =
            |n: u64| text.floor_char_boundary(((u128::from(draw(n)) * (text.len() as u128 + 1)) >> 64) as usize);
        let (start, end) = (place(1).min(place(2)), place(1).max(place(2)));
        let (before, gap, after) = (&text[..start], &text[start..end], &text[end..]);
        let spm = match self.fim.order {
            FimOrder::Psm => false,
            FimOrder::Spm => true,
            FimOrder::Both => draw(3) & 1 == 1,
        };
        out.push(self.prefix);
        if !spm {
            tokenizer.encode_into(before, out)?;
        }
        out.push(self.suffix);
        tokenizer.encode_into(after, out)?;
        out.push(self.middle);
        if spm {
            tokenizer.encode_into(before, out)?;
        }
        tokenizer.encode_into(gap, out)?;
        Ok(true)
    }
}
