//! Finding in a model's answer what was asked for, however it is wrapped.

use serde_json::{Deserializer, Value};

/// The answer without what a model thinks aloud before it (`<think>…</think>`).
pub fn visible(answer: &str) -> &str {
    match answer.rsplit_once("</think>") {
        Some((_, after)) => after.trim(),
        // Thoughts without an end: there is no answer.
        None if answer.trim_start().starts_with("<think>") => "",
        None => answer.trim(),
    }
}

/// A text without the fence around all of it.
pub fn unfenced(text: &str) -> &str {
    let Some(inside) = text.trim().strip_prefix("```").and_then(|rest| rest.strip_suffix("```")) else {
        return text.trim();
    };
    // After the fence may stand a language.
    let body = inside.split_once('\n').map_or(inside, |(_, body)| body);
    if inside.contains("```") { text.trim() } else { body.trim() }
}

/// All JSON objects and lists in an answer, outermost first: alone, in fences, between sentences, one on each line; of a
/// list that breaks off its complete items.
pub fn json(answer: &str) -> Vec<Value> {
    let (as_it_is, repaired) = (json_in(answer), json_in(&repaired(answer)));
    let size = |values: &[Value]| values.iter().map(|value| value.to_string().len()).sum::<usize>();
    if size(&repaired) > size(&as_it_is) { repaired } else { as_it_is }
}

fn json_in(text: &str) -> Vec<Value> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(start) = text[at..].find(['{', '[']).map(|offset| at + offset) {
        let mut values = Deserializer::from_str(&text[start..]).into_iter::<Value>();
        match values.next() {
            Some(Ok(value)) => {
                at = start + values.byte_offset();
                // `[1]` in a sentence is a reference, not an answer.
                if value.as_array().is_none_or(|list| list.iter().any(|item| item.is_object() || item.is_string())) {
                    found.push(value);
                }
            }
            _ => at = start + 1,
        }
    }
    found
}

/// With line breaks inside strings escaped and without commas before closing brackets: what models get wrong most.
fn repaired(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut inside, mut escaped) = (false, false);
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' if inside => {
                out.push_str(match c {
                    '\n' => "\\n",
                    '\r' => "\\r",
                    _ => "\\t",
                });
                escaped = false;
                continue;
            }
            '"' if !escaped => inside = !inside,
            ']' | '}' if !inside => {
                let kept = out.trim_end();
                if let Some(kept) = kept.strip_suffix(',') {
                    out.truncate(kept.len());
                }
            }
            _ => {}
        }
        escaped = inside && c == '\\' && !escaped;
        out.push(c);
    }
    out
}

/// The objects of an answer: of lists their items, of an object that only wraps a list (`{"pairs": […]}`) that list's.
pub fn objects(answer: &str) -> Vec<Value> {
    fn add(value: Value, into: &mut Vec<Value>) {
        match value {
            Value::Array(items) => items.into_iter().for_each(|item| add(item, into)),
            Value::Object(mut fields) => {
                let list = fields.iter().find(|(_, v)| holds_objects(v)).map(|(name, _)| name.clone());
                let is_wrapper = !fields.contains_key("messages") && !fields.values().any(Value::is_string);
                match list.filter(|_| is_wrapper).and_then(|name| fields.remove(&name)) {
                    Some(items) => add(items, into),
                    None => into.push(Value::Object(fields)),
                }
            }
            _ => {}
        }
    }
    let mut objects = Vec::new();
    json(answer).into_iter().for_each(|value| add(value, &mut objects));
    objects
}

fn holds_objects(value: &Value) -> bool {
    value.as_array().is_some_and(|items| items.iter().any(Value::is_object))
}

/// The texts of a list: JSON strings, or the items of a numbered or bulleted list.
pub fn items(answer: &str) -> Vec<String> {
    let mut texts = Vec::new();
    for value in json(answer) {
        let list = match value {
            Value::Array(list) => list,
            Value::Object(fields) => {
                fields.into_iter().map(|(_, v)| v).find_map(|v| v.as_array().cloned()).unwrap_or_default()
            }
            _ => Vec::new(),
        };
        texts.extend(list.into_iter().filter_map(|item| match item {
            Value::String(text) => Some(text),
            Value::Object(fields) => fields.into_iter().find_map(|(_, v)| v.as_str().map(str::to_owned)),
            _ => None,
        }));
    }
    if texts.is_empty() {
        texts = written_items(answer);
    }
    texts.iter_mut().for_each(|text| *text = text.trim().to_owned());
    texts.retain(|text| !text.is_empty());
    texts
}

