//! Documents with nearly the same text.

use cupola_artifact::{Error, Result};
use cupola_records::Document;
use serde::{Deserialize, Serialize};

use super::clusters::clusters;
use super::minhash::{Orders, band_hash, estimate, jaccard, row_bytes, shingles};
use super::{all_but_the_first, pairs_above};
use crate::step::{ANY_SIZE, Across, Decision, Key, Keys, Kind, Notes, Place, Setting, Sketches, Verdict};

/// The step.
pub const NEAR_DUPLICATES: Kind = Kind::across::<NearDuplicates>(
    "near_duplicates",
    "drops near copies, found by MinHash over word shingles (Broder 1997)",
);

/// Words are runs of letters and digits; of the scripts without spaces between words (Chinese, Japanese, Thai, Lao, Khmer,
/// Burmese) each character is a word, so that a change of a twentieth of the text does the same to it in every language.
///
/// Two documents of Jaccard similarity `s` become a candidate pair with probability `1 - (1 - s^rows)^bands`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct NearDuplicates {
    /// Which defaults the settings below have. `standard`: 5-word shingles, 16 bands of 7 rows, threshold 0.7, for copies with few
    /// changes: those of similarity 0.83 (a fiftieth of the words changed) become candidates with probability 0.99, of 0.65
    /// with 0.55; `FineWeb`'s 14 bands of 8 rows (Penedo et al. 2024) cost the same and find 0.97 and 0.36 of them. `edited`:
    /// 3-word shingles, 32 bands of 4 rows, threshold 0.4, for copies with up to a tenth of their words changed (similarity
    /// 0.57, probability 0.97); it has twice as many keys.
    pub preset: Preset,
    /// Words per shingle.
    pub ngram: usize,
    /// Bands of the locality-sensitive hash; `bands * rows` is the number of permutations.
    pub bands: usize,
    /// Rows per band.
    pub rows: usize,
    /// A candidate pair counts as duplicate if its similarity is at least this, 0 to 1. The default 0.7 is near the bands' own
    /// threshold, `(1 / bands)^(1 / rows)` = 0.67.
    pub threshold: f64,
    /// How a candidate pair's similarity is found. `signature`, the default: estimated from a byte of each row, with a standard
    /// error of `sqrt(s (1 - s) / (bands * rows))`, 0.05 at most with 112 rows. `jaccard`: exactly, from all shingles, which
    /// are kept on disk until the end of the step, four bytes for each word. `none`: each candidate counts as duplicate.
    pub verify: Verify,
    #[serde(skip)]
    orders: Orders,
}

/// Defaults that belong together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Copies with few changes.
    #[default]
    Standard,
    /// Copies with many changes.
    Edited,
}

/// How candidates are verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// By the estimated similarity.
    #[default]
    Signature,
    /// By the exact similarity.
    Jaccard,
    /// Not at all.
    None,
}

/// The settings as a recipe gives them: what it leaves out is the preset's.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    preset: Preset,
    ngram: Option<usize>,
    bands: Option<usize>,
    rows: Option<usize>,
    threshold: Option<f64>,
    verify: Verify,
}

impl Default for NearDuplicates {
    fn default() -> Self {
        Written::default().into()
    }
}

impl From<Written> for NearDuplicates {
    fn from(written: Written) -> Self {
        let (ngram, bands, rows, threshold) = match written.preset {
            Preset::Standard => (5, 16, 7, 0.7),
            Preset::Edited => (3, 32, 4, 0.4),
        };
        Self {
            preset: written.preset,
            ngram: written.ngram.unwrap_or(ngram),
            bands: written.bands.unwrap_or(bands),
            rows: written.rows.unwrap_or(rows),
            threshold: written.threshold.unwrap_or(threshold),
            verify: written.verify,
            orders: Orders::default(),
        }
    }
}

impl NearDuplicates {
    /// The similarity of two documents, from their sketches.
    fn similarity(&self, a: &[u8], b: &[u8]) -> f64 {
        if self.verify == Verify::Signature {
            return estimate(a, b);
        }
        let set = |bytes: &[u8]| -> Vec<u32> { bytes.as_chunks().0.iter().map(|x| u32::from_le_bytes(*x)).collect() };
        jaccard(&set(a), &set(b))
    }
}

