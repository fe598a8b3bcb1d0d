//! Shards as one list of documents.

use std::path::{Path, PathBuf};

use cupola_artifact::{Context, Error, Result, hash_file};
use serde::{Deserialize, Serialize};

use super::fim::Fim;
use super::format::{Shard, Width};
use super::sequences::Row;
use crate::files::read_limited;

/// What says what is in a folder of shards.
pub(super) const INFO_FILE: &str = "shards.json";
/// The version of that file.
pub(super) const VERSION: u32 = 1;

/// The content of `shards.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardsInfo {
    /// The version of this file.
    pub version: u32,
    /// How wide a token is.
    pub width: Width,
    /// One more than the largest token there may be.
    pub vocab_size: usize,
    /// SHA-256 of the tokenizer's `tokenizer.json`.
    pub tokenizer: String,
    /// The token before each document.
    pub begin: Option<u32>,
    /// The token behind each document.
    pub end: Option<u32>,
    /// Where randomness started.
    pub seed: u64,
    /// How documents were rearranged to fill in the middle.
    pub fim: Option<Fim>,
    /// Documents that were rearranged.
    pub rearranged: u64,
    /// Documents.
    pub documents: u64,
    /// Tokens, those around documents included.
    pub tokens: u64,
    /// Bytes of text they came from.
    pub text_bytes: u64,
    /// The shards in order.
    pub shards: Vec<ShardInfo>,
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardInfo {
    /// The name of its two files without their endings.
    pub name: String,
    /// Documents.
    pub documents: u64,
    /// Tokens.
    pub tokens: u64,
    /// SHA-256 of the tokens' file.
    pub bin_sha256: String,
    /// SHA-256 of the index.
    pub idx_sha256: String,
}

impl Default for ShardsInfo {
    fn default() -> Self {
        Self {
            version: VERSION,
            width: Width::U16,
            vocab_size: 0,
            tokenizer: String::new(),
            begin: None,
            end: None,
            seed: 0,
            fim: None,
            rearranged: 0,
            documents: 0,
            tokens: 0,
            text_bytes: 0,
            shards: Vec::new(),
        }
    }
}

/// A folder of shards. Documents are numbered in the order in which they were written, over all shards.
pub struct Shards {
    dir: PathBuf,
    info: ShardsInfo,
    shards: Vec<Shard>,
    /// The first document of each shard.
    starts: Vec<u64>,
    /// The first token of each shard.
    tokens: Vec<u64>,
}

