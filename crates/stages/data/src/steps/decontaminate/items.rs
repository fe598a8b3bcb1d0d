//! The evaluation items that training text is compared with.

use std::path::Path;

use cupola_artifact::{Context, Error, Result};
use cupola_records::{Record, expand, read_records};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What to compare with: a file, folder or glob, or the same with its fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Against {
    /// A file, folder or glob; which fields are compared is found by their names.
    Path(String),
    /// With fields.
    Table(AgainstTable),
}

/// `{ path = "…", fields = ["question"] }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgainstTable {
    /// A file, folder or glob.
    pub path: String,
    /// The fields of a record that hold what must not be in the training text, each a text or a list of texts. Of a CSV file,
    /// which has no names: the columns' numbers, from 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
}

impl Against {
    /// The file, folder or glob.
    pub fn path(&self) -> &str {
        match self {
            Self::Path(path) => path,
            Self::Table(table) => &table.path,
        }
    }

    fn fields(&self) -> &[String] {
        match self {
            Self::Path(_) => &[],
            Self::Table(table) => &table.fields,
        }
    }
}

/// Where evaluation sets have what they ask, by the names that the well-known ones use: GSM8K and ARC `question`, `HumanEval`,
/// DROP and chats `prompt`, MATH `problem`, MBPP and LAMBADA `text`, `SQuAD` and `BoolQ` `question` and `passage`, `HellaSwag` `ctx`,
/// `WinoGrande` `sentence`, PIQA `goal`, GLUE `sentence1`, `sentence2`, `premise` and `hypothesis`, instruction sets `instruction`
/// and `input`.
const FIELDS: &[&str] = &[
    "question",
    "prompt",
    "problem",
    "text",
    "passage",
    "ctx",
    "sentence",
    "goal",
    "sentence1",
    "sentence2",
    "premise",
    "hypothesis",
    "instruction",
    "input",
];

/// A passage of an evaluation item.
#[derive(Debug)]
pub struct Passage {
    /// Its file, as an index into the list of files.
    pub file: u32,
    /// The item's number in the file, from 0.
    pub item: u32,
    /// What is compared.
    pub text: String,
}

/// All passages, and the files that they come from.
pub fn read(against: &[Against], base: &Path) -> Result<(Vec<String>, Vec<Passage>)> {
    let (mut files, mut passages) = (Vec::new(), Vec::new());
    for set in against {
        for path in expand(&[set.path().to_owned()], base)? {
            let file = files.len() as u32;
            files.push(path.strip_prefix(base).unwrap_or(&path).display().to_string());
            let before = passages.len();
            let extension = path.extension().unwrap_or_default();
            let mut add = |item: usize, text: &str| {
                passages.push(Passage { file, item: item as u32, text: text.to_owned() });
            };
            if extension == "csv" {
                of_csv(&path, set.fields(), &mut add)?;
            } else if extension == "txt" {
                of_lines(&path, &mut add)?;
            } else {
                of_records(&path, set.fields(), &mut add)?;
            }
            if passages.len() == before {
                return Err(Error::failed(format!("{} has no evaluation items", path.display())));
            }
        }
    }
    Ok((files, passages))
}

fn of_records(path: &Path, fields: &[String], add: &mut dyn FnMut(usize, &str)) -> Result<()> {
    for (item, record) in read_records(path)?.enumerate() {
        let record = record?;
        let found = if fields.is_empty() {
            FIELDS.iter().filter(|field| add_field(&record, field, item, add)).count()
        } else {
            if let Some(field) = fields.iter().find(|field| !add_field(&record, field, item, add)) {
                return Err(wrong(&record, &format!("there is no text in the field `{field}`")));
            }
            fields.len()
        };
        if found == 0 {
            return Err(wrong(&record, &format!("none of the fields `{}` holds text", FIELDS.join("`, `"))));
        }
    }
    Ok(())
}

fn add_field(record: &Record, field: &str, item: usize, add: &mut dyn FnMut(usize, &str)) -> bool {
    match record.value.get(field) {
        Some(Value::String(text)) => add(item, text),
        Some(Value::Array(texts)) if !texts.is_empty() && texts.iter().all(Value::is_string) => {
            texts.iter().filter_map(Value::as_str).for_each(|text| add(item, text));
        }
        _ => return false,
    }
    true
}

fn wrong(record: &Record, what: &str) -> Error {
    Error::failed(format!("{}: line {}: {what}", record.source.display(), record.line))
        .with_hint("name the fields that hold the evaluation's text: `{ path = \"…\", fields = [\"question\"] }`")
}

