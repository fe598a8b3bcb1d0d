//! From signatures to clusters: bands find candidates, the signatures confirm them, union-find joins them.

use std::collections::HashMap;

use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::NearDuplicates;
use super::minhash::Signatures;
use crate::config::DedupConfig;

/// Texts of one bucket that are not duplicates of each other and that a new one is compared with. Only boilerplate
/// fills a bucket with many of those; without a limit it would cost quadratic time.
const MAX_REPRESENTATIVES: usize = 32;

/// Clusters the signed texts.
pub fn cluster(signatures: &Signatures, config: &DedupConfig) -> NearDuplicates {
    let pairs: Vec<Vec<(usize, usize)>> =
        (0..config.bands).into_par_iter().map(|band| confirmed_pairs(signatures, config, band)).collect();
    let mut first: Vec<usize> = (0..signatures.len()).collect();
    for (i, j) in pairs.into_iter().flatten() {
        let (i, j) = (root(&mut first, i), root(&mut first, j));
        // The smaller index stays on top, so that a cluster's root is its first text.
        first[i.max(j)] = i.min(j);
    }
    let mut sizes = vec![0_usize; first.len()];
    for i in 0..first.len() {
        first[i] = root(&mut first, i);
        sizes[first[i]] += 1;
    }
    NearDuplicates { first, clusters: sizes.into_iter().filter(|size| *size > 1).count() }
}

/// The pairs that agree in all rows of a band and are similar enough.
fn confirmed_pairs(signatures: &Signatures, config: &DedupConfig, band: usize) -> Vec<(usize, usize)> {
    let mut buckets: HashMap<u64, Vec<u32>> = HashMap::new();
    let mut pairs = Vec::new();
    for i in signatures.signed() {
        let rows = &signatures.get(i)[band * config.rows..(band + 1) * config.rows];
        let key = rows.iter().fold(band as u64, |key, row| xxh3_64_with_seed(&row.to_le_bytes(), key));
        let bucket = buckets.entry(key).or_default();
        let same = bucket.iter().find(|j| signatures.similarity(i, **j as usize) >= config.threshold);
        match same {
            Some(j) => pairs.push((*j as usize, i)),
            None if bucket.len() < MAX_REPRESENTATIVES => bucket.extend(u32::try_from(i)),
            None => {}
        }
    }
    pairs
}

/// The top of a text's cluster; shortens the way there.
fn root(first: &mut [usize], mut i: usize) -> usize {
    while first[i] != i {
        first[i] = first[first[i]];
        i = first[i];
    }
    i
}
