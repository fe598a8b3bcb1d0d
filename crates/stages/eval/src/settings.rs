//! The settings of `[eval.NAME]`.

use cupola_artifact::{Error, Result, parse_config, unknown_name};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::task::{Task, TaskKind};

/// The settings of an evaluation.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalConfig {
    /// The models: stages or model directories.
    pub models: Vec<String>,
    /// The tasks.
    #[serde(default = "default_tasks")]
    pub tasks: Vec<TaskEntry>,
    /// Held-out text for tasks that need some: a data stage, of which the validation split is taken, or a file, of
    /// which the last tenth is.
    #[serde(default)]
    pub text: Option<String>,
    /// A data stage with the step `decontaminate`: the scores over the items that it did not find in its documents are
    /// reported beside those over all.
    #[serde(default)]
    pub contamination: Option<String>,
    /// At most so many items of each task, drawn by the seed; all by default.
    #[serde(default)]
    pub limit: Option<usize>,
    /// Which items are drawn; the run's seed by default.
    #[serde(default)]
    pub seed: Option<u64>,
    /// The most tokens to generate for one answer.
    #[serde(default = "default_max_gen_tokens")]
    pub max_gen_tokens: usize,
}

fn default_tasks() -> Vec<TaskEntry> {
    vec![TaskEntry::Name("perplexity".into())]
}

fn default_max_gen_tokens() -> usize {
    64
}

/// A task in a recipe: its kind, or a table with `task`, its kind, and more.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "a task is a name or a table such as { task = \"multiple_choice\", data = \"quiz.jsonl\" }"
)]
pub enum TaskEntry {
    /// A kind with its default settings.
    Name(String),
    /// A kind with settings.
    Table(toml::Table),
}

/// What every task may set, whatever its kind.
#[derive(Debug, Deserialize)]
struct Common {
    task: String,
    name: Option<String>,
    data: Option<String>,
    limit: Option<usize>,
    last: Option<f64>,
}

const COMMON: [&str; 5] = ["task", "name", "data", "limit", "last"];

/// A task, ready to run.
pub(crate) struct Prepared {
    pub name: String,
    pub kind: &'static dyn TaskKind,
    pub task: Box<dyn Task>,
    /// Its own data; otherwise the stage's text.
    pub data: Option<String>,
    pub limit: Option<usize>,
    pub last: Option<f64>,
}

impl Prepared {
    /// All its settings, and the version that they are read by.
    pub fn settings(&self) -> Value {
        let mut all = Map::from_iter([
            ("task".to_owned(), json!(self.kind.name())),
            ("version".to_owned(), json!(self.kind.version())),
            ("name".to_owned(), json!(self.name)),
            ("data".to_owned(), json!(self.data)),
            ("limit".to_owned(), json!(self.limit)),
            ("last".to_owned(), json!(self.last)),
        ]);
        if let Value::Object(own) = self.task.settings() {
            all.extend(own);
        }
        Value::Object(all)
    }
}

impl EvalConfig {
    /// Reads the tasks.
    pub(crate) fn prepare(&self) -> Result<Vec<Prepared>> {
        if self.models.is_empty() {
            return Err(
                Error::usage("`models` in [eval] is empty").with_hint("name the models: models = [\"base\", \"chat\"]")
            );
        }
        if self.limit == Some(0) || self.max_gen_tokens == 0 {
            return Err(Error::usage("`limit` and `max_gen_tokens` in [eval] must be at least 1"));
        }
        let mut prepared: Vec<Prepared> = Vec::new();
        for entry in &self.tasks {
            let task = self.prepare_one(entry)?;
            if prepared.iter().any(|p| p.name == task.name) {
                return Err(Error::usage(format!("two tasks in [eval] are called `{}`", task.name))
                    .with_hint("give one of them another `name`"));
            }
            prepared.push(task);
        }
        match prepared.is_empty() {
            true => Err(Error::usage("`tasks` in [eval] is empty")),
            false => Ok(prepared),
        }
    }

