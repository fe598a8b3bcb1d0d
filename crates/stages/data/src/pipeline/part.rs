//! A part: what one task of a pass writes, all of it or nothing.
//!
//! A pass writes its documents in parts, some megabytes of text each, cut where the sources alone decide. Beside its
//! documents a part may have keys, sketches and dropped documents; its description is written last, so a part without one
//! was cut off and is made again.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use cupola_artifact::{Context, Error, Result, write_atomic};
use cupola_records::Document;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::emit::Emitted;
use crate::report::PartReport;
use crate::step::{Key, Place};

/// The lowest level: parts are read once and deleted.
const COMPRESSION_LEVEL: i32 = 1;

/// Bytes of a key in a file.
pub const KEY_BYTES: usize = 28;

/// Bits of a place that number the document in its part, and the part in its group of files.
const INDEX_BITS: u32 = 20;
const CHUNK_BITS: u32 = 20;

/// Documents of a part at most.
pub const MAX_DOCUMENTS: usize = 1 << INDEX_BITS;

/// Which part: of which group of files, and which chunk of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartId {
    /// The group of files, from 0.
    pub group: u32,
    /// The chunk, from 0.
    pub chunk: u32,
}

impl PartId {
    /// The place of a document of this part.
    pub fn place(self, index: usize) -> Place {
        let part = u64::from(self.group) << CHUNK_BITS | u64::from(self.chunk);
        part << INDEX_BITS | index as u64
    }

    /// The part of a place, and the document's number in it.
    pub fn of(place: Place) -> (Self, usize) {
        let part = place >> INDEX_BITS;
        let id = Self { group: (part >> CHUNK_BITS) as u32, chunk: (part & ((1 << CHUNK_BITS) - 1)) as u32 };
        (id, (place & ((1 << INDEX_BITS) - 1)) as usize)
    }

    /// Whether the part has a number at all.
    pub fn fits(self) -> bool {
        self.chunk < 1 << CHUNK_BITS && self.group < 1 << (64 - CHUNK_BITS - INDEX_BITS)
    }

    /// The file of this part with that ending.
    pub fn file(self, dir: &Path, ending: &str) -> PathBuf {
        dir.join(format!("{:07}-{:07}.{ending}", self.group, self.chunk))
    }
}

/// A document on its way, and the bytes its text had when it was read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Travelling {
    /// Bytes as read.
    pub bytes: u64,
    /// As it is now.
    pub document: Document,
}

/// What a part's description says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Description {
    /// Whether the group of files ends with this part.
    pub last: bool,
    /// Documents that it holds for the next pass.
    #[serde(default)]
    pub documents: u64,
    /// What happened to the documents that came in.
    pub report: PartReport,
    /// What the last pass wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emitted: Option<Emitted>,
}

impl Description {
    /// The description, if the part is complete.
    pub fn read(dir: &Path, id: PartId) -> Result<Option<Self>> {
        let path = id.file(dir, "json");
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).context(|| format!("{} is damaged", path.display())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::failed(format!("cannot read {}", path.display())).with_source(e)),
        }
    }

    /// Completes the part.
    pub fn write(&self, dir: &Path, id: PartId) -> Result<()> {
        let json = serde_json::to_vec(self).context(|| "cannot write a part's description".to_owned())?;
        write_atomic(&id.file(dir, "json"), &json)
    }
}

/// Writes lines of JSON, compressed.
pub struct Lines {
    path: PathBuf,
    encoder: zstd::stream::write::Encoder<'static, File>,
    line: Vec<u8>,
}

/// Bytes of lines collected before they go to the compressor.
const LINES_BUFFER: usize = 128 << 10;

impl Lines {
    /// Starts a file; an unfinished one of the same name is overwritten.
    pub fn create(path: PathBuf, level: Option<i32>) -> Result<Self> {
        let cannot = || format!("cannot write {}", path.display());
        let file = File::create(&path).context(cannot)?;
        let mut encoder =
            zstd::stream::write::Encoder::new(file, level.unwrap_or(COMPRESSION_LEVEL)).context(cannot)?;
        encoder.include_checksum(true).context(cannot)?;
        Ok(Self { path, encoder, line: Vec::new() })
    }

    /// Adds a line.
    pub fn write<T: Serialize>(&mut self, value: &T) -> Result<()> {
        serde_json::to_writer(&mut self.line, value)
            .map_err(std::io::Error::from)
            .context(|| format!("cannot write {}", self.path.display()))?;
        self.line.push(b'\n');
        if self.line.len() >= LINES_BUFFER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.encoder.write_all(&self.line).context(|| format!("cannot write {}", self.path.display()))?;
        self.line.clear();
        Ok(())
    }

