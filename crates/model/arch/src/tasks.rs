//! Which head stands on a model: `architectures` in `config.json` says it.

use cupola_artifact::{Error, Result};
use cupola_nn::{DenseSpec, EncoderSpec, HeadSpec, NormSpec, Output, Pool, Squash, StackSpec, Task};

use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::names::Names;
use crate::network::Spec;

/// How the names of classes end, and the tasks.
const CLASSES: &[(&str, Task)] = &[
    ("ForMaskedLM", Task::Masked),
    ("ForPreTraining", Task::Replaced),
    ("ForSequenceClassification", Task::Label),
    ("ForTokenClassification", Task::Tokens),
    ("ForQuestionAnswering", Task::Span),
    ("Model", Task::Summary),
];

/// How the names of heads' weights begin.
pub(crate) const HEAD_SCOPES: [&str; 6] = ["summary", "masked", "replaced", "text", "token", "span"];

/// What a text classifier's labels mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Numbers: one output each.
    Regression,
    /// One of several labels.
    SingleLabel,
    /// Any of several labels.
    MultiLabel,
}

/// A head to put on a network that has another or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewHead {
    /// On whole texts.
    Text {
        /// What the labels mean.
        problem: Problem,
        /// Their names.
        labels: Vec<String>,
    },
    /// On each token: one of these labels.
    Tokens {
        /// Their names.
        labels: Vec<String>,
    },
    /// Where an answer begins and ends.
    Span,
}

/// How the classes of language models end.
const LANGUAGE_MODELS: &[&str] = &["ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForPreTraining"];

impl NewHead {
    /// The error about a class that cannot have it.
    pub(crate) fn refused(&self, class: &str) -> Error {
        let (what, hint) = match self {
            NewHead::Text { .. } => {
                ("labels texts", "choose a decoder or an encoder, e.g. of the family llama or bert")
            }
            NewHead::Tokens { .. } => {
                ("labels tokens", "choose a decoder or an encoder, e.g. of the family llama or bert")
            }
            NewHead::Span => ("finds answers", "choose an encoder, e.g. of the family bert"),
        };
        Error::usage(format!("a {class} cannot have a head that {what} in this build")).with_hint(hint)
    }

    /// Writes it into a configuration of a family whose language models' class is `class`.
    ///
    /// # Errors
    /// A family whose language models are of a class that has no such head.
    pub(crate) fn write(&self, class: &str, config: &mut Map<String, Value>) -> Result<()> {
        let (ends, labels) = match self {
            NewHead::Text { labels, .. } => ("ForSequenceClassification", Some(labels)),
            NewHead::Tokens { labels } => ("ForTokenClassification", Some(labels)),
            NewHead::Span => ("ForQuestionAnswering", None),
        };
        let stem = LANGUAGE_MODELS.iter().find_map(|end| class.strip_suffix(end)).ok_or_else(|| self.refused(class))?;
        config.insert("architectures".into(), json!([format!("{stem}{ends}")]));
        for key in ["id2label", "label2id", "num_labels", "problem_type"] {
            config.remove(key);
        }
        if let Some(labels) = labels {
            let by_number = labels.iter().enumerate().map(|(i, label)| (i.to_string(), json!(label)));
            config.insert("id2label".into(), Value::Object(by_number.collect()));
            let by_label = labels.iter().enumerate().map(|(i, label)| (label.clone(), json!(i)));
            config.insert("label2id".into(), Value::Object(by_label.collect()));
        }
        if let NewHead::Text { problem, .. } = self {
            let name = match problem {
                Problem::Regression => "regression",
                Problem::SingleLabel => "single_label_classification",
                Problem::MultiLabel => "multi_label_classification",
            };
            config.insert("problem_type".into(), json!(name));
        }
        Ok(())
    }
}

/// The task that `config.json` names; a bare model where it names none.
fn task(config: &ConfigJson<'_>) -> Result<Task> {
    let Some(classes) = config.texts("architectures")? else { return Ok(Task::Summary) };
    let Some(class) = classes.first() else { return Ok(Task::Summary) };
    // `…LMHeadModel` is a decoder.
    let found = CLASSES.iter().find(|(end, _)| class.ends_with(end) && !class.contains("Head"));
    let known = || CLASSES.iter().map(|c| format!("…{}", c.0)).collect::<Vec<_>>().join(", ");
    found.map(|found| found.1).ok_or_else(|| {
        Error::failed(format!("config.json asks for the class {class}"))
            .with_hint(format!("of encoders this build knows: {}", known()))
    })
}

/// The labels' names, by number.
fn labels(config: &ConfigJson<'_>) -> Result<Vec<String>> {
    let numbered = |n: usize| (0..n).map(|i| format!("LABEL_{i}")).collect();
    let Some(names) = config.section("id2label")? else { return Ok(numbered(config.size("num_labels")?.unwrap_or(2))) };
    (0..names.values.len())
        .map(|i| match names.get(&i.to_string()).and_then(|name| name.as_str()) {
            Some(name) => Ok(name.to_string()),
            None => Err(Error::failed(format!(
                "`id2label` in config.json has {} labels, but none for {i}",
                names.values.len()
            ))),
        })
        .collect()
}

/// What a head for whole texts learns.
fn text_task(config: &ConfigJson<'_>, labels: usize) -> Result<Task> {
    match config.text("problem_type", if labels == 1 { "regression" } else { "single_label_classification" })? {
        "regression" => Ok(Task::Numbers),
        "single_label_classification" => Ok(Task::Label),
        "multi_label_classification" => Ok(Task::Labels),
        other => Err(Error::failed(format!("`problem_type` in config.json is \"{other}\""))
            .with_hint("this build knows: regression, single_label_classification, multi_label_classification")),
    }
}

