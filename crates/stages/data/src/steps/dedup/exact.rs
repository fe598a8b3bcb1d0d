//! Documents with the same text.

use cupola_artifact::Result;
use cupola_records::Document;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::all_but_the_first;
use crate::step::{Across, Decision, Key, Keys, Kind, Notes, Place, Sketches, Verdict};

/// The step.
pub const EXACT_DUPLICATES: Kind =
    Kind::across::<ExactDuplicates>("exact_duplicates", "drops documents with the same text as an earlier one");

/// Compares whole texts, byte for byte, by a hash of 128 bits.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExactDuplicates {}

impl Across for ExactDuplicates {
    fn keys(&self, document: &Document, place: Place, keys: &mut Keys) {
        let hash = xxh3_128(document.text.as_bytes());
        keys.push(Key { hash: (hash >> 64) as u64, check: hash as u64, place, part: 0 });
    }

    fn group(&self, group: &[Key], _: &dyn Sketches, decisions: &mut Vec<Decision>) -> Result<()> {
        all_but_the_first(group, decisions);
        Ok(())
    }

    fn apply(&self, _: &mut Document, _: &[Decision], _: &mut Notes) -> Verdict {
        Verdict::Drop("exact_duplicate")
    }
}
