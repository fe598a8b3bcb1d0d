//! zip archives: every member that a search would take is read in its own format. Nothing is unpacked to a disk under its name.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cupola_artifact::{Context, Error, Result};
use zip::{CompressionMethod, ZipArchive};

use super::{Format, Stream};
use crate::Record;
use crate::archive::{self, Member, Wanted};
use crate::content::{Content, READ_BUFFER_BYTES};
use crate::packings::{Budget, Guarded};

pub(crate) const FORMAT: Format = Format {
    name: "a zip archive",
    extensions: &["zip"],
    searched: true,
    fits: is_zip,
    is_surely: is_zip,
    open: |content| {
        archive::refuse_nested(&content)?;
        let wanted = Wanted::new(&content);
        let zip = Zip::open(content)?;
        Ok(Box::new(Members { zip, wanted, next: 0, current: None }) as Stream)
    },
};

/// A file, or an empty archive.
pub(crate) fn is_zip(content: &Content) -> bool {
    content.head.starts_with(b"PK\x03\x04") || content.head.starts_with(b"PK\x05\x06")
}

/// An open archive; members are read straight from the file.
pub(crate) struct Zip {
    pub path: PathBuf,
    archive: ZipArchive<File>,
    file: Arc<Mutex<File>>,
    budget: Budget,
}

/// What the directory says of a member.
pub(crate) struct Entry {
    pub name: String,
    pub is_file: bool,
    pub is_link: bool,
    encrypted: bool,
    method: CompressionMethod,
    start: u64,
    packed: u64,
    crc: u32,
}

impl Zip {
    pub fn open(content: Content) -> Result<Self> {
        let path = content.path.clone();
        let file = content.into_file()?;
        let cannot = || format!("cannot read {}", path.display());
        let second = file.try_clone().context(cannot)?;
        let budget = Budget::of_size(file.metadata().context(cannot)?.len());
        let archive = ZipArchive::new(second).map_err(|e| damaged(&path, e))?;
        Ok(Self { path, archive, file: Arc::new(Mutex::new(file)), budget })
    }

    pub fn entry(&mut self, index: usize) -> Result<Entry> {
        let path = self.path.clone();
        let member = self.archive.by_index_raw(index).map_err(|e| damaged(&path, e))?;
        let start = member.data_start().ok_or_else(|| damaged(&path, "a member has no content"))?;
        Ok(Entry {
            name: member.name().map_err(|e| damaged(&path, e))?.into_owned(),
            is_file: member.is_file(),
            is_link: member.is_symlink(),
            encrypted: member.encrypted(),
            method: member.compression(),
            start,
            packed: member.compressed_size(),
            crc: member.crc32(),
        })
    }

    /// A member's content, unpacked as it is read.
    pub fn reader(&self, entry: &Entry) -> Result<Box<dyn Read + Send>> {
        let place = archive::member_path(&self.path, &entry.name);
        if entry.encrypted {
            return Err(
                Error::failed(format!("{} is encrypted", place.display())).with_hint("decrypt the archive first")
            );
        }
        let piece = Piece { file: Arc::clone(&self.file), position: entry.start, left: entry.packed };
        let raw = BufReader::with_capacity(READ_BUFFER_BYTES, piece);
        let unpacked: Box<dyn Read + Send> = match entry.method {
            CompressionMethod::STORE => Box::new(raw),
            CompressionMethod::DEFLATE => Box::new(flate2::bufread::DeflateDecoder::new(raw)),
            CompressionMethod::BZIP2 => Box::new(bzip2::bufread::BzDecoder::new(raw)),
            CompressionMethod::ZSTD => {
                let decoder = zstd::stream::read::Decoder::with_buffer(raw);
                Box::new(decoder.context(|| format!("cannot read {}", place.display()))?)
            }
            other => {
                return Err(Error::failed(format!("{} is compressed by the method {other}", place.display()))
                    .with_hint("known are store, deflate, bzip2 and zstd: pack the archive again"));
            }
        };
        let checked = Checked { inner: unpacked, crc: flate2::Crc::new(), expected: entry.crc };
        Ok(Box::new(Guarded { inner: checked, budget: self.budget.clone() }))
    }

    /// The names of all members that have a readable one, in order.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.archive.file_names().filter_map(|name| Some(name.ok()?.into_owned()))
    }

    /// A member by its name, at most `limit` bytes; `None` where there is none.
    pub fn read(&mut self, name: &str, limit: usize) -> Result<Option<Vec<u8>>> {
        let Some(index) = self.archive.index_for_name(name) else { return Ok(None) };
        let entry = self.entry(index)?;
        let mut bytes = Vec::new();
        let place = archive::member_path(&self.path, name);
        let read = self.reader(&entry)?.take(limit as u64 + 1).read_to_end(&mut bytes);
        read.context(|| format!("cannot read {}", place.display()))?;
        if bytes.len() > limit {
            return Err(Error::failed(format!("{} is longer than {} MiB", place.display(), limit >> 20)));
        }
        Ok(Some(bytes))
    }
}

fn damaged(path: &Path, cause: impl std::fmt::Display) -> Error {
    Error::failed(format!("{}: the zip archive is damaged: {cause}", path.display()))
        .with_hint("copy or download it again; `unzip -t` says what can be read")
}

/// A stretch of a file that others read too.
struct Piece {
    file: Arc<Mutex<File>>,
    position: u64,
    left: u64,
}

impl Read for Piece {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.seek(SeekFrom::Start(self.position))?;
        let n = file.read(&mut buffer[..wanted])?;
        self.position += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

/// Compares the checksum at the end.
struct Checked<R> {
    inner: R,
    crc: flate2::Crc,
    expected: u32,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.crc.update(&buffer[..n]);
        if n == 0 && !buffer.is_empty() && self.crc.sum() != self.expected {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the checksum in the zip archive does not match"));
        }
        Ok(n)
    }
}

/// The records of all members, one member after the other.
struct Members {
    zip: Zip,
    wanted: Wanted,
    next: usize,
    current: Option<Stream>,
}

impl Members {
    fn open_next(&mut self) -> Result<Option<Stream>> {
        let index = self.next;
        self.next += 1;
        let entry = self.zip.entry(index)?;
        if !self.wanted.takes(&Member { name: &entry.name, is_file: entry.is_file, is_link: entry.is_link })? {
            return Ok(None);
        }
        let raw = self.zip.reader(&entry)?;
        self.wanted.open(&entry.name, raw, &self.zip.budget).map(Some)
    }
}

impl Iterator for Members {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.current.as_mut().and_then(Iterator::next) {
                Some(record) => return Some(record),
                None => self.current = None,
            }
            if self.next == self.zip.archive.len() {
                return self.wanted.missing().map(Err);
            }
            match self.open_next() {
                Ok(stream) => self.current = stream,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
