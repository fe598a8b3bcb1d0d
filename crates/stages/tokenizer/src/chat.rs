//! Chats as tokens, and which of the tokens the assistant wrote.
//!
//! **No injection.** A message may contain the text of a special token, such as `<|im_end|>`, by accident or in order to
//! end its turn early and speak as somebody else. Before rendering, a guard character (U+FDD0, which Unicode reserves for
//! use inside a program) is put into every such text in every message; so after rendering, only what the template itself
//! wrote still reads as a special token. The guard is taken out again behind that recognition, and the text is encoded as
//! the plain text it is. This holds for all roles and for all special tokens of at least two characters; added tokens
//! that are not marked special (such as `<think>` in some models) are left alone, as a model writes them itself.
//!
//! **The mask.** What the assistant wrote is found in three ways, in this order:
//! 1. by the template's own `{% generation %}` blocks, where it has them;
//! 2. by rendering the chat up to the assistant's turn, with the generation prompt, and up to its end: where both are
//!    beginnings of the whole text, the turn lies between them;
//! 3. by a mark at the end of the assistant's text, for templates that render earlier turns otherwise than the last.

use cupola_artifact::{Context, Error, Result};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use tokenizers::normalizers::{NormalizerWrapper, Replace, Sequence};

use crate::template::{ChatTemplate, RenderOptions, Rendered};
use crate::tokenizer::Tokenizer;

/// Breaks up the text of a special token in a message.
pub(crate) const GUARD: char = '\u{fdd0}';
/// Marks the end of an assistant's text.
const END_MARK: char = '\u{fdd3}';
/// Characters a message may not contain, since they have a meaning here.
const RESERVED: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdd3}';

/// One message of a chat.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What was said. Read from a text, from `null` (nothing), or from a list of text parts, which are joined.
    #[serde(default, deserialize_with = "content")]
    pub content: String,
    /// All other fields, e.g. `tool_calls`; the template sees them.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    /// A message without extra fields.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), extra: Map::new() }
    }

    fn to_json(&self) -> Value {
        let mut fields = Map::new();
        fields.insert("role".to_owned(), Value::String(self.role.clone()));
        fields.insert("content".to_owned(), Value::String(self.content.clone()));
        fields.extend(self.extra.clone());
        Value::Object(fields)
    }
}

fn content<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    use serde::de::Error as _;
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text),
        Value::Array(parts) => parts
            .iter()
            .map(|part| {
                part["text"]
                    .as_str()
                    .ok_or_else(|| D::Error::custom("a part of `content` is no text; only text is understood"))
            })
            .collect(),
        _ => Err(D::Error::custom("`content` must be a text, a list of text parts, or null")),
    }
}

impl Tokenizer {
    /// The text that the chat template makes of `messages`; with `add_generation_prompt` it ends where the assistant is
    /// to go on.
    pub fn render_chat(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        self.render_chat_with(messages, &RenderOptions { add_generation_prompt, ..Default::default() })
    }

    /// The same with all that a template may be given. With tools, the template named `tool_use` is taken where there is
    /// one.
    pub fn render_chat_with(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        let messages: Vec<Value> = messages.iter().map(Message::to_json).collect();
        let for_tools = if options.tools.is_null() { None } else { self.named_template("tool_use") };
        for_tools.map_or_else(|| self.template(), Ok)?.render(&messages, options)
    }

    /// The chat template of a name, beside the default one.
    pub fn named_template(&self, name: &str) -> Option<&ChatTemplate> {
        self.0.named.iter().find(|(n, _)| n == name).map(|(_, template)| template)
    }

