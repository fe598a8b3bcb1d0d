//! Documents made of documents by a model behind an OpenAI-style API, or judged by it.

mod answers;
mod instructions;
mod judge;
mod list;
mod paraphrase;
mod parse;
mod prompt;
mod request;
mod summary;
mod task;
mod text;

use std::path::Path;

use cupola_artifact::{Error, Result, sha256_hex, unknown_name};
use cupola_client::{Api, Asking, Failure, is_variable, key, url};
use cupola_records::Document;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::xxh3_64;

use self::prompt::Prompt;
use self::request::Asker;
use self::task::{Outcome, Piece, Task};
use crate::step::{Became, Kind, MADE_FROM, Many, Notes, SPLIT_KEY, Setting, Verdict};

/// The step.
pub const SYNTHESIZE: Kind = Kind::many::<Synthesize>(
    "synthesize",
    "makes instructions, paraphrases or summaries of documents, or judges them, by a model behind an OpenAI-style API",
);

/// What is known of a document and holds for what is made of it.
const INHERITED: [&str; 6] = ["url", "language", "license", "licence", "date", "title"];

/// Requests at a time at most.
const MOST_AT_A_TIME: usize = 1024;

/// Who is asked for what. How fast and how patiently it is asked, and where the key is, does not change what comes out: those
/// settings are neither told in the manifest nor a reason to run again.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Synthesize {
    /// The server's base address, e.g. `http://127.0.0.1:8000/v1`; `/v1` is added to one without a path. Required.
    pub api: String,
    /// The model, as the server calls it. Required.
    pub model: String,
    /// The environment variable that holds the key; none for a server that wants none.
    #[serde(skip_serializing)]
    pub key_env: Option<String>,
    /// `instructions`, `paraphrase`, `summary` and `judge` have prompts of their own; `text` makes a document of the answer to
    /// the recipe's `prompt`, `list` one of each item.
    pub task: String,
    /// A template (Jinja) in place of the task's; it is given `text`, `id`, `source`, `fields`, `n` and `rubric`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// A system message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// Pairs that `instructions` asks for, and takes at most.
    pub n: usize,
    /// Whether a pair of `instructions` is dropped whose quotation does not stand in the document.
    pub grounded: bool,
    /// What the scores of `judge` mean; by default how much a text teaches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rubric: Option<String>,
    /// `judge` drops what scores less, 1 to 5; 3 as in `FineWeb-Edu` (Penedo et al. 2024).
    pub min_score: f64,
    /// The field that gets the score of `judge`.
    pub score_field: String,
    /// By default 0.7 (Wang et al. 2023), for `judge` 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Tokens of an answer; 0 leaves it to the server.
    pub max_tokens: u32,
    /// Where the model's randomness starts; by default the run's seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Whether the documents stay beside what was made of them; what is judged stays in any case.
    pub keep_original: bool,
    /// Characters of a document that are shown to the model; about 6,000 tokens of English.
    pub max_chars: usize,
    /// Further fields of the request, e.g. `{ top_p = 0.9 }`.
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    pub extra: toml::Table,
    /// Requests at a time.
    #[serde(skip_serializing)]
    pub concurrency: usize,
    /// Seconds for a request and its answer.
    #[serde(skip_serializing)]
    pub timeout_s: f64,
    /// Attempts after the first where a server is busy, in trouble or silent.
    #[serde(skip_serializing)]
    pub retries: u32,
    /// Seconds before the second attempt, doubled for each further one, where the server does not say how long.
    #[serde(skip_serializing)]
    pub backoff_s: f64,
    #[serde(skip)]
    ready: Option<Ready>,
}

impl Default for Synthesize {
    fn default() -> Self {
        Self {
            api: String::new(),
            model: String::new(),
            key_env: None,
            task: "text".into(),
            prompt: None,
            system: None,
            n: 3,
            grounded: true,
            rubric: None,
            min_score: 3.0,
            score_field: "judge_score".into(),
            temperature: None,
            max_tokens: 1024,
            seed: None,
            keep_original: false,
            max_chars: 24_000,
            extra: toml::Table::new(),
            concurrency: 8,
            timeout_s: 120.0,
            retries: 5,
            backoff_s: 1.0,
            ready: None,
        }
    }
}

/// What is made of the settings.
struct Ready {
    asker: Asker,
    prompt: Prompt,
    /// Of the template and the system message, SHA-256.
    prompt_hash: String,
    temperature: f64,
    seed: u64,
}