impl Shards {
    /// Opens a folder that [`write_shards`](super::write_shards) wrote.
    ///
    /// # Errors
    /// A file that is missing, cut off, or no part of it.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(INFO_FILE);
        let wrong = || format!("{} does not describe shards", path.display());
        let info: ShardsInfo = serde_json::from_slice(&read_limited(&path)?).context(wrong)?;
        if info.version != VERSION {
            return Err(Error::failed(format!("{} has the version {}, not {VERSION}", path.display(), info.version))
                .with_hint("it was written by another version of this program: make the shards again"));
        }
        let (mut shards, mut starts, mut documents) = (Vec::new(), Vec::new(), 0u64);
        let (mut tokens, mut token) = (Vec::new(), 0u64);
        for entry in &info.shards {
            if entry.name.is_empty() || !entry.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
                return Err(Error::failed(format!("{} names a shard {:?}", path.display(), entry.name)));
            }
            let shard = Shard::open(&dir.join(&entry.name))?;
            if shard.documents != entry.documents {
                let (has, name) = (shard.documents, &entry.name);
                return Err(Error::failed(format!("{name} has {has} documents, {INFO_FILE} says {}", entry.documents))
                    .with_hint("files of different runs are mixed: make the shards again"));
            }
            starts.push(documents);
            documents = documents.saturating_add(shard.documents);
            tokens.push(token);
            token = token.saturating_add(shard.tokens());
            shards.push(shard);
        }
        Ok(Self { dir: dir.to_path_buf(), info, shards, starts, tokens })
    }

    /// What they are.
    pub fn info(&self) -> &ShardsInfo {
        &self.info
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How many documents there are.
    pub fn documents(&self) -> u64 {
        self.shards.iter().map(|shard| shard.documents).sum()
    }

    /// The shard that holds a document, and its number there.
    fn find(&self, document: u64) -> Result<(&Shard, u64)> {
        let shard = self.starts.partition_point(|start| *start <= document).checked_sub(1);
        let found = shard.map(|i| (&self.shards[i], document - self.starts[i]));
        found.filter(|(shard, number)| *number < shard.documents).ok_or_else(|| {
            Error::failed(format!("{} has no document {document}, only {}", self.dir.display(), self.documents()))
        })
    }

    /// The tokens of a document.
    pub fn document(&self, document: u64) -> Result<Vec<u32>> {
        let (shard, number) = self.find(document)?;
        let mut out = Vec::new();
        shard.read(number, 0, shard.length(number)?, &mut out)?;
        Ok(out)
    }

    /// Appends `count` of a document's tokens, from the token `from` on.
    pub fn read(&self, document: u64, from: u32, count: u32, out: &mut Vec<u32>) -> Result<()> {
        let (shard, number) = self.find(document)?;
        shard.read(number, from, count, out)
    }

    /// Appends tokens like [`Self::read`], and gives what comes after them: see [`Row::after`].
    pub(super) fn read_on(&self, document: u64, from: u32, count: u32, out: &mut Vec<u32>) -> Result<Option<u32>> {
        let (shard, number) = self.find(document)?;
        match from.checked_add(count) {
            Some(end) if end < shard.length(number)? => {
                shard.read(number, from, count + 1, out)?;
                Ok(out.pop())
            }
            _ => {
                shard.read(number, from, count, out)?;
                Ok(self.info.begin.filter(|_| self.info.end.is_none()))
            }
        }
    }

    /// All documents one after another are a stream; this is a part of it, `count` tokens from the token `at` on.
    ///
    /// # Errors
    /// A part that is not inside, or a shard that cannot be read.
    pub fn span(&self, at: u64, count: usize) -> Result<Row> {
        let mut row = Row { ids: Vec::with_capacity(count + 1), ends: Vec::new(), after: Vec::new() };
        let shard = self.tokens.partition_point(|start| *start <= at).saturating_sub(1);
        let within = at - self.tokens.get(shard).copied().unwrap_or(0);
        let (mut document, mut from) = match self.shards.get(shard) {
            Some(found) if within < found.tokens() => {
                let (number, from) = found.at(within)?;
                (self.starts[shard] + number, from)
            }
            _ => (self.documents(), 0),
        };
        while row.ids.len() < count {
            let (shard, number) = self.find(document)?;
            let left = shard.length(number)?.saturating_sub(from);
            let taken = left.min((count - row.ids.len()) as u32);
            if taken > 0 {
                let after = self.read_on(document, from, taken, &mut row.ids)?;
                row.ends.push(row.ids.len());
                row.after.push(after);
            }
            (document, from) = (document + 1, 0);
        }
        Ok(row)
    }

    /// The lengths in tokens of up to `count` documents, from one on.
    pub(super) fn lengths(&self, from: u64, count: usize) -> Result<Vec<u32>> {
        let mut lengths = Vec::new();
        for (shard, start) in self.shards.iter().zip(&self.starts) {
            let next = from + lengths.len() as u64;
            if lengths.len() < count && (*start..start + shard.documents).contains(&next) {
                let left = (start + shard.documents - next).min((count - lengths.len()) as u64);
                shard.lengths(next - start, left as usize, &mut lengths)?;
            }
        }
        Ok(lengths)
    }

    /// Reads all files and compares them with their checksums.
    pub fn verify(&self) -> Result<()> {
        for shard in &self.info.shards {
            for (ending, want) in [("bin", &shard.bin_sha256), ("idx", &shard.idx_sha256)] {
                let path = self.dir.join(&shard.name).with_extension(ending);
                if hash_file(&path)?.0 != *want {
                    return Err(Error::failed(format!("{} is not as it was written", path.display()))
                        .with_hint("it was damaged or changed: make the shards again"));
                }
            }
        }
        Ok(())
    }
}
