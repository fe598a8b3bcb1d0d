//! Parameters that the API knows and this server does not: which are harmless, and which are refused and why.

use serde_json::Value;

use crate::api_error::ApiError;
use crate::fields::{Fields, found};

/// Parameters that change nothing about the answer.
const IGNORED: &[&str] = &[
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
];

/// A parameter that is accepted only with a value that asks for nothing.
struct Neutral {
    name: &'static str,
    is_neutral: fn(&Value) -> bool,
    feature: &'static str,
}

const NEUTRAL: &[Neutral] = &[
    Neutral { name: "best_of", is_neutral: is_one, feature: "choosing the best of several" },
    Neutral { name: "top_logprobs", is_neutral: is_zero, feature: "log-probabilities" },
    Neutral { name: "tools", is_neutral: is_empty, feature: "tools" },
    Neutral { name: "tool_choice", is_neutral: |v| v == "none" || v == "auto", feature: "tools" },
    Neutral { name: "functions", is_neutral: is_empty, feature: "functions" },
    Neutral { name: "function_call", is_neutral: |v| v == "none" || v == "auto", feature: "functions" },
    Neutral { name: "response_format", is_neutral: |v| v["type"] == "text", feature: "structured output" },
    Neutral { name: "modalities", is_neutral: |v| *v == serde_json::json!(["text"]), feature: "anything but text" },
    Neutral { name: "suffix", is_neutral: |v| v == "", feature: "filling in before a suffix" },
    Neutral { name: "audio", is_neutral: |_| false, feature: "audio" },
    Neutral { name: "prediction", is_neutral: |_| false, feature: "predicted output" },
    Neutral { name: "web_search_options", is_neutral: |_| false, feature: "web search" },
    Neutral { name: "reasoning_effort", is_neutral: |v| v == "none", feature: "reasoning effort" },
    Neutral { name: "verbosity", is_neutral: |v| v == "medium", feature: "verbosity" },
];

/// Refuses what is left of a request after all supported fields were taken.
pub fn check_rest(fields: Fields) -> Result<(), ApiError> {
    for (name, value) in fields.rest() {
        if IGNORED.contains(&name.as_str()) {
            continue;
        }
        match NEUTRAL.iter().find(|p| p.name == name) {
            Some(parameter) if (parameter.is_neutral)(&value) => {}
            Some(parameter) => {
                let message = format!(
                    "`{name}` is {}, but this server does not support {} yet; leave it out",
                    found(&value),
                    parameter.feature
                );
                return Err(ApiError::unsupported(&name, message));
            }
            None => {
                let name: String = name.chars().take(100).collect();
                let message = format!("unknown parameter `{name}`");
                return Err(ApiError::bad_param(&name, message).with_code("unknown_parameter"));
            }
        }
    }
    Ok(())
}

fn is_zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

fn is_one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(serde_json::Map::is_empty)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn check(value: &Value) -> Result<(), ApiError> {
        check_rest(Fields::parse(value.to_string().as_bytes())?)
    }

    #[test]
    fn parameters_that_ask_for_nothing_are_accepted() {
        let body = json!({
            "user": "me", "metadata": {"a": "b"}, "store": false, "best_of": 1, "top_logprobs": 0, "tools": [], "response_format": {"type": "text"}, "audio": null,
        });
        check(&body).unwrap();
    }

    #[test]
    fn parameters_that_ask_for_more_are_refused_by_name() {
        for (body, param) in [
            (json!({"tools": [{}]}), "tools"),
            (json!({"top_logprobs": 1}), "top_logprobs"),
            (json!({"best_of": 2}), "best_of"),
            (json!({"response_format": {"type": "json_object"}}), "response_format"),
            (json!({"response_format": "json"}), "response_format"),
            (json!({"temprature": 0.5}), "temprature"),
        ] {
            let error = check(&body).unwrap_err().body();
            assert_eq!(error["error"]["param"], param);
        }
    }
}