    /// Completes the file.
    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        let path = self.path;
        let cannot = || format!("cannot write {}", path.display());
        self.encoder.finish().context(cannot)?.sync_all().context(cannot)
    }
}

/// The documents of a part, in order.
pub fn read_documents(dir: &Path, id: PartId) -> Result<impl Iterator<Item = Result<Travelling>> + use<>> {
    read_lines(&id.file(dir, "docs"))
}

/// The values of a file of [`Lines`].
pub fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<impl Iterator<Item = Result<T>> + use<T>> {
    let cannot = format!("cannot read {}", path.display());
    let file = File::open(path).context(|| cannot.clone())?;
    let mut text = Vec::new();
    zstd::stream::read::Decoder::new(file)
        .and_then(|mut decoder| decoder.read_to_end(&mut text))
        .context(|| cannot.clone())?;
    let mut at = 0;
    Ok(std::iter::from_fn(move || {
        let end = at + text[at..].iter().position(|byte| *byte == b'\n')?;
        let line = &text[at..end];
        at = end + 1;
        Some(serde_json::from_slice(line).context(|| cannot.clone()))
    }))
}

/// Writes keys in the order of their hashes.
pub fn write_keys(path: &Path, keys: &mut [Key]) -> Result<()> {
    keys.sort_unstable();
    let mut bytes = Vec::with_capacity(keys.len() * KEY_BYTES);
    for key in keys.iter() {
        for word in [key.hash, key.check, key.place] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(key.part.to_le_bytes());
    }
    write_file(path, &bytes)
}

/// Writes a file whose completeness a part's description vouches for.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let cannot = || format!("cannot write {}", path.display());
    let mut file = File::create(path).context(cannot)?;
    file.write_all(bytes).context(cannot)?;
    file.sync_all().context(cannot)
}

/// A file of keys, in the order of their hashes.
pub struct KeyFile {
    path: PathBuf,
    file: File,
    keys: u64,
}

impl KeyFile {
    /// Opens it.
    pub fn open(path: PathBuf) -> Result<Self> {
        let cannot = || format!("cannot read {}", path.display());
        let file = File::open(&path).context(cannot)?;
        let keys = file.metadata().context(cannot)?.len() / KEY_BYTES as u64;
        Ok(Self { path, file, keys })
    }

    /// Adds the keys whose hashes are in `from..=to`.
    pub fn read_range(&self, from: u64, to: u64, into: &mut Vec<Key>) -> Result<()> {
        let start = self.first_not_below(from)?;
        let end = if to == u64::MAX { self.keys } else { self.first_not_below(to + 1)? };
        let mut bytes = vec![0; (end - start) as usize * KEY_BYTES];
        self.read_at(&mut bytes, start)?;
        into.extend(bytes.chunks_exact(KEY_BYTES).map(|key| {
            let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| key[at + i]));
            let part = u32::from_le_bytes(std::array::from_fn(|i| key[24 + i]));
            Key { hash: word(0), check: word(8), place: word(16), part }
        }));
        Ok(())
    }

    fn first_not_below(&self, hash: u64) -> Result<u64> {
        let (mut low, mut high) = (0, self.keys);
        while low < high {
            let middle = low + (high - low) / 2;
            let mut bytes = [0; 8];
            self.read_at(&mut bytes, middle)?;
            if u64::from_le_bytes(bytes) < hash { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }

    fn read_at(&self, bytes: &mut [u8], key: u64) -> Result<()> {
        read_exact_at(&self.file, bytes, key * KEY_BYTES as u64)
            .context(|| format!("cannot read {}", self.path.display()))
    }
}

/// Fills `bytes` from a place in a file, whatever other threads read.
#[cfg(unix)]
pub fn read_exact_at(file: &File, bytes: &mut [u8], at: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

/// Fills `bytes` from a place in a file, whatever other threads read.
#[cfg(windows)]
pub fn read_exact_at(file: &File, mut bytes: &mut [u8], mut at: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, at)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => (bytes, at) = (&mut bytes[n..], at + n as u64),
        }
    }
    Ok(())
}

/// A dropped document as it is kept to be looked at.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dropped {
    /// Its name.
    pub id: String,
    /// The file it came from.
    pub source: String,
    /// The step that dropped it; `read` where it could not be read at all.
    pub step: String,
    /// The reason.
    pub reason: String,
    /// Its text as it was then, or the error of a broken record.
    pub text: String,
    /// What else was known of it.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub fields: serde_json::Map<String, Value>,
}