/// The heads of a family of encoders. Widths of last layers are filled in.
pub(crate) struct Heads {
    /// For words behind masks, with the embedding as its last layer.
    pub masked: HeadSpec,
    /// The last layer where it is not the embedding.
    pub untied: Output,
    /// For replaced tokens; families without learn words behind masks in pretraining.
    pub replaced: Option<HeadSpec>,
    /// For texts.
    pub text: HeadSpec,
    /// For tokens.
    pub token: HeadSpec,
    /// For answers in texts.
    pub span: HeadSpec,
    /// What bare models have.
    pub summary: Option<HeadSpec>,
}

impl Heads {
    /// BERT's: a layer with the model's curve and norm before the words; texts are read off their first token through a
    /// layer with a hyperbolic tangent, tokens and answers directly.
    pub fn bert(d_model: usize, words: DenseSpec, norm: NormSpec) -> Self {
        let pooler = Some(DenseSpec { width: d_model, bias: true, squash: Squash::Tanh });
        let first = |task| HeadSpec { dense: pooler, ..HeadSpec::linear(task, Some(Pool::First), 0) };
        let out = Some(Output::Embedding { bias: true });
        Self {
            masked: HeadSpec { task: Task::Masked, pool: None, dense: Some(words), norm: Some(norm), out },
            untied: Output::Words,
            replaced: None,
            text: first(Task::Label),
            token: HeadSpec::linear(Task::Tokens, None, 0),
            span: HeadSpec::linear(Task::Span, None, 2),
            summary: Some(HeadSpec { out: None, ..first(Task::Summary) }),
        }
    }

    /// The encoder with the head that `config.json` asks for.
    pub fn encoder(self, config: &ConfigJson<'_>, stack: StackSpec) -> Result<EncoderSpec> {
        let task = task(config)?;
        let labels = if matches!(task, Task::Label | Task::Tokens) { labels(config)? } else { vec![] };
        let head = match task {
            Task::Replaced if self.replaced.is_some() => self.replaced,
            Task::Masked | Task::Replaced => {
                let tied = config.flag("tie_word_embeddings", true)?;
                Some(if tied { self.masked } else { untied(self.masked, self.untied, stack.vocab_size) })
            }
            Task::Label | Task::Labels | Task::Numbers => {
                let task = text_task(config, labels.len())?;
                Some(HeadSpec { task, ..sized(self.text, labels.len()) })
            }
            Task::Tokens => Some(sized(self.token, labels.len())),
            Task::Span => Some(self.span),
            Task::Summary => self.summary,
        };
        Ok(EncoderSpec { labels, ..special(config, EncoderSpec::new(stack, head))? })
    }
}

/// A head over words whose last layer is not the embedding.
fn untied(head: HeadSpec, out: Output, vocab_size: usize) -> HeadSpec {
    let out = match out {
        Output::Linear { bias, .. } => Output::Linear { width: vocab_size, bias },
        other => other,
    };
    HeadSpec { out: Some(out), ..head }
}

/// A head with so many outputs.
fn sized(head: HeadSpec, width: usize) -> HeadSpec {
    let bias = !matches!(head.out, Some(Output::Linear { bias: false, .. }));
    HeadSpec { out: Some(Output::Linear { width, bias }), ..head }
}

/// The special tokens.
fn special(config: &ConfigJson<'_>, spec: EncoderSpec) -> Result<EncoderSpec> {
    let (bos, eos, pad) =
        (config.token("bos_token_id")?, config.tokens("eos_token_id")?, config.token("pad_token_id")?);
    Ok(EncoderSpec { bos, eos, pad, ..spec })
}

/// A decoder that `config.json` wants to label texts or tokens: its head is a plain layer on the text's last token, or on
/// each.
pub(crate) fn on_decoder(config: &ConfigJson<'_>, spec: Spec) -> Result<Spec> {
    let Spec::Decoder(decoder) = &spec else { return Ok(spec) };
    let class = config.texts("architectures")?.and_then(|classes| classes.first().map(ToString::to_string));
    let ends = |end: &str| class.as_ref().is_some_and(|class| class.ends_with(end));
    let head = if ends("ForSequenceClassification") {
        HeadSpec {
            out: Some(Output::Linear { width: 0, bias: false }),
            ..HeadSpec::linear(Task::Label, Some(Pool::Last), 0)
        }
    } else if ends("ForTokenClassification") {
        HeadSpec::linear(Task::Tokens, None, 0)
    } else {
        return Ok(spec);
    };
    let stack = decoder.stack.clone();
    if stack.embedding.width != stack.d_model {
        return Err(Error::failed("config.json asks for labels from a decoder whose embedding has another width")
            .with_hint("this build labels texts with decoders of one width"));
    }
    let labels = labels(config)?;
    let task = if head.pool.is_some() { text_task(config, labels.len())? } else { head.task };
    let head = HeadSpec { task, ..sized(head, labels.len()) };
    let encoder = EncoderSpec { labels, causal: true, ..EncoderSpec::new(stack, Some(head)) };
    Ok(Spec::Encoder(special(config, encoder)?))
}

/// Whether a weight in a file belongs to a head that this model does not have: published files often hold those of
/// pretraining.
pub(crate) fn is_other_head(spec: &Spec, names: Names, weight: &str) -> bool {
    let Spec::Encoder(encoder) = spec else { return false };
    let own = encoder.head.map(|head| head.task.scope());
    let tied = own == Some(Task::Masked.scope()) && encoder.tie_embeddings();
    HEAD_SCOPES.iter().any(|scope| names.is_within(weight, scope) && (Some(*scope) != own || tied))
}
