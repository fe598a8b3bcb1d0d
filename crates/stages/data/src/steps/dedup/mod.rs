//! Duplicates: documents, or parts of them, that are there already. Of those that are equal the first stays.

mod clusters;
pub mod exact;
pub mod lines;
#[cfg(test)]
mod memory;
mod minhash;
pub mod near;
pub mod semantic;
pub mod substring;
pub mod url;

use cupola_artifact::Result;

use crate::step::{Decision, Key, Place, Sketches};

/// Documents of one bucket that are not duplicates of each other and that a new one is compared with. Only boilerplate
/// fills a bucket with many of those; without a limit it would cost quadratic time.
const MAX_REPRESENTATIVES: usize = 32;

/// Decides that each key of a group but the first repeats the first.
fn all_but_the_first(group: &[Key], decisions: &mut Vec<Decision>) {
    let Some((first, rest)) = group.split_first() else { return };
    let repeats = |key: &Key| Decision { place: key.place, part: key.part, length: 0, other: first.place };
    decisions.extend(rest.iter().map(repeats));
}

/// Decides that each document of a group repeats the first one before it that is no repetition itself and whose sketch is at
/// least so similar.
fn pairs_above(
    threshold: f64,
    similarity: impl Fn(&[u8], &[u8]) -> f64,
    group: &[Key],
    sketches: &dyn Sketches,
    decisions: &mut Vec<Decision>,
) -> Result<()> {
    let mut kept: Vec<(Place, Vec<u8>)> = Vec::new();
    for key in group {
        let sketch = sketches.sketch(key.place)?;
        match kept.iter().find(|(_, other)| similarity(&sketch, other) >= threshold) {
            Some((other, _)) => decisions.push(Decision { place: key.place, part: 0, length: 0, other: *other }),
            None if kept.len() < MAX_REPRESENTATIVES => kept.push((key.place, sketch)),
            None => {}
        }
    }
    Ok(())
}
