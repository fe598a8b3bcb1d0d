//! What a text's language is told by: the trigrams of its words, with their ends, and the words.

/// Longer words are compounds and addresses, and say little as a whole.
const MAX_WORD: usize = 16;
/// Stands for the end of a word.
const END: u32 = 0;
/// FNV-1a (Fowler, Noll, Vo), over characters.
const BASIS: u32 = 0x811C_9DC5;
const WORD_BASIS: u32 = 0x1234_567D;
const PRIME: u32 = 0x0100_0193;

fn mix(hash: u32, c: u32) -> u32 {
    (hash ^ c).wrapping_mul(PRIME)
}

/// Whether a character is part of a word: a letter, or a mark on one. Marks that are no letters by themselves are taken by
/// their blocks: accents, points of Hebrew and Arabic, signs of the scripts of India.
pub fn is_part_of_word(c: char) -> bool {
    c.is_alphabetic()
        || matches!(c,
            '\u{300}'..='\u{36F}' | '\u{591}'..='\u{5BD}' | '\u{64B}'..='\u{65F}' | '\u{93C}' | '\u{94D}' | '\u{9BC}' | '\u{9CD}')
}

/// Calls `each` with the hash of every feature of the first `most` characters; the number of characters in words.
pub fn features(text: &str, most: usize, mut each: impl FnMut(u32)) -> usize {
    let mut letters = 0;
    // The last two characters, the hash of the word so far, and its length.
    let (mut before, mut last, mut word, mut length) = (END, END, WORD_BASIS, 0_usize);
    let trigram = |a: u32, b: u32, c: u32| mix(mix(mix(BASIS, a), b), c);
    for c in text.chars().take(most).chain([' ']) {
        if is_part_of_word(c) {
            letters += 1;
            for c in c.to_lowercase() {
                let c = u32::from(c);
                if length > 0 {
                    each(trigram(before, last, c));
                }
                (before, last) = (last, c);
                word = mix(word, c);
                length += 1;
            }
        } else if length > 0 {
            each(trigram(before, last, END));
            if length <= MAX_WORD {
                each(word);
            }
            (before, last, word, length) = (END, END, WORD_BASIS, 0);
        }
    }
    letters
}