impl std::fmt::Debug for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ready").field("prompt_hash", &self.prompt_hash).finish_non_exhaustive()
    }
}

/// What hints say of answers that were there when asking ended.
const KEPT: &str = "what was answered is kept: the same command goes on from here";

impl Many for Synthesize {
    fn validate(&self) -> Result<()> {
        let task = self.task()?;
        for (name, value) in [("api", &self.api), ("model", &self.model)] {
            if value.trim().is_empty() {
                return Err(Error::usage(format!("`{name}` of `synthesize` is missing"))
                    .with_hint("e.g. `{ step = \"synthesize\", api = \"http://127.0.0.1:8000/v1\", model = \"…\", task = \"summary\" }`"));
            }
        }
        url(&self.api).map_err(|e| e.wrap("in `synthesize`"))?;
        Prompt::new(self.template(task)?)?;
        if !self.key_env.as_deref().is_none_or(is_variable) {
            return Err(Error::usage("`key_env` of `synthesize` is no name of an environment variable")
                .with_hint("the key itself never stands in a recipe: `export API_KEY=…` and `key_env = \"API_KEY\"`"));
        }
        if task.judges() && self.keep_original {
            return Err(Error::usage("`keep_original` of `synthesize` says nothing for the task `judge`")
                .with_hint("remove it: what is judged stays unless its score is below `min_score`"));
        }
        let wrong = [
            (self.n == 0 || self.n > 100, "`n` must be from 1 to 100"),
            (!(1.0..=5.0).contains(&self.min_score), "`min_score` must be from 1 to 5"),
            (self.score_field.is_empty(), "`score_field` must have a name"),
            (self.temperature.is_some_and(|t| !(0.0..=2.0).contains(&t)), "`temperature` must be from 0 to 2"),
            (self.max_chars == 0, "`max_chars` must be at least 1"),
            (self.concurrency == 0 || self.concurrency > MOST_AT_A_TIME, "`concurrency` must be from 1 to 1,024"),
            (!(0.001..=86_400.0).contains(&self.timeout_s), "`timeout_s` must be from 0.001 to 86,400"),
            (!(0.0..=3600.0).contains(&self.backoff_s), "`backoff_s` must be from 0 to 3,600"),
        ];
        match wrong.iter().find(|(is_wrong, _)| *is_wrong) {
            Some((_, what)) => Err(Error::usage(format!("{what} in `synthesize`"))),
            None => request::check_extra(&self.extra),
        }
    }

    fn prepare(&mut self, setting: &Setting<'_>, work: &Path) -> Result<()> {
        let task = self.task()?;
        let template = self.template(task)?;
        let prompt = Prompt::new(template)?;
        let rubric = self.rubric().to_owned();
        let hashed = json!([template, self.system, task.judges().then_some(rubric)]).to_string();
        let asking = Asking { timeout: self.timeout_s, retries: self.retries, backoff: self.backoff_s, kept: KEPT };
        let api = Api::new(&self.api, key(self.key_env.as_deref())?, asking)?;
        let seed = self.seed.unwrap_or(setting.seed);
        let temperature = self.temperature.unwrap_or_else(|| task.temperature());
        let asker = Asker::new(api, work, self.request(temperature)?, seed)?;
        self.ready = Some(Ready { asker, prompt, prompt_hash: sha256_hex(hashed.as_bytes()), temperature, seed });
        Ok(())
    }

    fn threads(&self) -> usize {
        self.concurrency
    }

    fn apply(&self, document: &mut Document, notes: &mut Notes) -> Result<Became> {
        let ready = self.ready.as_ref().ok_or_else(|| Error::failed("`synthesize` was not prepared"))?;
        let task = self.task()?;
        if self.prompt.is_none() && document.text.trim().is_empty() {
            return Ok(Became { verdict: Verdict::Drop("empty"), made: Vec::new() });
        }
        let outcome = match self.outcome(ready, task, document, notes) {
            Ok(outcome) => outcome,
            Err(Failure::Run(error)) => return Err(error),
            Err(Failure::Document(error)) => return Ok(self.without_answer(document, &error)),
        };
        Ok(match outcome {
            (Outcome::Score(score), model) => self.judged(ready, document, score, &model, notes),
            (Outcome::Made(pieces), model) => {
                let made =
                    pieces.into_iter().enumerate().map(|(i, piece)| self.made(ready, document, piece, i, &model));
                let made = made.collect();
                Became { verdict: self.of_the_original(), made }
            }
        })
    }
}

