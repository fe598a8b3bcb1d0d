//! Rows of tokens to train on, wherever they come from.

use std::ops::Range;
use std::sync::Arc;

use cupola_artifact::{Context, Result};
use cupola_nn::Batch;
use cupola_ops::IGNORE;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Rows of one length after another, without an end; which come follows from the seed and the position alone.
pub trait Rows: Send {
    /// The next `count` rows.
    ///
    /// # Errors
    /// Rows that cannot be read.
    fn draw(&mut self, count: usize) -> Result<Drawn>;

    /// Where it is, for a checkpoint.
    fn position(&self) -> Value;

    /// Goes to where a checkpoint was.
    ///
    /// # Errors
    /// A position of something else.
    fn restore(&mut self, position: &Value) -> Result<()>;
}

/// Rows of tokens one after another, `[B * T]` each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drawn {
    /// The tokens.
    pub ids: Vec<u32>,
    /// What is to be predicted from each, [`IGNORE`] where nothing is.
    pub targets: Vec<i32>,
    /// The numbers of their documents; two documents side by side in a row have different ones.
    pub segments: Vec<u32>,
}

impl Drawn {
    /// How many tokens are predicted.
    pub fn counted(&self) -> usize {
        self.targets.iter().filter(|target| **target != IGNORE).count()
    }

    /// Some of `all` rows as a batch, and their targets.
    pub fn batch(&self, rows: Range<usize>, all: usize) -> (Batch, Arc<[i32]>) {
        let seq = self.ids.len() / all.max(1);
        let tokens = rows.start * seq..rows.end * seq;
        let batch = Batch::segmented(self.ids[tokens.clone()].to_vec(), rows.len(), &self.segments[tokens.clone()]);
        (batch, self.targets[tokens].into())
    }

    /// Appends further rows.
    pub fn append(&mut self, more: Self) {
        self.ids.extend(more.ids);
        self.targets.extend(more.targets);
        self.segments.extend(more.segments);
    }
}

/// Reads a position.
pub fn position_of<T: DeserializeOwned>(position: &Value) -> Result<T> {
    serde_json::from_value(position.clone()).context(|| "cannot read the loader's position".into())
}
