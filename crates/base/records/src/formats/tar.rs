//! tar archives (POSIX ustar and pax, GNU long names), read in one go from start to end.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use cupola_artifact::{Error, Result};

use super::{Format, Stream};
use crate::Record;
use crate::archive::{self, Member, Wanted};
use crate::content::{Content, broken_container};
use crate::packings::Budget;

const BLOCK: usize = 512;

/// The longest name, or list of extended attributes, bytes.
const MAX_ATTRIBUTES: u64 = 1 << 20;

pub(crate) const FORMAT: Format = Format {
    name: "a tar archive",
    extensions: &["tar"],
    searched: true,
    fits: |content| content.head.len() >= BLOCK && parse_checksum(&content.head[..BLOCK]),
    is_surely: |content| {
        content.head.len() >= BLOCK && &content.head[257..262] == b"ustar" && parse_checksum(&content.head[..BLOCK])
    },
    open: |content| {
        archive::refuse_nested(&content)?;
        let wanted = Wanted::new(&content);
        let Content { path, reader, budget, .. } = content;
        let shared = Arc::new(Mutex::new(Shared { reader, left: 0, padding: 0 }));
        Ok(Box::new(Members { path, shared, budget, wanted, current: None, done: false, number: 0 }) as Stream)
    },
};

/// The archive, and how much of the current member is left in it.
struct Shared {
    reader: Box<dyn Read + Send>,
    left: u64,
    padding: u64,
}

impl Shared {
    /// Past what nobody read of the current member.
    fn finish_member(&mut self) -> io::Result<()> {
        let rest = self.left + self.padding;
        (self.left, self.padding) = (0, 0);
        match io::copy(&mut (&mut self.reader).take(rest), &mut io::sink())? {
            n if n == rest => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn begin_member(&mut self, size: u64) {
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
    }
}

/// The current member's content.
struct Piece(Arc<Mutex<Shared>>);

impl Read for Piece {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut shared = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let wanted = usize::try_from(shared.left).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let n = shared.reader.read(&mut buffer[..wanted])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        shared.left -= n as u64;
        Ok(n)
    }
}

/// A member as its header says.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    size: u64,
    kind: u8,
}

struct Members {
    path: PathBuf,
    shared: Arc<Mutex<Shared>>,
    budget: Budget,
    wanted: Wanted,
    current: Option<Stream>,
    done: bool,
    /// Members so far.
    number: u64,
}

/// Why there is no next member.
enum Failure {
    Container(io::Error),
    Header(&'static str),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Container(error)
    }
}

impl Members {
    fn open_next(&mut self) -> Option<Result<Option<Stream>>> {
        let entry = match next_entry(&self.shared) {
            Ok(Some(entry)) => entry,
            Ok(None) => return None,
            Err(Failure::Container(error)) => {
                self.done = true;
                return Some(Err(broken_container(&self.path, self.number, error)));
            }
            Err(Failure::Header(what)) => {
                self.done = true;
                let message =
                    format!("{}: the tar archive is damaged after member {}: {what}", self.path.display(), self.number);
                return Some(Err(Error::failed(message).with_hint("copy or download it again")));
            }
        };
        self.number += 1;
        let member = Member {
            name: &entry.name,
            is_file: matches!(entry.kind, 0 | b'0' | b'7') && !entry.name.ends_with('/'),
            is_link: matches!(entry.kind, b'1' | b'2'),
        };
        match self.wanted.takes(&member) {
            Ok(true) => {}
            Ok(false) => return Some(Ok(None)),
            Err(error) => return Some(Err(error)),
        }
        let raw = Box::new(Piece(Arc::clone(&self.shared)));
        Some(self.wanted.open(&entry.name, raw, &self.budget).map(Some))
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
            if self.done {
                return None;
            }
            match self.open_next() {
                None => {
                    self.done = true;
                    return self.wanted.missing().map(Err);
                }
                Some(Ok(stream)) => self.current = stream,
                Some(Err(error)) => return Some(Err(error)),
            }
        }
    }
}