    /// The tokens of a chat. Text in messages never becomes a special token, whatever it says.
    pub fn encode_chat(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Vec<u32>> {
        let (messages, guarded) = self.guard(messages);
        let text = render(self.template()?, &messages, add_generation_prompt)?.text;
        if guarded {
            return Ok(self.encode_guarded(&text)?.get_ids().to_vec());
        }
        self.encode_special(&text)
    }

    /// The tokens of a finished chat (those of [`encode_chat`](Self::encode_chat)), and for each whether the assistant
    /// wrote it, the token that ends its turn included: the tokens a model is to learn.
    pub fn encode_chat_with_mask(&self, messages: &[Message]) -> Result<(Vec<u32>, Vec<bool>)> {
        let (messages, guarded) = self.guard(messages);
        let rendered = render(self.template()?, &messages, false)?;
        let spans = self.assistant_spans(&messages, &rendered)?;
        let encoding = if guarded {
            self.encode_guarded(&rendered.text)?
        } else {
            let text = rendered.text.as_str();
            self.0.special.encode(text, false).context(|| "cannot encode a chat".to_owned())?
        };
        let inside = |at: usize| spans.iter().any(|&(start, end)| (start..end).contains(&at));
        let mask = encoding.get_offsets().iter().map(|&(start, _)| inside(start)).collect();
        Ok((encoding.get_ids().to_vec(), mask))
    }

    fn template(&self) -> Result<&ChatTemplate> {
        self.0.template.as_ref().ok_or_else(|| {
            Error::failed("this tokenizer has no chat template")
                .with_hint("set `chat_template` in its tokenizer_config.json or put a chat_template.jinja beside it")
        })
    }

    /// The messages as JSON with all texts of special tokens broken up, and whether there were any.
    fn guard(&self, messages: &[Message]) -> (Vec<Value>, bool) {
        let added = self.0.special.get_added_tokens_decoder();
        let special: Vec<&str> =
            added.values().filter(|t| t.special && t.content.len() > 1).map(|t| t.content.as_str()).collect();
        let mut guarded = false;
        let mut messages: Vec<Value> = messages.iter().map(Message::to_json).collect();
        messages.iter_mut().for_each(|m| guard_value(m, &special, &mut guarded));
        (messages, guarded)
    }

    fn encode_guarded(&self, text: &str) -> Result<tokenizers::Encoding> {
        let tokenizer = match self.0.guarded.get() {
            Some(tokenizer) => tokenizer,
            None => {
                let made = without_guard(&self.0.special, &self.0.plain)?;
                self.0.guarded.get_or_init(|| made)
            }
        };
        tokenizer.encode(text, false).context(|| "cannot encode a chat".to_owned())
    }

    /// The byte ranges of the rendered text that the assistant wrote.
    fn assistant_spans(&self, messages: &[Value], whole: &Rendered) -> Result<Vec<(usize, usize)>> {
        if !whole.blocks.is_empty() {
            return Ok(whole.blocks.iter().map(|&(start, end)| (start, self.with_stop(&whole.text, end))).collect());
        }
        let turns = messages.iter().enumerate().filter(|(_, m)| m["role"] == "assistant").map(|(i, _)| i);
        turns
            .map(|turn| {
                self.span_between(messages, turn, &whole.text)
                    .or_else(|| self.span_before_mark(messages, turn, &whole.text))
                    .ok_or_else(|| {
                        Error::failed(format!("cannot tell which part of the chat is the assistant's message {turn}"))
                            .with_hint("put {% generation %} … {% endgeneration %} around it in the chat template")
                    })
            })
            .collect()
    }

    /// Between the chat up to this turn and the chat up to its end.
    fn span_between(&self, messages: &[Value], turn: usize, whole: &str) -> Option<(usize, usize)> {
        let template = self.template().ok()?;
        let before = render(template, &messages[..turn], true).ok()?.text;
        let after = render(template, &messages[..=turn], false).ok()?.text;
        if !whole.starts_with(&before) || !whole.starts_with(&after) || after.len() <= before.len() {
            return None;
        }
        // What follows the end of the turn, such as a line break, is the template's.
        let last_stop = self.stop_texts().into_iter().filter_map(|s| Some(after.rfind(&s)? + s.len())).max();
        let end = last_stop.filter(|&end| end > before.len()).unwrap_or(after.len());
        Some((before.len(), end))
    }

    /// The assistant's text, found backwards from a mark at its end.
    fn span_before_mark(&self, messages: &[Value], turn: usize, whole: &str) -> Option<(usize, usize)> {
        let content = messages[turn]["content"].as_str()?;
        let core = content.trim_end();
        if core.is_empty() {
            return None;
        }
        let mut marked = messages.to_vec();
        marked[turn]["content"] = Value::String(format!("{core}{END_MARK}{}", &content[core.len()..]));
        let text = render(self.template().ok()?, &marked, false).ok()?.text;
        let end = text.find(END_MARK)?;
        if text.replace(END_MARK, "") != whole {
            return None;
        }
        // The template may have cut the beginning off, so go back as far as the texts agree.
        let same = core.chars().rev().zip(whole[..end].chars().rev()).take_while(|(a, b)| a == b);
        let start = end - same.map(|(c, _)| c.len_utf8()).sum::<usize>();
        Some((start, self.with_stop(whole, end)))
    }

    /// The end of a turn, moved behind the token that ends it if that comes next.
    fn with_stop(&self, text: &str, end: usize) -> usize {
        let rest = &text[end..];
        let next = rest.trim_start();
        let stop = self.stop_texts().into_iter().find(|s| next.starts_with(s.as_str()));
        stop.map_or(end, |s| end + (rest.len() - next.len()) + s.len())
    }

    fn stop_texts(&self) -> Vec<String> {
        self.stop_ids().iter().filter_map(|&id| self.id_to_token(id)).collect()
    }
}

fn render(template: &ChatTemplate, messages: &[Value], add_generation_prompt: bool) -> Result<Rendered> {
    template.render_marked(messages, &RenderOptions { add_generation_prompt, ..Default::default() })
}

/// Breaks up special tokens in every text of a value.
fn guard_value(value: &mut Value, special: &[&str], guarded: &mut bool) {
    match value {
        Value::String(text) => {
            if let Some(changed) = guard_text(text, special) {
                *guarded |= changed.contains(GUARD);
                *text = changed;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|v| guard_value(v, special, guarded)),
        Value::Object(fields) => fields.values_mut().for_each(|v| guard_value(v, special, guarded)),
        _ => {}
    }
}

/// The text with a guard behind the first character of every special token; `None` when nothing had to change.
fn guard_text(text: &str, special: &[&str]) -> Option<String> {
    let reserved = text.contains(|c| RESERVED.contains(&c));
    if !reserved && !special.iter().any(|s| text.contains(s)) {
        return None;
    }
    let clean: String = text.chars().filter(|c| !RESERVED.contains(c)).collect();
    let mut out = String::with_capacity(clean.len() + 8);
    for (at, c) in clean.char_indices() {
        out.push(c);
        if special.iter().any(|s| clean[at..].starts_with(s)) {
            out.push(GUARD);
        }
    }
    Some(out)
}

/// The tokenizer with the guard dropped behind the recognition of special tokens.
fn without_guard(tokenizer: &tokenizers::Tokenizer, plain: &tokenizers::Tokenizer) -> Result<tokenizers::Tokenizer> {
    let what = || "cannot prepare the tokenizer for chats".to_owned();
    let mut guarded = tokenizer.clone();
    // Special tokens must be recognised before the guard goes.
    let early: Vec<_> = tokenizer
        .get_added_tokens_decoder()
        .values()
        .filter(|t| t.special)
        .map(|t| t.clone().normalized(false))
        .collect();
    guarded.add_special_tokens(early).context(what)?;
    drop_guard(&mut guarded).context(what)?;
    guarded.with_model(plain.get_model().clone());
    Ok(guarded)
}

/// Makes the normalizer drop the guard character first.
pub(crate) fn drop_guard(tokenizer: &mut tokenizers::Tokenizer) -> tokenizers::Result<()> {
    let mut steps = vec![NormalizerWrapper::Replace(Replace::new(GUARD.to_string(), "")?)];
    steps.extend(tokenizer.get_normalizer().cloned());
    tokenizer.with_normalizer(Some(Sequence::new(steps)))?;
    Ok(())
}
