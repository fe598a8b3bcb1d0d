//! Documents with nearly the same text.

use std::collections::HashMap;

use cupola_artifact::{Error, Result};
use cupola_records::Document;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::minhash::{MinHasher, similarity};
use crate::step::{Across, Decision, Key, Keys, Kind, Notes, Place, Setting, Sketches, Verdict};

/// The step.
pub const NEAR_DUPLICATES: Kind = Kind::across::<NearDuplicates>(
    "near_duplicates",
    "drops near copies, found by MinHash over word shingles (Broder 1997)",
);

/// Documents of one bucket that are not duplicates of each other and that a new one is compared with. Only boilerplate
/// fills a bucket with many of those; without a limit it would cost quadratic time.
const MAX_REPRESENTATIVES: usize = 32;

/// With the defaults (5-word shingles, 14 bands of 8 rows, as in `FineWeb`, Penedo et al. 2024) two documents of Jaccard
/// similarity `s` become a candidate pair with probability `1 - (1 - s^8)^14`: 0.97 at 0.83, 0.36 at 0.65.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NearDuplicates {
    /// Words per shingle.
    pub ngram: usize,
    /// Bands of the locality-sensitive hash; `bands * rows` is the number of permutations.
    pub bands: usize,
    /// Rows per band.
    pub rows: usize,
    /// A candidate pair counts as duplicate if its similarity, estimated from the signatures, is at least this, 0 to 1.
    /// The standard error of the estimate is `sqrt(s (1 - s) / (bands * rows))`, 0.04 at most by default. The default 0.7 is
    /// near the bands' own threshold, `(1 / bands)^(1 / rows)` = 0.72.
    pub threshold: f64,
    #[serde(skip)]
    hasher: MinHasher,
}

impl Default for NearDuplicates {
    fn default() -> Self {
        Self { ngram: 5, bands: 14, rows: 8, threshold: 0.7, hasher: MinHasher::default() }
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
            .with_hint("the defaults are ngram = 5, bands = 14, rows = 8"));
        }
        if !(0.0..=1.0).contains(&self.threshold) {
            return Err(Error::usage(format!("`threshold` of `near_duplicates` is {}, not in [0, 1]", self.threshold)));
        }
        Ok(())
    }

    fn prepare(&mut self, _: &Setting<'_>) -> Result<()> {
        self.hasher = MinHasher::new(self.ngram, self.bands * self.rows);
        Ok(())
    }

    fn sketch_bytes(&self) -> usize {
        4 * self.bands * self.rows
    }

    fn keys(&self, document: &Document, place: Place, keys: &mut Keys) {
        let mut signature = vec![0; self.bands * self.rows];
        let signed = self.hasher.sign(&document.text, &mut signature);
        keys.sketch().extend(signature.iter().flat_map(|row| row.to_le_bytes()));
        if !signed {
            return;
        }
        for (band, rows) in signature.chunks(self.rows).enumerate() {
            let hash = rows.iter().fold(band as u64, |key, row| xxh3_64_with_seed(&row.to_le_bytes(), key));
            keys.push(Key { hash, check: band as u64, place, part: 0 });
        }
    }

    fn group(&self, group: &[Key], sketches: &dyn Sketches, decisions: &mut Vec<Decision>) -> Result<()> {
        let mut kept: Vec<(Place, Vec<u8>)> = Vec::new();
        for key in group {
            let sketch = sketches.sketch(key.place)?;
            match kept.iter().find(|(_, other)| similarity(&sketch, other) >= self.threshold) {
                Some((other, _)) => decisions.push(Decision { place: key.place, part: 0, other: *other }),
                None if kept.len() < MAX_REPRESENTATIVES => kept.push((key.place, sketch)),
                None => {}
            }
        }
        Ok(())
    }

    fn finish(&self, pairs: Vec<Decision>) -> Vec<Decision> {
        clusters(pairs)
    }

    fn apply(&self, _: &mut Document, _: &[Decision], _: &mut Notes) -> Verdict {
        Verdict::Drop("near_duplicate")
    }
}

/// Joins pairs to clusters; decides that each document of a cluster but the first repeats the first.
pub fn clusters(pairs: Vec<Decision>) -> Vec<Decision> {
    let mut first: HashMap<Place, Place> = HashMap::new();
    for pair in pairs {
        let (a, b) = (root(&mut first, pair.place), root(&mut first, pair.other));
        // The earlier document stays on top, so that a cluster's root is its first.
        if a != b {
            first.insert(a.max(b), a.min(b));
        }
    }
    let mut places: Vec<Place> = first.keys().copied().collect();
    places.sort_unstable();
    places.into_iter().map(|place| Decision { place, part: 0, other: root(&mut first, place) }).collect()
}

/// The top of a document's cluster; shortens the way there.
fn root(first: &mut HashMap<Place, Place>, mut place: Place) -> Place {
    while let Some(&up) = first.get(&place) {
        match first.get(&up) {
            Some(&over) => drop(first.insert(place, over)),
            None => return up,
        }
        place = up;
    }
    place
}
