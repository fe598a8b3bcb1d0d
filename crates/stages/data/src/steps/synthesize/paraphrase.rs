//! The document in other words, as in rephrasing the web (Maini et al. 2024).

use cupola_records::Document;

use super::Synthesize;
use super::task::{Outcome, Task, whole_text};
use cupola_client::Answer;

/// The task `paraphrase`.
pub struct Paraphrase;

impl Task for Paraphrase {
    fn name(&self) -> &'static str {
        "paraphrase"
    }

    fn prompt(&self) -> Option<&'static str> {
        Some(
            "Write the following document anew, in its language, in clear and correct prose like that of a good encyclopedia. \
             Keep every fact, number and name; add nothing that it does not say; leave out menus, advertisements and other \
             remains of a web page. Change the wording and the build of the sentences. Answer with the new text and nothing \
             else.\n\n<document>\n{{ text }}\n</document>",
        )
    }

    fn read(&self, answer: &Answer, _: &Document, _: &Synthesize) -> Result<Outcome, String> {
        whole_text(answer)
    }
}
