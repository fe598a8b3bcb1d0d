//! The document in short.

use cupola_records::Document;

use super::Synthesize;
use super::task::{Outcome, Task, whole_text};
use cupola_client::Answer;

/// The task `summary`.
pub struct Summary;

impl Task for Summary {
    fn name(&self) -> &'static str {
        "summary"
    }

    fn prompt(&self) -> Option<&'static str> {
        Some(
            "Summarize the following document in its language, in one paragraph of at most a fifth of its length. Say what it \
             says, without speaking of \"the document\" or \"the author\", and add nothing. Answer with the summary and \
             nothing else.\n\n<document>\n{{ text }}\n</document>",
        )
    }

    fn read(&self, answer: &Answer, _: &Document, _: &Synthesize) -> Result<Outcome, String> {
        whole_text(answer)
    }
}
