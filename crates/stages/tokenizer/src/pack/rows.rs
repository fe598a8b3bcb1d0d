//! Which documents, or pieces of documents, share a row.

use std::collections::BTreeSet;
use std::path::Path;

use cupola_artifact::{Error, Result};
use serde::{Deserialize, Serialize};

use super::reader::Shards;
use super::sequences::{LONGEST_ROW, Piece, SequencesWriter};

/// How documents become rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Arrange {
    /// Tokens in a row.
    pub length: u32,
    /// Which documents share a row.
    pub layout: Layout,
    /// What happens to a document that is longer than a row.
    pub long: Long,
    /// `buckets`: the lengths that rows have, instead of `length`.
    pub buckets: Vec<u32>,
    /// `best_fit`: documents that are considered together; each takes some 40 bytes of memory.
    pub window: usize,
}

impl Arrange {
    /// The length of the longest row.
    pub fn longest(&self) -> u32 {
        match self.layout {
            Layout::Buckets => self.buckets.iter().copied().max().unwrap_or(0),
            Layout::BestFit | Layout::Stream => self.length,
        }
    }
}

impl Default for Arrange {
    fn default() -> Self {
        Self { length: 2048, layout: Layout::BestFit, long: Long::Split, buckets: Vec::new(), window: 1 << 20 }
    }
}

/// Which documents share a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// The longest first, each into the row with the least room that is enough (Ding et al. 2024, arXiv:2404.10830): no
    /// document is cut that fits into a row.
    BestFit,
    /// One after another, cut where a row is full.
    Stream,
    /// One document a row, filled up to the least of some lengths.
    Buckets,
}

/// What happens to a document that is longer than a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Long {
    /// It becomes pieces of a row's length and a rest.
    Split,
    /// Its beginning is kept.
    Truncate,
    /// It is left out.
    Drop,
}

/// Arranges all documents of shards and writes the rows to a file, which [`Sequences`](super::Sequences) reads; the
/// number of rows. The same shards and settings give the same file.
pub fn arrange(shards: &Shards, how: &Arrange, path: &Path) -> Result<u64> {
    let mut lengths = if how.layout == Layout::Buckets { how.buckets.clone() } else { vec![how.length] };
    lengths.sort_unstable();
    lengths.dedup();
    let Some(&longest) = lengths.last().filter(|longest| !lengths.contains(&0) && **longest <= LONGEST_ROW) else {
        return Err(Error::usage(format!("rows need a length of 1 to {LONGEST_ROW} tokens"))
            .with_hint("set `length`, or the lengths in `buckets` with `layout = \"buckets\"`"));
    };
    if how.window == 0 {
        return Err(Error::usage("window = 0: at least one document is considered"));
    }
    let mut writer = SequencesWriter::create(path, &lengths)?;
    let mut row = Vec::new();
    let mut first = 0;
    loop {
        let lengths = shards.lengths(first, how.window)?;
        if lengths.is_empty() {
            break;
        }
        let documents = lengths.iter().zip(first..);
        match how.layout {
            Layout::Stream => stream(documents, longest, &mut row, &mut writer)?,
            Layout::Buckets => {
                for piece in documents.flat_map(|(length, document)| pieces(document, *length, longest, how.long)) {
                    writer.write(&[piece])?;
                }
            }
            Layout::BestFit => {
                let all = documents.flat_map(|(length, document)| pieces(document, *length, longest, how.long));
                for row in best_fit(all.collect(), longest) {
                    writer.write(&row)?;
                }
            }
        }
        first += lengths.len() as u64;
    }
    if !row.is_empty() {
        writer.write(&row)?;
    }
    writer.finish()
}

/// The pieces of a document.
fn pieces(document: u64, length: u32, longest: u32, long: Long) -> impl Iterator<Item = Piece> {
    let keep = match long {
        Long::Split => length,
        Long::Truncate => length.min(longest),
        Long::Drop if length > longest => 0,
        Long::Drop => length,
    };
    let step = longest as usize;
    (0..keep).step_by(step).map(move |start| Piece { document, start, count: longest.min(keep - start) })
}

