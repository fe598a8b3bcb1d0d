//! Learning labels: texts with labels in, a model with a head out.

use cupola_arch::{Model, NewHead, Problem};
use cupola_artifact::stage::{Configured, Plan, PlanInputs, Reference, Report, StageContext};
use cupola_artifact::{Error, Result, human_count, parse_config};
use cupola_nn::Module;
use cupola_records::Record;
use cupola_tokenizer::{EncodedSequence, SequenceOptions, Tokenizer};
use cupola_train::conversation::{hold_out, read_all, wrong};
use cupola_train::finetune::{FineTune, metrics, split_keys};
use cupola_train::loader::Steps;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::labelled::{Labelled, Labelling, Wanted};
use crate::scores::Kind;
use crate::stage::KIND;
use crate::task::TuneTask;

/// Labels of texts or of their tokens.
#[derive(Clone, Copy, Debug)]
pub struct Labels {
    name: &'static str,
    about: &'static str,
    kind: Kind,
}

/// One of several labels for a text.
pub const CLASSIFICATION: Labels = Labels {
    name: "classification",
    about: "one of several labels of a text, or of a pair of texts",
    kind: Kind::Label,
};

/// Any of several labels for a text.
pub const MULTI_LABEL: Labels =
    Labels { name: "multi_label", about: "any of several labels of a text, a list in each record", kind: Kind::Labels };

/// A number for a text.
pub const REGRESSION: Labels =
    Labels { name: "regression", about: "a number for a text, or for a pair of texts", kind: Kind::Number };

/// A label for each word.
pub const TOKEN_CLASSIFICATION: Labels = Labels {
    name: "token_classification",
    about: "a label of each word: records have lists `tokens` and `labels` of the same length",
    kind: Kind::Tokens,
};

/// Where in a text the answer to a question is.
pub const QUESTION_ANSWERING: Labels = Labels {
    name: "question_answering",
    about: "where in `context` the answer to `question` is: records are SQuAD's",
    kind: Kind::Span,
};

/// The most labels that are taken for labels.
const MOST: usize = 10_000;

/// The settings beside those of [`FineTune`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Own {
    /// The field with the text; not set, the first there is of `text`, `sentence`, `sentence1`, `premise`, `question1`,
    /// `question`.
    text_field: Option<String>,
    /// The field with the second text of a pair; not set, the first there is of `text_pair`, `sentence2`, `hypothesis`,
    /// `question2`, or none.
    pair_field: Option<String>,
    /// The field with the label; not set, `label`, and `labels` or `tags` where there are several.
    label_field: Option<String>,
    /// The labels' names, in order; not set, what the records hold, sorted. Records give names or numbers from 0.
    labels: Option<Vec<String>>,
}

const TEXTS: &[&str] = &["text", "sentence", "sentence1", "premise", "question1", "question"];
const PAIRS: &[&str] = &["text_pair", "sentence2", "hypothesis", "question2"];
const SINGLE: &[&str] = &["label"];
const SEVERAL: &[&str] = &["labels", "tags", "ner_tags", "label"];

struct LabelTune {
    own: Own,
    shared: FineTune,
    task: Labels,
}

impl TuneTask for Labels {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn configure(&self, table: toml::Table) -> Result<Box<dyn Configured>> {
        let (own, shared) = split_keys(KIND, table, &["text_field", "pair_field", "label_field", "labels"])?;
        let own: Own = parse_config(KIND, own)?;
        if own.labels.as_ref().is_some_and(|labels| labels.is_empty()) {
            return Err(Error::usage(format!("`labels` in [{KIND}] is empty")));
        }
        if own.labels.is_some() && matches!(self.kind, Kind::Number | Kind::Span) {
            return Err(Error::usage(format!("`labels` in [{KIND}] is not for `task = \"{}\"`", self.name)));
        }
        let shared = FineTune::read(KIND, shared, 3.0)?;
        if shared.system.is_some() {
            return Err(Error::usage(format!("`system` in [{KIND}] is not for `task = \"{}\"`", self.name)));
        }
        Ok(Box::new(LabelTune { own, shared, task: *self }))
    }
}

/// The first of some fields that a record has.
fn field<'a>(record: &'a Record, given: Option<&str>, usual: &[&str]) -> Option<&'a Value> {
    match given {
        Some(name) => record.value.get(name),
        None => usual.iter().find_map(|name| record.value.get(*name)),
    }
    .filter(|value| !value.is_null())
}

fn missing(record: &Record, what: &str, given: Option<&str>, usual: &[&str]) -> Error {
    let names = given.map_or_else(|| usual.join("`, `"), str::to_owned);
    wrong(record, &format!("there is no {what}: `{names}`"))
        .with_hint("name the field with `text_field`, `pair_field` or `label_field`")
}

