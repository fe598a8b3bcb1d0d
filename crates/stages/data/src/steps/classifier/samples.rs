//! Labelled samples to train a classifier on.

use std::path::Path;

use cupola_artifact::{Context, Error, Result, read_text};
use cupola_records::{expand, read_records};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Where samples come from: `files` with both text and label, or files of each kind in `positive` and `negative`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Samples {
    /// Files of records, or of a table whose first line names its columns (`.tsv`), with text and label.
    pub files: Vec<String>,
    /// The field or column of the text; `text`, or a table's first other column.
    pub text_field: Option<String>,
    /// The field or column of the label; `label`.
    pub label_field: Option<String>,
    /// Files of texts with the label `positive`: records, or a text a line.
    pub positive: Vec<String>,
    /// Files of texts with the label `negative`.
    pub negative: Vec<String>,
}

/// The most samples that are read: 5 million.
const MOST_SAMPLES: usize = 5_000_000;

impl Samples {
    /// Whether it names any file as it should.
    pub fn validate(&self) -> Result<()> {
        let two_kinds = !self.positive.is_empty() && !self.negative.is_empty();
        let one_kind_only = self.positive.is_empty() != self.negative.is_empty();
        if (self.files.is_empty() && !two_kinds) || one_kind_only {
            return Err(Error::usage("a classifier's samples are missing").with_hint(
                "`files` names files with texts and labels; or `positive` and `negative` both name files of texts",
            ));
        }
        Ok(())
    }

    /// The files, as the recipe names them.
    pub fn references(&self) -> impl Iterator<Item = &String> {
        self.files.iter().chain(&self.positive).chain(&self.negative)
    }

    /// Texts and labels, in the order of the files.
    pub fn read(&self, recipe_dir: &Path) -> Result<Vec<(String, String)>> {
        let mut samples = Vec::new();
        for path in expand(&self.files, recipe_dir)? {
            if is_table(&path) {
                self.read_table(&path, &mut samples)?;
            } else {
                self.read_labelled(&path, &mut samples)?;
            }
        }
        for (label, sources) in [("positive", &self.positive), ("negative", &self.negative)] {
            for path in expand(sources, recipe_dir)? {
                self.read_kind(&path, label, &mut samples)?;
            }
        }
        if samples.len() > MOST_SAMPLES {
            return Err(Error::failed(format!("{} samples are more than a classifier learns from", samples.len()))
                .with_hint(format!("draw at most {MOST_SAMPLES}")));
        }
        Ok(samples)
    }

    fn label_field(&self) -> &str {
        self.label_field.as_deref().unwrap_or("label")
    }

    fn text_field(&self) -> &str {
        self.text_field.as_deref().unwrap_or("text")
    }

    fn read_labelled(&self, path: &Path, samples: &mut Vec<(String, String)>) -> Result<()> {
        for record in read_records(path)? {
            let record = record?;
            let text = record.value.get(self.text_field()).and_then(Value::as_str);
            let label = record.value.get(self.label_field()).and_then(name_of_label);
            let (Some(text), Some(label)) = (text, label) else {
                return Err(Error::failed(format!(
                    "{}: record {} has no `{}` or no `{}`",
                    path.display(),
                    record.line,
                    self.text_field(),
                    self.label_field()
                ))
                .with_hint("set `text_field` and `label_field`"));
            };
            samples.push((text.to_owned(), label));
        }
        Ok(())
    }

