//! The records of a web archive, one in memory at a time, and the way back in behind a broken one.

use std::io::{self, Read};

use super::http;
use crate::MAX_RECORD_BYTES;
use crate::packings::Members;

/// The longest header, bytes.
const MAX_HEADER_BYTES: usize = 64 << 10;

const CHUNK_BYTES: usize = 64 << 10;

/// A record: its header's lines and its content.
pub(super) struct RawRecord {
    headers: Vec<(String, String)>,
    pub block: Vec<u8>,
}

impl RawRecord {
    /// A header by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

/// Why there is no record.
pub(super) enum Failure {
    /// This one is broken; the next one can be read.
    Record(String),
    /// Nothing more can be read.
    Container(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Container(error)
    }
}

/// Reads record after record.
pub(super) struct RawRecords {
    reader: Box<dyn Read + Send>,
    members: Members,
    /// What has been read and not used, from `at` on.
    buffer: Vec<u8>,
    at: usize,
    /// Where `buffer[at]` is in the file, unpacked.
    position: u64,
    number: u64,
    /// An error that came behind the last bytes.
    failed: Option<io::Error>,
    ended: bool,
}

impl RawRecords {
    pub fn new(reader: Box<dyn Read + Send>, members: Members) -> Self {
        let (buffer, failed) = (Vec::new(), None);
        Self { reader, members, buffer, at: 0, position: 0, number: 0, failed, ended: false }
    }

    /// Which record is the last that was read, from 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    pub fn next(&mut self) -> Option<Result<RawRecord, Failure>> {
        match self.skip_blank() {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => return Some(Err(error.into())),
        }
        self.number += 1;
        let record = self.record();
        if let Err(Failure::Record(_)) = &record
            && let Err(error) = self.resync()
        {
            // Nothing that can be used is left before the error.
            self.advance(self.unused().len());
            self.failed = Some(error);
        }
        Some(record)
    }

    fn unused(&self) -> &[u8] {
        &self.buffer[self.at..]
    }

    fn advance(&mut self, bytes: usize) {
        self.at += bytes;
        self.position += bytes as u64;
    }

