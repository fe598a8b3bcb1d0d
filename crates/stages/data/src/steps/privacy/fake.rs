//! Values of the right form that are nobody's.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Numbers that follow from a value and a seed: the same value has the same fake.
pub struct Chance {
    state: u64,
}

impl Chance {
    /// For a value of a kind.
    pub fn new(kind: &str, value: &str, seed: u64) -> Self {
        let kind = xxh3_64_with_seed(kind.as_bytes(), seed);
        Self { state: xxh3_64_with_seed(value.as_bytes(), kind) }
    }

    /// A number below `n` (Steele et al. 2014, `SplitMix`).
    pub fn below(&mut self, n: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % n.max(1)
    }

    /// A decimal digit.
    pub fn digit(&mut self) -> u8 {
        self.below(10) as u8
    }

    /// One of these bytes.
    pub fn one_of(&mut self, bytes: &[u8]) -> char {
        char::from(bytes[self.below(bytes.len() as u64) as usize])
    }
}

/// A value with its digits replaced in turn by those that are given; digits beyond those stay.
pub fn with_digits(value: &str, digits: &[u8]) -> String {
    let mut digits = digits.iter();
    value
        .chars()
        .map(|c| match c.is_ascii_digit().then(|| digits.next()).flatten() {
            Some(digit) => char::from(b'0' + digit),
            None => c,
        })
        .collect()
}

/// Digits after `prefix`, the last one chosen so that `holds`; of `length` in all; where none was
/// found, digits for which it does not hold.
pub fn completed(prefix: &[u8], length: usize, chance: &mut Chance, holds: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    // Some checks have no digit for one in eleven numbers, and most numbers hold no date: others are tried.
    let mut digits = Vec::with_capacity(length);
    for _ in 0..65_536 {
        digits.clear();
        digits.extend_from_slice(&prefix[..prefix.len().min(length)]);
        digits.resize_with(length, || chance.digit());
        for last in 0..10 {
            if let Some(end) = digits.last_mut() {
                *end = last;
            }
            if holds(&digits) {
                return digits;
            }
        }
    }
    digits
}
