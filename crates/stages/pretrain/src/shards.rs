//! Rows from token shards: read where they lie, in a computed order, so that memory does not grow with the shards.

use std::path::Path;
use std::sync::Arc;

use cupola_artifact::{Error, Result};
use cupola_nn::Rng;
use cupola_ops::IGNORE;
use cupola_tokenizer::pack::{ROWS_FILE, Row, Sequences, Shards, Shuffle};
use cupola_train::loader::Position;
use serde_json::{Value, json};

use crate::rows::{Drawn, Rows, position_of};

/// Rows by number.
pub trait RowSource: Send {
    /// How many there are; at least one.
    fn len(&self) -> u64;

    /// A row in a round through all of them, of the length that all rows have.
    ///
    /// # Errors
    /// A row that cannot be read.
    fn row(&self, number: u64, round: u64) -> Result<Row>;
}

/// Goes through the rows of a source in random order, again and again, each round in a new order.
pub struct Shuffled<S> {
    source: S,
    seed: u64,
    at: Position,
    order: Shuffle,
}

impl<S: RowSource> Shuffled<S> {
    /// The rows in the order that belongs to a seed.
    pub fn new(source: S, seed: u64) -> Self {
        let order = order(&source, seed, 0);
        Self { source, seed, at: Position::default(), order }
    }
}

/// The order of a round.
fn order(source: &impl RowSource, seed: u64, round: u64) -> Shuffle {
    Shuffle::new(source.len(), source.len(), Rng::new(seed, &format!("round {round}")).next_u64())
}

impl<S: RowSource> Rows for Shuffled<S> {
    fn draw(&mut self, count: usize) -> Result<Drawn> {
        let mut drawn = Drawn::default();
        for _ in 0..count {
            if self.at.taken as u64 >= self.source.len() {
                self.at = Position { epoch: self.at.epoch + 1, taken: 0 };
                self.order = order(&self.source, self.seed, self.at.epoch);
            }
            let row = self.source.row(self.order.at(self.at.taken as u64), self.at.epoch)?;
            self.at.taken += 1;
            drawn.segments.extend(row.segments());
            drawn.targets.extend(row.targets(IGNORE));
            drawn.ids.extend(row.ids);
        }
        Ok(drawn)
    }

    fn position(&self) -> Value {
        json!(self.at)
    }

    fn restore(&mut self, position: &Value) -> Result<()> {
        self.at = position_of(position)?;
        self.order = order(&self.source, self.seed, self.at.epoch);
        Ok(())
    }
}

/// The rows that `[pack.NAME.rows]` arranged.
pub struct Arranged {
    sequences: Sequences,
    seq_len: usize,
    pad: u32,
}

impl Arranged {
    /// The arranged rows of a folder of shards, filled up with `pad`; none where none were asked for.
    ///
    /// # Errors
    /// A file that is damaged, rows that are longer or shorter than `seq_len`.
    pub fn open(shards: &Arc<Shards>, seq_len: usize, pad: u32) -> Result<Option<Self>> {
        let path = shards.dir().join(ROWS_FILE);
        if !path.is_file() {
            return Ok(None);
        }
        let sequences = Sequences::open(&path, Arc::clone(shards))?;
        let longest = sequences.lengths().last().copied().unwrap_or(0);
        check_length(f64::from(longest), seq_len)?;
        if sequences.is_empty() {
            return Err(Error::failed(format!("{} has no rows", path.display())).with_hint("give more text"));
        }
        Ok(Some(Self { sequences, seq_len, pad }))
    }
}

/// Refuses rows of another length than the model's.
pub fn check_length(longest: f64, seq_len: usize) -> Result<()> {
    if longest == seq_len as f64 {
        return Ok(());
    }
    Err(Error::usage(format!("the packed rows have {longest} tokens, but seq_len = {seq_len} in [pretrain]"))
        .with_hint(format!("set `seq_len = {longest}`, or pack rows of `length = {seq_len}`")))
}

impl RowSource for Arranged {
    fn len(&self) -> u64 {
        self.sequences.len()
    }

    fn row(&self, number: u64, _: u64) -> Result<Row> {
        let mut row = self.sequences.get(number, self.pad)?;
        row.ids.resize(self.seq_len, self.pad);
        Ok(row)
    }
}

/// The documents one after another, cut into rows, each round elsewhere.
pub struct Cut {
    shards: Arc<Shards>,
    seq_len: usize,
    seed: u64,
    rows: u64,
}

impl Cut {
    /// The rows of shards.
    ///
    /// # Errors
    /// Shards that do not fill a row.
    pub fn new(shards: &Arc<Shards>, seq_len: usize, seed: u64) -> Result<Self> {
        let rows = cut_rows(shards.info().tokens, seq_len);
        if rows == 0 {
            let (dir, tokens) = (shards.dir().display(), shards.info().tokens);
            return Err(Error::failed(format!("{dir} has {tokens} tokens, too few for sequences of {seq_len}"))
                .with_hint("lower `seq_len` in [pretrain], or give more text"));
        }
        Ok(Self { shards: Arc::clone(shards), seq_len, seed, rows })
    }
}

/// How many rows of `seq_len` a stream gives, wherever below `seq_len` the first begins.
pub fn cut_rows(tokens: u64, seq_len: usize) -> u64 {
    (tokens + 1).saturating_sub(seq_len as u64) / (seq_len as u64).max(1)
}

impl RowSource for Cut {
    fn len(&self) -> u64 {
        self.rows
    }

    fn row(&self, number: u64, round: u64) -> Result<Row> {
        let offset = Rng::new(self.seed, &format!("offset {round}")).below(self.seq_len);
        self.shards.span(offset as u64 + number * self.seq_len as u64, self.seq_len)
    }
}

/// Held-out tokens that are looked at: more would take longer than they tell.
pub const HELD_OUT_TOKENS: u64 = 1 << 20;

/// Documents of a folder of shards, evenly spaced, that have about `most` tokens together; all where there are no more.
///
/// # Errors
/// Shards that cannot be read.
pub fn some_documents(shards: &Shards, most: u64) -> Result<Vec<Vec<u32>>> {
    let (all, tokens) = (shards.documents(), shards.info().tokens);
    let count =
        if tokens <= most { all } else { (u128::from(all) * u128::from(most) / u128::from(tokens)).max(1) as u64 };
    let (mut documents, mut left) = (Vec::new(), most);
    for i in 0..count {
        let number = (u128::from(i) * u128::from(all) / u128::from(count)) as u64;
        let mut ids = shards.document(number)?;
        ids.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left -= ids.len() as u64;
        documents.push(ids);
    }
    Ok(documents)
}

/// Whether a folder holds shards.
pub fn is_pack(path: &Path) -> bool {
    path.join("train").join("shards.json").is_file()
}

#[cfg(test)]
#[path = "shards_tests.rs"]
mod tests;
