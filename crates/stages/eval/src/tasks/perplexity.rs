//! Perplexity and bits per byte on held-out text.

use cupola_artifact::{Result, parse_config};
use cupola_generate::score_texts;
use cupola_records::{Split, read_documents};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::subject::Subject;
use crate::task::{Measure, Outcome, Task, TaskInput, TaskKind};

/// The kind `perplexity`.
pub struct Kind;

/// It has no settings of its own.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Perplexity {}

impl TaskKind for Kind {
    fn name(&self) -> &'static str {
        "perplexity"
    }

    fn about(&self) -> &'static str {
        "bits per byte and perplexity on the validation split of a data stage or on the last tenth of a file"
    }

    fn uses_text(&self) -> bool {
        true
    }

    fn configure(&self, section: &str, table: toml::Table) -> Result<Box<dyn Task>> {
        Ok(Box::new(parse_config::<Perplexity>(section, table)?))
    }
}

impl Task for Perplexity {
    fn settings(&self) -> Value {
        json!(self)
    }

    fn run(&self, subject: &Subject, input: &TaskInput<'_>) -> Result<Outcome> {
        let documents = input.pick.choose(read_documents(input.data, Split::Validation)?);
        let texts: Vec<&str> = documents.iter().map(|d| d.text.as_str()).collect();
        let mut progress = |done: u64, total: u64| {
            let items = done as f64 / total as f64 * documents.len() as f64;
            input.progress.update(items as u64, &format!("{done} of {total} tokens"));
        };
        let score = score_texts(subject.model.decoder()?, &subject.tokenizer, &texts, &mut progress)?;
        Ok(Outcome {
            measures: vec![
                ("bits_per_byte", Measure::exact(score.bits_per_byte())),
                ("perplexity", Measure::exact(score.perplexity())),
            ],
            n: documents.len(),
            samples: vec![json!({ "tokens": score.tokens, "bytes": score.bytes, "nats": score.nats })],
            ..Outcome::default()
        })
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
    fn only_the_held_out_tenth_of_a_file_is_measured() {
        let dir = TempDir::new("perplexity");
        tiny_llama_dir(dir.path(), 1);
        let file = dir.join("text.txt");
        std::fs::write(&file, format!("{}{}", "a".repeat(900), "b".repeat(100))).unwrap();
        let subject = Subject::load("tiny", dir.path(), "cpu").unwrap();
        let pick = Pick { last: None, limit: None, seed: 0 };
        let input = TaskInput { data: &file, pick, max_gen_tokens: 1, progress: &Silent };
        let outcome = Perplexity {}.run(&subject, &input).unwrap();
        assert_eq!((&outcome.samples[0]["bytes"], &outcome.samples[0]["tokens"]), (&json!(100), &json!(100)));
        let (bits, perplexity) = (outcome.measures[0].1.value, outcome.measures[1].1.value);
        // With a token for each byte both say the same.
        assert!((perplexity.log2() - bits).abs() < 1e-9 && bits > 0.0);
    }
}
