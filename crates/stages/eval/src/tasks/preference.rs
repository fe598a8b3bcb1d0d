//! Preference pairs: does the model find the chosen answer likelier than the rejected one?

use cupola_artifact::{Result, parse_config};
use cupola_generate::{Likelihood, ScoreItem, encode_pair, log_likelihoods};
use cupola_tokenizer::Message;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::items::{Fields, read_items};
use crate::subject::Subject;
use crate::task::{Outcome, SAMPLES, Task, TaskInput, TaskKind};

/// The kind `preference`.
pub struct Kind;

/// `preference_accuracy` compares the answers' summed log-likelihoods, `preference_accuracy_norm` those per token.
/// Equal ones count as wrong.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Preference {
    /// Scores the assistant's turn in the chat template; otherwise the answer stands on a new line after the prompt.
    chat: bool,
}

impl Default for Preference {
    fn default() -> Self {
        Self { chat: true }
    }
}

impl TaskKind for Kind {
    fn name(&self) -> &'static str {
        "preference"
    }

    fn about(&self) -> &'static str {
        "how often `chosen` is likelier than `rejected` after the `prompt` (or `instruction` and `input`)"
    }

    fn configure(&self, section: &str, table: toml::Table) -> Result<Box<dyn Task>> {
        Ok(Box::new(parse_config::<Preference>(section, table)?))
    }
}

struct Pair {
    prompt: String,
    chosen: String,
    rejected: String,
}

fn read(fields: &Fields<'_>) -> Result<Pair> {
    let text = |name| fields.text(&[name]).map(str::to_owned);
    Ok(Pair { prompt: fields.prompt()?, chosen: text("chosen")?, rejected: text("rejected")? })
}

impl Preference {
    fn encode(&self, subject: &Subject, prompt: &str, answer: &str) -> Result<ScoreItem> {
        if !self.chat {
            let (decoder, tokenizer) = (subject.model.decoder()?, &subject.tokenizer);
            return encode_pair(decoder, tokenizer, prompt, &format!("\n{answer}"));
        }
        let chat = [Message::new("user", prompt), Message::new("assistant", answer)];
        let (ids, scored) = subject.tokenizer.encode_chat_with_mask(&chat)?;
        Ok(ScoreItem { ids, scored })
    }
}

impl Task for Preference {
    fn settings(&self) -> Value {
        json!(self)
    }

    fn run(&self, subject: &Subject, input: &TaskInput<'_>) -> Result<Outcome> {
        let (numbers, pairs) = read_items(input.data, &input.pick, read)?;
        let mut items = Vec::with_capacity(2 * pairs.len());
        for pair in &pairs {
            items.push(self.encode(subject, &pair.prompt, &pair.chosen)?);
            items.push(self.encode(subject, &pair.prompt, &pair.rejected)?);
        }
        let mut progress = |done: usize| input.progress.update(done as u64 / 2, "");
        let scores = log_likelihoods(subject.model.decoder()?, &items, &mut progress)?;
        let per_token = |l: &Likelihood| l.log_likelihood / l.tokens.max(1) as f64;
        let (mut sums, mut means, mut samples) = (Vec::new(), Vec::new(), Vec::new());
        for (pair, score) in pairs.iter().zip(scores.as_chunks::<2>().0) {
            let [chosen, rejected] = score;
            sums.push(f64::from(chosen.log_likelihood > rejected.log_likelihood));
            means.push(f64::from(per_token(chosen) > per_token(rejected)));
            if samples.len() < SAMPLES {
                samples.push(json!({
                    "prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected,
                    "log_likelihood_chosen": chosen.log_likelihood, "log_likelihood_rejected": rejected.log_likelihood,
                }));
            }
        }
        let scores = vec![("preference_accuracy", sums), ("preference_accuracy_norm", means)];
        Ok(Outcome::of_items(numbers, scores, samples))
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
    fn swapping_the_answers_swaps_the_score() {
        let dir = TempDir::new("preference");
        tiny_llama_dir(dir.path(), 1);
        let subject = Subject::load("tiny", dir.path(), "cpu").unwrap();
        let run = |name: &str, swap: bool, chat: bool| {
            let file = dir.join(name);
            let records: Vec<Value> = (0..6)
                .map(|i| {
                    let (mut good, mut bad) = (format!("answer {i}"), format!("something {} longer", i * i));
                    if swap {
                        std::mem::swap(&mut good, &mut bad);
                    }
                    json!({"instruction": "Say", "input": i.to_string(), "chosen": good, "rejected": bad})
                })
                .collect();
            std::fs::write(&file, serde_json::to_vec(&records).unwrap()).unwrap();
            let pick = Pick { last: None, limit: None, seed: 0 };
            let input = TaskInput { data: &file, pick, max_gen_tokens: 1, progress: &Silent };
            Preference { chat }.run(&subject, &input).unwrap()
        };
        for chat in [true, false] {
            let (one, other) = (run("a.json", false, chat), run("b.json", true, chat));
            assert_eq!((one.n, &one.samples[2]["prompt"]), (6, &json!("Say\n\n2")));
            for (a, b) in one.measures.iter().zip(&other.measures) {
                assert!((a.1.value + b.1.value - 1.0).abs() < 1e-9, "{one:?} {other:?}");
            }
            // An untrained model finds the shorter answer likelier.
            assert_eq!(one.measures[0].1.value, 1.0);
        }
    }

    #[test]
    fn the_end_of_the_turn_is_part_of_the_answer() {
        let dir = TempDir::new("preference");
        let info = tiny_llama_dir(dir.path(), 2);
        let subject = Subject::load("tiny", dir.path(), "cpu").unwrap();
        let item = Preference { chat: true }.encode(&subject, "q", "ab").unwrap();
        let scored: Vec<u32> = item.ids.iter().zip(&item.scored).filter(|(_, s)| **s).map(|(id, _)| *id).collect();
        assert_eq!(scored, [u32::from(b'a'), u32::from(b'b'), info.turn_end]);
    }
}
