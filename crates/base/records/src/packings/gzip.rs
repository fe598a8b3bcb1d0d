//! gzip (RFC 1952), any number of members.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::sync::{Arc, Mutex};

use flate2::bufread::GzDecoder;

use super::{Packed, Packing};

pub(crate) const PACKING: Packing = Packing {
    name: "gzip",
    extension: "gz",
    tar_extension: "tgz",
    recognise: |head| head.starts_with(&[0x1F, 0x8B]),
    unpack: |packed, members| Ok(Box::new(MembersReader::new(packed, members.clone()))),
};

/// Where the members of a gzip file end, in bytes of their content: a WARC file has one member per record, which is how a
/// broken record is told from the next. Kept only until it is known that nobody asks.
#[derive(Clone)]
pub(crate) struct Members(Arc<Mutex<Option<VecDeque<u64>>>>);

impl Default for Members {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Some(VecDeque::new()))))
    }
}

impl Members {
    fn change<T>(&self, change: impl FnOnce(&mut Option<VecDeque<u64>>) -> T) -> T {
        // The list is whole at every moment, whatever panicked.
        change(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn ended(&self, at: u64) {
        self.change(|ends| ends.as_mut().map(|ends| ends.push_back(at)));
    }

    /// Stops keeping them.
    pub fn forget(&self) {
        self.change(|ends| *ends = None);
    }

    /// The first known end after `position`; ends before it are forgotten.
    pub fn next_end(&self, position: u64) -> Option<u64> {
        self.change(|ends| {
            let ends = ends.as_mut()?;
            while ends.front().is_some_and(|end| *end <= position) {
                ends.pop_front();
            }
            ends.front().copied()
        })
    }
}

/// Reads member after member; no read reaches across the end of one.
struct MembersReader {
    /// `None` between two members, and at the end.
    member: Option<GzDecoder<Packed>>,
    between: Option<Packed>,
    position: u64,
    members: Members,
}

impl MembersReader {
    fn new(packed: Packed, members: Members) -> Self {
        Self { member: None, between: Some(packed), position: 0, members }
    }
}

impl Read for MembersReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(mut packed) = self.between.take() {
                if packed.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                self.member = Some(GzDecoder::new(packed));
            }
            let Some(member) = &mut self.member else { return Ok(0) };
            let n = member.read(buffer)?;
            self.position += n as u64;
            if n > 0 || buffer.is_empty() {
                return Ok(n);
            }
            self.members.ended(self.position);
            self.between = self.member.take().map(GzDecoder::into_inner);
        }
    }
}
