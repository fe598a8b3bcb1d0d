//! The files of a shard: tokens, and the index of Megatron-LM's `MMapIndexedDataset`.
//!
//! All numbers are little-endian. An index is the nine bytes `MMIDIDX` and two zeros, the version 1 (64 bits), the code of the
//! tokens' type (8 bits), the numbers of sequences and of document bounds (64 bits each); then the length of each sequence
//! (32 bits), the byte in the `.bin` where it begins (64 bits), and the first sequence of each document with the number of
//! all sequences last (64 bits). Here every document is one sequence.

use std::fs::File;
use std::path::{Path, PathBuf};

use cupola_artifact::{Context, Error, Result, write_atomic_with};
use serde::{Deserialize, Serialize};

const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";
const VERSION: u64 = 1;
/// Bytes before the lengths.
const HEADER: u64 = 9 + 8 + 1 + 8 + 8;

/// How wide a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Width {
    /// 16 bits.
    #[serde(rename = "u16")]
    U16,
    /// 32 bits.
    #[serde(rename = "u32")]
    U32,
}

impl Width {
    /// Megatron-LM takes 16 bits for vocabularies below 65,500 tokens.
    pub fn of(vocab_size: usize) -> Self {
        if vocab_size < 65_500 { Self::U16 } else { Self::U32 }
    }

    /// Bytes of a token.
    pub fn bytes(self) -> usize {
        match self {
            Self::U16 => 2,
            Self::U32 => 4,
        }
    }

    /// Megatron-LM's codes of `uint16` and `int32`.
    fn code(self) -> u8 {
        match self {
            Self::U16 => 8,
            Self::U32 => 4,
        }
    }

    /// Appends tokens as bytes.
    pub(super) fn put(self, ids: &[u32], out: &mut Vec<u8>) {
        match self {
            Self::U16 => out.extend(ids.iter().flat_map(|id| (*id as u16).to_le_bytes())),
            Self::U32 => out.extend(ids.iter().flat_map(|id| id.to_le_bytes())),
        }
    }

    /// Appends the tokens that bytes hold.
    pub(super) fn get(self, bytes: &[u8], out: &mut Vec<u32>) {
        match self {
            Self::U16 => out.extend(bytes.as_chunks::<2>().0.iter().map(|b| u32::from(u16::from_le_bytes(*b)))),
            Self::U32 => out.extend(bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b))),
        }
    }
}

/// Writes an index for documents of these lengths, in tokens.
pub(super) fn write_index(path: &Path, width: Width, lengths: &[u32]) -> Result<()> {
    write_atomic_with(path, |out| {
        out.write_all(MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&[width.code()])?;
        out.write_all(&(lengths.len() as u64).to_le_bytes())?;
        out.write_all(&(lengths.len() as u64 + 1).to_le_bytes())?;
        for length in lengths {
            out.write_all(&length.to_le_bytes())?;
        }
        let mut at = 0u64;
        for length in lengths {
            out.write_all(&at.to_le_bytes())?;
            at += u64::from(*length) * width.bytes() as u64;
        }
        for document in 0..=lengths.len() as u64 {
            out.write_all(&document.to_le_bytes())?;
        }
        Ok(())
    })
}

/// A file that is read in places, from any thread.
pub(super) struct Places {
    file: File,
    path: PathBuf,
    pub length: u64,
}

impl Places {
    pub fn open(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot read {}", path.display());
        let file = File::open(path).context(cannot)?;
        let length = file.metadata().context(cannot)?.len();
        Ok(Self { file, length, path: path.to_path_buf() })
    }

    /// Fills a buffer with the bytes from a place on.
    pub fn read(&self, at: u64, into: &mut [u8]) -> Result<()> {
        read_at(&self.file, at, into).context(|| format!("cannot read {} at byte {at}", self.path.display()))
    }