    /// Reads until `bytes` are there or the file ends; how many are.
    fn fill(&mut self, bytes: usize) -> io::Result<usize> {
        if self.at > CHUNK_BYTES && self.at * 2 > self.buffer.len() {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        while self.unused().len() < bytes && self.read_more()? {}
        Ok(self.unused().len())
    }

    /// Reads a piece, which never goes across the end of a gzip member; false at the end.
    fn read_more(&mut self) -> io::Result<bool> {
        if let Some(error) = self.failed.take() {
            self.ended = true;
            return Err(error);
        }
        if self.ended {
            return Ok(false);
        }
        let old = self.buffer.len();
        self.buffer.resize(old + CHUNK_BYTES, 0);
        let read = loop {
            match self.reader.read(&mut self.buffer[old..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        let n = *read.as_ref().unwrap_or(&0);
        self.buffer.truncate(old + n);
        self.ended = n == 0;
        read.map(|n| n > 0)
    }

    /// Past line ends between records; false at the end of the file.
    fn skip_blank(&mut self) -> io::Result<bool> {
        loop {
            let blank = self.unused().iter().take_while(|b| b.is_ascii_whitespace()).count();
            self.advance(blank);
            if !self.unused().is_empty() {
                return Ok(true);
            }
            if self.fill(1)? == 0 {
                return Ok(false);
            }
        }
    }

    fn record(&mut self) -> Result<RawRecord, Failure> {
        self.fill(5)?;
        if !self.unused().starts_with(b"WARC/") {
            let start = String::from_utf8_lossy(&self.unused()[..self.unused().len().min(24)]).into_owned();
            return Err(Failure::Record(format!("it begins with `{}`, not with WARC/", start.escape_debug())));
        }
        let length = self.header_length()?;
        let head = String::from_utf8_lossy(&self.unused()[..length]).into_owned();
        let headers = http::headers(head.lines().skip(1));
        let mut record = RawRecord { headers, block: Vec::new() };
        let claimed = record.header("content-length").ok_or_else(|| Failure::Record("no Content-Length".to_owned()))?;
        let claimed: u64 =
            claimed.parse().map_err(|_| Failure::Record(format!("Content-Length is `{}`", claimed.escape_debug())))?;
        if claimed > MAX_RECORD_BYTES as u64 {
            return Err(Failure::Record(format!("it is longer than {} MiB", MAX_RECORD_BYTES >> 20)));
        }
        let claimed = claimed as usize;
        self.check_block(length, claimed)?;
        record.block = self.unused()[length..length + claimed].to_vec();
        self.advance(length + claimed);
        Ok(record)
    }

    /// Bytes of the header with the empty line that ends it.
    fn header_length(&mut self) -> Result<usize, Failure> {
        let mut wanted = 512;
        loop {
            let there = self.fill(wanted)?;
            let window = &self.unused()[..there.min(MAX_HEADER_BYTES)];
            if let Some((_, rest)) = http::split_head(window) {
                return Ok(window.len() - rest.len());
            }
            if there < wanted || wanted > MAX_HEADER_BYTES {
                return Err(Failure::Record("its header has no end".to_owned()));
            }
            wanted *= 2;
        }
    }

    /// Reads the content, and makes sure that it is as long as its header says: it ends where the file ends or with an empty
    /// line, and it does not reach into a next record.
    fn check_block(&mut self, header: usize, claimed: usize) -> Result<(), Failure> {
        let end = header + claimed;
        let mut wanted = header;
        while wanted < end {
            wanted = (wanted + CHUNK_BYTES).min(end);
            let there = self.fill(wanted)?;
            if let Some(inside) = self.member_end(end) {
                self.fill(inside + 5)?;
                if self.unused()[inside..].starts_with(b"WARC/") {
                    return Err(Failure::Record(format!(
                        "Content-Length is {claimed}, but the record ends after {}",
                        inside.saturating_sub(header)
                    )));
                }
            }
            if there < wanted {
                return Err(Failure::Record(format!(
                    "Content-Length is {claimed}, but the file ends after {}",
                    there.saturating_sub(header)
                )));
            }
        }
        let there = self.fill(end + 2)?;
        let after = &self.unused()[end..there];
        if after.is_empty() || after.starts_with(b"\n") || after.starts_with(b"\r\n") {
            return Ok(());
        }
        Err(Failure::Record(format!("Content-Length is {claimed}, but the record goes on")))
    }

    /// The first end of a gzip member in the next `end` bytes, as far as they have been read.
    fn member_end(&self, end: usize) -> Option<usize> {
        let inside = usize::try_from(self.members.next_end(self.position)? - self.position).ok()?;
        (inside < end && inside <= self.unused().len()).then_some(inside)
    }

    /// Goes to where the next record can begin: a line with WARC/, or the next gzip member.
    fn resync(&mut self) -> io::Result<()> {
        // Not where the broken one began.
        let mut first = 1;
        loop {
            let there = self.fill(first + 6)?;
            let line = find_line(&self.unused()[first - 1..]).map(|at| first - 1 + at + 1);
            let member = self.member_end(usize::MAX);
            if let Some(at) = [line, member].into_iter().flatten().min() {
                self.advance(at);
                return Ok(());
            }
            if there < first + 6 {
                self.advance(there);
                return Ok(());
            }
            // Keep a few bytes: the mark may go across pieces.
            let pass = there - 6;
            self.advance(pass);
            first = 1;
            if self.fill(7 + 6)? <= 6 {
                self.advance(self.unused().len());
                return Ok(());
            }
        }
    }
}

/// Where `WARC/` begins a line: the place of the line end before it.
fn find_line(bytes: &[u8]) -> Option<usize> {
    bytes.windows(6).position(|window| window == b"\nWARC/")
}
