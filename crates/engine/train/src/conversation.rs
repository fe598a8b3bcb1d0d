//! Conversations: from records to tokens of which some are learned, and a part held out.

mod alpaca;
mod messages;
mod prompt_completion;
mod sharegpt;

use std::path::Path;

use cupola_artifact::{Error, Result, sha256_hex, unknown_name};
use cupola_records::{Record, expand, read_records};
use cupola_tokenizer::{Message, Tokenizer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A way in which records hold conversations.
pub trait Format: Sync {
    /// Its name in recipes.
    fn name(&self) -> &'static str;
    /// Whether a record looks like it.
    fn fits(&self, record: &Value) -> bool;
    /// The conversation; the error says what is wrong with the record.
    fn read(&self, record: &Value) -> Result<Vec<Message>, String>;
}

/// Every format, in the order in which a record is compared with them.
pub const ALL: &[&dyn Format] =
    &[&messages::Messages, &alpaca::Alpaca, &prompt_completion::PromptCompletion, &sharegpt::ShareGpt];

/// Finds the format by its name; `auto` is none: each record is looked at.
///
/// # Errors
/// An unknown name.
pub fn format(section: &str, name: &str) -> Result<Option<&'static dyn Format>> {
    if name == "auto" {
        return Ok(None);
    }
    let known: Vec<&str> = ["auto"].into_iter().chain(ALL.iter().map(|f| f.name())).collect();
    let found = ALL.iter().copied().find(|f| f.name() == name);
    found
        .map(Some)
        .ok_or_else(|| unknown_name(&format!("`format` in [{section}] cannot be `{name}`"), name, "format", &known))
}

/// All records of a file, or of all files in a folder.
///
/// # Errors
/// A broken record, or none at all.
pub fn read_all(path: &Path) -> Result<Vec<Record>> {
    let files = match path.is_dir() {
        true => expand(&[path.display().to_string()], Path::new(""))?,
        false => vec![path.to_path_buf()],
    };
    let mut records = Vec::new();
    for file in files {
        for record in read_records(&file)? {
            records.push(record?);
        }
    }
    match records.is_empty() {
        true => Err(Error::failed(format!("{} has no records to learn from", path.display()))
            .with_hint("each record is a conversation, e.g. {\"instruction\": …, \"input\": …, \"output\": …}")),
        false => Ok(records),
    }
}

/// An error about a record, with its file and line.
pub fn wrong(record: &Record, what: &str) -> Error {
    Error::failed(format!("{}: line {}: {what}", record.source.display(), record.line))
}

/// The conversation in a record.
///
/// # Errors
/// A record in no known format, or one without an answer; names file and line.
pub fn read_conversation(record: &Record, format: Option<&dyn Format>) -> Result<Vec<Message>> {
    let found = format.or_else(|| ALL.iter().copied().find(|f| f.fits(&record.value)));
    let format = found.ok_or_else(|| {
        let keys: Vec<String> =
            record.value.as_object().into_iter().flatten().map(|(key, _)| format!("`{key}`")).collect();
        wrong(record, &format!("a record with {} is no conversation", keys.join(", "))).with_hint(
            "known are `messages`; `instruction`, `input`, `output`; `prompt`, `completion`; `conversations`",
        )
    })?;
    let messages = format.read(&record.value).map_err(|what| wrong(record, &what))?;
    match messages.iter().any(|m| m.role == "assistant") {
        true => Ok(messages),
        false => Err(wrong(record, "the conversation has no message of the assistant, so there is nothing to learn")),
    }
}

/// What precedes the answer: `prompt`, a text or messages, or `instruction` with its `input` after an empty line.
/// `None` when the record has neither.
///
/// # Errors
/// What is wrong with the record.
pub fn prompt_of(record: &Value) -> Result<Option<Vec<Message>>, String> {
    match (record.get("prompt"), record.get("instruction")) {
        (Some(prompt @ Value::Array(_)), _) => message_list("prompt", prompt).map(Some),
        (Some(prompt), _) => Ok(Some(vec![Message::new("user", text("prompt", Some(prompt))?)])),
        (None, Some(instruction)) => {
            let mut content = text("instruction", Some(instruction))?.to_owned();
            let input = match record.get("input") {
                None | Some(Value::Null) => "",
                input => text("input", input)?,
            };
            if !input.trim().is_empty() {
                content = format!("{content}\n\n{input}");
            }
            Ok(Some(vec![Message::new("user", content)]))
        }
        (None, None) => Ok(None),
    }
}

/// An answer: a text, which becomes the assistant's, or a list of messages.
///
/// # Errors
/// What is wrong with the field.
pub fn answer(key: &str, value: Option<&Value>) -> Result<Vec<Message>, String> {
    match value {
        Some(list @ Value::Array(_)) => message_list(key, list),
        other => Ok(vec![Message::new("assistant", text(key, other)?)]),
    }
}

fn text<'a>(key: &str, value: Option<&'a Value>) -> Result<&'a str, String> {
    match value {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!("`{key}` is not a text")),
        None => Err(format!("there is no `{key}`")),
    }
}

fn message_list(key: &str, value: &Value) -> Result<Vec<Message>, String> {
    let messages: Vec<Message> =
        Deserialize::deserialize(value).map_err(|e| format!("`{key}` is not a list of messages: {e}"))?;
    match messages.is_empty() {
        true => Err(format!("`{key}` is empty")),
        false => Ok(messages),
    }
}

