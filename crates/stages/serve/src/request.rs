//! What clients ask for: the bodies of `/v1/chat/completions` and `/v1/completions`.

use cupola_generate::{BeamOptions, SamplingParams};
use cupola_tokenizer::Message;
use serde_json::Value;

use crate::api_error::ApiError;
use crate::beams;
use crate::fields::{Fields, wrong};
use crate::parameters::check_rest;
use crate::sampling::{self, token_ids};

/// What both routes share.
#[derive(Debug)]
pub struct Common {
    /// The model asked for.
    pub model: Option<String>,
    /// How to sample.
    pub params: SamplingParams,
    /// Choices per prompt.
    pub n: usize,
    /// Of how many texts per prompt the choices are the likeliest.
    pub best_of: usize,
    /// Search instead of sampling.
    pub beams: Option<BeamOptions>,
    /// Answer by server-sent events.
    pub stream: bool,
    /// End the stream with a chunk that holds the token counts.
    pub include_usage: bool,
}

/// A body of `/v1/chat/completions`.
#[derive(Debug)]
pub struct ChatRequest {
    /// What both routes share.
    pub common: Common,
    /// The conversation so far.
    pub messages: Vec<Message>,
}

/// One prompt of a completion.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// Text, to be tokenized.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
}

/// A body of `/v1/completions`.
#[derive(Debug)]
pub struct CompletionRequest {
    /// What both routes share.
    pub common: Common,
    /// The prompts; each gets its own choices.
    pub prompts: Vec<Prompt>,
    /// Begin each answer with its prompt.
    pub echo: bool,
}

impl ChatRequest {
    /// Reads a body.
    pub fn parse(body: &[u8], defaults: &SamplingParams) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(body)?;
        let mut common = Common::take(&mut fields, defaults)?;
        if let Some(most) = fields.size("max_completion_tokens", 1)? {
            common.params.max_tokens = most;
        }
        let wanted = fields.boolean("logprobs")?.unwrap_or(false);
        let top = fields.integer("top_logprobs", 0..=20)?.and_then(|n| usize::try_from(n).ok());
        if top.is_some_and(|top| top > 0) && !wanted {
            return Err(ApiError::bad_param("top_logprobs", "`top_logprobs` needs `logprobs` to be true"));
        }
        common.params.logprobs = wanted.then(|| top.unwrap_or(0));
        let items = fields
            .list("messages")?
            .ok_or_else(|| ApiError::bad_param("messages", "`messages` is missing").with_code("missing_parameter"))?;
        check_rest(fields)?;
        if items.is_empty() {
            return Err(ApiError::bad_param("messages", "`messages` is empty; it needs at least one message"));
        }
        let messages = items.into_iter().enumerate().map(|(i, item)| message(i, item)).collect::<Result<_, _>>()?;
        Ok(Self { common, messages })
    }
}

impl CompletionRequest {
    /// Reads a body.
    pub fn parse(body: &[u8], defaults: &SamplingParams) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(body)?;
        let mut common = Common::take(&mut fields, defaults)?;
        let echo = fields.boolean("echo")?.unwrap_or(false);
        common.params.logprobs = fields.integer("logprobs", 0..=5)?.and_then(|n| usize::try_from(n).ok());
        if echo && common.params.logprobs.is_some() {
            let message = "`logprobs` of an echoed prompt are not supported; leave `echo` out";
            return Err(ApiError::unsupported("logprobs", message));
        }
        common.take_best_of(&mut fields)?;
        let prompt = fields
            .take("prompt")
            .ok_or_else(|| ApiError::bad_param("prompt", "`prompt` is missing").with_code("missing_parameter"))?;
        check_rest(fields)?;
        Ok(Self { common, prompts: prompts(prompt)?, echo })
    }
}

