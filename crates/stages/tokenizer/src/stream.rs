//! Decoding token by token.

use cupola_artifact::Result;

use crate::byte_bpe::byte_letters;
use crate::tokenizer::Tokenizer;

/// Turns tokens into text as they come. Gives out whole characters only: a character whose bytes are spread over
/// several tokens comes with the last of them. What can never become UTF-8 comes as U+FFFD. All parts joined are what
/// [`Tokenizer::decode`] makes of all tokens; only where a decoder would take back text that is already out, because of
/// invalid bytes after it, the text stays.
pub struct StreamDecoder {
    tokenizer: Tokenizer,
    state: State,
}

enum State {
    /// The vocabulary is bytes: those that are no whole character yet.
    Bytes { held: Vec<u8>, table: Box<[Option<u8>]> },
    /// Any other: tokens since the last boundary, of which those before `given` are already out and serve as context.
    Window { ids: Vec<u32>, given: usize },
}

/// After so many tokens without a whole character the rest is given out as it is.
const LONGEST_WAIT: usize = 16;

impl StreamDecoder {
    pub(crate) fn new(tokenizer: Tokenizer) -> Self {
        let state = if tokenizer.0.byte_level {
            State::Bytes { held: Vec::new(), table: byte_table() }
        } else {
            State::Window { ids: Vec::new(), given: 0 }
        };
        Self { tokenizer, state }
    }

    /// Takes the next token; gives the text that is complete by now, often none.
    pub fn push(&mut self, id: u32) -> Result<String> {
        let special = &self.tokenizer.0.special;
        let Some(token) = special.id_to_token(id) else { return Ok(String::new()) };
        if special.get_added_vocabulary().is_special_token(&token) {
            return Ok(String::new());
        }
        match &mut self.state {
            State::Bytes { held, table } => {
                let byte = |c: char| table.get(c as usize).copied().flatten();
                match token.chars().map(byte).collect::<Option<Vec<u8>>>() {
                    Some(bytes) => held.extend(bytes),
                    None => held.extend(token.as_bytes()),
                }
                Ok(take_characters(held))
            }
            State::Window { ids, given } => {
                ids.push(id);
                let waiting = ids.len() - *given;
                let before = self.tokenizer.decode(&ids[..*given])?;
                let now = self.tokenizer.decode(ids)?;
                if now.ends_with('\u{fffd}') && waiting < LONGEST_WAIT {
                    return Ok(String::new());
                }
                let text = fresh(&before, &now).to_owned();
                // The tokens just given out stay as context: a decoder may treat the first token in a special way.
                ids.drain(..*given);
                *given = ids.len();
                Ok(text)
            }
        }
    }

    /// What is left when no more tokens come.
    pub fn finish(self) -> String {
        match self.state {
            State::Bytes { held, .. } => String::from_utf8_lossy(&held).into_owned(),
            State::Window { ids, given } => {
                let decode = |ids: &[u32]| self.tokenizer.decode(ids).unwrap_or_default();
                let (before, now) = (decode(&ids[..given]), decode(&ids));
                fresh(&before, &now).to_owned()
            }
        }
    }
}

/// What `now` holds beyond `before`.
fn fresh<'t>(before: &str, now: &'t str) -> &'t str {
    let same = before.chars().zip(now.chars()).take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum();
    &now[same..]
}

/// Takes all that is decided from `held`: whole characters, and U+FFFD for bytes that no continuation can make valid.
fn take_characters(held: &mut Vec<u8>) -> String {
    let mut text = String::new();
    loop {
        match std::str::from_utf8(held) {
            Ok(valid) => {
                text.push_str(valid);
                held.clear();
                return text;
            }
            Err(e) => {
                let good = e.valid_up_to();
                text.push_str(&String::from_utf8_lossy(&held[..good]));
                let Some(bad) = e.error_len() else {
                    held.drain(..good);
                    return text;
                };
                text.push('\u{fffd}');
                held.drain(..good + bad);
            }
        }
    }
}

/// The byte that each character of a byte-level vocabulary stands for.
fn byte_table() -> Box<[Option<u8>]> {
    let mut table = vec![None; 0x200];
    for (letter, byte) in byte_letters() {
        table[letter as usize] = Some(byte);
    }
    table.into_boxed_slice()
}
