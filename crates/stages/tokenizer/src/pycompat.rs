//! What chat templates expect of Python: methods of strings and dictionaries, its JSON, its clock.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};

/// Answers the call of a method that the template engine does not have.
pub(crate) fn call_method(_: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => string_method(value.as_str().unwrap_or_default(), method, args),
        ValueKind::Map => map_method(value, method, args),
        ValueKind::Seq => seq_method(value, method, args),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    Ok(match method {
        "strip" | "lstrip" | "rstrip" => {
            let (set,): (Option<String>,) = from_args(args)?;
            Value::from(strip(text, set.as_deref(), method != "rstrip", method != "lstrip"))
        }
        "startswith" | "endswith" => {
            let (part,): (Value,) = from_args(args)?;
            let fits = |p: &str| if method == "startswith" { text.starts_with(p) } else { text.ends_with(p) };
            Value::from(match part.as_str() {
                Some(part) => fits(part),
                None => part.try_iter()?.any(|p| p.as_str().is_some_and(fits)),
            })
        }
        "split" | "rsplit" => {
            let (separator, most): (Option<String>, Option<i64>) = from_args(args)?;
            let most = most.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
            split(text, separator.as_deref(), most, method == "rsplit")?
        }
        "splitlines" => Value::from_iter(text.lines().map(Value::from)),
        "replace" => {
            let (old, new, count): (String, String, Option<i64>) = from_args(args)?;
            let times =
                text.matches(&old).count().min(count.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX));
            check_length(text.len().saturating_add(times.saturating_mul(new.len())))?;
            Value::from(match count.and_then(|n| usize::try_from(n).ok()) {
                Some(count) => text.replacen(&old, &new, count),
                None => text.replace(&old, &new),
            })
        }
        "find" | "rfind" | "count" => {
            let (part,): (String,) = from_args(args)?;
            let characters = |at: usize| text[..at].chars().count() as i64;
            match method {
                "find" => Value::from(text.find(&part).map_or(-1, characters)),
                "rfind" => Value::from(text.rfind(&part).map_or(-1, characters)),
                _ => Value::from(text.matches(&part).count()),
            }
        }
        "join" => {
            let (parts,): (Value,) = from_args(args)?;
            let parts: Vec<String> = parts.try_iter()?.map(|p| p.to_string()).collect();
            check_length(parts.iter().map(|p| p.len().saturating_add(text.len())).fold(0, usize::saturating_add))?;
            Value::from(parts.join(text))
        }
        "removeprefix" | "removesuffix" => {
            let (part,): (String,) = from_args(args)?;
            let cut = if method == "removeprefix" { text.strip_prefix(&part) } else { text.strip_suffix(&part) };
            Value::from(cut.unwrap_or(text))
        }
        _ => {
            let _: () = from_args(args)?;
            simple_string_method(text, method)?
        }
    })
}

/// Bytes that a text may have.
const LONGEST_TEXT: usize = 64 << 20;

/// Refuses texts that would fill the memory.
fn check_length(bytes: usize) -> Result<(), Error> {
    let cause = || format!("a text would have {bytes} bytes, more than {LONGEST_TEXT}");
    if bytes > LONGEST_TEXT { Err(Error::new(ErrorKind::InvalidOperation, cause())) } else { Ok(()) }
}

/// Methods without arguments.
fn simple_string_method(text: &str, method: &str) -> Result<Value, Error> {
    let every = |test: fn(char) -> bool| !text.is_empty() && text.chars().all(test);
    Ok(match method {
        "lower" => Value::from(text.to_lowercase()),
        "upper" => Value::from(text.to_uppercase()),
        "capitalize" => Value::from(capitalize(text)),
        "title" => Value::from(text.split_inclusive(|c: char| !c.is_alphabetic()).map(capitalize).collect::<String>()),
        "isdigit" | "isnumeric" => Value::from(every(char::is_numeric)),
        "isalpha" => Value::from(every(char::is_alphabetic)),
        "isalnum" => Value::from(every(char::is_alphanumeric)),
        "isspace" => Value::from(every(char::is_whitespace)),
        "isupper" => Value::from(text != text.to_lowercase() && text == text.to_uppercase()),
        "islower" => Value::from(text != text.to_uppercase() && text == text.to_lowercase()),
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
}

fn map_method(map: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let pairs = || -> Result<Vec<(Value, Value)>, Error> {
        map.try_iter()?.map(|key| map.get_item(&key).map(|value| (key, value))).collect()
    };
    Ok(match method {
        "get" => {
            let (key, default): (Value, Option<Value>) = from_args(args)?;
            let found = map.get_item(&key)?;
            if found.is_undefined() { default.unwrap_or(Value::from(())) } else { found }
        }
        "items" => Value::from(pairs()?.into_iter().map(|(k, v)| Value::from(vec![k, v])).collect::<Vec<_>>()),
        "keys" => Value::from(pairs()?.into_iter().map(|(k, _)| k).collect::<Vec<_>>()),
        "values" => Value::from(pairs()?.into_iter().map(|(_, v)| v).collect::<Vec<_>>()),
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
}

fn seq_method(list: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let (item,): (Value,) = from_args(args)?;
    match method {
        "count" => Ok(Value::from(list.try_iter()?.filter(|v| *v == item).count())),
        "index" => list
            .try_iter()?
            .position(|v| v == item)
            .map(Value::from)
            .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, format!("{item} is not in the list"))),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn strip<'t>(text: &'t str, set: Option<&str>, left: bool, right: bool) -> &'t str {
    let out = |c: char| set.map_or(c.is_whitespace(), |set| set.contains(c));
    let text = if left { text.trim_start_matches(out) } else { text };
    if right { text.trim_end_matches(out) } else { text }
}

fn split(text: &str, separator: Option<&str>, most: usize, from_right: bool) -> Result<Value, Error> {
    let limit = most.saturating_add(1);
    let parts: Vec<&str> = match separator {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "split needs a separator that is not empty")),
        Some(separator) if from_right => {
            let mut parts: Vec<&str> = text.rsplitn(limit, separator).collect();
            parts.reverse();
            parts
        }
        Some(separator) => text.splitn(limit, separator).collect(),
        None if most == usize::MAX => text.split_whitespace().collect(),
        None => {
            let mut rest = text.trim_start();
            let mut parts = Vec::new();
            while !rest.is_empty() {
                match rest.find(char::is_whitespace) {
                    Some(at) if parts.len() < most => {
                        parts.push(&rest[..at]);
                        rest = rest[at..].trim_start();
                    }
                    _ => {
                        parts.push(rest);
                        rest = "";
                    }
                }
            }
            parts
        }
    };
    Ok(Value::from_iter(parts.into_iter().map(Value::from)))
}

fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars.flat_map(char::to_lowercase)).collect())
}

/// The filter `tojson` as transformers defines it: `json.dumps` with non-ASCII characters kept and nothing escaped for
/// HTML.
pub(crate) fn tojson(value: &Value, args: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = args.get("indent")?;
    let sort: Option<bool> = args.get("sort_keys")?;
    let separators: Option<Vec<String>> = args.get("separators")?;
    let _: Option<bool> = args.get("ensure_ascii")?;
    args.assert_all_used()?;
    let failed = |e: serde_json::Error| Error::new(ErrorKind::InvalidOperation, "cannot write as JSON").with_source(e);
    let mut json = serde_json::to_value(value).map_err(failed)?;
    if sort == Some(true) {
        json.sort_all_objects();
    }
    let mut out = Vec::new();
    match (indent, separators.as_deref()) {
        (Some(indent), _) => write(&json, &mut out, PrettyFormatter::with_indent(" ".repeat(indent).as_bytes())),
        (None, Some([item, key])) if item == "," && key == ":" => write(&json, &mut out, CompactFormatter),
        (None, _) => write(&json, &mut out, Spaced),
    }
    .map_err(failed)?;
    Ok(Value::from(String::from_utf8_lossy(&out).into_owned()))
}

fn write<F: Formatter>(json: &serde_json::Value, out: &mut Vec<u8>, formatter: F) -> serde_json::Result<()> {
    json.serialize(&mut serde_json::Serializer::with_formatter(out, formatter))
}

/// Python's default: a space after commas and colons.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// The date and time in UTC, in the form of C's `strftime`.
pub(crate) fn strftime_now(format: &str) -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    strftime(format, seconds)
}

fn strftime(format: &str, seconds: u64) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[(days % 7) as usize]);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('Y') => out.push_str(&year.to_string()),
            Some('y') => out.push_str(&format!("{:02}", year % 100)),
            Some('m') => out.push_str(&format!("{month:02}")),
            Some('d') => out.push_str(&format!("{day:02}")),
            Some('e') => out.push_str(&format!("{day:2}")),
            Some('B') => out.push_str(month_name),
            Some('b' | 'h') => out.push_str(&month_name[..3]),
            Some('A') => out.push_str(day_name),
            Some('a') => out.push_str(&day_name[..3]),
            Some('H') => out.push_str(&format!("{:02}", second / 3600)),
            Some('M') => out.push_str(&format!("{:02}", second / 60 % 60)),
            Some('S') => out.push_str(&format!("{:02}", second % 60)),
            Some('F') => out.push_str(&format!("{year}-{month:02}-{day:02}")),
            Some('%') => out.push('%'),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}

/// Year, month and day of a number of days since 1 January 1970 (Howard Hinnant's `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_a_leap_day() {
        assert_eq!(strftime("%d %b %Y, %A %H:%M:%S", 1_709_210_096), "29 Feb 2024, Thursday 12:34:56");
        assert_eq!(strftime("%F", 1_709_251_200), "2024-03-01");
        assert_eq!(strftime("%F %a %q%%", 0), "1970-01-01 Thu %q%");
    }

    #[test]
    fn splitting_follows_python() {
        let text = |v: Result<Value, Error>| v.map(|v| v.to_string()).unwrap_or_default();
        assert_eq!(text(split(" a b  c ", None, 1, false)), "['a', 'b  c ']");
        assert_eq!(text(split("a-b-c", Some("-"), 1, true)), "['a-b', 'c']");
        assert_eq!(strip("xxaxx", Some("x"), true, false), "axx");
    }
}
