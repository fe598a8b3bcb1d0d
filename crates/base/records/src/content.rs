//! Opening: what lies in a file by its name and by its first bytes, unpacked on the way.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cupola_artifact::{Context, Error, Result};

use crate::expand::nearest_path;
use crate::packings::{self, Budget, Counted, Guarded, Members, Packing};

/// How much of the content is looked at to tell what it is, in bytes.
const HEAD_BYTES: usize = 8192;

pub(crate) const READ_BUFFER_BYTES: usize = 128 << 10;

/// What was left out on purpose, by reason.
#[derive(Clone, Debug, Default)]
pub(crate) struct Skipped(Arc<Mutex<BTreeMap<String, u64>>>);

impl Skipped {
    /// Counts one more.
    pub fn count(&self, reason: &str) {
        let mut counts = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *counts.entry(reason.to_owned()).or_default() += 1;
    }

    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// The bytes of a file, or of a member of an archive, unpacked.
pub(crate) struct Content {
    /// What errors and records call it: the path; of a member `archive.zip!inner/name`.
    pub path: PathBuf,
    /// Its name in lower case, without the packing's extension.
    pub name: String,
    /// The first bytes; `reader` gives them too.
    pub head: Vec<u8>,
    /// From the first byte on.
    pub reader: Box<dyn Read + Send>,
    /// The file itself, where nothing had to be unpacked.
    pub file: Option<File>,
    /// Whether it was compressed, and how.
    pub packing: Option<&'static Packing>,
    /// Where the members of a gzip stream end.
    pub members: Members,
    /// What unpacking may yet give.
    pub budget: Budget,
    /// Counts what is left out.
    pub skipped: Skipped,
    /// It is a member of an archive.
    pub in_archive: bool,
    /// What is asked of it, after `#`.
    pub query: Option<String>,
    /// Which of its members is wanted, after `!`; all if none is named.
    pub member: Option<String>,
}

impl Content {
    /// A file on disk.
    pub fn of_file(path: &Path, skipped: Skipped) -> Result<Self> {
        let file = open_file(path)?;
        let whole = file.try_clone().context(|| format!("cannot read {}", path.display()))?;
        let budget = Budget::default();
        let raw = Box::new(Counted { inner: file, budget: budget.clone() });
        let mut content = Self::unpack(path.to_path_buf(), raw, budget, skipped)?;
        if content.packing.is_none() {
            content.file = Some(whole);
        }
        Ok(content)
    }

    /// Bytes in memory, under a name.
    pub fn of_bytes(name: &str, bytes: Vec<u8>, skipped: Skipped) -> Result<Self> {
        let budget = Budget::of_size(bytes.len() as u64);
        Self::unpack(PathBuf::from(name), Box::new(Cursor::new(bytes)), budget, skipped)
    }

    /// A member of an archive; `budget` is the archive's.
    pub fn of_member(path: PathBuf, raw: Box<dyn Read + Send>, budget: Budget, skipped: Skipped) -> Result<Self> {
        Ok(Self { in_archive: true, ..Self::unpack(path, raw, budget, skipped)? })
    }

    fn unpack(path: PathBuf, mut raw: Box<dyn Read + Send>, budget: Budget, skipped: Skipped) -> Result<Self> {
        let name = path.to_string_lossy().to_lowercase();
        let name = name.rsplit(['/', '\\']).next().unwrap_or(&name);
        let (name, named) = packings::of_name(name);
        let (head, failure) = read_head(&mut raw);
        let packing = packings::recognise(&head);
        if let Some(named) = named
            && packing.is_none_or(|packing| packing.name != named.name)
        {
            return Err(not_packed_as_named(&path, named, &head));
        }
        let members = Members::default();
        let (head, reader) = match packing {
            None => (head.clone(), again(head, failure, raw)),
            Some(packing) => {
                let packed = BufReader::with_capacity(READ_BUFFER_BYTES, again(head, failure, raw));
                let content = (packing.unpack)(Box::new(packed), &members);
                let content = content.context(|| format!("cannot read {}", path.display()))?;
                let mut content: Box<dyn Read + Send> = Box::new(Guarded { inner: content, budget: budget.clone() });
                let (head, failure) = read_head(&mut content);
                (head.clone(), again(head, failure, content))
            }
        };
        Ok(Self {
            path,
            name,
            head,
            reader,
            file: None,
            packing,
            members,
            budget,
            skipped,
            in_archive: false,
            query: None,
            member: None,
        })
    }

    /// The last part of the name, e.g. `jsonl`.
    pub fn extension(&self) -> &str {
        self.name.rsplit_once('.').map_or("", |(_, extension)| extension)
    }

