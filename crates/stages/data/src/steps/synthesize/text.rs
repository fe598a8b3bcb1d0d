//! A prompt of the recipe's own, whose answer is a document.

use cupola_records::Document;

use super::Synthesize;
use super::task::{Outcome, Task, whole_text};
use cupola_client::Answer;

/// The task `text`.
pub struct Text;

impl Task for Text {
    fn name(&self) -> &'static str {
        "text"
    }

    fn prompt(&self) -> Option<&'static str> {
        None
    }

    fn read(&self, answer: &Answer, _: &Document, _: &Synthesize) -> Result<Outcome, String> {
        whole_text(answer)
    }
}
