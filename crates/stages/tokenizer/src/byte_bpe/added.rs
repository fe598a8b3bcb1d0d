//! Finding added tokens in a text, as the library does.

use aho_corasick::{AhoCorasick, MatchKind};
use cupola_artifact::{Context, Result};
use tokenizers::AddedToken;

/// Tokens to be found, and what belongs to each.
pub(super) struct Added {
    finder: Option<AhoCorasick>,
    tokens: Vec<(u32, AddedToken)>,
    /// Whether special tokens are passed over.
    plain: bool,
}

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part<'t> {
    /// Text between added tokens.
    Text(&'t str),
    /// An added token.
    Token(u32),
}

impl Added {
    /// Of tokens that are to be found; with `plain`, special ones are not.
    pub fn new(tokens: Vec<(u32, AddedToken)>, plain: bool) -> Result<Self> {
        let any = tokens.iter().any(|(_, token)| !(plain && token.special));
        let names = tokens.iter().map(|(_, token)| token.content.as_str());
        let build = || AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(names);
        let finder = any.then(build).transpose().context(|| "cannot look for its added tokens".to_owned())?;
        Ok(Self { finder, tokens, plain })
    }

    /// Gives the parts of a text in order.
    pub fn parts<'t>(&self, text: &'t str, mut each: impl FnMut(Part<'t>) -> Result<()>) -> Result<()> {
        let Some(finder) = &self.finder else { return each(Part::Text(text)) };
        let mut done = 0;
        for found in finder.find_iter(text) {
            let (id, token) = &self.tokens[found.pattern().as_usize()];
            if self.plain && token.special {
                continue;
            }
            let (mut start, mut end) = (found.start(), found.end());
            if token.lstrip {
                start = text[..start].trim_end().len().max(done);
            }
            if token.rstrip {
                end = text.len() - text[end..].trim_start().len();
            }
            if done < start {
                each(Part::Text(&text[done..start]))?;
            }
            each(Part::Token(*id))?;
            done = end;
        }
        if done < text.len() { each(Part::Text(&text[done..])) } else { Ok(()) }
    }
}
