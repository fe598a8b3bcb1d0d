//! Multiple choice by log-likelihood, by the rules of lm-evaluation-harness (Gao et al. 2021).

use cupola_artifact::{Error, Result, parse_config};
use cupola_generate::{ScoreItem, encode_pair, log_likelihoods};
use cupola_tokenizer::Message;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::items::{Fields, read_items};
use crate::subject::Subject;
use crate::task::{Outcome, SAMPLES, Task, TaskInput, TaskKind};

/// The kind `multiple_choice`.
pub struct Kind;

/// `acc` is the share of questions whose right answer has the highest log-likelihood, summed over its tokens;
/// `acc_norm` divides by the answer's length in characters first. Of equals, the first counts as chosen.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct MultipleChoice {
    /// Asks through the chat template: the question is the user's turn, the choice the beginning of the assistant's.
    chat: bool,
    /// The context without a chat template; `{question}` stands for the record's `question`. A record's `query` is used
    /// as it is.
    prompt: String,
    /// What stands between the context and a choice without a chat template.
    delimiter: String,
}

impl Default for MultipleChoice {
    fn default() -> Self {
        Self { chat: false, prompt: "Question: {question}\nAnswer:".into(), delimiter: " ".into() }
    }
}

impl TaskKind for Kind {
    fn name(&self) -> &'static str {
        "multiple_choice"
    }

    fn about(&self) -> &'static str {
        "which of the `choices` is likeliest after the `question` (or `query`); `answer` is the right one's index from 0"
    }

    fn configure(&self, section: &str, table: toml::Table) -> Result<Box<dyn Task>> {
        let task: MultipleChoice = parse_config(section, table)?;
        if !task.prompt.contains("{question}") {
            return Err(Error::usage(format!("`prompt` in [{section}] has no place for the question"))
                .with_hint("write {question} where it belongs"));
        }
        Ok(Box::new(task))
    }
}

/// A question with its answers.
struct Question {
    question: String,
    /// Whether the question is the context as it stands.
    raw: bool,
    choices: Vec<String>,
    answer: usize,
}

fn read(fields: &Fields<'_>) -> Result<Question> {
    let raw = fields.get(&["query"]).is_some();
    let question = fields.text(&["query", "question"])?.to_owned();
    let choices = match fields.get(&["choices"]) {
        Some(Value::Array(choices)) => choices.iter().map(|c| c.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    let choices: Vec<String> = choices
        .filter(|c: &Vec<String>| c.len() > 1 && c.iter().all(|c| !c.is_empty()))
        .ok_or_else(|| fields.wrong("`choices` must be a list of at least two texts, none of them empty"))?;
    let answer = match fields.get(&["answer"]) {
        Some(Value::Number(n)) => n.as_u64().map(|n| n as usize),
        // The choice itself, or its letter.
        Some(Value::String(text)) => choices.iter().position(|c| c == text).or_else(|| letter(text)),
        _ => None,
    };
    let answer = answer
        .filter(|a| *a < choices.len())
        .ok_or_else(|| fields.wrong("`answer` must be the index of one of the choices, its letter, or its text"))?;
    Ok(Question { question, raw, choices, answer })
}

fn letter(text: &str) -> Option<usize> {
    match text.as_bytes() {
        [b @ b'A'..=b'Z'] => Some(usize::from(b - b'A')),
        _ => None,
    }
}

/// The index of the largest, the first of equals.
fn best(scores: impl Iterator<Item = f64>) -> usize {
    let first = (0, f64::NEG_INFINITY);
    scores.enumerate().fold(first, |best, (i, s)| if s > best.1 { (i, s) } else { best }).0
}

impl MultipleChoice {
    /// A sequence for each choice.
    fn encode(&self, subject: &Subject, question: &Question) -> Result<Vec<ScoreItem>> {
        let (decoder, tokenizer) = (subject.model.decoder()?, &subject.tokenizer);
        if self.chat {
            let context = tokenizer.encode_chat(&[Message::new("user", &*question.question)], true)?;
            let item = |choice: &String| Ok(ScoreItem::continuation(&context, &tokenizer.encode(choice)?));
            return question.choices.iter().map(item).collect();
        }
        let context = match question.raw {
            true => question.question.clone(),
            false => self.prompt.replace("{question}", &question.question),
        };
        let item = |choice: &String| encode_pair(decoder, tokenizer, &context, &format!("{}{choice}", self.delimiter));
        question.choices.iter().map(item).collect()
    }
}

impl Task for MultipleChoice {
    fn settings(&self) -> Value {
        json!(self)
    }

    fn run(&self, subject: &Subject, input: &TaskInput<'_>) -> Result<Outcome> {
        let (numbers, questions) = read_items(input.data, &input.pick, read)?;
        let mut items = Vec::new();
        for question in &questions {
            items.extend(self.encode(subject, question)?);
        }
        let share = questions.len() as f64 / items.len() as f64;
        let mut progress = |done: usize| input.progress.update((done as f64 * share) as u64, "");
        let scores = log_likelihoods(subject.model.decoder()?, &items, &mut progress)?;
        let (mut acc, mut acc_norm, mut samples) = (Vec::new(), Vec::new(), Vec::new());
        let mut rest = scores.as_slice();
        for question in &questions {
            let own;
            (own, rest) = rest.split_at(question.choices.len());
            let sums: Vec<f64> = own.iter().map(|s| s.log_likelihood).collect();
            let lengths = question.choices.iter().map(|c| c.chars().count() as f64);
            let chosen = best(sums.iter().copied());
            let chosen_norm = best(sums.iter().zip(lengths).map(|(s, n)| s / n));
            acc.push(f64::from(chosen == question.answer));
            acc_norm.push(f64::from(chosen_norm == question.answer));
            if samples.len() < SAMPLES {
                samples.push(json!({
                    "question": question.question, "choices": question.choices, "answer": question.answer,
                    "log_likelihoods": sums, "chosen": chosen, "chosen_norm": chosen_norm,
                }));
            }
        }
        Ok(Outcome::of_items(numbers, vec![("acc", acc), ("acc_norm", acc_norm)], samples))
    }
}

#[cfg(test)]
#[path = "multiple_choice_tests.rs"]
mod tests;
