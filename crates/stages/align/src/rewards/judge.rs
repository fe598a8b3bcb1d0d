//! What a judge says: a model behind an OpenAI-style API grades an answer.

use cupola_artifact::{Error, Result};
use cupola_client::{Api, Asking, Failure, is_variable, key, url};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::reward::{Answered, Kind, Making, Reward, Settings, settings};
use crate::stage::KIND;

/// Asks a model for a grade.
pub struct Judge;

/// Its settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Grading {
    /// The server's address, as clients call the base.
    api: String,
    /// The model as the server calls it.
    model: String,
    /// The environment variable that holds the key; none where the server wants none.
    key_env: Option<String>,
    /// What makes an answer good.
    rubric: String,
    /// The best grade; the worst is 1.
    best: u32,
    /// Requests at the same time.
    concurrency: usize,
    /// Seconds for a request and its answer.
    timeout_s: f64,
    /// Attempts after the first.
    retries: u32,
}

impl Default for Grading {
    fn default() -> Self {
        Self {
            api: String::new(),
            model: String::new(),
            key_env: None,
            rubric: "The answer is helpful, correct and to the point.".into(),
            best: 10,
            concurrency: 8,
            timeout_s: 60.0,
            retries: 3,
        }
    }
}

struct Grader {
    grading: Grading,
    api: Api,
    pool: rayon::ThreadPool,
}

impl Kind for Judge {
    fn name(&self) -> &'static str {
        "judge"
    }

    fn about(&self) -> &'static str {
        "the grade that a model behind an OpenAI-style API gives by a rubric, from 0 to 1"
    }

    fn configure(&self, table: toml::Table) -> Result<Box<dyn Settings>> {
        let grading: Grading = settings(self.name(), table)?;
        let wrong = |what: &str| Err(Error::usage(format!("a reward of kind `judge` in [{KIND}] {what}")));
        if grading.model.is_empty() {
            return wrong("needs the `api` and the `model` of a server");
        }
        url(&grading.api)?;
        if !grading.key_env.as_deref().is_none_or(is_variable) {
            return wrong("has a `key_env` that is no name of an environment variable");
        }
        if grading.best < 2 || grading.concurrency == 0 || grading.timeout_s.is_nan() || grading.timeout_s <= 0.0 {
            return wrong("must have `best` of at least 2, `concurrency` of at least 1 and `timeout_s` above 0");
        }
        Ok(Box::new(grading))
    }
}

impl Settings for Grading {
    fn effective(&self) -> Value {
        // How patiently it is asked changes no grade.
        json!({"api": self.api, "model": self.model, "rubric": self.rubric, "best": self.best})
    }

    fn make(&self, _: &Making<'_>) -> Result<Box<dyn Reward>> {
        let asking = Asking {
            timeout: self.timeout_s,
            retries: self.retries,
            backoff: 1.0,
            kept: "the same command goes on from the last checkpoint",
        };
        let api = Api::new(&self.api, key(self.key_env.as_deref())?, asking)?;
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.concurrency).build();
        let pool = pool.map_err(|e| Error::failed("cannot start the threads that ask a judge").with_source(e))?;
        Ok(Box::new(Grader { grading: self.clone(), api, pool }))
    }
}

impl Grader {
    fn grade(&self, answered: &Answered<'_>) -> Result<Option<f64>> {
        let Grading { rubric, best, model, .. } = &self.grading;
        let asked: Vec<String> = answered.prompt.iter().map(|m| format!("{}: {}", m.role, m.content)).collect();
        let content = format!(
            "Grade an assistant's answer by this rubric:\n{rubric}\n\nThe conversation:\n{}\n\nThe answer:\n{}\n\n\
             Say the grade alone, a whole number from 1 (worst) to {best} (best).",
            asked.join("\n"),
            answered.text
        );
        let body = json!({"model": model, "temperature": 0, "max_tokens": 16, "messages": [{"role": "user", "content": content}]});
        match self.api.ask(body.to_string().as_bytes(), &content) {
            Ok(answer) => Ok(first_number(&answer.text, *best).map(|grade| f64::from(grade - 1) / f64::from(best - 1))),
            // One request that is not answered is one answer that is not judged.
            Err(Failure::Document(_)) => Ok(None),
            Err(Failure::Run(error)) => Err(error),
        }
    }
}

impl Reward for Grader {
    fn score(&self, answers: &[Answered<'_>]) -> Result<Vec<Option<f64>>> {
        self.pool.install(|| answers.par_iter().map(|answered| self.grade(answered)).collect())
    }
}

/// The first whole number of a text, if it is a grade.
fn first_number(text: &str, best: u32) -> Option<u32> {
    let digits: String = text.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    digits.parse().ok().filter(|grade| (1..=best).contains(grade))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing test should panic")]

    use burn::tensor::Device;
    use cupola_testkit::chat_server::{Reply, Server};
    use cupola_tokenizer::Message;

    use super::*;

    #[test]
    fn grades_are_read_and_what_is_no_grade_is_not_judged() {
        for (text, grade) in [("7", Some(7)), ("Grade: 10/10", Some(10)), ("11", None), ("none", None), ("0", None)] {
            assert_eq!(first_number(text, 10), grade, "{text}");
        }
    }

    #[test]
    fn a_judge_grades_each_answer_and_its_troubles_are_counted() {
        let server = Server::new(|request| match request.prompt() {
            prompt if prompt.contains("The answer:\ngood") => Reply::says("9"),
            prompt if prompt.contains("The answer:\nbad") => Reply::says("I would say 1."),
            prompt if prompt.contains("The answer:\nodd") => Reply::says("no idea"),
            _ => Reply::status(400, "{}"),
        });
        let recipe = format!("api = '{}'\nmodel = 'm'\nbest = 9\nretries = 0", server.address);
        let settings = Judge.configure(recipe.parse().unwrap()).unwrap();
        let device = Device::flex();
        let reward = settings.make(&Making { inputs: &[], device: &device }).unwrap();
        let prompt = [Message::new("user", "how?")];
        let record = Value::Null;
        let answered = |text| Answered { prompt: &prompt, text, tokens: 1, ended: true, record: &record };
        let scores = reward.score(&["good", "bad", "odd", "refused"].map(answered)).unwrap();
        assert_eq!(scores, [Some(1.0), Some(0.0), None, None]);
    }

    #[test]
    fn a_judge_that_is_not_there_is_an_error() {
        let recipe = "api = 'http://127.0.0.1:9'\nmodel = 'm'\nretries = 0\ntimeout_s = 1";
        let device = Device::flex();
        let reward =
            Judge.configure(recipe.parse().unwrap()).unwrap().make(&Making { inputs: &[], device: &device }).unwrap();
        let record = Value::Null;
        let answered = Answered { prompt: &[], text: "a", tokens: 1, ended: true, record: &record };
        let error = reward.score(&[answered]).unwrap_err();
        assert!(error.to_string().contains("127.0.0.1:9") && error.hint().is_some(), "{error}");
        for (recipe, message) in [
            ("model = 'm'", "`api`"),
            ("api = 'http://a.b'", "needs the `api` and the `model`"),
            ("api = 'http://a.b'\nmodel = 'm'\nkey_env = 'sk-secret'", "`key_env`"),
            ("api = 'http://a.b'\nmodel = 'm'\nbest = 1", "`best`"),
        ] {
            let error = Judge.configure(recipe.parse().unwrap()).err().unwrap();
            assert!(error.to_string().contains(message) && !error.chain().contains("sk-secret"), "{error}");
        }
    }
}