/// Puts a system message before conversations that have none.
pub fn with_system(mut messages: Vec<Message>, system: Option<&str>) -> Vec<Message> {
    if let Some(system) = system
        && messages.first().is_none_or(|m| m.role != "system")
    {
        messages.insert(0, Message::new("system", system));
    }
    messages
}

/// A conversation as tokens, and which of them are learned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Example {
    /// The tokens, up to the last that is learned.
    pub ids: Vec<u32>,
    /// Which of them are learned; the first never is, as nothing precedes it.
    pub learn: Vec<bool>,
}

/// Whether an example fits the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// As it is.
    Whole,
    /// Without its end.
    Cut,
    /// What would be left has nothing to learn.
    Nothing,
}

impl Example {
    /// A conversation through the chat template; what the assistant says is learned, the ends of its turns included.
    ///
    /// # Errors
    /// As the template's.
    pub fn conversation(tokenizer: &Tokenizer, messages: &[Message]) -> Result<Self> {
        let (ids, learn) = tokenizer.encode_chat_with_mask(messages)?;
        Ok(Self { ids, learn }.trimmed())
    }

    /// A prompt and its completion through the chat template; of the assistant's turns only the completion's are
    /// learned.
    ///
    /// # Errors
    /// As the template's.
    pub fn completion(tokenizer: &Tokenizer, prompt: &[Message], completion: &[Message]) -> Result<Self> {
        let (ids, mut learn) = tokenizer.encode_chat_with_mask(&[prompt, completion].concat())?;
        if prompt.iter().any(|m| m.role == "assistant") {
            let (_, before) = tokenizer.encode_chat_with_mask(prompt)?;
            let earlier = before.iter().filter(|l| **l).count();
            learn.iter_mut().filter(|l| **l).take(earlier).for_each(|l| *l = false);
        }
        Ok(Self { ids, learn }.trimmed())
    }

    /// Without the first token's mark and without what follows the last learned token.
    fn trimmed(mut self) -> Self {
        if let Some(first) = self.learn.first_mut() {
            *first = false;
        }
        let len = self.learn.iter().rposition(|l| *l).map_or(0, |last| last + 1);
        self.ids.truncate(len);
        self.learn.truncate(len);
        self
    }

    /// Cuts off what is beyond the context; the last token is only predicted, so one more than that fits.
    pub fn cut(&mut self, max_seq_len: usize) -> Fit {
        let long = self.ids.len() > max_seq_len + 1;
        if long {
            self.ids.truncate(max_seq_len + 1);
            self.learn.truncate(max_seq_len + 1);
            *self = std::mem::take(self).trimmed();
        }
        match (self.learned(), long) {
            (0, _) => Fit::Nothing,
            (_, true) => Fit::Cut,
            (_, false) => Fit::Whole,
        }
    }

    /// Tokens that the model reads.
    pub fn inputs(&self) -> usize {
        self.ids.len().saturating_sub(1)
    }

    /// Tokens that are learned.
    pub fn learned(&self) -> usize {
        self.learn.iter().filter(|l| **l).count()
    }
}

/// How a part is held out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holdout {
    /// By a hash of the prompt, so that a conversation stays on its side whatever else is there, and the answers to one
    /// prompt stay together.
    #[default]
    Hash,
    /// The last records.
    Position,
}

/// What a conversation is held out by: all that precedes the assistant's first message, system messages apart.
pub fn prompt_key(messages: &[Message]) -> String {
    let before = messages.iter().take_while(|m| m.role != "assistant").filter(|m| m.role != "system");
    before.map(|m| format!("{}\n{}\n", m.role, m.content)).collect()
}

/// Training and validation. With a fraction above 0 and two things or more, neither is empty.
pub fn hold_out<T>(items: Vec<(String, T)>, rule: Holdout, fraction: f64) -> (Vec<T>, Vec<T>) {
    let n = items.len();
    if fraction <= 0.0 || n < 2 {
        return (items.into_iter().map(|(_, item)| item).collect(), vec![]);
    }
    let places: Vec<f64> = match rule {
        Holdout::Hash => items.iter().map(|(key, _)| place(key)).collect(),
        Holdout::Position => (0..n).map(|i| (n - 1 - i) as f64 / n as f64).collect(),
    };
    let smallest = places.iter().copied().fold(f64::INFINITY, f64::min);
    let largest = places.iter().copied().fold(0.0, f64::max);
    // In small sets the nearest one crosses over; with one prompt alone the training part gets all.
    let border = if smallest >= fraction { smallest.next_up() } else { fraction.min(largest) };
    let (mut train, mut validation) = (vec![], vec![]);
    for ((_, item), place) in items.into_iter().zip(places) {
        if place < border && smallest < largest { validation.push(item) } else { train.push(item) }
    }
    (train, validation)
}

/// Where a text falls in [0, 1), by its content alone: the first 52 bits of its SHA-256.
fn place(text: &str) -> f64 {
    let digest = sha256_hex(text.as_bytes());
    u64::from_str_radix(&digest[..13], 16).unwrap_or(0) as f64 / (1_u64 << 52) as f64
}

#[cfg(test)]
#[path = "conversation_tests.rs"]
mod tests;
