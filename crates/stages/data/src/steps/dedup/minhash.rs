//! Signatures: for each of many random orders of all shingles, the first shingle of the text.

use cupola_kernels::min_hash;

use crate::steps::word_hashes::{Grams, SPREAD, each_word, mix};

/// Where the random orders start. A constant: signatures of different runs can be compared.
const SEED: u64 = 0x6375_706F_6C61;

/// The hashes of a text's shingles: all runs of `n` words, or all words together where there are fewer; none of a text
/// without words.
pub fn shingles(text: &str, n: usize) -> Vec<u32> {
    let mut words = Vec::with_capacity(text.len() / 5);
    each_word(text, |hash, _| words.push(hash));
    let mut shingles = Vec::with_capacity(words.len());
    if !words.is_empty() {
        Grams::new(n.min(words.len())).each(&words, |hash| shingles.push((hash >> 32) as u32));
    }
    shingles
}

/// Random orders of all shingles: `a x + b mod 2^32` with odd `a`. The shingles are random numbers already, so that of any two
/// sets a row agrees with the probability of their Jaccard similarity (a test says how exactly).
#[derive(Debug, Default)]
pub struct Orders {
    multipliers: Vec<u32>,
    addends: Vec<u32>,
}

impl Orders {
    /// So many.
    pub fn new(count: usize) -> Self {
        let draw = |i: usize| mix(SEED.wrapping_add(SPREAD.wrapping_mul(1 + i as u64)));
        Self {
            multipliers: (0..count).map(|i| (draw(i) >> 32) as u32 | 1).collect(),
            addends: (0..count).map(|i| draw(i) as u32).collect(),
        }
    }

    /// The signature of a set of shingles: a row for each order.
    pub fn sign(&self, shingles: &[u32]) -> Vec<u32> {
        let mut signature = vec![u32::MAX; self.multipliers.len()];
        min_hash(shingles, &self.multipliers, &self.addends, &mut signature);
        signature
    }
}

/// The hash of a band of rows.
pub fn band_hash(band: usize, rows: &[u32]) -> u64 {
    rows.chunks(2).fold(mix(band as u64 + 1), |hash, pair| {
        let pair = pair.iter().fold(0, |pair, row| pair << 32 | u64::from(*row));
        mix(hash.wrapping_mul(SPREAD) ^ pair)
    })
}

/// A byte of each row, which is enough to estimate the similarity (Li and König 2010): a quarter of the memory for a variance
/// that grows by less than a hundredth of its largest.
pub fn row_bytes(signature: &[u32]) -> impl Iterator<Item = u8> {
    signature.iter().map(|row| (u64::from(*row).wrapping_mul(SPREAD) >> 56) as u8)
}

/// An unbiased estimate of the Jaccard similarity of two sets (Broder 1997) from a byte of each row; by chance one of 256
/// different ones agrees.
pub fn estimate(a: &[u8], b: &[u8]) -> f64 {
    const BY_CHANCE: f64 = 1.0 / 256.0;
    let equal = a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len().max(1) as f64;
    (equal - BY_CHANCE) / (1.0 - BY_CHANCE)
}

/// The Jaccard similarity of two sets, given in rising order.
pub fn jaccard(a: &[u32], b: &[u32]) -> f64 {
    let (mut i, mut j, mut common) = (0, 0, 0_usize);
    while let (Some(x), Some(y)) = (a.get(i), b.get(j)) {
        common += usize::from(x == y);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    common as f64 / (a.len() + b.len() - common).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sets of `size` random shingles with `common` in both.
    fn sets(size: u64, common: u64, seed: u64) -> [Vec<u32>; 2] {
        let shingle = |i: u64| (mix(seed << 40 | i) >> 32) as u32;
        [(0..size).map(shingle).collect(), (size - common..2 * size - common).map(shingle).collect()]
    }

    /// Mean and standard deviation over many pairs of sets of the share of equal rows, and of the estimate from bytes.
    fn estimates(size: u64, common: u64) -> [(f64, f64); 2] {
        const PAIRS: u64 = 1000;
        const ROWS: usize = 112;
        let orders = Orders::new(ROWS);
        let (mut shares, mut bytes) = (Vec::new(), Vec::new());
        for seed in 0..PAIRS {
            let [a, b] = sets(size, common, seed).map(|set| orders.sign(&set));
            shares.push(a.iter().zip(&b).filter(|(a, b)| a == b).count() as f64 / ROWS as f64);
            let [a, b] = [a, b].map(|signature| row_bytes(&signature).collect::<Vec<u8>>());
            bytes.push(estimate(&a, &b));
        }
        [shares, bytes].map(|all| {
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            let variance = all.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / all.len() as f64;
            (mean, variance.sqrt())
        })
    }

    #[test]
    fn estimates_are_unbiased_and_as_sharp_as_independent_rows() {
        for (size, common) in [(2, 1), (10, 2), (10, 9), (100, 30), (300, 150), (300, 285), (3000, 1500)] {
            let truth = common as f64 / (2 * size - common) as f64;
            let sharp = (truth * (1.0 - truth) / 112.0).sqrt();
            for (mean, deviation) in estimates(size, common) {
                assert!((mean - truth).abs() < 0.006, "{size}, {common}: {mean} instead of {truth}");
                assert!((deviation - sharp).abs() < 0.1 * sharp + 0.002, "{size}, {common}: {deviation}, {sharp}");
            }
        }
    }

    #[test]
    fn the_exact_similarity_counts_what_is_in_both() {
        assert_eq!(jaccard(&[1, 2, 3, 4], &[3, 4, 5]), 0.4);
        assert_eq!(jaccard(&[], &[]), 0.0);
        assert_eq!(jaccard(&[7], &[7]), 1.0);
    }

    #[test]
    fn fewer_words_than_a_shingle_are_one_shingle() {
        assert_eq!(shingles("one two", 5).len(), 1);
        assert_eq!(shingles("one two", 5), shingles("One, two!", 5));
        assert_eq!(shingles("one two three", 2).len(), 2);
        assert_eq!(shingles("… —", 5), [0; 0]);
    }

    #[test]
    fn bands_differ_even_where_their_rows_are_equal() {
        let rows = [1, 2, 3];
        assert_ne!(band_hash(0, &rows), band_hash(1, &rows));
        assert_ne!(band_hash(0, &rows), band_hash(0, &[1, 2, 4]));
        assert_ne!(band_hash(0, &rows), band_hash(0, &[0, 1, 2, 3]));
    }
}
