//! Log-probabilities in the API's two shapes.

use cupola_generate::TokenLogprob;
use cupola_tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

use crate::answer::Kind;

/// What JSON, which has no infinity, says for a token that cannot be.
const IMPOSSIBLE: f32 = -9999.0;

/// What was told about the tokens of an answer's choices.
pub struct Logprobs {
    kind: Kind,
    /// Turns tokens into text; `None` when the client did not ask for log-probabilities.
    tokenizer: Option<Tokenizer>,
    choices: Vec<Told>,
}

/// What was told about one choice.
#[derive(Default)]
struct Told {
    /// Tokens that are not shown yet, each with the characters before it.
    fresh: Vec<(usize, TokenLogprob)>,
    /// Characters written.
    written: usize,
    sum: f64,
    count: usize,
}

impl Logprobs {
    /// Nothing told yet; `prefixes` holds what each choice begins with.
    pub fn new(kind: Kind, tokenizer: Option<Tokenizer>, prefixes: &[String]) -> Self {
        let choice = |prefix: &String| Told { written: prefix.chars().count(), ..Told::default() };
        Self { kind, tokenizer, choices: prefixes.iter().map(choice).collect() }
    }

    /// A token was chosen.
    pub fn hear(&mut self, choice: usize, token: TokenLogprob) {
        let told = &mut self.choices[choice];
        told.sum += f64::from(token.logprob);
        told.count += 1;
        told.fresh.push((told.written, token));
    }

    /// Text was written.
    pub fn wrote(&mut self, choice: usize, text: &str) {
        self.choices[choice].written += text.chars().count();
    }

    /// The mean log-probability of a choice's tokens, by which `best_of` compares.
    pub fn mean(&self, choice: usize) -> f64 {
        let told = &self.choices[choice];
        told.sum / told.count.max(1) as f64
    }

    /// What was heard of a choice since the last time, as the API shows it; null when nothing was, or nobody asked.
    pub fn take(&mut self, choice: usize) -> Value {
        let fresh = std::mem::take(&mut self.choices[choice].fresh);
        let Some(tokenizer) = self.tokenizer.as_ref().filter(|_| !fresh.is_empty()) else { return Value::Null };
        let text = |token| text_of(tokenizer, token);
        if self.kind == Kind::Chat {
            let one = |token: u32, logprob: f32| {
                let text = text(token);
                let bytes = text.as_ref().map(|text| text.as_bytes().to_vec());
                json!({"token": named(text, token), "logprob": logprob.max(IMPOSSIBLE), "bytes": bytes})
            };
            let content: Vec<Value> = fresh
                .iter()
                .map(|(_, told)| {
                    let mut entry = one(told.token, told.logprob);
                    entry["top_logprobs"] = told.top.iter().map(|(token, logprob)| one(*token, *logprob)).collect();
                    entry
                })
                .collect();
            return json!({"content": content, "refusal": null});
        }
        let top = |told: &TokenLogprob| -> Map<String, Value> {
            let entry = |&(token, logprob): &(u32, f32)| (named(text(token), token), json!(logprob.max(IMPOSSIBLE)));
            told.top.iter().map(entry).collect()
        };
        let asked = fresh.iter().any(|(_, told)| !told.top.is_empty());
        json!({
            "tokens": fresh.iter().map(|(_, told)| named(text(told.token), told.token)).collect::<Vec<_>>(),
            "token_logprobs": fresh.iter().map(|(_, told)| told.logprob.max(IMPOSSIBLE)).collect::<Vec<_>>(),
            "top_logprobs": asked.then(|| fresh.iter().map(|(_, told)| top(told)).collect::<Vec<_>>()),
            "text_offset": fresh.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(),
        })
    }
}

/// A token's text, if it is whole characters.
fn text_of(tokenizer: &Tokenizer, token: u32) -> Option<String> {
    tokenizer.decode_special(&[token]).ok().filter(|text| !text.contains('\u{fffd}'))
}

/// What the API calls a token: its text, or its number where it is a part of a character.
fn named(text: Option<String>, token: u32) -> String {
    text.unwrap_or_else(|| format!("token_id:{token}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn told(kind: Kind) -> Logprobs {
        let dir = tempfile::tempdir().unwrap();
        cupola_testkit::tiny_tokenizer_files(dir.path());
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        let mut logprobs = Logprobs::new(kind, Some(tokenizer), &["é:".into()]);
        logprobs.hear(0, TokenLogprob { token: 97, logprob: -0.5, top: vec![(97, -0.5), (256, f32::NEG_INFINITY)] });
        logprobs.wrote(0, "a");
        // Half of a character.
        logprobs.hear(0, TokenLogprob { token: 195, logprob: -1.5, top: vec![] });
        logprobs
    }

    #[test]
    fn a_chat_tells_tokens_bytes_and_alternatives() {
        let mut logprobs = told(Kind::Chat);
        assert_eq!(logprobs.mean(0), -1.0);
        let want = json!({"refusal": null, "content": [
            {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [
                {"token": "a", "logprob": -0.5, "bytes": [97]},
                {"token": "<|endoftext|>", "logprob": -9999.0, "bytes": "<|endoftext|>".as_bytes()},
            ]},
            {"token": "token_id:195", "logprob": -1.5, "bytes": null, "top_logprobs": []},
        ]});
        assert_eq!(logprobs.take(0), want);
        assert_eq!(logprobs.take(0), Value::Null);
    }

    #[test]
    fn a_completion_tells_them_in_columns() {
        let want = json!({
            "tokens": ["a", "token_id:195"],
            "token_logprobs": [-0.5, -1.5],
            "top_logprobs": [{"a": -0.5, "<|endoftext|>": -9999.0}, {}],
            "text_offset": [2, 3],
        });
        assert_eq!(told(Kind::Text).take(0), want);
    }

    #[test]
    fn nobody_who_did_not_ask_is_told() {
        let mut logprobs = Logprobs { tokenizer: None, ..told(Kind::Chat) };
        assert_eq!((logprobs.take(0), logprobs.mean(0)), (Value::Null, -1.0));
    }
}