impl Common {
    /// Takes `best_of`, which streams cannot have: what is sent cannot be taken back.
    fn take_best_of(&mut self, fields: &mut Fields) -> Result<(), ApiError> {
        let Some(best_of) = choices(fields, "best_of")? else { return Ok(()) };
        if best_of < self.n {
            let message = format!("`best_of` must be at least `n` ({}), but is {best_of}", self.n);
            return Err(ApiError::bad_param("best_of", message));
        }
        if self.stream && best_of > self.n {
            return Err(ApiError::bad_param("best_of", "`best_of` cannot be streamed unless it is `n`"));
        }
        self.best_of = best_of;
        Ok(())
    }

    fn take(fields: &mut Fields, defaults: &SamplingParams) -> Result<Self, ApiError> {
        let stream = fields.boolean("stream")?.unwrap_or(false);
        let mut include_usage = false;
        if let Some(options) = fields.take("stream_options") {
            if !stream {
                return Err(ApiError::bad_param("stream_options", "`stream_options` needs `stream` to be true"));
            }
            let mut options = Fields::nested("stream_options".into(), options)?;
            include_usage = options.boolean("include_usage")?.unwrap_or(false);
            options.boolean("include_obfuscation")?;
            check_rest(options)?;
        }
        let n = choices(fields, "n")?.unwrap_or(1);
        Ok(Self {
            model: fields.string("model")?,
            params: sampling::take(fields, defaults)?,
            n,
            best_of: n,
            beams: beams::take(fields)?,
            stream,
            include_usage,
        })
    }
}

/// Takes a number of choices.
fn choices(fields: &mut Fields, name: &str) -> Result<Option<usize>, ApiError> {
    Ok(fields.integer(name, 1..=8)?.and_then(|n| usize::try_from(n).ok()))
}

fn message(index: usize, value: Value) -> Result<Message, ApiError> {
    let mut fields = Fields::nested(format!("messages[{index}]"), value)?;
    let name = fields.full("role");
    let role = fields.string("role")?.ok_or_else(|| ApiError::bad_param(&name, format!("`{name}` is missing")))?;
    let role = match role.as_str() {
        "developer" => "system".to_owned(),
        "system" | "user" | "assistant" => role,
        "tool" | "function" => {
            return Err(ApiError::unsupported(&name, format!("`{name}` is {role:?}; tools are not supported yet")));
        }
        _ => {
            let role: String = role.chars().take(40).collect();
            let message = format!("`{name}` must be one of system, developer, user, assistant, but is {role:?}");
            return Err(ApiError::bad_param(&name, message));
        }
    };
    fields.string("name")?;
    let name = fields.full("content");
    let content = match fields.take("content") {
        Some(content) => text_of(&name, content)?,
        None if role == "assistant" => String::new(),
        None => return Err(ApiError::bad_param(&name, format!("`{name}` is missing"))),
    };
    if let Some((name, _)) = fields.rest().next() {
        return Err(ApiError::unsupported(&name, format!("`{name}` is not supported in a message")));
    }
    Ok(Message::new(role, content))
}

/// A message's content: a string, or parts that are all text.
fn text_of(name: &str, content: Value) -> Result<String, ApiError> {
    let parts = match content {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        other => return Err(wrong(name, "a string or a list of text parts", &other)),
    };
    let mut text = String::new();
    for (i, part) in parts.into_iter().enumerate() {
        let mut fields = Fields::nested(format!("{name}[{i}]"), part)?;
        let (kind_name, text_name) = (fields.full("type"), fields.full("text"));
        let kind = fields.string("type")?.unwrap_or_default();
        if kind != "text" {
            let kind: String = kind.chars().take(40).collect();
            let message = format!("`{kind_name}` is {kind:?}; only \"text\" is supported");
            return Err(ApiError::unsupported(&kind_name, message));
        }
        let part = fields.string("text")?;
        text += &part.ok_or_else(|| ApiError::bad_param(&text_name, format!("`{text_name}` is missing")))?;
    }
    Ok(text)
}