    fn prepare_one(&self, entry: &TaskEntry) -> Result<Prepared> {
        let mut table = match entry {
            TaskEntry::Name(name) => toml::Table::from_iter([("task".to_owned(), toml::Value::String(name.clone()))]),
            TaskEntry::Table(table) => table.clone(),
        };
        let mut common = toml::Table::new();
        for key in COMMON {
            common.extend(table.remove(key).map(|value| (key.to_owned(), value)));
        }
        let Common { task, name, data, limit, last } = parse_config("eval.tasks", common)?;
        let known: Vec<&str> = crate::ALL.iter().map(|kind| kind.name()).collect();
        let kind = crate::ALL.iter().copied().find(|kind| kind.name() == task);
        let kind = kind.ok_or_else(|| unknown_name(&format!("there is no task `{task}`"), &task, "task", &known))?;
        let section = format!("eval.tasks.{task}");
        check_keys(&section, kind, &table)?;
        if limit == Some(0) || last.is_some_and(|share| !(share > 0.0 && share <= 1.0)) {
            return Err(Error::usage(format!("in [{section}], `limit` must be at least 1 and `last` a share above 0")));
        }
        if data.is_none() && !(kind.uses_text() && self.text.is_some()) {
            return Err(Error::usage(format!("the task `{task}` in [eval] has no data")).with_hint(
                match kind.uses_text() {
                    true => "set `text` in [eval] to a data stage or a text file".to_owned(),
                    false => format!("write {{ task = \"{task}\", data = \"file.jsonl\" }}"),
                },
            ));
        }
        let task = kind.configure(&section, table)?;
        let name = name.unwrap_or_else(|| kind.name().to_owned());
        Ok(Prepared { name, kind, task, data, limit, last })
    }
}

/// An unknown key is compared with the keys of every task as well as with those of its kind.
fn check_keys(section: &str, kind: &dyn TaskKind, table: &toml::Table) -> Result<()> {
    let defaults = kind.configure(section, toml::Table::new())?.settings();
    let own = defaults.as_object().into_iter().flat_map(|settings| settings.keys().map(String::as_str));
    let known: Vec<&str> = COMMON.into_iter().chain(own).collect();
    match table.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(unknown_name(&format!("unknown key `{key}` in [{section}]"), key, "key", &known)),
        None => Ok(()),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Prepared>> {
        parse_config::<EvalConfig>("eval", text.parse().unwrap())?.prepare()
    }

    #[test]
    fn a_task_is_a_name_or_a_table() {
        let tasks = read(
            "models = ['a']\ntext = 'corpus'\ntasks = [{ task = 'multiple_choice', name = 'quiz', data = 'q.jsonl', chat = true, \
             limit = 100 }, 'perplexity']",
        )
        .unwrap();
        assert_eq!(tasks.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["quiz", "perplexity"]);
        let settings = tasks[0].settings();
        assert_eq!(
            (&settings["chat"], &settings["limit"], &settings["delimiter"]),
            (&json!(true), &json!(100), &json!(" "))
        );
        assert_eq!(read("models = ['a']\ntext = 'c'").unwrap()[0].kind.name(), "perplexity");
    }

    #[test]
    fn wrong_settings_name_what_is_wrong_and_the_way_out() {
        for (text, message, hint) in [
            ("models = []\ntext = 'c'", "`models` in [eval] is empty", "models ="),
            ("text = 'c'", "`models` is missing", "models"),
            ("models = ['a']", "`perplexity` in [eval] has no data", "`text`"),
            ("models = ['a']\ntasks = ['multiple-choice']", "no task `multiple-choice`", "`multiple_choice`"),
            ("models = ['a']\ntasks = ['multiple_choice']", "has no data", "data ="),
            (
                "models = ['a']\ntasks = [{ task = 'exact_match', data = 'd', limt = 3 }]",
                "unknown key `limt`",
                "`limit`",
            ),
            (
                "models = ['a']\ntasks = [{ task = 'exact_match', data = 'd', chta = true }]",
                "unknown key `chta`",
                "`chat`",
            ),
            ("models = ['a']\ntext = 'c'\ntasks = ['perplexity', 'perplexity']", "two tasks", "`name`"),
            ("models = ['a']\nlimits = 3", "unknown key `limits`", "`limit`"),
        ] {
            let error = read(text).err().unwrap();
            assert_eq!(error.class(), cupola_artifact::Class::Usage);
            assert!(error.to_string().contains(message), "{error}");
            assert!(error.hint().unwrap().contains(hint), "{:?}", error.hint());
        }
        for text in [
            "models = ['a']\ntasks = [7]",
            "models = ['a']\ntasks = [{ task = 'exact_match', data = 'd', chat = 3 }]",
            "models = ['a']\ntext = 'c'\nlimit = 0",
            "models = ['a']\ntasks = [{ task = 'exact_match', data = 'd', last = 2.0 }]",
            "models = ['a']\ntasks = [{ task = 'multiple_choice', data = 'd', prompt = 'no place' }]",
        ] {
            assert_eq!(read(text).err().unwrap().class(), cupola_artifact::Class::Usage, "{text}");
        }
    }
}