    pub fn u32_at(&self, at: u64) -> Result<u32> {
        let mut bytes = [0; 4];
        self.read(at, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub fn u64_at(&self, at: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

#[cfg(unix)]
fn read_at(file: &File, at: u64, into: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, at)
}

#[cfg(not(unix))]
fn read_at(mut file: &File, at: u64, into: &mut [u8]) -> std::io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = TURN.lock();
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(into)
}

/// A shard's two files.
pub(super) struct Shard {
    tokens: Places,
    index: Places,
    width: Width,
    /// Documents.
    pub documents: u64,
}

impl Shard {
    /// Opens `base.bin` and `base.idx`, and checks that they belong together.
    pub fn open(base: &Path) -> Result<Self> {
        let (tokens, index) = (Places::open(&base.with_extension("bin"))?, Places::open(&base.with_extension("idx"))?);
        let path = index.path.clone();
        let wrong = |what: String| {
            Error::failed(format!("{} {what}", path.display()))
                .with_hint("the shard is damaged or was made by something else: make it again")
        };
        let mut header = [0; HEADER as usize];
        if index.length < HEADER {
            return Err(wrong(format!("has {} bytes, too few for an index", index.length)));
        }
        index.read(0, &mut header)?;
        if &header[..9] != MAGIC || header[9..17] != VERSION.to_le_bytes() {
            return Err(wrong("is no index of version 1".to_owned()));
        }
        let width = match header[17] {
            8 => Width::U16,
            4 => Width::U32,
            code => return Err(wrong(format!("names the type {code}; known are 4 (int32) and 8 (uint16)"))),
        };
        let (documents, bounds) = (index.u64_at(18)?, index.u64_at(26)?);
        let size = documents.checked_mul(20).and_then(|n| n.checked_add(HEADER + 8));
        if Some(bounds) != documents.checked_add(1) || size != Some(index.length) {
            return Err(wrong(format!("has {} bytes, not those of {documents} documents", index.length)));
        }
        let shard = Self { tokens, index, width, documents };
        let end = match documents.checked_sub(1) {
            Some(last) => {
                let (start, length) = shard.span(last)?;
                start.checked_add(u64::from(length) * width.bytes() as u64)
            }
            None => Some(0),
        };
        if end != Some(shard.tokens.length) {
            let (tokens, length) = (shard.tokens.path.display(), shard.tokens.length);
            return Err(wrong(format!("does not belong to {tokens}, which has {length} bytes")));
        }
        Ok(shard)
    }

    /// The byte where a document begins, and its tokens.
    fn span(&self, document: u64) -> Result<(u64, u32)> {
        let length = self.length(document)?;
        Ok((self.index.u64_at(HEADER + 4 * self.documents + 8 * document)?, length))
    }

    /// Tokens.
    pub fn tokens(&self) -> u64 {
        self.tokens.length / self.width.bytes() as u64
    }

    /// The document that a token belongs to, and where in it the token is.
    pub fn at(&self, token: u64) -> Result<(u64, u32)> {
        let at = token * self.width.bytes() as u64;
        let (mut low, mut high) = (0, self.documents);
        // The last document that begins there or before; of several that do, all but the last are empty.
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match self.span(middle)?.0 <= at {
                true => low = middle,
                false => high = middle,
            }
        }
        let skipped = at.saturating_sub(self.span(low)?.0) / self.width.bytes() as u64;
        Ok((low, u32::try_from(skipped).unwrap_or(u32::MAX)))
    }

    /// A document's tokens.
    pub fn length(&self, document: u64) -> Result<u32> {
        self.index.u32_at(HEADER + 4 * document)
    }

    /// The lengths of documents in a row.
    pub fn lengths(&self, from: u64, count: usize, out: &mut Vec<u32>) -> Result<()> {
        let mut bytes = vec![0; 4 * count];
        self.index.read(HEADER + 4 * from, &mut bytes)?;
        out.extend(bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)));
        Ok(())
    }

    /// Appends `count` of a document's tokens, from the token `from` on.
    pub fn read(&self, document: u64, from: u32, count: u32, out: &mut Vec<u32>) -> Result<()> {
        let (start, length) = self.span(document)?;
        let width = self.width.bytes() as u64;
        let at = u64::from(from).checked_mul(width).and_then(|skip| start.checked_add(skip));
        let end = at.and_then(|at| at.checked_add(u64::from(count) * width));
        let inside = from.checked_add(count).is_some_and(|end| end <= length);
        let (Some(at), true, true) = (at, inside, end.is_some_and(|end| end <= self.tokens.length)) else {
            return Err(Error::failed(format!(
                "{} has no tokens {from} to {} of the document {document}",
                self.tokens.path.display(),
                u64::from(from) + u64::from(count)
            ))
            .with_hint("the shard is damaged: make it again"));
        };
        let mut bytes = vec![0; count as usize * self.width.bytes()];
        self.tokens.read(at, &mut bytes)?;
        self.width.get(&bytes, out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn an_index_of_wide_tokens_is_that_of_the_golden_script() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pack_golden");
        let dir = tempfile::tempdir().unwrap();
        let tokens: [&[u32]; 3] = [&[1, 70_000, 151_643], &[], &[5]];
        let (mut bytes, lengths) = (Vec::new(), tokens.map(|ids| ids.len() as u32));
        tokens.iter().for_each(|ids| Width::U32.put(ids, &mut bytes));
        assert_eq!(bytes, std::fs::read(golden.join("wide.bin")).unwrap());
        write_index(&dir.path().join("wide.idx"), Width::U32, &lengths).unwrap();
        assert_eq!(
            std::fs::read(dir.path().join("wide.idx")).unwrap(),
            std::fs::read(golden.join("wide.idx")).unwrap()
        );
        let shard = Shard::open(&golden.join("wide")).unwrap();
        for (document, want) in tokens.iter().enumerate() {
            let mut ids = Vec::new();
            shard.read(document as u64, 0, want.len() as u32, &mut ids).unwrap();
            assert_eq!(ids, *want);
        }
    }
}
