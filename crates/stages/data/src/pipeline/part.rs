//! A part: what one task of a pass writes, all of it or nothing.
//!
//! A pass writes its documents in parts, some megabytes of text each, cut where the sources alone decide. Beside its
//! documents a part may have keys, sketches and dropped documents; its description is written last, so a part without one
//! was cut off and is made again.

use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use cupola_artifact::{Context, Error, Result, write_atomic};
use cupola_records::Document;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::emit::Emitted;
use crate::report::PartReport;
use crate::step::{ANY_SIZE, Key, Place};

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
#[derive(Clone, Debug)]
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

/// Writes a part's documents for the next pass: they are read once, soon, and deleted, so they are neither compressed nor
/// written as text. Each is its bytes as read and the lengths of id, text, source and fields (JSON), then those.
pub struct Documents {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
}

/// Bytes collected before they go to the file or the compressor.
const BUFFER: usize = 1 << 20;

impl Documents {
    /// Starts the file of a part; an unfinished one is overwritten.
    pub fn create(dir: &Path, id: PartId) -> Result<Self> {
        let path = id.file(dir, "docs");
        let file = File::create(&path).context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, file, buffer: Vec::new() })
    }

    /// Adds a document.
    pub fn write(&mut self, travelling: &Travelling) -> Result<()> {
        let document = &travelling.document;
        let cannot = || format!("cannot write {}", self.path.display());
        let fields = match document.fields.is_empty() {
            true => Vec::new(),
            false => serde_json::to_vec(&document.fields).context(cannot)?,
        };
        let parts = [document.id.as_bytes(), document.text.as_bytes(), document.source.as_bytes(), &fields];
        self.buffer.extend(travelling.bytes.to_le_bytes());
        for part in parts {
            self.buffer.extend((part.len() as u64).to_le_bytes());
        }
        parts.iter().for_each(|part| self.buffer.extend_from_slice(part));
        if self.buffer.len() >= BUFFER {
            self.file.write_all(&self.buffer).context(cannot)?;
            self.buffer.clear();
        }
        Ok(())
    }

    /// Completes the file.
    pub fn finish(mut self) -> Result<()> {
        let cannot = || format!("cannot write {}", self.path.display());
        self.file.write_all(&self.buffer).context(cannot)?;
        self.file.sync_all().context(cannot)
    }
}

/// The documents of a part, in order.
pub fn read_documents(dir: &Path, id: PartId) -> Result<impl Iterator<Item = Result<Travelling>> + use<>> {
    let path = id.file(dir, "docs");
    let bytes = std::fs::read(&path).context(|| format!("cannot read {}", path.display()))?;
    let mut at = 0;
    Ok(std::iter::from_fn(move || {
        (at < bytes.len()).then(|| {
            let (travelling, length) = parse(&bytes[at..])
                .ok_or_else(|| Error::failed(format!("{} is damaged at byte {at}", path.display())))?;
            at += length;
            Ok(travelling)
        })
    }))
}

/// The first document of `bytes`, and its length there.
fn parse(bytes: &[u8]) -> Option<(Travelling, usize)> {
    const HEADER: usize = 40;
    let word = |i: usize| Some(u64::from_le_bytes(bytes.get(8 * i..8 * i + 8)?.try_into().ok()?));
    let mut at = HEADER;
    let mut part = |i: usize| {
        let end = at.checked_add(usize::try_from(word(i)?).ok()?)?;
        let part = bytes.get(at..end)?;
        at = end;
        Some(part)
    };
    let (id, text, source, fields) = (part(1)?, part(2)?, part(3)?, part(4)?);
    let string = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
    let document = Document {
        id: string(id)?,
        text: string(text)?,
        source: string(source)?,
        fields: if fields.is_empty() { serde_json::Map::new() } else { serde_json::from_slice(fields).ok()? },
    };
    Some((Travelling { bytes: word(0)?, document }, at))
}

/// Writes lines of JSON, compressed.
pub struct Lines {
    path: PathBuf,
    file: File,
    lines: Vec<u8>,
}

/// Bytes of lines that are compressed as one frame: whole frames at once take less time than a stream.
const FRAME: usize = 16 << 20;

/// zstd's fastest level that finds distant repetitions; 3, its default, takes 1.7 times as long for 14% fewer bytes.
const COMPRESSION_LEVEL: i32 = 1;

impl Lines {
    /// Starts a file; an unfinished one of the same name is overwritten.
    pub fn create(path: PathBuf) -> Result<Self> {
        let file = File::create(&path).context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, file, lines: Vec::new() })
    }

    /// Adds a line.
    pub fn write<T: Serialize>(&mut self, value: &T) -> Result<()> {
        serde_json::to_writer(&mut self.lines, value).context(|| format!("cannot write {}", self.path.display()))?;
        self.lines.push(b'\n');
        if self.lines.len() >= FRAME { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let cannot = || format!("cannot write {}", self.path.display());
        let mut compressor = zstd::bulk::Compressor::new(COMPRESSION_LEVEL).context(cannot)?;
        compressor.include_checksum(true).context(cannot)?;
        self.file.write_all(&compressor.compress(&self.lines).context(cannot)?).context(cannot)?;
        self.lines.clear();
        Ok(())
    }

    /// Completes the file.
    pub fn finish(mut self) -> Result<()> {
        if !self.lines.is_empty() {
            self.flush()?;
        }
        self.file.sync_all().context(|| format!("cannot write {}", self.path.display()))
    }
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
    keys.iter().for_each(|key| bytes.extend(key_bytes(key)));
    write_file(path, &bytes)
}

/// A key as it stands in a file.
pub fn key_bytes(key: &Key) -> [u8; KEY_BYTES] {
    let mut bytes = [0; KEY_BYTES];
    for (at, word) in [key.hash, key.check, key.place].into_iter().enumerate() {
        bytes[8 * at..8 * at + 8].copy_from_slice(&word.to_le_bytes());
    }
    bytes[24..].copy_from_slice(&key.part.to_le_bytes());
    bytes
}

/// The bytes of the sketch with that number in a range, as many of them as it has; all sketches are of `size` or of
/// [`ANY_SIZE`].
pub fn read_sketch(file: &File, size: usize, number: usize, range: Range<usize>) -> std::io::Result<Vec<u8>> {
    let (mut start, mut end) = (size.saturating_mul(number) as u64, size as u64);
    if size == ANY_SIZE {
        let mut ends = [0; 16];
        read_exact_at(file, &mut ends, 8 * number as u64)?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| ends[at + i]));
        (start, end) = (word(0), word(8).saturating_sub(word(0)));
    }
    let from = end.min(range.start as u64);
    let mut sketch = vec![0; (end.min(range.end as u64) - from) as usize];
    read_exact_at(file, &mut sketch, start + from)?;
    Ok(sketch)
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

    /// How many keys it has.
    pub fn len(&self) -> u64 {
        self.keys
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
