//! The tokens of words that came by lately.

use super::merges::NONE;

/// Words of more bytes are not kept.
pub(crate) const LONGEST: usize = 15;

/// Words of more tokens are not kept.
const MOST: usize = 4;

/// Places, each for one word: 2 MiB. What is frequent comes back to its place soon after something rare took it.
const PLACES: usize = 1 << 16;

/// A word of at most [`LONGEST`] bytes, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Word(u128);

impl Word {
    /// The word `bytes[start..end]`, which must be no longer than [`LONGEST`].
    #[inline]
    pub fn new(bytes: &[u8], start: usize, end: usize) -> Self {
        let length = end - start;
        let word = match bytes.get(start..start + 16).and_then(|bytes| bytes.try_into().ok()) {
            Some(bytes) => u128::from_le_bytes(bytes) & (u128::MAX >> (128 - 8 * length as u32)),
            None => {
                let mut padded = [0; 16];
                padded[..length].copy_from_slice(&bytes[start..end]);
                u128::from_le_bytes(padded)
            }
        };
        Self(word | (length as u128) << 120)
    }

    /// The bytes of the word.
    pub fn bytes(self) -> Box<[u8]> {
        Box::from(&self.0.to_le_bytes()[..(self.0 >> 120) as usize])
    }

    #[inline]
    fn place(self) -> usize {
        let (low, high) = (self.0 as u64, (self.0 >> 64) as u64);
        let mixed =
            (low ^ high.rotate_left(32).wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        (mixed >> (64 - PLACES.trailing_zeros())) as usize
    }
}

#[derive(Clone, Copy)]
struct Entry {
    word: Word,
    /// Its tokens, then [`NONE`].
    ids: [u32; MOST],
}

/// A table with one place for each word, where a new one pushes out the one before.
pub(super) struct Cache(Vec<Entry>);

impl Cache {
    /// An empty one. No word is 0, as a word has a length.
    pub fn new() -> Self {
        Self(vec![Entry { word: Word(0), ids: [NONE; MOST] }; PLACES])
    }

    /// Appends the tokens of a word, if they are known.
    #[inline]
    pub fn get(&self, word: Word, out: &mut Vec<u32>) -> bool {
        let entry = &self.0[word.place()];
        if entry.word != word {
            return false;
        }
        if entry.ids[1] == NONE {
            out.push(entry.ids[0]);
        } else {
            out.extend(entry.ids.iter().copied().take_while(|id| *id != NONE));
        }
        true
    }

    /// Keeps the tokens of a word, if they are few.
    pub fn put(&mut self, word: Word, tokens: &[u32]) {
        if tokens.len() <= MOST {
            let mut ids = [NONE; MOST];
            ids[..tokens.len()].copy_from_slice(tokens);
            self.0[word.place()] = Entry { word, ids };
        }
    }
}
