//! Answers that the model writes, compared with the right ones.

use cupola_artifact::{Result, parse_config};
use cupola_generate::{Generated, Request, SamplingParams, document_start};
use cupola_tokenizer::Message;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::items::{Fields, read_items};
use crate::subject::Subject;
use crate::task::{Outcome, SAMPLES, Task, TaskInput, TaskKind};

/// The kind `exact_match`.
pub struct Kind;

/// `exact_match` is the share of prompts whose greedily generated answer equals one of the right ones, both normalised
/// in the same way.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ExactMatch {
    /// Asks through the chat template.
    chat: bool,
    /// Strings that end an answer; by default a blank line, and nothing in a chat, where the turn's end does.
    stop: Option<Vec<String>>,
    /// The most tokens of an answer, in place of the stage's.
    max_gen_tokens: Option<usize>,
    /// Compares only what follows the last occurrence of this text, where it occurs (`"####"` in GSM8K).
    after: Option<String>,
    /// Leaves out white space at both ends.
    strip: bool,
    /// Compares in lower case.
    ignore_case: bool,
    /// Leaves out ASCII punctuation.
    ignore_punctuation: bool,
}

impl Default for ExactMatch {
    fn default() -> Self {
        Self {
            chat: false,
            stop: None,
            max_gen_tokens: None,
            after: None,
            strip: true,
            ignore_case: false,
            ignore_punctuation: false,
        }
    }
}

impl TaskKind for Kind {
    fn name(&self) -> &'static str {
        "exact_match"
    }

    fn about(&self) -> &'static str {
        "how often the greedy answer to the `prompt` (`question`, `instruction`) equals the `answer`, a text or a list of them"
    }

    fn configure(&self, section: &str, table: toml::Table) -> Result<Box<dyn Task>> {
        Ok(Box::new(parse_config::<ExactMatch>(section, table)?))
    }
}

struct Item {
    prompt: String,
    answers: Vec<String>,
}

fn read(fields: &Fields<'_>) -> Result<Item> {
    let answers = match fields.get(&["answer", "output"]) {
        Some(Value::String(text)) => Some(vec![text.clone()]),
        Some(Value::Number(number)) => Some(vec![number.to_string()]),
        Some(Value::Array(all)) => all.iter().map(|a| a.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    let answers = answers.filter(|a: &Vec<String>| !a.is_empty());
    let answers = answers.ok_or_else(|| fields.wrong("`answer` must be a text or a list of texts"))?;
    Ok(Item { prompt: fields.prompt()?, answers })
}

impl ExactMatch {
    fn normalise(&self, text: &str) -> String {
        let text = match self.after.as_deref().and_then(|mark| text.rsplit_once(mark)) {
            Some((_, after)) => after,
            None => text,
        };
        let mut text = text.to_owned();
        if self.ignore_case {
            text = text.to_lowercase();
        }
        if self.ignore_punctuation {
            text.retain(|c| !c.is_ascii_punctuation());
        }
        if self.strip { text.trim().to_owned() } else { text }
    }

    fn request(&self, subject: &Subject, prompt: &str, max_tokens: usize) -> Result<Request> {
        let tokenizer = &subject.tokenizer;
        let mut ids = match self.chat {
            true => tokenizer.encode_chat(&[Message::new("user", prompt)], true)?,
            false => tokenizer.encode(prompt)?,
        };
        if ids.is_empty() {
            ids.push(document_start(subject.model.decoder()?, tokenizer)?);
        }
        // A prompt that leaves no room for the answer loses its beginning.
        let room = subject.model.decoder()?.spec().max_seq_len.saturating_sub(max_tokens).max(1);
        ids.drain(..ids.len().saturating_sub(room));
        let default_stop = || if self.chat { vec![] } else { vec!["\n\n".to_owned()] };
        let stop = self.stop.clone().unwrap_or_else(default_stop);
        Ok(Request { prompt: ids, params: SamplingParams { temperature: 0.0, max_tokens, stop, ..Default::default() } })
    }
}

impl Task for ExactMatch {
    fn settings(&self) -> Value {
        json!(self)
    }

    fn run(&self, subject: &Subject, input: &TaskInput<'_>) -> Result<Outcome> {
        let (numbers, items) = read_items(input.data, &input.pick, read)?;
        let max_tokens = self.max_gen_tokens.unwrap_or(input.max_gen_tokens);
        let requests = items.iter().map(|item| self.request(subject, &item.prompt, max_tokens));
        let requests = requests.collect::<Result<Vec<_>>>()?;
        let mut progress = |done: usize| input.progress.update(done as u64, "");
        let answers = subject.engine()?.generate_many(requests, &mut progress)?;
        let right = |item: &Item, answer: &Generated| {
            let answer = self.normalise(&answer.text);
            item.answers.iter().any(|a| self.normalise(a) == answer)
        };
        let scores: Vec<f64> = items.iter().zip(&answers).map(|(i, a)| f64::from(right(i, a))).collect();
        let samples = items.iter().zip(&answers).zip(&scores).take(SAMPLES).map(|((item, answer), score)| {
            json!({ "prompt": item.prompt, "answers": item.answers, "generated": answer.text, "match": *score == 1.0 })
        });
        let samples = samples.collect();
        Ok(Outcome::of_items(numbers, vec![("exact_match", scores)], samples))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use cupola_artifact::stage::Silent;
    use cupola_testkit::{TempDir, tiny_llama_dir};

    use super::*;
    use crate::items::Pick;

    #[test]
    fn answers_are_compared_as_the_settings_say() {
        let plain = ExactMatch::default();
        assert_eq!(plain.normalise(" A b! \n"), "A b!");
        let loose = ExactMatch { ignore_case: true, ignore_punctuation: true, ..Default::default() };
        assert_eq!(loose.normalise(" A b! \n"), "a b");
        let marked = ExactMatch { after: Some("####".into()), ..Default::default() };
        assert_eq!(marked.normalise("1 + 1 #### 3 #### 2"), "2");
        assert_eq!(marked.normalise("two"), "two");
        assert_eq!(ExactMatch { strip: false, ..Default::default() }.normalise(" a "), " a ");
    }

    #[test]
    fn what_the_model_says_itself_matches() {
        let dir = TempDir::new("exact");
        tiny_llama_dir(dir.path(), 1);
        let subject = Subject::load("tiny", dir.path(), "cpu").unwrap();
        for chat in [false, true] {
            let task = ExactMatch { chat, stop: Some(vec![]), max_gen_tokens: Some(6), ..Default::default() };
            let request = task.request(&subject, "abc", 6).unwrap();
            let (own, ..) = subject.engine().unwrap().generate(request).unwrap();
            let records = json!([
                {"prompt": "abc", "answer": ["no", own]},
                {"prompt": "", "answer": "certainly not this"},
                {"prompt": "long ".repeat(100), "answer": "nor this"},
            ]);
            let file = dir.join("data.json");
            std::fs::write(&file, records.to_string()).unwrap();
            let pick = Pick { last: None, limit: None, seed: 0 };
            let input = TaskInput { data: &file, pick, max_gen_tokens: 99, progress: &Silent };
            let outcome = task.run(&subject, &input).unwrap();
            assert!((outcome.measures[0].1.value - 1.0 / 3.0).abs() < 1e-9, "{outcome:?}");
            assert_eq!(outcome.samples[0]["match"], true);
        }
    }
}
