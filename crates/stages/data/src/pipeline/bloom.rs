//! Judging keys by a Bloom filter (Bloom 1970): what was seen is a few bits in memory, not a key.
//!
//! For `n` keys and a share `p` of false positives the filter has `m = -n ln p / (ln 2)²` bits and `k = m / n · ln 2` hashes; a
//! key that is not in it is taken for one that is with probability `(bits set / m)^k`, at most `p` when all are in.

use std::path::Path;

use cupola_artifact::stage::Progress;
use cupola_artifact::{Context, Error, Result, human_bytes, human_count, write_atomic};
use rayon::prelude::*;

use super::groups::ELSEWHERE;
use super::index::Earlier;
use super::part::{KeyFile, PartId};
use crate::step::{Decision, Key, Notes};

/// What a filter's file begins with.
const MAGIC: &[u8; 8] = b"CUPBLOOM";

/// A filter.
pub struct Bloom {
    words: Vec<u64>,
    hashes: u32,
}

impl Bloom {
    /// A filter for so many keys and such a share of false positives.
    pub fn for_keys(keys: u64, false_positives: f64) -> Self {
        let ln2 = std::f64::consts::LN_2;
        let per_key = -false_positives.ln() / (ln2 * ln2);
        let words = (keys.max(1) as f64 * per_key / 64.0).ceil().max(1.0) as usize;
        Self { words: vec![0; words], hashes: (per_key * ln2).round().clamp(1.0, 64.0) as u32 }
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> u64 {
        8 * self.words.len() as u64
    }

    /// The bits of a key: two hashes make all (Kirsch and Mitzenmacher 2006).
    fn bits(&self, key: &Key) -> impl Iterator<Item = (usize, u64)> + use<> {
        let (first, step, all) = (key.hash, key.check | 1, 64 * self.words.len() as u128);
        (0..u64::from(self.hashes)).map(move |i| {
            let place = u128::from(first.wrapping_add(step.wrapping_mul(i)));
            let bit = ((place * all) >> 64) as u64;
            ((bit / 64) as usize, 1 << (bit % 64))
        })
    }

    /// Whether a key is in it, or seems to be.
    pub fn has(&self, key: &Key) -> bool {
        self.bits(key).all(|(word, bit)| self.words[word] & bit != 0)
    }

    /// Puts a key in.
    pub fn put(&mut self, key: &Key) {
        for (word, bit) in self.bits(key) {
            self.words[word] |= bit;
        }
    }

    /// The probability that a key that is not in it seems to be.
    pub fn false_positives(&self) -> f64 {
        let set: u64 = self.words.par_iter().map(|word| u64::from(word.count_ones())).sum();
        (set as f64 / (64 * self.words.len()) as f64).powi(self.hashes as i32)
    }

    /// Writes it to a file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut bytes = Vec::with_capacity(16 + 8 * self.words.len());
        bytes.extend(MAGIC);
        bytes.extend(u64::from(self.hashes).to_le_bytes());
        bytes.extend(self.words.iter().flat_map(|word| word.to_le_bytes()));
        write_atomic(path, &bytes)
    }

    /// Reads it from a file.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).context(|| format!("cannot read {}", path.display()))?;
        let words: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        match &words[..] {
            [magic, hashes @ 1..=64, words @ ..] if magic.to_le_bytes() == *MAGIC && !words.is_empty() => {
                Ok(Self { words: words.to_vec(), hashes: *hashes as u32 })
            }
            _ => Err(Error::failed(format!("{} is no Bloom filter", path.display()))
                .with_hint("the artifact is damaged: run its stage again")),
        }
    }
}

