//! Reading settings: TOML with errors that say where and suggest the nearest known name.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// Reads a recipe's section into the settings of its stage.
pub fn parse_config<T: DeserializeOwned>(section: &str, table: toml::Table) -> Result<T> {
    table.try_into().map_err(|e: toml::de::Error| explain(section, &e))
}

/// Turns serde's complaint into a usage error that names section and key.
fn explain(section: &str, error: &toml::de::Error) -> Error {
    let message = error.message().trim();
    let inside = keys_of(error);
    if let Some((word, known)) = unknown(message, "variant") {
        let message = format!("`{inside}` in [{section}] cannot be `{word}`");
        return unknown_name(&message, word, "value", &known);
    }
    if let Some((field, known)) = unknown(message, "field") {
        let place = if inside.is_empty() { section.to_string() } else { format!("{section}.{inside}") };
        return unknown_name(&format!("unknown key `{field}` in [{place}]"), field, "key", &known);
    }
    if let Some(field) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
        return Error::usage(format!("`{field}` is missing in [{section}]"))
            .with_hint(format!("add `{field} = …` to [{section}]"));
    }
    if inside.is_empty() {
        Error::usage(format!("[{section}]: {message}"))
    } else {
        Error::usage(format!("`{inside}` in [{section}]: {message}"))
    }
}

/// A usage error about a name that nobody knows, with the nearest known one or the list of them as its hint.
pub fn unknown_name(message: &str, word: &str, what: &str, known: &[&str]) -> Error {
    let error = Error::usage(message);
    match nearest(word, known.iter().copied()) {
        Some(near) => error.with_hint(format!("did you mean `{near}`?")),
        None if known.is_empty() => error.with_hint(format!("there are no {what}s here")),
        None => error.with_hint(format!("the known {what}s are {}", quoted(known))),
    }
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The keys that lead to an error, from the last line of its long form.
fn keys_of(error: &toml::de::Error) -> String {
    let text = error.to_string();
    let last = text.trim_end().lines().last().unwrap_or_default();
    last.strip_prefix("in `").and_then(|rest| rest.strip_suffix('`')).unwrap_or_default().to_string()
}

/// Takes serde's sentence about an unknown field or variant apart: the word, and the known ones.
fn unknown<'a>(message: &'a str, what: &str) -> Option<(&'a str, Vec<&'a str>)> {
    let (word, rest) = message.strip_prefix("unknown ")?.strip_prefix(what)?.strip_prefix(" `")?.split_once('`')?;
    // Every second piece between backticks is a name.
    Some((word, rest.split('`').skip(1).step_by(2).collect()))
}

/// Reads a TOML file; a syntax error tells line and column.
pub fn parse_toml(path: &Path) -> Result<toml::Table> {
    parse_toml_text(&path.display().to_string(), &read_text(path)?)
}

/// Reads a text file that must be UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::usage(format!("there is no file {}", path.display())).with_source(e),
        std::io::ErrorKind::IsADirectory => {
            Error::usage(format!("{} is a folder, not a file", path.display())).with_source(e)
        }
        _ => Error::failed(format!("cannot read {}", path.display())).with_source(e),
    })?;
    String::from_utf8(bytes).map_err(|e| {
        let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|b| **b == b'\n').count();
        Error::usage(format!("{} is not UTF-8: the first wrong byte is in line {line}", path.display()))
    })
}

/// Reads TOML text; `origin` names it in errors.
pub fn parse_toml_text(origin: &str, text: &str) -> Result<toml::Table> {
    text.parse::<toml::Table>().map_err(|e| syntax_error(origin, text, &e))
}

/// A usage error that tells where in a text the TOML is wrong.
pub fn syntax_error(origin: &str, text: &str, error: &toml::de::Error) -> Error {
    let Some(span) = error.span() else {
        return Error::usage(format!("{origin}: {}", error.message()));
    };
    let before = text.get(..span.start).unwrap_or(text);
    let line = 1 + before.matches('\n').count();
    let column = 1 + before.chars().rev().take_while(|c| *c != '\n').count();
    let shown = text.lines().nth(line - 1).unwrap_or_default().trim();
    let error = Error::usage(format!("{origin}, line {line}, column {column}: {}", error.message()));
    if shown.is_empty() { error } else { error.with_hint(format!("the line is: {shown}")) }
}

/// The known word that somebody probably meant, if one is near.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let word = plain(word);
    let limit = 1 + word.chars().count() / 4;
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&word, &plain(name)), name))
        .filter(|(distance, name)| {
            // Words that share next to nothing are no suggestion: `a` is not a misspelling of `b`.
            let shares_start = word.chars().count() >= 3 && plain(name).starts_with(&word);
            (*distance <= limit && *distance < word.chars().count()) || shares_start
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Class;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the errors matter here")]
    struct Settings {
        depth: u32,
        #[serde(default)]
        optimizer: Optimizer,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        #[default]
        Adamw,
        Muon,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Optimizer {
        kind: Kind,
        learning_rate: f64,
        weight_decay: f64,
    }

    fn fail(text: &str) -> Error {
        let error = parse_config::<Settings>("pretrain.base", text.parse().unwrap()).unwrap_err();
        assert_eq!(error.class(), Class::Usage);
        error
    }

    #[test]
    fn unknown_key_names_the_section_and_suggests_the_nearest() {
        let error = fail("dept = 3");
        assert_eq!(error.to_string(), "unknown key `dept` in [pretrain.base]");
        assert_eq!(error.hint(), Some("did you mean `depth`?"));
        let error = fail("depth = 1\noptimizer.learning-rat = 3");
        assert_eq!(error.to_string(), "unknown key `learning-rat` in [pretrain.base.optimizer]");
        assert_eq!(error.hint(), Some("did you mean `learning_rate`?"));
        let error = fail("depth = 1\noptimizer.kind = 'adam'");
        assert_eq!(error.to_string(), "`optimizer.kind` in [pretrain.base] cannot be `adam`");
        assert_eq!(error.hint(), Some("did you mean `adamw`?"));
        assert_eq!(fail("zzz = 1").hint(), Some("the known keys are `depth`, `optimizer`"));
    }

    #[test]
    fn wrong_type_and_missing_key_name_the_key() {
        assert!(fail("depth = \"six\"").to_string().starts_with("`depth` in [pretrain.base]: invalid type"));
        assert_eq!(fail("").to_string(), "`depth` is missing in [pretrain.base]");
    }

    #[test]
    fn syntax_error_tells_line_and_column() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recipe.toml");
        std::fs::write(&path, "a = 1\nb = = 2\n").unwrap();
        let error = parse_toml(&path).unwrap_err();
        assert!(error.to_string().contains("recipe.toml, line 2, column 5"), "{error}");
        std::fs::write(&path, b"a = 1\nb = '\xff'\n").unwrap();
        assert!(parse_toml(&path).unwrap_err().to_string().contains("line 2"));
        assert!(parse_toml(&dir.path().join("none")).unwrap_err().to_string().contains("there is no file"));
    }

    #[test]
    fn nearest_finds_misspellings_and_nothing_else() {
        let known = ["vocab_size", "depth", "model"];
        assert_eq!(nearest("vocabsize", known), Some("vocab_size"));
        assert_eq!(nearest("Depth", known), Some("depth"));
        assert_eq!(nearest("vocab", known), Some("vocab_size"));
        assert_eq!(nearest("banana", known), None);
    }
}
