//! A prompt of the recipe's own, whose answer is a list: a document of each item.

use cupola_records::Document;

use super::Synthesize;
use super::parse::{items, visible};
use super::task::{Outcome, Piece, Task};
use cupola_client::Answer;

/// The task `list`.
pub struct List;

impl Task for List {
    fn name(&self) -> &'static str {
        "list"
    }

    fn prompt(&self) -> Option<&'static str> {
        None
    }

    fn read(&self, answer: &Answer, _: &Document, _: &Synthesize) -> Result<Outcome, String> {
        match items(visible(&answer.text)) {
            items if items.is_empty() => Err("it is no list: answer with a JSON list of texts and nothing else".into()),
            items => Ok(Outcome::Made(items.into_iter().map(Piece::new).collect())),
        }
    }
}
