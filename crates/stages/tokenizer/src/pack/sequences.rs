//! Rows of documents by number.
//!
//! The file of rows holds, all numbers little-endian: for each piece its document (64 bits), first token and tokens (32
//! bits each), row after row; for each row the number of pieces up to its end (64 bits); the lengths that rows may have (32
//! bits each); and last the numbers of lengths, rows and pieces (64 bits each) and the eight bytes `CUPROWS1`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cupola_artifact::{Context, Error, Result};

use super::format::Places;
use super::reader::Shards;

const MAGIC: &[u8; 8] = b"CUPROWS1";
const PIECE_BYTES: u64 = 16;
const FOOTER: u64 = 32;
/// Pieces that are read together to be counted.
const PIECES_AT_ONCE: u64 = 1 << 16;
/// Tokens of the longest row: so much is made room for, whatever a damaged file says.
pub(super) const LONGEST_ROW: u32 = 1 << 24;

/// Part of a document in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub document: u64,
    /// Its first token in the document.
    pub start: u32,
    /// Tokens.
    pub count: u32,
}

/// Writes the file of rows; under its name only when it is complete.
pub(super) struct SequencesWriter {
    path: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
    /// Pieces up to the end of each row.
    ends: Vec<u64>,
    lengths: Vec<u32>,
}

impl SequencesWriter {
    pub fn create(path: &Path, lengths: &[u32]) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let partial = path.with_file_name(format!(".{name}.partial"));
        let file = File::create(&partial).context(|| format!("cannot write {}", path.display()))?;
        let (path, lengths) = (path.to_path_buf(), lengths.to_vec());
        Ok(Self { path, partial, file: BufWriter::with_capacity(1 << 20, file), ends: Vec::new(), lengths })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).context(|| format!("cannot write {}", self.path.display()))
    }

    /// Adds a row.
    pub fn write(&mut self, row: &[Piece]) -> Result<()> {
        for piece in row {
            self.put(&piece.document.to_le_bytes())?;
            self.put(&piece.start.to_le_bytes())?;
            self.put(&piece.count.to_le_bytes())?;
        }
        self.ends.push(self.ends.last().unwrap_or(&0) + row.len() as u64);
        Ok(())
    }

    /// Completes the file; the number of rows.
    pub fn finish(mut self) -> Result<u64> {
        let (ends, lengths) = (std::mem::take(&mut self.ends), std::mem::take(&mut self.lengths));
        for end in &ends {
            self.put(&end.to_le_bytes())?;
        }
        for length in &lengths {
            self.put(&length.to_le_bytes())?;
        }
        for number in [lengths.len() as u64, ends.len() as u64, ends.last().copied().unwrap_or(0)] {
            self.put(&number.to_le_bytes())?;
        }
        self.put(MAGIC)?;
        let cannot = || format!("cannot write {}", self.path.display());
        self.file.flush().context(cannot)?;
        self.file.get_ref().sync_all().context(cannot)?;
        std::fs::rename(&self.partial, &self.path).context(cannot)?;
        Ok(ends.len() as u64)
    }
}

/// Rows of tokens, read where they lie.
pub struct Sequences {
    shards: Arc<Shards>,
    file: Places,
    path: PathBuf,
    lengths: Vec<u32>,
    rows: u64,
    pieces: u64,
}

/// A row of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The tokens, filled up with padding to the row's length.
    pub ids: Vec<u32>,
    /// Behind which token each document, or piece of one, ends; what follows the last is padding.
    pub ends: Vec<usize>,
    /// What comes after each of them: the next token of the document, or behind its end the token that begins the next
    /// one; none where documents end with a token of their own, or without any.
    pub after: Vec<Option<u32>>,
}

impl Row {
    /// For each token the number of its document in the row, for the mask of attention; padding counts as one more.
    pub fn segments(&self) -> Vec<u32> {
        let mut segments = Vec::with_capacity(self.ids.len());
        for (end, number) in self.ends.iter().chain([&self.ids.len()]).zip(0..) {
            segments.resize((*end).max(segments.len()), number);
        }
        segments
    }

    /// For each token the one to be predicted from it: the next of the same document, then what comes after the piece;
    /// else `ignore`.
    pub fn targets(&self, ignore: i32) -> Vec<i32> {
        let mut targets = vec![ignore; self.ids.len()];
        let mut start = 0;
        for (&end, after) in self.ends.iter().zip(&self.after).filter(|(end, _)| **end > 0) {
            for i in start..end - 1 {
                targets[i] = self.ids[i + 1] as i32;
            }
            if let (Some(after), true) = (after, end > start) {
                targets[end - 1] = *after as i32;
            }
            start = end;
        }
        targets
    }
}

