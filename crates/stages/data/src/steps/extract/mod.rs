//! The main content of web pages as Markdown.
//!
//! A page is read into a [`tree`] in one pass; [`select`] marks what is no content; [`markdown`] writes the rest.

mod attributes;
mod entities;
mod hints;
mod markdown;
mod maths;
mod metadata;
mod select;
mod table;
mod tags;
mod tree;
mod writer;

#[cfg(test)]
mod tests;

use cupola_records::Document;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::step::{Each, Kind, Notes, Verdict};

/// The step.
pub const EXTRACT: Kind = Kind::each::<Extract>("extract", "the main content of web pages as Markdown");

/// The field that holds a page.
const FIELD: &str = "html";
/// Larger pages are set aside, in bytes: 64 MiB. Common Crawl cuts pages at 5 MiB.
const MAX_PAGE: usize = 64 << 20;

/// Which is worse: a page's frame in the text, or content that is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Favor {
    /// The frame in the text.
    Precision,
    /// Both alike.
    #[default]
    Balanced,
    /// Content that is missing.
    Recall,
}

/// What becomes of links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Links {
    /// Their text.
    #[default]
    Text,
    /// `[text](address)`, the address as the page has it.
    Markdown,
}

/// Takes the main content out of a page in the field `html`, if the document has no text yet, and removes the field. What
/// the page states becomes the fields `title`, `language`, `date`, `author` and `license`, unless the document has them.
/// Documents without the field, and those with text, are left as they are. Pages without content are dropped as
/// `extract_empty`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Extract {
    /// Tables of data become Markdown's; `false` leaves out all tables.
    pub tables: bool,
    /// `"text"` or `"markdown"`, `[text](address)`.
    pub links: Links,
    /// Code inside of a line stands in backticks, emphasis in asterisks.
    pub marks: bool,
    /// Readers' comments are content too.
    pub comments: bool,
    /// `"precision"`, `"balanced"` or `"recall"`.
    pub favor: Favor,
}

impl Default for Extract {
    fn default() -> Self {
        Self { tables: true, links: Links::Text, marks: false, comments: false, favor: Favor::Balanced }
    }
}

impl Each for Extract {
    fn apply(&self, document: &mut Document, notes: &mut Notes) -> Verdict {
        if !document.text.trim().is_empty() || !document.fields.contains_key(FIELD) {
            return Verdict::Keep;
        }
        let html = match document.fields.get(FIELD) {
            Some(Value::String(html)) if html.len() <= MAX_PAGE => html,
            Some(Value::String(html)) => {
                return Verdict::SetAside(format!("its page has {} bytes; at most {MAX_PAGE} are read", html.len()));
            }
            _ => return Verdict::SetAside(format!("its field `{FIELD}` is no text")),
        };
        let page = self.page(html);
        document.fields.shift_remove(FIELD);
        for (name, value) in page.fields {
            document.fields.entry(name).or_insert(value);
        }
        document.text = page.text;
        notes.count("extracted_pages", 1);
        if document.text.is_empty() { Verdict::Drop("extract_empty") } else { Verdict::Keep }
    }
}

/// What is taken out of a page.
#[derive(Debug)]
pub struct Page {
    /// Its main content.
    pub text: String,
    /// What it states of itself.
    pub fields: serde_json::Map<String, Value>,
}

impl Extract {
    /// Takes the content out of a page.
    fn page(&self, html: &str) -> Page {
        let tree = tree::Tree::parse(html);
        let dropped = select::dropped(&tree, self.favor, self.comments);
        let text = markdown::Renderer::new(&tree, &dropped, self).page();
        Page { text, fields: metadata::read(&tree) }
    }
}
