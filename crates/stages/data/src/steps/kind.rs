//! Code, prose or data.

use std::collections::BTreeMap;

use cupola_artifact::{Error, Result};
use cupola_records::Document;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::step::{Each, Kind, Notes, Verdict};

/// The step.
pub const KIND: Kind = Kind::each::<TextKind>(
    "kind",
    "tells code, prose and data (tables, JSON, logs of numbers) apart; keeps those that are asked for",
);

/// What a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Written {
    /// A program's source, or mark-up.
    Code,
    /// Sentences, verse, lists of words.
    Prose,
    /// Tables, JSON, numbers.
    Data,
}

/// Sets the field `kind` to `code`, `prose` or `data`, by what most of the lines look like.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextKind {
    /// Kinds that stay; empty for all.
    pub keep: Vec<Written>,
}

/// Bytes that are looked at, from the start.
const LOOKED_AT: usize = 65_536;
/// The share of the lines that look like code from which a text is code: the others are comments, names and texts in it.
const MIN_CODE_LINES: f64 = 0.25;
/// The share of the lines that look like data from which a text is data.
const MIN_DATA_LINES: f64 = 0.5;
/// The share of rows that have as many separators as the most usual row of a table.
const MIN_EQUAL_ROWS: f64 = 0.8;
/// Fewer rows are no table, unless almost everything in them is.
const MIN_ROWS: usize = 3;
/// The share of digits and signs in a line, without spaces, from which it is data.
const MIN_NUMBERS: f64 = 0.6;

impl Each for TextKind {
    fn validate(&self) -> Result<()> {
        let all = [Written::Code, Written::Prose, Written::Data];
        if all.iter().all(|kind| self.keep.contains(kind)) {
            return Err(Error::usage("`keep` of the step `kind` names all kinds")
                .with_hint("leave it out to only set the field"));
        }
        Ok(())
    }

    fn apply(&self, document: &mut Document, notes: &mut Notes) -> Verdict {
        let kind = written(&document.text);
        let (name, reason) = match kind {
            Written::Code => ("code", "kind_code"),
            Written::Prose => ("prose", "kind_prose"),
            Written::Data => ("data", "kind_data"),
        };
        notes.count(&format!("kind.{name}"), 1);
        document.fields.insert("kind".to_owned(), Value::from(name));
        if self.keep.is_empty() || self.keep.contains(&kind) { Verdict::Keep } else { Verdict::Drop(reason) }
    }
}

/// What the beginning of a text looks like.
fn written(text: &str) -> Written {
    let text = &text[..text.floor_char_boundary(LOOKED_AT.min(text.len()))];
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        return Written::Prose;
    }
    let share = |count: usize| count as f64 / lines.len() as f64;
    let data = lines.iter().filter(|line| is_data(line)).count();
    if share(data) >= MIN_DATA_LINES || is_table(&lines) || is_json(text) {
        return Written::Data;
    }
    let code = lines.iter().filter(|line| is_code(line)).count();
    if share(code) >= MIN_CODE_LINES { Written::Code } else { Written::Prose }
}

/// A line of numbers, or a member of a JSON object.
fn is_data(line: &str) -> bool {
    let line = line.trim();
    let visible = line.chars().filter(|c| !c.is_whitespace()).count();
    let numbers = line.chars().filter(|c| c.is_ascii_digit() || ",;.:|+-/%$\"[]{}".contains(*c)).count();
    let digits = line.bytes().filter(u8::is_ascii_digit).count();
    let member = line.starts_with('"') && line.contains("\":");
    member || digits > 1 && digits * 3 >= visible && numbers as f64 >= MIN_NUMBERS * visible as f64
}

/// Rows with the same number of commas, tabs, semicolons or bars. Commas of sentences are followed by spaces.
fn is_table(lines: &[&str]) -> bool {
    if lines.len() < MIN_ROWS {
        return false;
    }
    ['\t', ',', ';', '|'].iter().any(|separator| {
        let count = |line: &str| {
            let bare =
                |(at, _): &(usize, &str)| *separator != ',' && *separator != ';' || !line[at + 1..].starts_with(' ');
            line.match_indices(*separator).filter(bare).count()
        };
        let mut rows: BTreeMap<usize, usize> = BTreeMap::new();
        lines.iter().for_each(|line| *rows.entry(count(line)).or_default() += 1);
        let ends = lines.iter().filter(|line| line.trim_end().ends_with(*separator)).count();
        let (usual, equal) = rows.into_iter().max_by_key(|(_, rows)| *rows).unwrap_or_default();
        // A separator that ends every line is a statement's.
        usual > 0 && (usual > 1 || ends * 2 < lines.len()) && equal as f64 >= MIN_EQUAL_ROWS * lines.len() as f64
    })
}

/// An object or a list of JSON, or lines of them.
fn is_json(text: &str) -> bool {
    let text = text.trim_start();
    let begins = |beginning: &str| text.starts_with(beginning);
    let object = begins("{") && text[1..].trim_start().starts_with(['"', '}']) && text.contains("\":");
    object || begins("[") && text[1..].trim_start().starts_with(['{', '[', '"']) && text.contains(',')
}

