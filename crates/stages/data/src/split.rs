//! Training and validation.

use cupola_artifact::{Error, Result};
use cupola_records::{Document, split_by_position};
use xxhash_rust::xxh3::xxh3_64;

use crate::config::{DataConfig, SplitRule};

/// Divides the documents, order kept; a part that would be empty is an error.
pub fn split(documents: Vec<Document>, config: &DataConfig) -> Result<(Vec<Document>, Vec<Document>)> {
    let fraction = config.validation_fraction;
    let count = documents.len();
    let (train, validation) = match config.split {
        SplitRule::Position => split_by_position(documents, fraction),
        SplitRule::Hash => documents.into_iter().partition(|document| place(&document.text) >= fraction),
    };
    if train.is_empty() || (validation.is_empty() && fraction > 0.0) {
        let empty = if train.is_empty() { "training" } else { "validation" };
        let error = Error::failed(format!("the split of {count} documents leaves none for {empty}"));
        return Err(match config.split {
            SplitRule::Hash => {
                error.with_hint("with so few documents use `split = \"position\"`, which can cut through one")
            }
            SplitRule::Position => error.with_hint("add text, or change `validation_fraction`"),
        });
    }
    Ok((train, validation))
}

/// Where a text falls in [0, 1), by its content alone.
fn place(text: &str) -> f64 {
    const BITS: u32 = 53;
    (xxh3_64(text.as_bytes()) >> (64 - BITS)) as f64 / (1_u64 << BITS) as f64
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    fn documents(n: usize) -> Vec<Document> {
        (0..n).map(|i| Document { id: i.to_string(), text: format!("text number {i}"), source: "s".into() }).collect()
    }

    #[test]
    fn a_document_stays_on_its_side_whatever_else_is_there() {
        let config = DataConfig::default();
        let (_, validation) = split(documents(1000), &config).unwrap();
        assert!((70..130).contains(&validation.len()), "{}", validation.len());
        let mut fewer = documents(1000);
        fewer.retain(|d| d.id.parse::<usize>().unwrap() % 2 == 0);
        let (_, again) = split(fewer.into_iter().rev().collect(), &config).unwrap();
        assert!(again.iter().all(|d| validation.contains(d)));
    }

    #[test]
    fn an_empty_part_is_an_error_with_a_way_out() {
        let error = split(documents(1), &DataConfig::default()).unwrap_err();
        assert!(error.hint().unwrap().contains("position"));
        let none = DataConfig { validation_fraction: 0.0, ..Default::default() };
        assert_eq!(split(documents(1), &none).unwrap().1, vec![]);
    }
}
