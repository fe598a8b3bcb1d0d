//! What a model can be asked for.

use cupola_records::Document;
use serde_json::{Map, Value};

use super::{Synthesize, instructions, judge, list, paraphrase, summary, text};
use crate::step::Verdict;
use cupola_client::Answer;

/// One kind of question, and how its answer is read.
pub trait Task: Sync {
    /// What a recipe calls it.
    fn name(&self) -> &'static str;

    /// The prompt where the recipe has none; none where it must have one.
    fn prompt(&self) -> Option<&'static str>;

    /// The temperature where the recipe says none.
    fn temperature(&self) -> f64 {
        WRITING
    }

    /// Whether the document is judged, not written anew.
    fn judges(&self) -> bool {
        false
    }

    /// Reads an answer; the error tells the model, and whoever looks at what was set aside, what is wrong with it.
    fn read(&self, answer: &Answer, document: &Document, settings: &Synthesize) -> Result<Outcome, String>;
}

/// The temperature for writing: as in Self-Instruct (Wang et al. 2023).
const WRITING: f64 = 0.7;

/// All tasks.
pub const ALL: &[&dyn Task] =
    &[&instructions::Instructions, &paraphrase::Paraphrase, &summary::Summary, &judge::Judge, &text::Text, &list::List];

/// What an answer says.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// Texts to make documents of.
    Made(Vec<Piece>),
    /// The document's score, 1 to 5.
    Score(f64),
}

/// The text of a document to be made.
#[derive(Debug, PartialEq)]
pub struct Piece {
    /// The text.
    pub text: String,
    /// What else is known of it.
    pub fields: Map<String, Value>,
    /// What happens to it.
    pub verdict: Verdict,
}

impl Piece {
    /// A text that may stay.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), fields: Map::new(), verdict: Verdict::Keep }
    }
}

/// An answer that is a text and nothing else.
pub fn whole_text(answer: &Answer) -> Result<Outcome, String> {
    if answer.cut {
        return Err("it was cut at `max_tokens`".into());
    }
    match super::parse::unfenced(super::parse::visible(&answer.text)) {
        "" => Err("it is empty".into()),
        text => Ok(Outcome::Made(vec![Piece::new(text)])),
    }
}