/// A label as records hold it: a name, a number, or a truth value.
fn label_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(n) if n.is_u64() => Some(n.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        _ => None,
    }
}

impl LabelTune {
    fn label<'a>(&self, record: &'a Record) -> Result<&'a Value> {
        let (given, usual) = (self.own.label_field.as_deref(), if self.several() { SEVERAL } else { SINGLE });
        field(record, given, usual).ok_or_else(|| missing(record, "label", given, usual))
    }

    fn several(&self) -> bool {
        matches!(self.task.kind, Kind::Labels | Kind::Tokens)
    }

    /// The labels of a record, by name.
    fn names_in(&self, record: &Record) -> Result<Vec<String>> {
        let value = self.label(record)?;
        let not = || wrong(record, &format!("the label {value} is neither a name nor a number from 0"));
        match value {
            Value::Array(list) if self.several() => {
                list.iter().map(|label| label_text(label).ok_or_else(not)).collect()
            }
            // What a table holds in one cell.
            Value::String(text) if self.several() => Ok(text.split_whitespace().map(str::to_owned).collect()),
            other => Ok(vec![label_text(other).ok_or_else(not)?]),
        }
    }

    /// All labels: those that are set, or what the records hold, numbers in their order and names in theirs.
    fn labels(&self, records: &[Record]) -> Result<Vec<String>> {
        if let Some(labels) = &self.own.labels {
            return Ok(labels.clone());
        }
        if matches!(self.task.kind, Kind::Number | Kind::Span) {
            return Ok(vec!["value".into()]);
        }
        let mut found: Vec<String> = records.par_iter().map(|r| self.names_in(r)).collect::<Result<Vec<_>>>()?.concat();
        found.sort_by_key(|label| (label.parse::<u64>().unwrap_or(u64::MAX), label.clone()));
        found.dedup();
        if self.task.kind == Kind::Label && found.len() < 2 {
            return Err(Error::failed(format!("all records have the same label, {}", found.join("")))
                .with_hint("there is nothing to tell apart"));
        }
        match found.len() > MOST {
            true => Err(Error::failed(format!("the records have {} labels", found.len()))
                .with_hint("is `label_field` the right one? For numbers use `task = \"regression\"`")),
            false => Ok(found),
        }
    }

    fn number_of(&self, record: &Record, labels: &[String], name: &str) -> Result<usize> {
        let by_number = || self.own.labels.as_ref().and_then(|_| name.parse().ok()).filter(|i| *i < labels.len());
        labels
            .iter()
            .position(|label| label == name)
            .or_else(by_number)
            .ok_or_else(|| wrong(record, &format!("the label `{name}` is none of {}", labels.join(", "))))
    }

    /// A record as tokens with what is wanted; absent where an answer is beyond the context.
    fn encode(
        &self,
        record: &Record,
        tokenizer: &Tokenizer,
        labels: &[String],
        most: usize,
    ) -> Result<Option<Labelled>> {
        let place = || format!("{}: line {}", record.source.display(), record.line);
        let options = SequenceOptions { max_len: Some(most), ..SequenceOptions::default() };
        let frame = |text: &str, pair: Option<&str>| {
            tokenizer.encode_sequence(text, pair, &options).map_err(|e| e.wrap(place()))
        };
        let made = |encoded: EncodedSequence, wanted: Wanted| {
            Some(Labelled { ids: encoded.ids, types: encoded.type_ids, wanted })
        };
        match self.task.kind {
            Kind::Tokens => {
                let words = words_of(record)?;
                let names = self.names_in(record)?;
                if words.len() != names.len() {
                    let what = format!("there are {} tokens, but {} labels", words.len(), names.len());
                    return Err(wrong(record, &what));
                }
                let numbers: Vec<usize> =
                    names.iter().map(|name| self.number_of(record, labels, name)).collect::<Result<_>>()?;
                let encoded = frame(&words.join(" "), None)?;
                let wanted = first_tokens(&encoded, &words, &numbers);
                Ok(made(encoded, Wanted::Tokens(wanted)))
            }
            Kind::Span => {
                let asked = Asked::read(record)?;
                let encoded = frame(&asked.question, Some(&asked.context))?;
                Ok(asked.span(&encoded).and_then(|ends| made(encoded, Wanted::Span(ends))))
            }
            _ => {
                let (given, usual) = (self.own.text_field.as_deref(), TEXTS);
                let text = field(record, given, usual).and_then(Value::as_str);
                let text = text.ok_or_else(|| missing(record, "text", given, usual))?;
                let pair = field(record, self.own.pair_field.as_deref(), PAIRS).and_then(Value::as_str);
                if let (Some(name), None) = (self.own.pair_field.as_deref(), pair) {
                    return Err(missing(record, "second text", Some(name), PAIRS));
                }
                let encoded = frame(text, pair)?;
                Ok(made(encoded, self.wanted(record, labels)?))
            }
        }
    }

    fn wanted(&self, record: &Record, labels: &[String]) -> Result<Wanted> {
        match self.task.kind {
            Kind::Number => {
                let value = self.label(record)?;
                let number = value.as_f64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
                let number = number.filter(|n| n.is_finite());
                Ok(Wanted::Values(vec![
                    number.ok_or_else(|| wrong(record, &format!("the label {value} is not a number")))? as f32,
                ]))
            }
            Kind::Labels => {
                let mut values = vec![0.0; labels.len()];
                for name in self.names_in(record)? {
                    values[self.number_of(record, labels, &name)?] = 1.0;
                }
                Ok(Wanted::Values(values))
            }
            _ => {
                let names = self.names_in(record)?;
                Ok(Wanted::Label(self.number_of(record, labels, &names[0])? as i32))
            }
        }
    }

    fn head(&self, labels: &[String]) -> NewHead {
        let text = |problem| NewHead::Text { problem, labels: labels.to_vec() };
        match self.task.kind {
            Kind::Label => text(Problem::SingleLabel),
            Kind::Labels => text(Problem::MultiLabel),
            Kind::Number => text(Problem::Regression),
            Kind::Tokens => NewHead::Tokens { labels: labels.to_vec() },
            Kind::Span => NewHead::Span,
        }
    }
}

