//! Opening a file: what it is by name and by content, decompression, and the guard against decompression bombs.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cupola_artifact::{Context, Error, Result};

use crate::expand::nearest_path;
use crate::{MAX_UNPACK_RATIO, UNPACK_GRACE_BYTES};

/// How much of the content is looked at to tell what it is, in bytes.
const HEAD_BYTES: usize = 4096;

const READ_BUFFER_BYTES: usize = 128 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    JsonLines,
    Json,
    Parquet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Gzip,
    Zstd,
}

/// A file, decompressed and without its byte order mark.
pub(crate) struct Opened {
    pub reader: Box<dyn BufRead + Send>,
    pub format: Format,
    /// Bytes of the content left out at its start: the byte order mark.
    pub skipped: u64,
}

pub(crate) fn open(path: &Path) -> Result<Opened> {
    let mut file = open_file(path)?;
    let (named_packing, named_format) = from_name(path);
    let head = read_head(&mut file).0;
    let packing = packing_of(&head);
    if let Some(named) = named_packing
        && packing != Some(named)
    {
        return Err(not_packed_as_named(path, named, &head));
    }
    let input = Arc::new(AtomicU64::new(0));
    let raw = Counted { inner: Cursor::new(head).chain(file), count: Arc::clone(&input) };
    let raw = BufReader::with_capacity(READ_BUFFER_BYTES, raw);
    let mut content: Box<dyn Read + Send> = match packing {
        None => Box::new(raw),
        Some(Packing::Gzip) => Box::new(Guarded::new(flate2::bufread::MultiGzDecoder::new(raw), input)),
        Some(Packing::Zstd) => {
            let decoder = zstd::stream::read::Decoder::with_buffer(raw);
            Box::new(Guarded::new(decoder.context(|| format!("cannot read {}", path.display()))?, input))
        }
    };
    let (mut head, failure) = read_head(&mut content);
    let format = format_of(path, named_format, packing.is_some(), &head)?;
    let skipped = if head.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
    head.drain(..skipped);
    let rest: Box<dyn Read + Send> = match failure {
        Some(error) => Box::new(Failing(Some(error))),
        None => content,
    };
    let reader = BufReader::with_capacity(READ_BUFFER_BYTES, Cursor::new(head).chain(rest));
    Ok(Opened { reader: Box::new(reader), format, skipped: skipped as u64 })
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

/// What the name promises; an unknown extension promises nothing.
fn from_name(path: &Path) -> (Option<Packing>, Option<Format>) {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let (inner, packing) = if let Some(inner) = name.strip_suffix(".gz") {
        (inner, Some(Packing::Gzip))
    } else if let Some(inner) = name.strip_suffix(".zst") {
        (inner, Some(Packing::Zstd))
    } else {
        (name.as_str(), None)
    };
    let format = match inner.rsplit_once('.').map(|(_, extension)| extension) {
        Some("txt" | "md") => Some(Format::Text),
        Some("jsonl" | "ndjson") => Some(Format::JsonLines),
        Some("json") => Some(Format::Json),
        Some("parquet") => Some(Format::Parquet),
        _ => None,
    };
    (packing, format)
}

fn packing_of(head: &[u8]) -> Option<Packing> {
    match head {
        [0x1F, 0x8B, ..] => Some(Packing::Gzip),
        // RFC 8878: a frame, or a skippable frame before it.
        [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => Some(Packing::Zstd),
        _ => None,
    }
}

fn not_packed_as_named(path: &Path, named: Packing, head: &[u8]) -> Error {
    let (kind, extension) = match named {
        Packing::Gzip => ("gzip", ".gz"),
        Packing::Zstd => ("zstd", ".zst"),
    };
    let path = path.display();
    if head.is_empty() {
        return Error::failed(format!("{path} is empty: not a {kind} file")).with_hint("copy or download it again");
    }
    let error = Error::failed(format!("{path} is not a {kind} file, in spite of its name"));
    if packing_of(head).is_some() {
        error.with_hint("it is compressed in another way; give it the matching extension")
    } else if std::str::from_utf8(&head[..head.len().min(16)]).is_ok() {
        error.with_hint(format!("it looks like plain text; rename it without `{extension}`"))
    } else {
        error.with_hint("copy or download it again")
    }
}

fn format_of(path: &Path, named: Option<Format>, packed: bool, head: &[u8]) -> Result<Format> {
    let name = path.display();
    if head.starts_with(b"PAR1") || named == Some(Format::Parquet) {
        if packed {
            return Err(Error::failed(format!("{name} is a compressed Parquet file, which cannot be read in place"))
                .with_hint("unpack it first; Parquet compresses its own pages"));
        }
        return Ok(Format::Parquet);
    }
    if let Some(encoding) = wide_encoding(head) {
        return Err(Error::failed(format!("{name} is {encoding} (seen at byte offset 0), not UTF-8"))
            .with_hint(format!("convert it: `iconv -f {encoding} -t UTF-8`")));
    }
    let mut visible = head.iter().copied().filter(|b| !b.is_ascii_whitespace() && !matches!(b, 0xEF | 0xBB | 0xBF));
    let (first, second) = (visible.next(), visible.next());
    match named {
        Some(Format::JsonLines) if first == Some(b'[') && matches!(second, Some(b'{') | None) => Ok(Format::Json),
        Some(Format::Json) if !matches!(first, None | Some(b'{' | b'[')) => Err(Error::failed(format!(
            "{name} is not JSON: it starts with `{}`",
            String::from_utf8_lossy(&head[..head.len().min(12)]).trim().escape_debug()
        ))
        .with_hint("a .json file holds an array of objects or an object")),
        Some(format) => Ok(format),
        None => match first {
            Some(b'{') => Ok(Format::JsonLines),
            Some(b'[') if second == Some(b'{') => Ok(Format::Json),
            _ if head.contains(&0) => Err(Error::failed(format!("{name} is binary: neither text nor a known format"))
                .with_hint("known are .txt, .md, .jsonl, .ndjson, .json (each also with .gz or .zst) and .parquet")),
            _ => Ok(Format::Text),
        },
    }
}

/// UTF-16 and UTF-32 by byte order mark, and UTF-16 without one by the zero bytes of its ASCII characters.
fn wide_encoding(head: &[u8]) -> Option<&'static str> {
    match head {
        [0xFF, 0xFE, 0, 0, ..] => return Some("UTF-32LE"),
        [0, 0, 0xFE, 0xFF, ..] => return Some("UTF-32BE"),
        [0xFF, 0xFE, ..] => return Some("UTF-16LE"),
        [0xFE, 0xFF, ..] => return Some("UTF-16BE"),
        _ => {}
    }
    let pairs = head.chunks_exact(2).take(32);
    let (mut total, mut little, mut big) = (0, 0, 0);
    for pair in pairs {
        total += 1;
        little += usize::from(pair[0] != 0 && pair[1] == 0);
        big += usize::from(pair[0] == 0 && pair[1] != 0);
    }
    match total >= 4 {
        true if little * 4 >= total * 3 => Some("UTF-16LE"),
        true if big * 4 >= total * 3 => Some("UTF-16BE"),
        _ => None,
    }
}

/// The first bytes, and the error that kept it from getting more.
fn read_head(reader: &mut dyn Read) -> (Vec<u8>, Option<io::Error>) {
    let mut head = Vec::with_capacity(HEAD_BYTES);
    let failure = reader.take(HEAD_BYTES as u64).read_to_end(&mut head).err();
    (head, failure)
}

struct Counted<R> {
    inner: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.count.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// Refuses what unpacks to far more than text ever does.
struct Guarded<R> {
    inner: R,
    input: Arc<AtomicU64>,
    output: u64,
}

impl<R> Guarded<R> {
    fn new(inner: R, input: Arc<AtomicU64>) -> Self {
        Self { inner, input, output: 0 }
    }
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.output += n as u64;
        let input = self.input.load(Ordering::Relaxed).max(1);
        if self.output > UNPACK_GRACE_BYTES && self.output / input > MAX_UNPACK_RATIO {
            return Err(io::Error::other(format!(
                "decompression bomb: {input} bytes unpack to more than {} (limit {MAX_UNPACK_RATIO} to 1)",
                self.output
            )));
        }
        Ok(n)
    }
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
        _ if error.to_string().contains("too much memory") => {
            "repack it with a window of at most 128 MiB (`zstd --long=27`)"
        }
        _ => "check the file with `gzip -t` or `zstd -t`",
    };
    let unexpected = error.kind() == io::ErrorKind::UnexpectedEof;
    let what = if unexpected { "unexpected end of the compressed stream" } else { "cannot read on" };
    Error::failed(format!("{}: {what} after line {line}", path.display())).with_hint(hint).with_source(error)
}