/// A prompt: a string, a list of strings, a list of token ids, or a list of such lists.
fn prompts(value: Value) -> Result<Vec<Prompt>, ApiError> {
    const EXPECTED: &str = "a string, a list of strings or a list of token ids";
    let items = match value {
        Value::String(text) => return Ok(vec![Prompt::Text(text)]),
        Value::Array(items) if items.is_empty() => {
            return Err(ApiError::bad_param("prompt", "`prompt` is an empty list"));
        }
        Value::Array(items) => items,
        other => return Err(wrong("prompt", EXPECTED, &other)),
    };
    if items[0].is_number() {
        return Ok(vec![Prompt::Tokens(token_ids("prompt", items)?)]);
    }
    let all_text = items[0].is_string();
    let mut prompts = Vec::with_capacity(items.len());
    for (i, item) in items.into_iter().enumerate() {
        let name = format!("prompt[{i}]");
        prompts.push(match item {
            Value::String(text) if all_text => Prompt::Text(text),
            Value::Array(ids) if !all_text => Prompt::Tokens(token_ids(&name, ids)?),
            other => return Err(wrong(&name, if all_text { "a string" } else { "a list of token ids" }, &other)),
        });
    }
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn chat(body: &Value) -> Result<ChatRequest, ApiError> {
        ChatRequest::parse(body.to_string().as_bytes(), &SamplingParams::default())
    }

    fn completion(prompt: &Value) -> Result<CompletionRequest, ApiError> {
        let body = json!({"prompt": prompt}).to_string();
        CompletionRequest::parse(body.as_bytes(), &SamplingParams::default())
    }

    #[test]
    fn content_is_a_string_or_text_parts() {
        let request = chat(&json!({"messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null},
            {"role": "user", "content": "c", "name": "ada"},
        ]}))
        .unwrap();
        let seen: Vec<_> = request.messages.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect();
        assert_eq!(seen, [("system", "be brief"), ("user", "ab"), ("assistant", ""), ("user", "c")]);
    }

    #[test]
    fn a_wrong_message_is_named_by_its_place() {
        for (message, param) in [
            (json!({"content": "x"}), "messages[0].role"),
            (json!({"role": "king", "content": "x"}), "messages[0].role"),
            (json!({"role": "user"}), "messages[0].content"),
            (json!({"role": "user", "content": 3}), "messages[0].content"),
            (json!({"role": "user", "content": [{"type": "image_url"}]}), "messages[0].content[0].type"),
            (json!({"role": "user", "content": ["x"]}), "messages[0].content[0]"),
            (json!("hi"), "messages[0]"),
        ] {
            let error = chat(&json!({"messages": [message]})).unwrap_err();
            assert_eq!(error.body()["error"]["param"], param, "{message}");
        }
    }

    #[test]
    fn max_completion_tokens_wins_over_max_tokens() {
        let body = json!({"messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "max_completion_tokens": 5});
        assert_eq!(chat(&body).unwrap().common.params.max_tokens, 5);
    }

    #[test]
    fn prompts_come_in_four_forms() {
        let text = |t: &str| Prompt::Text(t.into());
        assert_eq!(completion(&json!("a")).unwrap().prompts, [text("a")]);
        assert_eq!(completion(&json!(["a", "b"])).unwrap().prompts, [text("a"), text("b")]);
        assert_eq!(completion(&json!([1, 2])).unwrap().prompts, [Prompt::Tokens(vec![1, 2])]);
        assert_eq!(completion(&json!([[1], [2]])).unwrap().prompts, [Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2])]);
        for wrong in [json!(3), json!([]), json!(["a", 1]), json!([1, "a"]), json!([-1]), json!([[1.5]]), json!({})] {
            assert!(completion(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn stop_is_a_string_or_at_most_four() {
        let with = |stop: Value| chat(&json!({"messages": [{"role": "user", "content": "x"}], "stop": stop}));
        assert_eq!(with(json!("a")).unwrap().common.params.stop, ["a"]);
        assert_eq!(with(json!(["a", "b"])).unwrap().common.params.stop, ["a", "b"]);
        for wrong in [json!(["a", "b", "c", "d", "e"]), json!([1]), json!(1), json!("")] {
            assert!(with(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
