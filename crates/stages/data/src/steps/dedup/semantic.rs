//! Documents that say nearly the same, by their embeddings.

use cupola_artifact::{Error, Result};
use cupola_records::Document;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::clusters::clusters;
use super::pairs_above;
use crate::step::{ANY_SIZE, Across, Decision, Key, Keys, Kind, Notes, Place, Setting, Sketches, Verdict};
use crate::steps::word_hashes::{SPREAD, mix};

/// The step.
pub const SEMANTIC_DUPLICATES: Kind = Kind::across::<SemanticDuplicates>(
    "semantic_duplicates",
    "drops documents whose embedding is close to an earlier one's (SemDeDup, Abbas et al. 2023)",
);

/// Planes whose sums are made at a time: as many as a random number has bits.
const PLANES: usize = 64;

/// Documents meet where random hyperplanes have their embeddings on the same side (Charikar 2002): two at the angle `θ` share
/// one of `tables` buckets with probability `1 - (1 - (1 - θ/π)^bits)^tables`; with the defaults that is 0.99 at a cosine of 0.95
/// and 0.03 at 0.5. Documents without an embedding, and those with embeddings of different lengths, do not meet.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SemanticDuplicates {
    /// The field that holds the embedding, a list of numbers.
    pub field: String,
    /// Documents of one bucket count as duplicates from this cosine on, -1 to 1. Default 0.95; what it means depends on the
    /// model that made the embeddings.
    pub threshold: f64,
    /// Buckets that a document lies in. Default 24.
    pub tables: usize,
    /// Hyperplanes that make a bucket, at most 64. Default 16, so that of `n` unrelated documents some `n / 65,536` share one.
    pub bits: usize,
    #[serde(skip)]
    seed: u64,
}

impl Default for SemanticDuplicates {
    fn default() -> Self {
        Self { field: "embedding".into(), threshold: 0.95, tables: 24, bits: 16, seed: 0 }
    }
}

impl SemanticDuplicates {
    /// The document's embedding, of length 1; none where it has none or one that has no direction.
    fn embedding(&self, document: &Document) -> Option<Vec<f32>> {
        let numbers = document.fields.get(&self.field).and_then(Value::as_array)?;
        let numbers: Vec<f64> = numbers.iter().map(Value::as_f64).collect::<Option<_>>()?;
        let norm = numbers.iter().map(|x| x * x).sum::<f64>().sqrt();
        (norm > 0.0 && norm.is_finite()).then(|| numbers.iter().map(|x| (x / norm) as f32).collect())
    }

    /// On which side of each hyperplane it lies. A plane's direction is +1 or -1 in each dimension.
    fn sides(&self, embedding: &[f32]) -> Vec<bool> {
        let planes = self.tables * self.bits;
        let mut sides = Vec::with_capacity(planes.next_multiple_of(PLANES));
        for block in 0..planes.div_ceil(PLANES) as u64 {
            let mut sums = [0.0_f32; PLANES];
            for (i, x) in (0_u64..).zip(embedding) {
                let signs = mix(self.seed ^ mix(block << 32 | i));
                for (plane, sum) in sums.iter_mut().enumerate() {
                    *sum += f32::from_bits(x.to_bits() ^ ((signs >> plane) as u32) << 31);
                }
            }
            sides.extend(sums.iter().map(|sum| *sum > 0.0));
        }
        sides.truncate(planes);
        sides
    }
}

impl Across for SemanticDuplicates {
    fn validate(&self) -> Result<()> {
        if !(1..=64).contains(&self.bits) || !(1..=1024).contains(&self.tables) {
            return Err(Error::usage(format!(
                "`semantic_duplicates` has bits {}, tables {}: bits must be 1 to 64, tables 1 to 1,024",
                self.bits, self.tables
            ))
            .with_hint("the defaults are bits = 16, tables = 24"));
        }
        if !(-1.0..=1.0).contains(&self.threshold) {
            let threshold = self.threshold;
            return Err(Error::usage(format!("`threshold` of `semantic_duplicates` is {threshold}, not in [-1, 1]")));
        }
        Ok(())
    }

