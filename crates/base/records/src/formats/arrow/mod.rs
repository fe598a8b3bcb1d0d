//! Arrow's own format, as a file (Feather 2) and as a stream: every row an object with its columns as keys.
//!
//! A file is a stream between two marks with a directory behind it, so both are read from start to end. What a message claims
//! of itself is checked before anything of that size is set up.

mod values;

use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use arrow_array::{Array, RecordBatch, StructArray};
use arrow_buffer::Buffer;
use arrow_ipc::reader::StreamDecoder;
use arrow_ipc::{MessageHeader, root_as_message};
use cupola_artifact::{Error, Result};

use super::{Format, Stream};
use crate::content::{Content, broken_container};
use crate::packings::Budget;
use crate::{MAX_TEXT_BYTES, Record};

const MAGIC: &[u8] = b"ARROW1";

/// The longest description of a batch, bytes.
const MAX_METADATA_BYTES: usize = 64 << 20;

/// The largest batch, bytes.
const MAX_BATCH_BYTES: u64 = MAX_TEXT_BYTES as u64;

pub(crate) const FORMAT: Format = Format {
    name: "an Arrow file",
    extensions: &["arrow", "arrows", "feather", "ipc"],
    searched: true,
    fits: |content| content.head.starts_with(MAGIC) || is_stream(content),
    is_surely: |content| content.head.starts_with(b"ARROW1\0\0"),
    open: |content| Ok(Box::new(Rows::open(content)) as Stream),
};

/// A stream begins with the length of its schema, in newer ones behind four bytes of ones.
fn is_stream(content: &Content) -> bool {
    content.head.starts_with(&[0xFF; 4])
        || content.head.first_chunk().is_some_and(|n| (1..1 << 20).contains(&i32::from_le_bytes(*n)))
}

struct Rows {
    path: PathBuf,
    reader: Box<dyn Read + Send>,
    /// Between the marks of a file.
    in_file: bool,
    decoder: StreamDecoder,
    /// Bytes read and bytes that compressed buffers claim to be.
    budget: Budget,
    batch: Option<StructArray>,
    next: usize,
    row: u64,
    done: bool,
}

/// Why there is no batch.
enum Failure {
    Container(io::Error),
    Damaged(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Container(error)
    }
}

impl Rows {
    fn open(content: Content) -> Self {
        Self {
            in_file: content.head.starts_with(MAGIC),
            path: content.path,
            reader: content.reader,
            decoder: StreamDecoder::new(),
            budget: content.budget,
            batch: None,
            next: 0,
            row: 0,
            done: false,
        }
    }

    fn next_batch(&mut self) -> Result<Option<RecordBatch>, Failure> {
        if self.in_file && self.decoder.schema().is_none() {
            self.reader.read_exact(&mut [0; 8])?;
        }
        loop {
            let Some(metadata) = self.metadata()? else { return Ok(None) };
            let length = body_length(&metadata)?;
            let mut body = Vec::new();
            let read = (&mut self.reader).take(length).read_to_end(&mut body)?;
            if read as u64 != length {
                return Err(Failure::Container(io::ErrorKind::UnexpectedEof.into()));
            }
            if check_buffers(&metadata, &body, &self.budget)? == Batch::Empty {
                continue;
            }
            let mut message = Vec::with_capacity(8 + metadata.len() + body.len());
            message.extend_from_slice(&[0xFF; 4]);
            message.extend_from_slice(&(metadata.len() as u32).to_le_bytes());
            message.extend_from_slice(&metadata);
            message.extend_from_slice(&body);
            if let Some(batch) = self.decode(message)? {
                return Ok(Some(batch));
            }
        }
    }

    /// Gives a message to the decoder, which panics on some damaged ones instead of returning an error.
    fn decode(&mut self, message: Vec<u8>) -> Result<Option<RecordBatch>, Failure> {
        let mut buffer = Buffer::from_vec(message);
        let decoder = &mut self.decoder;
        match catch_unwind(AssertUnwindSafe(|| decoder.decode(&mut buffer))) {
            Ok(Ok(batch)) => Ok(batch),
            Ok(Err(e)) => Err(Failure::Damaged(e.to_string())),
            Err(_) => Err(Failure::Damaged("the reader gave up on its content".to_owned())),
        }
    }

