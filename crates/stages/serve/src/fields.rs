//! Reads a request's JSON object field by field; every error names the field and what was found in it.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::api_error::ApiError;

/// A JSON object whose fields are taken out one by one; `null` counts as absent.
pub struct Fields {
    path: String,
    map: Map<String, Value>,
}

impl Fields {
    /// Parses a request's body.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        if body.is_empty() {
            return Err(ApiError::bad_request("the request's body is empty, but must be a JSON object"));
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Self { path: String::new(), map }),
            Ok(other) => Err(ApiError::bad_request(format!(
                "the request's body must be a JSON object, but is {}",
                found(&other)
            ))),
            Err(e) => Err(ApiError::bad_request(format!("the request's body is not valid JSON: {e}"))),
        }
    }

    /// An object inside the request, at `path`.
    pub fn nested(path: String, value: Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Self { path: format!("{path}."), map }),
            other => Err(wrong(&path, "an object", &other)),
        }
    }

    /// The full name of a field, for messages.
    pub fn full(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    /// Takes a field as it is.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    /// Takes a number.
    pub fn number(&mut self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let full = self.full(name);
        let number = value.as_f64().ok_or_else(|| wrong(&full, "a number", &value))?;
        if !range.contains(&number) {
            let message = format!("`{full}` must be from {} to {}, but is {number}", range.start(), range.end());
            return Err(ApiError::bad_param(&full, message));
        }
        Ok(Some(number))
    }

    /// Takes a whole number.
    pub fn integer(&mut self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let full = self.full(name);
        let integer = value.as_i64().ok_or_else(|| wrong(&full, "an integer", &value))?;
        if !range.contains(&integer) {
            let message = match (*range.start(), *range.end()) {
                (start, i64::MAX) => format!("`{full}` must be at least {start}, but is {integer}"),
                (start, end) => format!("`{full}` must be from {start} to {end}, but is {integer}"),
            };
            return Err(ApiError::bad_param(&full, message));
        }
        Ok(Some(integer))
    }

    /// Takes a size: an integer of at least `least`.
    pub fn size(&mut self, name: &str, least: i64) -> Result<Option<usize>, ApiError> {
        Ok(self.integer(name, least..=i64::MAX)?.and_then(|n| usize::try_from(n).ok()))
    }

    /// Takes `true` or `false`.
    pub fn boolean(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let full = self.full(name);
        value.as_bool().map(Some).ok_or_else(|| wrong(&full, "true or false", &value))
    }

    /// Takes a string.
    pub fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(&self.full(name), "a string", &other)),
        }
    }

    /// Takes a list.
    pub fn list(&mut self, name: &str) -> Result<Option<Vec<Value>>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(other) => Err(wrong(&self.full(name), "a list", &other)),
        }
    }

    /// The fields that nobody took and that are not `null`.
    pub fn rest(self) -> impl Iterator<Item = (String, Value)> {
        let path = self.path;
        self.map.into_iter().filter(|(_, v)| !v.is_null()).map(move |(name, value)| (format!("{path}{name}"), value))
    }
}

/// The error for a field of the wrong type.
pub fn wrong(field: &str, expected: &str, value: &Value) -> ApiError {
    ApiError::bad_param(field, format!("`{field}` must be {expected}, but is {}", found(value)))
        .with_code("invalid_type")
}

/// What a value is, in words.
pub fn found(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => format!("the number {n}"),
        Value::String(s) if s.chars().count() > 40 => {
            format!("the string {:?}…", s.chars().take(40).collect::<String>())
        }
        Value::String(s) => format!("the string {s:?}"),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn fields(value: Value) -> Fields {
        Fields::parse(value.to_string().as_bytes()).unwrap_or_else(|e| panic!("{e:?}"))
    }

    fn message(error: &ApiError) -> String {
        error.body()["error"]["message"].as_str().unwrap().to_owned()
    }

    #[test]
    fn a_wrong_type_names_the_field_and_what_was_found() {
        let error = fields(json!({"temperature": "hot"})).number("temperature", 0.0..=2.0).unwrap_err();
        assert_eq!(message(&error), "`temperature` must be a number, but is the string \"hot\"");
        assert_eq!(error.body()["error"]["param"], "temperature");
        let error = fields(json!({"n": 2.5})).integer("n", 1..=8).unwrap_err();
        assert_eq!(message(&error), "`n` must be an integer, but is the number 2.5");
        let error = fields(json!({"stream": [1]})).boolean("stream").unwrap_err();
        assert_eq!(message(&error), "`stream` must be true or false, but is a list of 1");
    }

    #[test]
    fn numbers_out_of_range_name_the_range() {
        let error = fields(json!({"n": 9})).integer("n", 1..=8).unwrap_err();
        assert_eq!(message(&error), "`n` must be from 1 to 8, but is 9");
        let error = fields(json!({"max_tokens": 0})).size("max_tokens", 1).unwrap_err();
        assert_eq!(message(&error), "`max_tokens` must be at least 1, but is 0");
    }

    #[test]
    fn null_counts_as_absent() {
        assert!(fields(json!({"n": null})).integer("n", 1..=8).unwrap().is_none());
        assert_eq!(fields(json!({"a": null, "b": 1})).rest().count(), 1);
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_stack_overflow() {
        let body = "[".repeat(100_000);
        assert!(Fields::parse(body.as_bytes()).is_err());
        assert!(Fields::parse(b"\xff\xfe{}").is_err());
        assert!(Fields::parse(b"").is_err());
    }
}