impl Synthesize {
    fn task(&self) -> Result<&'static dyn Task> {
        task::ALL.iter().copied().find(|task| task.name() == self.task).ok_or_else(|| {
            let known: Vec<&str> = task::ALL.iter().map(|task| task.name()).collect();
            unknown_name(&format!("`task` of `synthesize` cannot be `{}`", self.task), &self.task, "task", &known)
        })
    }

    fn template<'a>(&'a self, task: &dyn Task) -> Result<&'a str> {
        self.prompt.as_deref().or(task.prompt()).ok_or_else(|| {
            Error::usage(format!("the task `{}` of `synthesize` needs a `prompt`", task.name())).with_hint(
                "write one with `{{ text }}` in it, or set `task` to instructions, paraphrase, summary or judge",
            )
        })
    }

    fn rubric(&self) -> &str {
        self.rubric.as_deref().unwrap_or(judge::RUBRIC)
    }

    /// The fields of every request beside its messages and seed.
    fn request(&self, temperature: f64) -> Result<Map<String, Value>> {
        let mut request = Map::new();
        request.insert("model".into(), json!(self.model));
        request.insert("temperature".into(), json!(temperature));
        if self.max_tokens > 0 {
            request.insert("max_tokens".into(), json!(self.max_tokens));
        }
        request.extend(request::json_of(&self.extra)?);
        Ok(request)
    }

    /// Asks about a document; once more, with what was wrong, where the answer cannot be read. Also who answered.
    fn outcome(
        &self,
        ready: &Ready,
        task: &dyn Task,
        document: &Document,
        notes: &mut Notes,
    ) -> Result<(Outcome, String), Failure> {
        let end = document.text.char_indices().nth(self.max_chars).map(|(at, _)| at);
        notes.count("shown_in_part", u64::from(end.is_some()));
        let shown = &document.text[..end.unwrap_or(document.text.len())];
        let prompt = ready.prompt.render(document, shown, self.n, self.rubric()).map_err(Failure::Document)?;
        let mut messages = Vec::new();
        messages.extend(self.system.as_ref().map(|system| json!({"role": "system", "content": system})));
        messages.push(json!({"role": "user", "content": prompt}));
        for attempt in 0.. {
            let answer = ready.asker.ask(&messages, attempt)?;
            notes.count("requests", 1);
            notes.count("prompt_tokens", answer.prompt_tokens);
            notes.count("completion_tokens", answer.completion_tokens);
            notes.count("answers_cut", u64::from(answer.cut));
            match task.read(&answer, document, self) {
                Ok(outcome) => return Ok((outcome, answer.model.unwrap_or_else(|| self.model.clone()))),
                Err(what) => {
                    notes.count("answers_not_understood", 1);
                    // Neither would a second answer fit.
                    if attempt > 0 || answer.cut {
                        return Err(Failure::Document(format!("the model's answer cannot be used: {what}")));
                    }
                    messages.push(json!({"role": "assistant", "content": answer.text}));
                    let again = format!("Your answer cannot be used: {what}. Answer again, and with nothing else.");
                    messages.push(json!({"role": "user", "content": again}));
                }
            }
        }
        Err(Failure::Document("it was not asked".into()))
    }

    fn of_the_original(&self) -> Verdict {
        if self.keep_original { Verdict::Keep } else { Verdict::Drop("synthesize_original") }
    }

    /// A document that stays has no share in what went wrong; that is set aside beside it.
    fn without_answer(&self, document: &Document, error: &str) -> Became {
        let set_aside = Verdict::SetAside(error.to_owned());
        if !self.keep_original {
            return Became { verdict: set_aside, made: Vec::new() };
        }
        let nothing = Document::new(format!("{}#{}", document.id, self.task), "", &document.source);
        Became { verdict: Verdict::Keep, made: vec![(nothing, set_aside)] }
    }

    fn judged(&self, ready: &Ready, document: &mut Document, score: f64, model: &str, notes: &mut Notes) -> Became {
        notes.count(&format!("scored_{}", score.floor()), 1);
        document.fields.insert(self.score_field.clone(), json!(score));
        let by = json!({"model": model, "api": ready.asker.host(), "prompt_hash": ready.prompt_hash});
        document.fields.insert(format!("{}_by", self.score_field), by);
        let verdict = if score < self.min_score { Verdict::Drop("judge_low_score") } else { Verdict::Keep };
        Became { verdict, made: Vec::new() }
    }

    /// A document of a piece, with where it comes from.
    fn made(&self, ready: &Ready, from: &Document, piece: Piece, number: usize, model: &str) -> (Document, Verdict) {
        let mut fields: Map<String, Value> = INHERITED
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), from.fields.get(*name)?.clone())))
            .chain(piece.fields)
            .collect();
        // What is made of a made document stays on the first one's side of the split.
        let split_key = from.fields.get(MADE_FROM).and_then(|made_from| made_from.get(SPLIT_KEY)).cloned();
        let split_key = split_key.unwrap_or_else(|| json!(format!("{:016x}", xxh3_64(from.text.as_bytes()))));
        let hash = sha256_hex(from.text.as_bytes());
        let mut made_with = json!({
            "task": self.task,
            "temperature": ready.temperature,
            "max_tokens": self.max_tokens,
            "seed": ready.seed,
            "asked_as": self.model,
        });
        if !self.extra.is_empty() {
            made_with["extra"] = json!(self.extra);
        }
        for (name, value) in [
            ("synthetic", json!(true)),
            (MADE_FROM, json!({"id": from.id, "sha256": hash, SPLIT_KEY: split_key})),
            ("made_by", json!({"model": model, "api": ready.asker.host()})),
            ("prompt_hash", json!(ready.prompt_hash)),
            ("made_with", made_with),
        ] {
            fields.insert(name.to_owned(), value);
        }
        let id = format!("{}#{}-{}", from.id, self.task, number + 1);
        (Document { id, text: piece.text, source: from.source.clone(), fields }, piece.verdict)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    fn configure(settings: &str) -> Result<crate::step::Step> {
        SYNTHESIZE.configure(format!("api = \"http://a.b\"\nmodel = \"m\"\n{settings}").parse().unwrap())
    }

    #[test]
    fn wrong_settings_are_usage_errors_with_the_way_out() {
        for (settings, told) in [
            ("task = \"sumary\"", "`summary`"),
            ("", "`prompt`"),
            ("task = \"list\"", "`prompt`"),
            ("prompt = \"{{ txt }}\"", "`text`"),
            ("task = \"summary\"\nkey_env = \"sk-very-secret\"", "key_env"),
            ("task = \"judge\"\nmin_score = 7", "min_score"),
            ("task = \"judge\"\nkeep_original = true", "keep_original"),
            ("task = \"summary\"\nconcurrency = 0", "concurrency"),
            ("task = \"summary\"\nextra = { messages = 1 }", "messages"),
            ("task = \"summary\"\ntemprature = 1", "`temperature`"),
        ] {
            let error = configure(settings).map(|_| ()).unwrap_err();
            let told_all = format!("{} {}", error.chain(), error.hint().unwrap_or_default());
            assert_eq!(error.class(), cupola_artifact::Class::Usage, "{settings}");
            assert!(told_all.contains(told) && !told_all.contains("secret"), "{settings}: {told_all}");
        }
        let error = SYNTHESIZE.configure(toml::Table::new()).map(|_| ()).unwrap_err();
        assert!(error.chain().contains("`api`") && error.hint().is_some(), "{error:?}");
    }

    #[test]
    fn every_tasks_prompt_is_a_template_and_shows_the_document() {
        for task in task::ALL {
            let Some(prompt) = task.prompt() else { continue };
            let prompt = Prompt::new(prompt).unwrap();
            let document = Document::new("d", "all of it", "s");
            assert!(
                prompt.render(&document, "all of it", 3, "the rubric").unwrap().contains("all of it"),
                "{}",
                task.name()
            );
        }
    }

    #[test]
    fn how_it_is_asked_is_not_among_what_decides_the_result() {
        let settings =
            configure("task = \"summary\"\nkey_env = \"A_KEY\"\nconcurrency = 3\nretries = 9").unwrap().settings;
        for name in ["key_env", "concurrency", "retries", "timeout_s", "backoff_s"] {
            assert!(settings.get(name).is_none(), "{name}");
        }
        assert_eq!(settings["model"], "m");
    }
}