/// Items that begin with `1.`, `1)`, `-`, `*` or `•`; further lines belong to the item before.
fn written_items(answer: &str) -> Vec<String> {
    let mut items: Vec<String> = Vec::new();
    for line in answer.lines() {
        match (marked(line), items.last_mut()) {
            (Some(rest), _) => items.push(rest.to_owned()),
            (None, Some(item)) if !line.trim().is_empty() => {
                item.push('\n');
                item.push_str(line.trim());
            }
            _ => {}
        }
    }
    items
}

/// What follows the mark of a list's item.
fn marked(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let digits = line.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = match digits.len() < line.len() {
        true => digits.strip_prefix(['.', ')']),
        false => line.strip_prefix(['-', '*', '•']),
    };
    rest.and_then(|rest| rest.strip_prefix(' ')).map(str::trim)
}

/// The text of the first of these fields that an object has.
pub fn text_of<'a>(object: &'a Value, names: &[&str]) -> Option<&'a str> {
    let text = names.iter().find_map(|name| object.get(name)?.as_str())?.trim();
    (!text.is_empty()).then_some(text)
}

/// A line `Question: …`, also in bold or numbered: what follows the first of these labels that it begins with.
pub fn labelled<'a>(line: &'a str, labels: &[&str]) -> Option<&'a str> {
    let line = marked(line).unwrap_or(line).trim_start_matches(['*', '#', ' ', '_']);
    labels.iter().find_map(|label| {
        let (head, rest) = line.split_at_checked(label.len())?;
        if !head.eq_ignore_ascii_case(label) {
            return None;
        }
        // A number and stars may stand before the colon: `Question 1:`, `**Q2**:`.
        let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, ' ' | '*' | '_'));
        Some(rest.strip_prefix([':', '：'])?.trim_matches(['*', ' ', '_']))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_are_found_however_they_are_wrapped() {
        let wanted = vec![json!({"q": "a", "a": "b"}), json!({"q": "c", "a": "d"})];
        for answer in [
            r#"[{"q": "a", "a": "b"}, {"q": "c", "a": "d"}]"#,
            "Here you are [1]:\n```json\n[{\"q\": \"a\", \"a\": \"b\"},\n{\"q\": \"c\", \"a\": \"d\"}]\n```\nAnything else?",
            r#"{"pairs": [{"q": "a", "a": "b"}, {"q": "c", "a": "d"}]}"#,
            "{\"q\": \"a\", \"a\": \"b\"}\n{\"q\": \"c\", \"a\": \"d\"}",
            r#"[{"q": "a", "a": "b"}, {"q": "c", "a": "d"}, {"q": "e", "#,
            r#"[{"q": "a", "a": "b",}, {"q": "c", "a": "d"},]"#,
            r#"{"pairs": [{"q": "a", "a": "b"}, {"q": "c", "a": "d"}"#,
        ] {
            assert_eq!(objects(visible(answer)), wanted, "{answer}");
        }
        assert_eq!(objects("{\"a\": \"two\nlines\",}"), [json!({"a": "two\nlines"})]);
        for garbage in ["", "no", "[1] and {2}", "[[[[", "{{{\"", "```"] {
            assert_eq!(objects(garbage), Vec::<Value>::new(), "{garbage}");
        }
    }

    #[test]
    fn hostile_answers_take_little_time() {
        for text in ["[", "{\"a\":", "[\"", "[0,", "\\\"["] {
            objects(&text.repeat(50_000));
        }
    }

    #[test]
    fn lists_are_read_as_json_and_as_written() {
        for answer in ["[\"one\", \"two\\nmore\"]", "1. one\n2. two\nmore", "Sure:\n- one\n\n* two\n  more"] {
            assert_eq!(items(answer), ["one", "two\nmore"], "{answer}");
        }
    }

    #[test]
    fn thoughts_and_fences_are_taken_off() {
        assert_eq!(visible("<think>[1]</think>\n yes "), "yes");
        assert_eq!(visible("<think> for ever"), "");
        assert_eq!(unfenced("```text\nyes\n```"), "yes");
        assert_eq!(unfenced("```\na\n```\nand\n```\nb\n```"), "```\na\n```\nand\n```\nb\n```");
    }

    #[test]
    fn labels_are_read_in_every_dress() {
        for line in ["Question: why", "**Question 2:** why", "3. question: why", "### QUESTION： why"] {
            assert_eq!(labelled(line, &["question"]), Some("why"), "{line}");
        }
        assert_eq!(labelled("Questionable: why", &["question"]), None);
    }
}