/// Appends documents to `row` and writes it whenever it is full.
fn stream<'l>(
    documents: impl Iterator<Item = (&'l u32, u64)>,
    longest: u32,
    row: &mut Vec<Piece>,
    writer: &mut SequencesWriter,
) -> Result<()> {
    let mut room = longest - row.iter().map(|piece: &Piece| piece.count).sum::<u32>();
    for (&length, document) in documents {
        let mut start = 0;
        while start < length {
            let count = room.min(length - start);
            row.push(Piece { document, start, count });
            (start, room) = (start + count, room - count);
            if room == 0 {
                writer.write(row)?;
                row.clear();
                room = longest;
            }
        }
    }
    Ok(())
}

/// Puts pieces into rows, the longest first, each into the fullest row that has room for it; rows in the order in which
/// they were begun.
fn best_fit(mut pieces: Vec<Piece>, longest: u32) -> Vec<Vec<Piece>> {
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.count));
    let mut rows: Vec<Vec<Piece>> = Vec::new();
    // For each amount of room the rows that have it, and which amounts there are.
    let mut with_room: Vec<Vec<u32>> = vec![Vec::new(); longest as usize + 1];
    let mut amounts: BTreeSet<u32> = BTreeSet::new();
    for piece in pieces {
        let found = amounts.range(piece.count..).next().copied();
        let row = found.and_then(|room| Some((with_room[room as usize].pop()?, room)));
        let (row, room) = row.unwrap_or_else(|| {
            rows.push(Vec::new());
            (rows.len() as u32 - 1, longest)
        });
        if with_room[room as usize].is_empty() {
            amounts.remove(&room);
        }
        rows[row as usize].push(piece);
        let left = room - piece.count;
        if left > 0 {
            with_room[left as usize].push(row);
            amounts.insert(left);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows_of(lengths: &[u32], longest: u32) -> Vec<Vec<u32>> {
        let all =
            lengths.iter().zip(0..).flat_map(|(length, document)| pieces(document, *length, longest, Long::Split));
        let counts = |row: Vec<Piece>| row.iter().map(|piece| piece.count).collect();
        best_fit(all.collect(), longest).into_iter().map(counts).collect()
    }

    #[test]
    fn each_piece_goes_where_it_fits_best() {
        assert_eq!(rows_of(&[7, 3, 5, 5, 10, 2, 1], 10), [vec![10], vec![7, 3], vec![5, 5], vec![2, 1]]);
        // 4 goes to the 6, not to the emptier 5.
        assert_eq!(rows_of(&[5, 6, 4], 10), [vec![6, 4], vec![5]]);
        assert_eq!(rows_of(&[25], 10), [vec![10], vec![10], vec![5]]);
    }

    #[test]
    fn rows_of_many_lengths_are_almost_full() {
        let lengths: Vec<u32> = (0..10_000u64).map(|i| 1 + (super::super::mix(i) % 900) as u32).collect();
        let total: u32 = lengths.iter().sum();
        let rows = rows_of(&lengths, 1024);
        assert!(rows.iter().all(|row| row.iter().sum::<u32>() <= 1024));
        assert_eq!(rows.iter().flatten().sum::<u32>(), total);
        assert_eq!(rows.iter().flatten().count(), lengths.len(), "nothing is cut");
        assert!(f64::from(total) / (rows.len() as f64 * 1024.0) > 0.98);
    }

    #[test]
    fn long_documents_are_split_cut_or_left_out() {
        let counts = |long| pieces(3, 25, 10, long).map(|piece| (piece.start, piece.count)).collect::<Vec<_>>();
        assert_eq!(counts(Long::Split), [(0, 10), (10, 10), (20, 5)]);
        assert_eq!(counts(Long::Truncate), [(0, 10)]);
        assert_eq!(counts(Long::Drop), []);
    }
}
