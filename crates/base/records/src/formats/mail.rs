//! Mail: mailboxes (mbox, RFC 4155) and single messages (RFC 5322, MIME decoded).

use std::io::BufRead;
use std::path::PathBuf;

use cupola_artifact::{Error, Result};
use mail_parser::{Address, MessageParser, PartType};
use serde_json::{Map, Value};

use super::json_lines::too_long;
use super::{Format, Stream};
use crate::content::broken_container;
use crate::{MAX_RECORD_BYTES, Record};

pub(crate) const FORMAT: Format = Format {
    name: "mail",
    extensions: &["mbox", "eml"],
    searched: true,
    fits: |_| true,
    is_surely: |_| false,
    open: |content| {
        let whole = content.extension() == "eml";
        let path = content.path.clone();
        let reader = Box::new(content.into_text().0);
        Ok(Box::new(Messages { path, reader, whole, line: 0, start: 1, message: Vec::new(), blank: true, done: false })
            as Stream)
    },
};

/// Whether bytes begin as a mailbox does.
pub(crate) fn looks_like(head: &[u8]) -> bool {
    let head = String::from_utf8_lossy(head);
    head.starts_with("From ")
        && ["\nFrom: ", "\nSubject: ", "\nDate: "].iter().filter(|h| head.contains(**h)).count() >= 2
}

/// Message after message.
struct Messages {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    /// The file is one message.
    whole: bool,
    /// Lines read.
    line: u64,
    /// The line on which the message begins.
    start: u64,
    message: Vec<u8>,
    /// The last line was empty, or there was none: a `From ` line begins a message.
    blank: bool,
    done: bool,
}

impl Messages {
    fn record(&self) -> Result<Record> {
        // The empty line before the next message is not the message's.
        let message = match self.message.ends_with(b"\n\n") && !self.whole {
            true => &self.message[..self.message.len() - 1],
            false => &self.message,
        };
        let parsed = MessageParser::default().parse(message).filter(|m| !m.headers().is_empty());
        let Some(message) = parsed else {
            let place = format!("{}: line {}", self.path.display(), self.start);
            return Err(Error::failed(format!("{place}: a message without headers"))
                .with_hint("each message begins with headers such as From and Subject"));
        };
        let mut value = Map::new();
        let mut put = |name: &str, text: Option<String>| {
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                value.insert(name.to_owned(), text.into());
            }
        };
        put("id", message.message_id().map(str::to_owned));
        put("subject", message.subject().map(str::to_owned));
        put("from", message.from().map(addresses));
        put("date", message.date().map(mail_parser::DateTime::to_rfc3339));
        let texts: Vec<&str> = message
            .text_bodies()
            .filter_map(|part| match &part.body {
                PartType::Text(text) => Some(text.as_ref()),
                _ => None,
            })
            .collect();
        match texts.is_empty() {
            false => put("text", Some(texts.join("\n").replace("\r\n", "\n"))),
            true => put("html", message.body_html(0).map(std::borrow::Cow::into_owned)),
        }
        if !value.contains_key("html") && !value.contains_key("text") {
            value.insert("text".to_owned(), Value::from(""));
        }
        Ok(Record { source: self.path.clone(), line: self.start, value: Value::Object(value) })
    }
}

fn addresses(address: &Address<'_>) -> String {
    let all = address.iter().map(|one| match (one.name(), one.address()) {
        (Some(name), Some(address)) => format!("{name} <{address}>"),
        (name, address) => name.or(address).unwrap_or_default().to_owned(),
    });
    all.collect::<Vec<_>>().join(", ")
}

impl Iterator for Messages {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = Vec::new();
        while !self.done {
            line.clear();
            let limit = MAX_RECORD_BYTES as u64;
            match std::io::Read::take(&mut self.reader, limit).read_until(b'\n', &mut line) {
                Ok(0) => {
                    self.done = true;
                    let last = !self.message.trim_ascii().is_empty();
                    return last.then(|| self.record());
                }
                Ok(_) => {}
                Err(error) => {
                    self.done = true;
                    return Some(Err(broken_container(&self.path, self.line, error)));
                }
            }
            self.line += 1;
            if !self.whole && self.blank && line.starts_with(b"From ") {
                let found = (!self.message.trim_ascii().is_empty()).then(|| self.record());
                self.message.clear();
                (self.start, self.blank) = (self.line, false);
                match found {
                    Some(record) => return Some(record),
                    None => continue,
                }
            }
            self.blank = line.trim_ascii().is_empty();
            if self.message.len() + line.len() > MAX_RECORD_BYTES {
                self.done = true;
                return Some(Err(too_long(&self.path, self.start, MAX_RECORD_BYTES)));
            }
            // A line that would look like the next message was written with marks before it.
            let marks = line.iter().take_while(|b| **b == b'>').count();
            let marked = !self.whole && marks > 0 && line[marks..].starts_with(b"From ");
            self.message.extend_from_slice(&line[usize::from(marked)..]);
        }
        None
    }
}