/// The words of a record.
fn words_of(record: &Record) -> Result<Vec<String>> {
    match field(record, None, &["tokens", "words"]) {
        Some(Value::Array(words)) => words
            .iter()
            .map(|word| word.as_str().map(str::to_owned).ok_or_else(|| wrong(record, "a token is not a text")))
            .collect(),
        Some(Value::String(words)) => Ok(words.split_whitespace().map(str::to_owned).collect()),
        _ => Err(wrong(record, "there is no list `tokens`")),
    }
}

/// A label for the first token of each word, [`cupola_ops::IGNORE`] for all others (Devlin et al. 2019, section 5.3).
fn first_tokens(encoded: &EncodedSequence, words: &[String], numbers: &[usize]) -> Vec<i32> {
    let mut begins = Vec::with_capacity(words.len());
    let mut at = 0;
    for word in words {
        begins.push(at);
        at += word.chars().count() + 1;
    }
    let label = |(added, (from, to)): (&bool, &(usize, usize))| {
        // A byte-level token may begin with the space before its word.
        let word = begins.partition_point(|begin| begin < from);
        let first = !*added && begins.get(word).is_some_and(|begin| begin < to);
        if first { numbers[word] as i32 } else { cupola_ops::IGNORE }
    };
    encoded.added.iter().zip(&encoded.offsets).map(label).collect()
}

/// A question with the text that answers it.
struct Asked {
    question: String,
    context: String,
    /// Where the answer begins and ends, in characters.
    answer: [usize; 2],
}

impl Asked {
    fn read(record: &Record) -> Result<Self> {
        let text = |name: &str| {
            let found = record.value.get(name).and_then(Value::as_str).map(str::to_owned);
            found.ok_or_else(|| wrong(record, &format!("there is no text `{name}`")))
        };
        let (question, context) = (text("question")?, text("context")?);
        let answers = record.value.get("answers").ok_or_else(|| wrong(record, "there are no `answers`"))?;
        let answer = answers["text"][0].as_str();
        let start = answers["answer_start"][0].as_u64().map(|n| n as usize);
        let (Some(answer), Some(start)) = (answer, start) else {
            return Err(wrong(record, "`answers` is not {\"text\": [\"…\"], \"answer_start\": [n]}")
                .with_hint("records are SQuAD's; questions without an answer are not taken"));
        };
        let end = start + answer.chars().count();
        let there: String = context.chars().skip(start).take(end - start).collect();
        match there == answer && !answer.is_empty() {
            true => Ok(Self { question, context, answer: [start, end] }),
            false => {
                Err(wrong(record, &format!("`context` has not \"{answer}\" at character {start}, but \"{there}\"")))
            }
        }
    }