/// A text file, as `WikiText` is one: each line is an item.
fn of_lines(path: &Path, add: &mut dyn FnMut(usize, &str)) -> Result<()> {
    for record in read_records(path)? {
        let record = record?;
        let text = record.value["text"].as_str().unwrap_or_default();
        text.lines().enumerate().for_each(|(item, line)| add(item, line));
    }
    Ok(())
}

/// Comma-separated values without names, as MMLU has them; the first column is the question.
fn of_csv(path: &Path, fields: &[String], add: &mut dyn FnMut(usize, &str)) -> Result<()> {
    let text = std::fs::read_to_string(path).context(|| format!("cannot read {}", path.display()))?;
    let columns: Vec<usize> = match fields {
        [] => vec![0],
        fields => fields.iter().map(|field| field.parse()).collect::<Result<_, _>>().context(|| {
            format!("`fields` of {} must be numbers of columns, from 0: its columns have no names", path.display())
        })?,
    };
    for (item, row) in rows(&text).iter().enumerate() {
        for column in &columns {
            let Some(text) = row.get(*column) else {
                let message = format!("{}: row {item} has no column {column}", path.display());
                return Err(Error::failed(message));
            };
            add(item, text);
        }
    }
    Ok(())
}

/// The rows of comma-separated values (RFC 4180): a field in quotation marks may hold commas, line ends, and the mark twice.
fn rows(text: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut field, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut characters = text.strip_prefix('\u{FEFF}').unwrap_or(text).chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '"' if quoted && characters.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if quoted || field.is_empty() => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut field)),
            '\r' if !quoted && characters.peek() == Some(&'\n') => {}
            '\n' if !quoted => {
                row.push(std::mem::take(&mut field));
                rows.push(std::mem::take(&mut row));
            }
            c => field.push(c),
        }
    }
    if !field.is_empty() || !row.is_empty() {
        row.push(field);
        rows.push(row);
    }
    rows.retain(|row: &Vec<String>| row.iter().any(|field| !field.is_empty()));
    rows
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    fn read_file(name: &str, content: &str, fields: &[&str]) -> Result<Vec<(u32, String)>> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(name), content).unwrap();
        let fields = fields.iter().map(|field| (*field).to_owned()).collect();
        let against = Against::Table(AgainstTable { path: name.into(), fields });
        let (files, passages) = read(&[against], dir.path())?;
        assert_eq!(files, [name]);
        Ok(passages.into_iter().map(|passage| (passage.item, passage.text)).collect())
    }

    #[test]
    fn fields_are_found_by_their_names_or_named() {
        let gsm8k = r#"{"question": "How many?", "answer": "Five."}"#;
        assert_eq!(read_file("a.jsonl", gsm8k, &[]).unwrap(), [(0, "How many?".to_owned())]);
        let both = read_file("a.jsonl", gsm8k, &["question", "answer"]).unwrap();
        assert_eq!(both, [(0, "How many?".to_owned()), (0, "Five.".to_owned())]);
        let list = read_file("a.jsonl", r#"{"endings": ["a", "b"]}"#, &["endings"]).unwrap();
        assert_eq!(list.len(), 2);
    }

    #[test]
    fn a_table_without_names_has_its_question_first() {
        let mmlu = "\"Which of \"\"these\"\", say,\nis it?\",a,b,c,d,A\r\nNext?,1,2,3,4,B\n";
        let questions = read_file("t.csv", mmlu, &[]).unwrap();
        assert_eq!(questions, [(0, "Which of \"these\", say,\nis it?".to_owned()), (1, "Next?".to_owned())]);
        assert_eq!(read_file("t.csv", mmlu, &["0", "2"]).unwrap()[1], (0, "b".to_owned()));
    }

    #[test]
    fn each_line_of_a_text_is_an_item() {
        assert_eq!(read_file("t.txt", "one\n\ntwo", &[]).unwrap()[2], (2, "two".to_owned()));
    }

    #[test]
    fn what_has_no_items_is_an_error_that_says_why() {
        for (name, content, fields, want) in [
            ("a.jsonl", "{\"q\": \"x\"}", &[][..], "none of the fields"),
            ("a.jsonl", "{\"question\": \"x\"}\n{\"question\": 1}", &["question"], "line 2: there is no text"),
            ("a.jsonl", "", &[], "no evaluation items"),
            ("a.csv", "a,b", &["name"], "numbers of columns"),
            ("a.csv", "a,b", &["7"], "row 0 has no column 7"),
        ] {
            let message = read_file(name, content, fields).unwrap_err().to_string();
            assert!(message.contains(want), "{message}");
        }
    }
}