/// Judges the keys of the parts in `dir`, one part after another: what is in the filter goes, what is not is put in and stays.
/// The first of equal keys stays, but one that is taken for another by chance.
pub fn decide(
    false_positives: f64,
    (dir, parts): (&Path, &[PartId]),
    earlier: &Earlier,
    progress: &dyn Progress,
) -> Result<(Bloom, Vec<Decision>, Notes)> {
    let files = parts.iter().map(|id| KeyFile::open(id.file(dir, "keys"))).collect::<Result<Vec<_>>>()?;
    let count: u64 = files.iter().map(KeyFile::len).sum();
    let (earlier, mut bloom) = (earlier.blooms()?, Bloom::for_keys(count, false_positives));
    let bytes = bloom.bytes() + earlier.iter().map(Bloom::bytes).sum::<u64>();
    progress.line(&format!(
        "a Bloom filter for {} parts of texts takes {}: {} bits set for each, {false_positives:e} false positives",
        human_count(count as f64),
        human_bytes(bytes as f64),
        bloom.hashes
    ));
    let mut decisions = Vec::new();
    let (mut keys, mut expected) = (Vec::new(), 0.0);
    progress.begin("comparing", Some(files.len() as u64), "parts");
    for (number, file) in (1..).zip(&files) {
        keys.clear();
        file.read_range(0, u64::MAX, &mut keys)?;
        keys.sort_unstable();
        let groups: Vec<&[Key]> = keys.chunk_by(|a, b| a.hash == b.hash && a.check == b.check).collect();
        let seen = |group: &&[Key]| bloom.has(&group[0]) || earlier.iter().any(|bloom| bloom.has(&group[0]));
        let seen: Vec<bool> = groups.par_iter().map(seen).collect();
        // Of all that are new these were told to be so; the others seem to be old.
        let new = seen.iter().filter(|seen| !**seen).count() as f64;
        let told = [&bloom].into_iter().chain(&earlier).map(|bloom| 1.0 - bloom.false_positives()).product::<f64>();
        expected += new * (1.0 / told.max(1e-3) - 1.0);
        for (group, seen) in groups.iter().zip(seen) {
            let other = if seen { ELSEWHERE } else { group[0].place };
            let goes = &group[usize::from(!seen)..];
            decisions.extend(goes.iter().map(|key| Decision { place: key.place, part: key.part, length: 0, other }));
            bloom.put(&group[0]);
        }
        progress.update(number, "");
    }
    progress.end();
    let mut notes = Notes::default();
    notes.count("bloom_bytes", bytes);
    notes.count("expected_false_positives", f64::ceil(expected - 1e-9) as u64);
    Ok((bloom, decisions, notes))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;
    use xxhash_rust::xxh3::xxh3_64;

    fn key(i: u64) -> Key {
        let mixed = |i: u64| xxh3_64(&i.to_le_bytes());
        Key { hash: mixed(2 * i), check: mixed(2 * i + 1), place: 0, part: 0 }
    }

    #[test]
    fn a_filter_has_what_was_put_in_and_as_many_others_as_its_formula_says() {
        for (keys, wanted) in [(20_000, 0.01), (50_000, 0.001), (2_000, 0.1)] {
            let mut bloom = Bloom::for_keys(keys, wanted);
            let bits = 8.0 * bloom.bytes() as f64;
            assert!(bits < keys as f64 * 1.4427 * (1.0 / wanted).log2() + 64.0, "{bits}");
            (0..keys).for_each(|i| bloom.put(&key(i)));
            assert!((0..keys).all(|i| bloom.has(&key(i))));
            let told = bloom.false_positives();
            assert!(told < 1.2 * wanted + 1e-3, "{told} of {wanted}");
            let found = (0..200_000).filter(|i| bloom.has(&key(keys + i))).count() as f64 / 2e5;
            assert!((found - told).abs() < 0.15 * told + 2e-4, "{found} instead of {told}");
        }
    }

    #[test]
    fn a_filter_comes_back_from_its_file_and_damaged_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.bloom");
        let mut bloom = Bloom::for_keys(100, 0.01);
        (0..100).for_each(|i| bloom.put(&key(i)));
        bloom.write(&path).unwrap();
        let again = Bloom::read(&path).unwrap();
        assert_eq!((&again.words, again.hashes), (&bloom.words, bloom.hashes));
        let bytes = std::fs::read(&path).unwrap();
        for damaged in [
            &b""[..],
            &bytes[..16],
            b"CUPBLOOX\x07\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            b"CUPBLOOM\x07\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0",
        ] {
            std::fs::write(&path, damaged).unwrap();
            assert!(Bloom::read(&path).is_err());
        }
    }
}