    /// The tokens of the second text that hold the answer; absent where it was cut off.
    fn span(&self, encoded: &EncodedSequence) -> Option<[i32; 2]> {
        // The second text begins behind the last token that was put between the two.
        let own: Vec<usize> = (0..encoded.ids.len()).filter(|i| !encoded.added[*i]).collect();
        let turn = own.windows(2).position(|w| encoded.offsets[w[1]].0 < encoded.offsets[w[0]].1)?;
        let second = &own[turn + 1..];
        let first = second.iter().find(|i| encoded.offsets[**i].1 > self.answer[0])?;
        let last = second.iter().find(|i| encoded.offsets[**i].1 >= self.answer[1])?;
        Some([*first as i32, *last as i32])
    }
}

impl Configured for LabelTune {
    fn references(&self) -> Vec<Reference> {
        self.shared.references()
    }

    fn effective_config(&self) -> Value {
        let mut config = json!(self.shared);
        if let (Some(config), Value::Object(own)) = (config.as_object_mut(), json!(self.own)) {
            config.insert("task".into(), json!(self.task.name));
            config.extend(own);
        }
        config
    }

    fn plan(&self, inputs: &PlanInputs<'_>) -> Result<Plan> {
        Ok(self.shared.plan(inputs, 0.0))
    }

    fn run(&self, context: &StageContext<'_>) -> Result<Report> {
        let (settings, input) = (&self.shared, context.input("model")?);
        let device = cupola_ops::open(context.device)?;
        let tokenizer = Tokenizer::load(&input.path)?;
        let path = &context.input("data")?.path;
        let records = read_all(path)?;
        let labels = self.labels(&records)?;
        let mut model = Model::load_with_head(&input.path, &self.head(&labels), context.seed, &device)?;
        let spec = model.encoder()?.spec().clone();
        let max_len = settings.context_len(&spec.stack);
        let encoded: Vec<Option<(String, Labelled)>> = records
            .par_iter()
            .map(|record| {
                let made = self.encode(record, &tokenizer, &labels, max_len)?;
                Ok(made.map(|made| (record.value.to_string(), made)))
            })
            .collect::<Result<_>>()?;
        let kept: Vec<_> = encoded.into_iter().flatten().collect();
        let dropped = records.len() - kept.len();
        if kept.is_empty() {
            return Err(Error::failed(format!("no answer in {} is within the first {max_len} tokens", path.display()))
                .with_hint("raise `max_seq_len`, or use a model with a longer context"));
        }
        if dropped > 0 {
            context.progress.warn(&format!(
                "{dropped} of {} questions are left out: their answers are beyond {max_len} tokens",
                records.len()
            ));
        }
        let (train, validation) = hold_out(kept, settings.holdout, settings.validation_fraction);
        settings.prepare(&mut model, context.seed)?;
        model.train_head();
        let trainable: u64 = model.params_mut().iter().filter(|p| p.trainable()).map(|p| p.numel() as u64).sum();
        let (learned, held_out) = (train.len(), validation.len());
        let (steps, (lr, rule)) =
            (settings.steps(learned), settings.peak_lr(crate::conversations::LR_SCALE, &spec.stack));
        context.progress.line(&format!(
            "{learned} texts to learn from, {held_out} held out; {steps} steps; {} of {} parameters; {rule}",
            human_count(trainable as f64),
            human_count(spec.parameters() as f64)
        ));
        let mean_len = train.iter().map(|text| text.ids.len()).sum::<usize>() / learned;
        let mut objective = Labelling {
            steps: Steps::new(learned, context.seed, settings.batch_size, settings.micro_batch),
            train,
            validation,
            pad: spec.pad.or(tokenizer.pad()).unwrap_or(0),
            kind: self.task.kind,
            labels,
            flops_per_token: settings.training_flops(spec.train_flops_per_token(mean_len)),
            parts: vec![],
        };
        let (before, summary) = settings.run(&mut model, &mut objective, context, steps, lr)?;
        settings.save(&mut model, &tokenizer, context)?;
        let mut metrics = metrics(&before, &summary);
        let counts = [
            ("records", records.len()),
            ("examples", learned),
            ("validation_examples", held_out),
            ("dropped", dropped),
            ("labels", spec.labels.len()),
        ];
        metrics.extend(counts.map(|(name, n)| (name.to_owned(), json!(n))));
        metrics.insert("trainable_parameters".into(), json!(trainable));
        metrics.insert("parameters".into(), json!(spec.parameters()));
        metrics.insert("lr".into(), json!(lr));
        let came_out = match summary.evaluation.get(1) {
            Some((name, value)) => format!("{} {value:.3}", name.trim_start_matches("validation_").replace('_', " ")),
            None => format!("training loss {:.3}", summary.train_loss),
        };
        let went_in = format!("model {}, {} texts with labels", input.reference, records.len());
        Ok(Report { went_in, came_out, metrics, scores: Vec::new() })
    }
}

#[cfg(test)]
#[path = "labels_tests.rs"]
mod tests;