impl Across for NearDuplicates {
    fn validate(&self) -> Result<()> {
        let permutations = self.bands.saturating_mul(self.rows);
        if self.ngram == 0 || self.ngram > 1000 || permutations == 0 || permutations > 4096 {
            return Err(Error::usage(format!(
                "`near_duplicates` has ngram {}, bands {}, rows {}: ngram must be 1 to 1,000, bands times rows 1 to 4,096",
                self.ngram, self.bands, self.rows
            ))
            .with_hint("the defaults are ngram = 5, bands = 16, rows = 7"));
        }
        if !(0.0..=1.0).contains(&self.threshold) {
            return Err(Error::usage(format!("`threshold` of `near_duplicates` is {}, not in [0, 1]", self.threshold)));
        }
        Ok(())
    }

    fn prepare(&mut self, _: &Setting<'_>) -> Result<()> {
        self.orders = Orders::new(self.bands * self.rows);
        Ok(())
    }

    fn sketch_bytes(&self) -> usize {
        match self.verify {
            Verify::Signature => self.bands * self.rows,
            Verify::Jaccard => ANY_SIZE,
            Verify::None => 0,
        }
    }

    fn keys(&self, document: &Document, place: Place, keys: &mut Keys) {
        let mut shingles = shingles(&document.text, self.ngram);
        let signature = self.orders.sign(&shingles);
        if !shingles.is_empty() {
            for (band, rows) in signature.chunks(self.rows).enumerate() {
                keys.push(Key { hash: band_hash(band, rows), check: band as u64, place, part: 0 });
            }
        }
        match self.verify {
            Verify::Signature => keys.sketch().extend(row_bytes(&signature)),
            Verify::Jaccard => {
                shingles.sort_unstable();
                shingles.dedup();
                keys.sketch().extend(shingles.iter().flat_map(|shingle| shingle.to_le_bytes()));
            }
            Verify::None => {}
        }
    }

    fn group(&self, group: &[Key], sketches: &dyn Sketches, decisions: &mut Vec<Decision>) -> Result<()> {
        if self.verify == Verify::None {
            all_but_the_first(group, decisions);
            return Ok(());
        }
        pairs_above(self.threshold, |a, b| self.similarity(a, b), group, sketches, decisions)
    }

    fn finish(&self, pairs: Vec<Decision>) -> Vec<Decision> {
        clusters(pairs)
    }

    fn apply(&self, _: &mut Document, _: &[Decision], _: &mut Notes) -> Verdict {
        Verdict::Drop("near_duplicate")
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::super::memory::{dropped, step};
    use super::*;

    const KINDS: [&str; 3] = ["", "verify = 'jaccard'", "preset = 'edited'"];

    /// A text of `n` words of a small language, every one of `changed` replaced.
    fn text(n: usize, changed: impl Fn(usize) -> bool) -> String {
        (0..n).map(|i| if changed(i) { format!("new{i} ") } else { format!("w{} ", i * i % 97 + i / 7) }).collect()
    }

    #[test]
    fn near_copies_go_and_others_stay() {
        let other: String = (0..300).map(|i| format!("other{} ", i * 7)).collect();
        let texts = [text(300, |_| false), other, text(300, |i| i == 150), text(300, |i| i % 2 == 0)];
        for settings in KINDS {
            let near = step::<NearDuplicates>(settings);
            assert_eq!(dropped(&near, &texts), [2], "{settings}");
        }
    }

    #[test]
    fn the_preset_for_edited_copies_finds_what_the_standard_does_not() {
        let texts = [text(400, |_| false), text(400, |i| i % 10 == 5)];
        assert_eq!(dropped(&step::<NearDuplicates>(""), &texts), [0; 0]);
        assert_eq!(dropped(&step::<NearDuplicates>("preset = 'edited'"), &texts), [1]);
    }

    #[test]
    fn texts_without_words_are_no_duplicates() {
        for settings in KINDS {
            assert_eq!(dropped(&step::<NearDuplicates>(settings), &["…", "—", "", "…"]), [0; 0]);
        }
    }

    #[test]
    fn what_a_recipe_leaves_out_is_the_presets() {
        let near: NearDuplicates = toml::from_str("preset = 'edited'\nbands = 50").unwrap();
        assert_eq!((near.ngram, near.bands, near.rows, near.threshold), (3, 50, 4, 0.4));
        let text = serde_json::to_value(&near).unwrap();
        let again: NearDuplicates = serde_json::from_value(text.clone()).unwrap();
        assert_eq!(serde_json::to_value(&again).unwrap(), text);
    }

    #[test]
    fn wrong_settings_are_named() {
        for settings in ["bands = 5000", "ngram = 0", "threshold = 1.5"] {
            let table: toml::Table = settings.parse().unwrap();
            let message = NEAR_DUPLICATES.configure(table).err().unwrap().to_string();
            assert!(message.contains(settings.split(' ').next().unwrap()), "{message}");
        }
    }
}