/// Words that begin statements and declarations, with what follows them.
#[rustfmt::skip]
const BEGINNINGS: &[&str] = &[
    "def ", "class ", "import ", "#include", "#define", "#if", "#endif", "#!/", "return ", "return;", "fn ", "pub ", "let ",
    "const ", "var ", "function ", "static ", "public ", "private ", "protected ", "package ", "use ", "using ",
    "namespace ", "struct ", "enum ", "impl ", "trait ", "typedef ", "template", "elif ", "else:", "else {", "} else",
    "try:", "try {", "except ", "catch ", "raise ", "throw ", "async ", "await ", "yield ", "@", "//", "/*", "*/", "* @", "<?",
    "</", "<!", "SELECT ", "INSERT ", "CREATE ", "UPDATE ", "func ", "module ", "require ", "echo ", "export ", "end;", "print(", "assert ", "self.", "this.", "$", ">>> ",
];
/// What hardly stands in sentences.
#[rustfmt::skip]
const SIGNS: &[&str] = &[
    "==", "!=", "->", "=>", "::", "&&", "||", "+=", "-=", ":=", "();", "()", "[]", "{}", "</", "/>", " = ", "++", "<<", ">>=", "[0]",
    "[i]", "]:", "):",
];

/// Whether a line looks like a statement, or like mark-up.
fn is_code(line: &str) -> bool {
    let line = line.trim();
    let ends =
        line.ends_with([';', '{', '}', '\\']) || line.ends_with("});") || line.ends_with("},") || line.ends_with("),");
    let begins =
        BEGINNINGS.iter().any(|beginning| line.starts_with(beginning)) || line.starts_with('<') && line.ends_with('>');
    let call = line.ends_with(')')
        && line.contains('(')
        && !line.contains(". ")
        && !line[..line.find('(').unwrap_or(0)].contains(' ');
    // A sentence that begins with a word of the list goes on with words and ends like one; verse ends in semicolons too.
    let sentence = line.ends_with(['.', '?', '!', ','])
        && !line.ends_with("),")
        && !line.ends_with("},")
        && words_in_a_row(line) >= 4;
    let verse = line.ends_with(';') && words_in_a_row(line) >= 2 && !line.contains(['(', '=', '{', '}']);
    (ends && !verse || begins || call || SIGNS.iter().any(|sign| line.contains(sign))) && !sentence
}

/// The most words of letters alone, with one space between them, one after another.
fn words_in_a_row(line: &str) -> usize {
    let (mut most, mut row) = (0, 0);
    for word in line.split(' ') {
        let bare = word.trim_matches(|c: char| ",.;:!?\"'“”‘’()".contains(c));
        let is_word = !bare.is_empty() && bare.chars().all(|c| c.is_alphabetic() || "'’-".contains(c));
        row = if is_word { row + 1 } else { 0 };
        most = most.max(row);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_prose_and_data_are_told_apart() {
        for (text, expected) in [
            ("def f(x):\n    # twice\n    return 2 * x\n\nprint(f(3))\n", Written::Code),
            ("#include <stdio.h>\nint main(void) {\n  puts(\"hi\");\n  return 0;\n}\n", Written::Code),
            ("fn main() {\n    let x = 1;\n    println!(\"{x}\");\n}\n", Written::Code),
            ("<html>\n<body>\n<p>Hello there</p>\n</body>\n</html>", Written::Code),
            ("It was late. She read the letter (twice), and then again.\nNobody came; nobody called.", Written::Prose),
            (
                "Shall I compare thee to a summer's day;\nThou art more lovely and more temperate;\nRough winds;",
                Written::Prose,
            ),
            ("我们今天去公园。\n明天下雨。", Written::Prose),
            ("She paid $5 and got 3 apples. How many are left?", Written::Prose),
            ("name,age,town\nAnn,31,Bonn\nBob,44,Ulm\n", Written::Data),
            ("{\"a\": 1,\n \"b\": [1, 2]}\n", Written::Data),
            ("1.5 2.5 3.5\n4.5 5.5 6.5\n", Written::Data),
            ("", Written::Prose),
        ] {
            assert_eq!(written(text), expected, "{text}");
        }
    }

    #[test]
    fn only_kinds_that_were_asked_for_stay() {
        let step: TextKind = toml::from_str("keep = [\"prose\", \"data\"]").unwrap_or_default();
        let mut document = Document::new("d", "let x = 1;\nlet y = 2;\n", "s");
        let mut notes = Notes::default();
        assert_eq!(step.apply(&mut document, &mut notes), Verdict::Drop("kind_code"));
        assert_eq!((document.field("kind"), notes.counts()["kind.code"]), (Some("code"), 1));
        assert!(TextKind { keep: vec![Written::Code, Written::Data, Written::Prose] }.validate().is_err());
    }
}