impl Sequences {
    /// Opens a file of rows that [`arrange`](super::arrange) made of these shards.
    pub fn open(path: &Path, shards: Arc<Shards>) -> Result<Self> {
        let file = Places::open(path)?;
        let wrong = |what: &str| {
            Error::failed(format!("{} {what}", path.display())).with_hint("arrange the documents of the shards again")
        };
        let Some(footer) = file.length.checked_sub(FOOTER) else { return Err(wrong("is too short for rows")) };
        let mut magic = [0; 8];
        file.read(file.length - 8, &mut magic)?;
        if &magic != MAGIC {
            return Err(wrong("is no file of rows, or not complete"));
        }
        let [count, rows, pieces] = [0, 8, 16].map(|skip| file.u64_at(footer + skip));
        let (count, rows, pieces) = (count?, rows?, pieces?);
        let sizes = [(pieces, PIECE_BYTES), (rows, 8), (count, 4), (1, FOOTER)];
        let size = sizes.into_iter().try_fold(0u64, |sum, (n, bytes)| sum.checked_add(n.checked_mul(bytes)?));
        if size != Some(file.length) || count == 0 || count > 1 << 16 {
            return Err(wrong("has not the size that it says"));
        }
        let lengths = (0..count).map(|i| file.u32_at(footer - 4 * (count - i))).collect::<Result<Vec<_>>>()?;
        if lengths.iter().any(|length| *length > LONGEST_ROW) {
            return Err(wrong("has rows of no sensible length"));
        }
        Ok(Self { shards, file, path: path.to_path_buf(), lengths, rows, pieces })
    }

    /// How many rows there are.
    pub fn len(&self) -> u64 {
        self.rows
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The lengths that rows have, the least first.
    pub fn lengths(&self) -> &[u32] {
        &self.lengths
    }

    /// How many tokens all rows hold, padding left out.
    pub fn tokens(&self) -> Result<u64> {
        let mut bytes = vec![0; (PIECES_AT_ONCE * PIECE_BYTES) as usize];
        let mut tokens = 0u64;
        for first in (0..self.pieces).step_by(PIECES_AT_ONCE as usize) {
            let bytes = &mut bytes[..((self.pieces - first).min(PIECES_AT_ONCE) * PIECE_BYTES) as usize];
            self.file.read(first * PIECE_BYTES, bytes)?;
            let counts = bytes.as_chunks::<16>().0.iter().map(|p| u32::from_le_bytes([p[12], p[13], p[14], p[15]]));
            tokens = counts.fold(tokens, |sum, count| sum.saturating_add(u64::from(count)));
        }
        Ok(tokens)
    }

    /// A row, filled up with `pad`.
    pub fn get(&self, row: u64, pad: u32) -> Result<Row> {
        let broken = || {
            Error::failed(format!("{} has no usable row {row} of {}", self.path.display(), self.rows))
                .with_hint("it is damaged, or belongs to other shards: arrange them again")
        };
        if row >= self.rows {
            return Err(broken());
        }
        let end_of = |row: u64| self.file.u64_at(self.pieces * PIECE_BYTES + 8 * row);
        let (first, last) = (if row == 0 { 0 } else { end_of(row - 1)? }, end_of(row)?);
        if first > last || last > self.pieces {
            return Err(broken());
        }
        let (mut ids, mut ends, mut after) = (Vec::new(), Vec::new(), Vec::new());
        let longest = self.lengths.last().copied().unwrap_or(0) as usize;
        for piece in first..last {
            let at = piece * PIECE_BYTES;
            let (document, start, count) =
                (self.file.u64_at(at)?, self.file.u32_at(at + 8)?, self.file.u32_at(at + 12)?);
            if ids.len() + count as usize > longest {
                return Err(broken());
            }
            after.push(self.shards.read_on(document, start, count, &mut ids)?);
            ends.push(ids.len());
        }
        let length = self.lengths.iter().map(|n| *n as usize).find(|n| *n >= ids.len()).unwrap_or(longest);
        ids.resize(length, pad);
        Ok(Row { ids, ends, after })
    }
}