    /// The first bytes without a UTF-8 byte order mark.
    pub fn text_head(&self) -> &[u8] {
        self.head.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&self.head)
    }

    /// The text from behind a UTF-8 byte order mark, and the bytes that takes.
    pub fn into_text(self) -> (BufReader<Box<dyn Read + Send>>, u64) {
        let mut reader = self.reader;
        let mark = if self.head.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        // The head is in memory, so these bytes are there.
        let _ = reader.read_exact(&mut [0; 3][..mark]);
        (BufReader::with_capacity(READ_BUFFER_BYTES, reader), mark as u64)
    }

    /// All of it in memory; an error over `limit` bytes.
    pub fn into_bytes(self, limit: usize) -> Result<(PathBuf, Vec<u8>)> {
        let mut bytes = Vec::new();
        let read = self.reader.take(limit as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|error| broken_container(&self.path, 0, error))?;
        if bytes.len() > limit {
            return Err(Error::failed(format!("{} is longer than {} MiB", self.path.display(), limit >> 20))
                .with_hint("split it into several files"));
        }
        Ok((self.path, bytes))
    }

    /// A file that can be read at any place: the file itself, or, if it was packed, a nameless copy on disk.
    pub fn into_file(mut self) -> Result<File> {
        let cannot = || format!("cannot unpack {}", self.path.display());
        if let Some(mut file) = self.file.take() {
            file.seek(SeekFrom::Start(0)).context(cannot)?;
            return Ok(file);
        }
        let mut copy = tempfile::tempfile().context(cannot)?;
        io::copy(&mut self.reader, &mut copy).map_err(|error| broken_container(&self.path, 0, error))?;
        copy.seek(SeekFrom::Start(0)).context(cannot)?;
        Ok(copy)
    }
}

pub(crate) fn open_file(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(|e| {
        let error = Error::failed(format!("cannot open {}", path.display()));
        match nearest_path(path) {
            Some(near) if e.kind() == io::ErrorKind::NotFound => {
                error.with_hint(format!("did you mean {}?", near.display()))
            }
            _ => error,
        }
        .with_source(e)
    })?;
    if file.metadata().context(|| format!("cannot open {}", path.display()))?.is_dir() {
        return Err(Error::failed(format!("{} is a folder, not a file", path.display())));
    }
    Ok(file)
}

fn not_packed_as_named(path: &Path, named: &Packing, head: &[u8]) -> Error {
    let (kind, extension, path) = (named.name, named.extension, path.display());
    if head.is_empty() {
        return Error::failed(format!("{path} is empty: not a {kind} file")).with_hint("copy or download it again");
    }
    let error = Error::failed(format!("{path} is not a {kind} file, in spite of its name"));
    if packings::recognise(head).is_some() {
        error.with_hint("it is compressed in another way; give it the matching extension")
    } else if std::str::from_utf8(&head[..head.len().min(16)]).is_ok() {
        error.with_hint(format!("it looks like plain text; rename it without `.{extension}`"))
    } else {
        error.with_hint("copy or download it again")
    }
}

/// The first bytes, and the error that kept it from getting more.
fn read_head(reader: &mut dyn Read) -> (Vec<u8>, Option<io::Error>) {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    let failure = reader.take(HEAD_BYTES as u64).read_to_end(&mut head).err();
    (head, failure)
}

/// A reader as it was before its head was looked at.
fn again(head: Vec<u8>, failure: Option<io::Error>, rest: Box<dyn Read + Send>) -> Box<dyn Read + Send> {
    let rest: Box<dyn Read + Send> = match failure {
        Some(error) => Box::new(Failing(Some(error))),
        None => rest,
    };
    Box::new(Cursor::new(head).chain(rest))
}

/// Reports an error that happened while looking at the head, once the head has been read.
struct Failing(Option<io::Error>);

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}

/// A failure of the container while reading `path`: whatever follows cannot be trusted.
pub(crate) fn broken_container(path: &Path, line: u64, error: io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::UnexpectedEof => "the file looks cut off: copy or download it again",
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => "the file is damaged: copy or download it again",
        io::ErrorKind::OutOfMemory => "repack it with a smaller dictionary (`xz -9` or less)",
        _ if error.to_string().contains("too much memory") => {
            "repack it with a window of at most 128 MiB (`zstd --long=27`)"
        }
        _ => "check the file with the program that packs such files (`gzip -t`, `zstd -t`, …)",
    };
    let unexpected = error.kind() == io::ErrorKind::UnexpectedEof;
    let what = if unexpected { "unexpected end of the compressed stream" } else { "cannot read on" };
    Error::failed(format!("{}: {what} after line {line}", path.display())).with_hint(hint).with_source(error)
}
