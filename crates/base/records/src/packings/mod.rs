//! Packings: what a file may be compressed with. One file each, one line each in [`ALL`].

mod bzip2;
mod gzip;
mod xz;
mod zstd;

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{MAX_UNPACK_RATIO, UNPACK_GRACE_BYTES};

pub(crate) use gzip::Members;

/// A way to compress one stream of bytes.
pub(crate) struct Packing {
    /// What it is called in messages.
    pub name: &'static str,
    /// The extension of its files.
    pub extension: &'static str,
    /// The short form for a packed tar archive, e.g. `tgz`.
    pub tar_extension: &'static str,
    /// Whether the first bytes are those of such a stream.
    pub recognise: fn(&[u8]) -> bool,
    /// Unpacks as it is read.
    pub unpack: fn(Packed, &Members) -> io::Result<Box<dyn Read + Send>>,
}

/// What is to be unpacked.
pub(crate) type Packed = Box<dyn BufRead + Send>;

/// All packings.
pub(crate) const ALL: &[&Packing] = &[&gzip::PACKING, &zstd::PACKING, &bzip2::PACKING, &xz::PACKING];

/// The packing of a stream that begins so.
pub(crate) fn recognise(head: &[u8]) -> Option<&'static Packing> {
    ALL.iter().copied().find(|packing| (packing.recognise)(head))
}

/// A lower-case file name without the packing's extension, and the packing.
pub(crate) fn of_name(name: &str) -> (String, Option<&'static Packing>) {
    for packing in ALL {
        if let Some(inner) = name.strip_suffix(packing.extension).and_then(|n| n.strip_suffix('.')) {
            return (inner.to_owned(), Some(packing));
        }
        if let Some(inner) = name.strip_suffix(packing.tar_extension).and_then(|n| n.strip_suffix('.')) {
            return (format!("{inner}.tar"), Some(packing));
        }
    }
    (name.to_owned(), None)
}

/// Bytes that went into everything that unpacks one file, and bytes that came out: shared by packings within packings and
/// by all members of an archive, so that the ratio holds for them together.
#[derive(Clone, Default)]
pub(crate) struct Budget {
    input: Arc<AtomicU64>,
    output: Arc<AtomicU64>,
}

impl Budget {
    /// For a file that is not read from start to end: its size counts as read.
    pub fn of_size(bytes: u64) -> Self {
        Self { input: Arc::new(AtomicU64::new(bytes)), output: Arc::default() }
    }

    /// Adds what has come out; an error when it is far more than text ever is.
    pub fn spend(&self, bytes: u64) -> io::Result<()> {
        let output = self.output.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let input = self.input.load(Ordering::Relaxed).max(1);
        if output > UNPACK_GRACE_BYTES && output / input > MAX_UNPACK_RATIO {
            return Err(io::Error::other(format!(
                "decompression bomb: {input} bytes unpack to more than {output} (limit {MAX_UNPACK_RATIO} to 1)"
            )));
        }
        Ok(())
    }
}

/// Counts what is read from the disk.
pub(crate) struct Counted<R> {
    pub inner: R,
    pub budget: Budget,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.budget.input.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// Refuses what unpacks to far more than text ever does.
pub(crate) struct Guarded<R> {
    pub inner: R,
    pub budget: Budget,
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.budget.spend(n as u64)?;
        Ok(n)
    }
}