    fn read_table(&self, path: &Path, samples: &mut Vec<(String, String)>) -> Result<()> {
        let content = read_text(path)?;
        let mut lines = content.lines().zip(1..);
        let columns: Vec<&str> = lines.next().map(|(line, _)| line.split('\t').collect()).unwrap_or_default();
        let place = |name: &str| columns.iter().position(|column| *column == name);
        let label = place(self.label_field());
        let text = match &self.text_field {
            Some(name) => place(name),
            None => place("text").or_else(|| (0..columns.len()).find(|i| Some(*i) != label)),
        };
        let (Some(text), Some(label)) = (text, label) else {
            return Err(Error::failed(format!(
                "{}: its first line does not name a column `{}` and one of texts",
                path.display(),
                self.label_field()
            ))
            .with_hint(format!("the columns are {}; set `text_field` and `label_field`", columns.join(", "))));
        };
        for (line, number) in lines.filter(|(line, _)| !line.is_empty()) {
            let cells: Vec<&str> = line.split('\t').collect();
            let (Some(text), Some(label)) = (cells.get(text), cells.get(label)) else {
                return Err(Error::failed(format!("{}: line {number} has too few columns", path.display())));
            };
            samples.push(((*text).to_owned(), (*label).to_owned()));
        }
        Ok(())
    }

    /// Records of one label; of a file of plain text every line is one.
    fn read_kind(&self, path: &Path, label: &str, samples: &mut Vec<(String, String)>) -> Result<()> {
        let plain = path.extension().is_some_and(|extension| extension == "txt");
        for record in read_records(path)? {
            let record = record?;
            let text = record.value.get(self.text_field()).and_then(Value::as_str);
            let text = text.context_missing(path, self.text_field())?;
            if plain {
                let lines = text.lines().filter(|line| !line.trim().is_empty());
                samples.extend(lines.map(|line| (line.to_owned(), label.to_owned())));
            } else {
                samples.push((text.to_owned(), label.to_owned()));
            }
        }
        Ok(())
    }
}

trait Missing<T> {
    fn context_missing(self, path: &Path, field: &str) -> Result<T>;
}

impl<T> Missing<T> for Option<T> {
    fn context_missing(self, path: &Path, field: &str) -> Result<T> {
        self.ok_or_else(|| format!("a record has no `{field}`"))
            .context(|| format!("{}: cannot read samples", path.display()))
    }
}

fn is_table(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "tsv")
}

/// Labels may be texts, numbers or truth values.
fn name_of_label(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)], samples: &Samples) -> Result<Vec<(String, String)>> {
        let dir = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(dir.path().join(name), text).unwrap());
        samples.validate()?;
        samples.read(dir.path())
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn records_tables_and_files_of_a_kind_are_read() {
        let files = [
            ("a.jsonl", "{\"text\": \"one\", \"label\": 1}\n{\"text\": \"two\", \"label\": \"no\"}\n"),
            ("b.tsv", "sentence\tlabel\nthree\t0\n"),
            ("c.txt", "four\n\nfive\n"),
            ("d.jsonl", "{\"text\": \"six\\nseven\"}\n"),
        ];
        let labelled = Samples { files: vec!["a.jsonl".into(), "b.tsv".into()], ..Samples::default() };
        assert_eq!(read(&files, &labelled).unwrap(), owned(&[("one", "1"), ("two", "no"), ("three", "0")]));
        let kinds = Samples { positive: vec!["c.txt".into()], negative: vec!["d.jsonl".into()], ..Samples::default() };
        let expected = [("four", "positive"), ("five", "positive"), ("six\nseven", "negative")];
        assert_eq!(read(&files, &kinds).unwrap(), owned(&expected));
    }

    #[test]
    fn what_is_missing_is_named() {
        let files = [
            ("a.jsonl", "{\"text\": \"one\"}\n"),
            ("b.tsv", "sentence\tkind\nthree\t0\n"),
            ("c.tsv", "text\tlabel\nx\n"),
        ];
        let fails = |samples: Samples, word: &str| {
            let error = read(&files, &samples).unwrap_err();
            let told = format!("{} {}", error.chain(), error.hint().unwrap_or_default());
            assert!(told.contains(word), "{told}");
        };
        let of = |file: &str| Samples { files: vec![file.to_owned()], ..Samples::default() };
        fails(Samples::default(), "positive");
        fails(Samples { positive: vec!["a.jsonl".into()], ..Samples::default() }, "negative");
        fails(of("a.jsonl"), "record 1");
        fails(of("b.tsv"), "sentence, kind");
        fails(of("c.tsv"), "line 2");
    }
}