    fn prepare(&mut self, setting: &Setting<'_>) -> Result<()> {
        self.seed = mix(setting.seed);
        Ok(())
    }

    fn sketch_bytes(&self) -> usize {
        ANY_SIZE
    }

    fn keys(&self, document: &Document, place: Place, keys: &mut Keys) {
        let Some(embedding) = self.embedding(document) else { return };
        for (table, sides) in self.sides(&embedding).chunks(self.bits).enumerate() {
            let bucket = sides.iter().fold(0, |bucket, side| bucket << 1 | u64::from(*side));
            let check = (embedding.len() as u64) << 16 | table as u64;
            keys.push(Key { hash: mix(bucket ^ check.wrapping_mul(SPREAD)), check, place, part: 0 });
        }
        keys.sketch().extend(embedding.iter().flat_map(|x| x.to_le_bytes()));
    }

    fn group(&self, group: &[Key], sketches: &dyn Sketches, decisions: &mut Vec<Decision>) -> Result<()> {
        pairs_above(self.threshold, cosine, group, sketches, decisions)
    }

    fn finish(&self, pairs: Vec<Decision>) -> Vec<Decision> {
        clusters(pairs)
    }

    fn apply(&self, _: &mut Document, _: &[Decision], _: &mut Notes) -> Verdict {
        Verdict::Drop("semantic_duplicate")
    }
}

/// Of two vectors of length 1, as bytes.
fn cosine(a: &[u8], b: &[u8]) -> f64 {
    let number = |x: &[u8; 4]| f64::from(f32::from_le_bytes(*x));
    a.as_chunks().0.iter().zip(b.as_chunks().0).map(|(a, b)| number(a) * number(b)).sum()
}

#[cfg(test)]
mod tests {
    use super::super::memory::{documents, run, step};
    use super::*;

    /// Random numbers around 0.
    fn noise(seed: u64, n: u64) -> Vec<f64> {
        (0..n).map(|i| (mix(seed << 32 | i) >> 11) as f64 / (1_u64 << 53) as f64 - 0.5).collect()
    }

    fn dropped(settings: &str, embeddings: &[Value]) -> Vec<usize> {
        let mut all = documents(&vec!["text"; embeddings.len()]);
        for (document, embedding) in all.iter_mut().zip(embeddings) {
            document.fields.insert("embedding".into(), embedding.clone());
        }
        let left = run(&step::<SemanticDuplicates>(settings), &all);
        (0..left.len()).filter(|i| left[*i].is_none()).collect()
    }

    #[test]
    fn close_embeddings_are_found_and_others_are_not() {
        // 100 embeddings, and after them a copy of each with noise: cosines near 0.97 for the first half, 0.8 for the second.
        let one: Vec<Vec<f64>> = (0..100).map(|i| noise(i, 256)).collect();
        let mut all: Vec<Value> = one.iter().map(|x| x.clone().into()).collect();
        for (i, x) in one.iter().enumerate() {
            let share = if i < 50 { 0.25 } else { 0.75 };
            let copy: Vec<f64> =
                x.iter().zip(noise(1000 + i as u64, 256)).map(|(x, n)| 3.0 * (x + share * n)).collect();
            all.push(copy.into());
        }
        let found = dropped("", &all);
        assert!(found.iter().all(|i| (100..150).contains(i)), "{found:?}");
        assert!(found.len() >= 48, "{} of 50", found.len());
        assert!(dropped("threshold = 0.7\nbits = 8", &all).len() >= 95);
    }

    #[test]
    fn what_is_no_embedding_meets_nothing() {
        let x = Value::from(vec![1.0, 2.0]);
        let longer = Value::from(vec![1.0, 2.0, 0.0]);
        let no = [Value::Null, "1 2".into(), vec![0.0, 0.0].into(), Value::from(vec![Value::from("1"); 2])];
        let all = [&no[..], &no[..], &[x.clone(), longer, x]].concat();
        assert_eq!(dropped("", &all), [10]);
    }
}