/// The next member, with the name and size that records before its header give it; `None` at the end.
fn next_entry(shared: &Mutex<Shared>) -> Result<Option<Entry>, Failure> {
    let mut shared = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (mut long_name, mut pax_size) = (None, None);
    loop {
        shared.finish_member()?;
        let mut block = [0; BLOCK];
        // Some archives end without the two empty blocks.
        if shared.reader.read(&mut block[..1])? == 0 {
            return Ok(None);
        }
        shared.reader.read_exact(&mut block[1..])?;
        if block.iter().all(|b| *b == 0) {
            // What is left is padding; reading it checks the packing's checksum.
            io::copy(&mut shared.reader, &mut io::sink())?;
            return Ok(None);
        }
        let mut entry = parse_header(&block).ok_or(Failure::Header("a header's checksum does not match"))?;
        match entry.kind {
            b'L' | b'x' | b'g' | b'K' => {
                shared.begin_member(entry.size);
                if entry.size > MAX_ATTRIBUTES {
                    return Err(Failure::Header("a name or attribute is longer than 1 MiB"));
                }
                let mut bytes = vec![0; entry.size as usize];
                shared.reader.read_exact(&mut bytes)?;
                shared.left = 0;
                match entry.kind {
                    b'L' => long_name = Some(text_until_zero(&bytes)),
                    b'x' => {
                        let (path, size) = pax(&bytes);
                        long_name = path.or(long_name);
                        pax_size = size;
                    }
                    _ => {}
                }
            }
            b'S' => return Err(Failure::Header("sparse files are not read")),
            _ => {
                entry.name = long_name.unwrap_or(entry.name);
                entry.size = pax_size.unwrap_or(entry.size);
                // A link's size is that of the file it names.
                let size = if matches!(entry.kind, b'1' | b'2' | b'3' | b'4' | b'5' | b'6') { 0 } else { entry.size };
                if size > i64::MAX as u64 {
                    return Err(Failure::Header("a member's size is out of range"));
                }
                shared.begin_member(size);
                return Ok(Some(entry));
            }
        }
    }
}

fn parse_checksum(block: &[u8]) -> bool {
    let sum: u64 =
        block.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u64::from(*b) }).sum();
    octal(&block[148..156]) == Some(sum)
}

fn parse_header(block: &[u8; BLOCK]) -> Option<Entry> {
    if !parse_checksum(block) {
        return None;
    }
    let mut name = text_until_zero(&block[..100]);
    let prefix = text_until_zero(&block[345..500]);
    if &block[257..263] == b"ustar\0" && !prefix.is_empty() {
        name = format!("{prefix}/{name}");
    }
    Some(Entry { name, size: number(&block[124..136])?, kind: block[156] })
}

fn text_until_zero(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

/// Octal digits, or with the first bit set a big-endian number (GNU).
fn number(field: &[u8]) -> Option<u64> {
    match field {
        [0x80, rest @ ..] => rest.iter().try_fold(0_u64, |n, b| n.checked_mul(256)?.checked_add(u64::from(*b))),
        _ => octal(field),
    }
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

/// `path` and `size` from lines such as `25 path=a/long/name.txt`.
fn pax(mut rest: &[u8]) -> (Option<String>, Option<u64>) {
    let (mut path, mut size) = (None, None);
    while let Some(space) = rest.iter().position(|b| *b == b' ') {
        let length = std::str::from_utf8(&rest[..space]).ok().and_then(|n| n.parse::<usize>().ok());
        let Some(length) = length.filter(|n| *n > space + 1 && *n <= rest.len()) else { break };
        let line = String::from_utf8_lossy(&rest[space + 1..length]).into_owned();
        match line.trim_end_matches('\n').split_once('=') {
            Some(("path", value)) => path = Some(value.to_owned()),
            Some(("size", value)) => size = value.parse().ok(),
            _ => {}
        }
        rest = &rest[length..];
    }
    (path, size)
}
