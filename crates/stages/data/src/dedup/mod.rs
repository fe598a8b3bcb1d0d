//! Exact and near duplicates.

mod lsh;
mod minhash;

use std::collections::HashSet;

use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_128;

use crate::config::DedupConfig;
use minhash::{MinHasher, Signatures};

/// For every text whether it repeats an earlier one, byte for byte (by a hash of 128 bits).
pub(crate) fn exact_duplicates(texts: &[&str]) -> Vec<bool> {
    let hashes: Vec<u128> = texts.par_iter().map(|text| xxh3_128(text.as_bytes())).collect();
    let mut seen = HashSet::with_capacity(hashes.len());
    hashes.into_iter().map(|hash| !seen.insert(hash)).collect()
}

/// What near-duplicate detection found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearDuplicates {
    /// For every text the first text of its cluster; itself if there is none before it.
    pub first: Vec<usize>,
    /// Clusters of at least two texts.
    pub clusters: usize,
}

/// Clusters texts by `MinHash` over word shingles: candidates share all rows of a band, pairs of at least the threshold's
/// estimated similarity are joined, and clusters are what is connected. Texts without a word are left alone.
pub fn near_duplicates(texts: &[&str], config: &DedupConfig) -> NearDuplicates {
    let signatures = Signatures::of(texts, &MinHasher::new(config.ngram, config.bands * config.rows));
    lsh::cluster(&signatures, config)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text of `n` words that has next to no 5-gram in common with that of another seed.
    fn text(seed: u64, n: usize) -> Vec<String> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % 5000
        };
        (0..n).map(|_| format!("word{}", next())).collect()
    }

    /// Every `step`-th word replaced.
    fn edited(mut words: Vec<String>, step: usize) -> String {
        words.iter_mut().step_by(step).for_each(|w| w.push_str("changed"));
        words.join(" ")
    }

    #[test]
    fn light_edits_are_found_and_other_texts_are_not() {
        let originals: Vec<String> = (1..=300).map(|seed| text(seed, 250).join(" ")).collect();
        let copies = (1..=100).map(|seed| edited(text(seed, 250), 80));
        let texts: Vec<String> = originals.into_iter().chain(copies).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let found = near_duplicates(&texts, &DedupConfig::default());
        assert!((0..300).all(|i| found.first[i] == i), "an original was taken for a copy");
        let recall = (300..400).filter(|&i| found.first[i] == i - 300).count();
        assert!(recall >= 97, "{recall} of 100");
        assert_eq!(found.clusters, recall);
    }

    #[test]
    fn case_punctuation_and_spacing_make_no_difference() {
        let plain = text(7, 100).join(" ");
        let dressed = text(7, 100).iter().map(|w| w.to_uppercase()).collect::<Vec<_>>().join(", \n");
        assert_eq!(near_duplicates(&[&plain, &dressed], &DedupConfig::default()).first, [0, 0]);
    }

    #[test]
    fn texts_without_words_are_not_duplicates_and_short_ones_compare_as_a_whole() {
        let found =
            near_duplicates(&["...", "!!!", "Hello there", "hello, there!", "hello you"], &DedupConfig::default());
        assert_eq!(found.first, [0, 1, 2, 2, 4]);
    }

    #[test]
    fn the_result_does_not_depend_on_the_number_of_threads() {
        let texts: Vec<String> = (0..200).map(|i| edited(text(1 + i % 60, 120), 60 + i as usize % 7)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let with = |n| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build();
            pool.map(|p| p.install(|| near_duplicates(&texts, &DedupConfig::default()))).ok()
        };
        assert!(with(1).is_some() && with(1) == with(3));
    }

    #[test]
    fn of_the_same_text_the_first_is_kept() {
        assert_eq!(exact_duplicates(&["a", "b", "a", "a ", "b"]), [false, false, true, false, true]);
    }
}