    /// The next message's description; `None` at the end.
    fn metadata(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let mut word = [0; 4];
        if self.reader.read(&mut word[..1])? == 0 {
            return match self.in_file {
                true => Err(Failure::Container(io::ErrorKind::UnexpectedEof.into())),
                // A stream may end without its mark.
                false => Ok(None),
            };
        }
        self.reader.read_exact(&mut word[1..])?;
        if word == [0xFF; 4] {
            self.reader.read_exact(&mut word)?;
        } else if self.in_file && self.decoder.schema().is_some() {
            return Err(Failure::Damaged("the mark between two batches is missing".to_owned()));
        }
        let length = u32::from_le_bytes(word) as usize;
        if length == 0 {
            return self.end().map(|()| None);
        }
        if length > MAX_METADATA_BYTES {
            return Err(Failure::Damaged(format!("a batch's description claims to be {length} bytes long")));
        }
        let mut metadata = Vec::new();
        if (&mut self.reader).take(length as u64).read_to_end(&mut metadata)? != length {
            return Err(Failure::Container(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(Some(metadata))
    }

    /// Behind the batches: a file has its directory and its mark there, so a cut is noticed.
    fn end(&mut self) -> Result<(), Failure> {
        if !self.in_file {
            return Ok(());
        }
        let (mut last, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            let n = self.reader.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            last.extend_from_slice(&buffer[..n]);
            last.drain(..last.len().saturating_sub(MAGIC.len()));
        }
        match last == MAGIC {
            true => Ok(()),
            false => Err(Failure::Container(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    fn error(&self, failure: Failure) -> Error {
        match failure {
            Failure::Container(error) => broken_container(&self.path, self.row, error),
            Failure::Damaged(cause) => Error::failed(format!(
                "{}: the Arrow file is damaged after row {}: {cause}",
                self.path.display(),
                self.row
            ))
            .with_hint("copy or write the file again"),
        }
    }
}

fn body_length(metadata: &[u8]) -> Result<u64, Failure> {
    let message = root_as_message(metadata).map_err(|e| Failure::Damaged(e.to_string()))?;
    u64::try_from(message.bodyLength()).ok().filter(|length| *length <= MAX_BATCH_BYTES).ok_or_else(|| {
        Failure::Damaged(format!("a batch claims to be {} bytes long (limit {MAX_BATCH_BYTES})", message.bodyLength()))
    })
}

/// Whether a message has rows that the decoder would wait for.
#[derive(PartialEq, Eq)]
enum Batch {
    Empty,
    Other,
}

/// Compressed buffers say how long they will be: that must be within what unpacking may give.
fn check_buffers(metadata: &[u8], body: &[u8], budget: &Budget) -> Result<Batch, Failure> {
    let message = root_as_message(metadata).map_err(|e| Failure::Damaged(e.to_string()))?;
    let batch = match message.header_type() {
        MessageHeader::RecordBatch => message.header_as_record_batch(),
        MessageHeader::DictionaryBatch => message.header_as_dictionary_batch().and_then(|dictionary| dictionary.data()),
        _ => None,
    };
    let Some(batch) = batch else { return Ok(Batch::Other) };
    let (rows, bytes) = (batch.length(), body.len() as i64);
    // A column of nulls and one without fields have rows without bytes.
    if rows < 0 || rows > 8 * bytes.max(1 << 20) {
        return Err(Failure::Damaged(format!("a batch of {bytes} bytes claims to have {rows} rows")));
    }
    if body.is_empty() {
        return match rows {
            0 => Ok(Batch::Empty),
            _ => Err(Failure::Damaged(format!("a batch claims to have {rows} rows, but holds nothing"))),
        };
    }
    if batch.compression().is_none() {
        return Ok(Batch::Other);
    }
    for buffer in batch.buffers().into_iter().flatten() {
        let start = usize::try_from(buffer.offset()).ok();
        let Some(claimed) = start.and_then(|start| body.get(start..)).and_then(<[u8]>::first_chunk) else { continue };
        // -1 says that the buffer is not compressed after all.
        if let Ok(claimed) = u64::try_from(i64::from_le_bytes(*claimed))
            && buffer.length() > 0
        {
            if claimed > MAX_BATCH_BYTES {
                return Err(Failure::Damaged(format!("a column claims to unpack to {claimed} bytes")));
            }
            budget.spend(claimed)?;
        }
    }
    Ok(Batch::Other)
}

impl Iterator for Rows {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.done {
                return None;
            }
            if let Some(batch) = &self.batch
                && self.next < batch.len()
            {
                let (row, batch) = (self.next, batch.clone());
                self.next += 1;
                self.row += 1;
                // Reading a value panics only on what the decoder should have refused.
                return match catch_unwind(AssertUnwindSafe(|| values::object(&batch, row))) {
                    Ok(value) => Some(Ok(Record { source: self.path.clone(), line: self.row, value })),
                    Err(_) => {
                        self.done = true;
                        Some(Err(self.error(Failure::Damaged("a value cannot be read".to_owned()))))
                    }
                };
            }
            match self.next_batch() {
                Ok(Some(batch)) => (self.batch, self.next) = (Some(batch.into()), 0),
                Ok(None) => self.done = true,
                Err(failure) => {
                    self.done = true;
                    return Some(Err(self.error(failure)));
                }
            }
        }
    }
}
