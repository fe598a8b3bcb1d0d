//! Learning to answer: conversations in, a model directory out.

use cupola_artifact::stage::{Configured, Plan, PlanInputs, Reference, Report, StageContext};
use cupola_artifact::{Error, Result, parse_config};
use cupola_generate::load_to_change;
use cupola_ops::LossForm;
use cupola_tokenizer::Tokenizer;
use cupola_train::batching::Layout;
use cupola_train::conversation::{
    Example, Fit, Format, format, hold_out, prompt_key, read_all, read_conversation, with_system,
};
use cupola_train::finetune::{FineTune, split_keys};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::sets::{Lesson, Set, learn};
use crate::stage::KIND;
use crate::task::TuneTask;

/// Learns to answer, from conversations.
pub struct Conversations;

/// The settings beside those of [`FineTune`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Own {
    /// How records hold conversations: `messages`, `alpaca`, `prompt_completion`, `sharegpt`, or `auto` to look at each.
    format: String,
    /// Whether several conversations share a row, each attending only itself; else one to a row, padded.
    packing: bool,
    /// The share of each learned token's target that all tokens divide equally (Szegedy et al. 2016), in training only.
    label_smoothing: f32,
    /// Further data sets, each a task: `{ data = …, name = …, weight = … }`.
    mix: Vec<Mixed>,
    /// What the weights of a mixture are made even with: a set is drawn from in proportion to `(records · weight)^(1/T)`
    /// (Raffel et al. 2020, section 3.5.2).
    temperature: f64,
}

/// A further data set.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mixed {
    /// The records: a file, or a folder of files.
    data: String,
    /// What its figures are called.
    name: String,
    /// What a record of it counts beside one of `data`.
    #[serde(default = "one")]
    weight: f64,
}

fn one() -> f64 {
    1.0
}

impl Default for Own {
    fn default() -> Self {
        Self { format: "auto".into(), packing: true, label_smoothing: 0.0, mix: vec![], temperature: 1.0 }
    }
}

/// The learning rate times the model's width: 2e-5 at LLaMA-7B's 4096, as Stanford Alpaca has it (Taori et al. 2023).
pub(crate) const LR_SCALE: f64 = 0.08;

struct Tune {
    own: Own,
    shared: FineTune,
    format: Option<&'static dyn Format>,
}

impl TuneTask for Conversations {
    fn name(&self) -> &'static str {
        "conversation"
    }

    fn about(&self) -> &'static str {
        "what the assistant says in conversations"
    }

    fn configure(&self, table: toml::Table) -> Result<Box<dyn Configured>> {
        let (own, shared) = split_keys(KIND, table, &["format", "packing", "label_smoothing", "mix", "temperature"])?;
        let own: Own = parse_config(KIND, own)?;
        let format = format(KIND, &own.format)?;
        if !(0.0..1.0).contains(&own.label_smoothing) {
            let message =
                format!("label_smoothing = {} in [{KIND}] must be at least 0 and below 1", own.label_smoothing);
            return Err(Error::usage(message));
        }
        let good = |mixed: &Mixed| !mixed.name.is_empty() && mixed.weight.is_finite() && mixed.weight > 0.0;
        if !(own.mix.iter().all(good) && own.temperature.is_finite() && own.temperature > 0.0) {
            return Err(Error::usage(format!(
                "in [{KIND}], each set of `mix` needs a `name` and a `weight` above 0, and `temperature` must be above 0"
            )));
        }
        Ok(Box::new(Tune { own, shared: FineTune::read(KIND, shared, 3.0)?, format }))
    }
}

impl Tune {
    fn set(&self, context: &StageContext<'_>, tokenizer: &Tokenizer, max_len: usize, mixed: &Mixed) -> Result<Set> {
        let input = match context.inputs_for(MIX).find(|input| input.reference == mixed.data) {
            Some(input) => input,
            None => context.input("data")?,
        };
        let path = &input.path;
        let records = read_all(path)?;
        let encoded: Vec<(String, Example, Fit)> = records
            .par_iter()
            .map(|record| {
                let messages = with_system(read_conversation(record, self.format)?, self.shared.system.as_deref());
                let place = || format!("{}: line {}", record.source.display(), record.line);
                let mut example = Example::conversation(tokenizer, &messages).map_err(|e| e.wrap(place()))?;
                let fit = example.cut(max_len);
                Ok((prompt_key(&messages), example, fit))
            })
            .collect::<Result<_>>()?;
        let count = |fit: Fit| encoded.iter().filter(|(_, _, f)| *f == fit).count();
        let (truncated, dropped) = (count(Fit::Cut), count(Fit::Nothing));
        if dropped == records.len() {
            return Err(Error::failed(format!(
                "no conversation in {} has an answer in its first {max_len} tokens",
                path.display()
            ))
            .with_hint("raise `max_seq_len`, or use a model with a longer context"));
        }
        if truncated + dropped > 0 {
            context.progress.warn(&format!(
                "of {} conversations, {truncated} lost their end and {dropped} their whole answer: they are longer than {max_len} tokens",
                records.len()
            ));
        }
        let kept = encoded.into_iter().filter(|(_, _, fit)| *fit != Fit::Nothing).map(|(key, e, _)| (key, e)).collect();
        let (train, validation) = hold_out(kept, self.shared.holdout, self.shared.validation_fraction);
        let weight = (train.len() as f64 * mixed.weight).powf(1.0 / self.own.temperature);
        Ok(Set { name: mixed.name.clone(), records: records.len(), truncated, dropped, train, validation, weight })
    }
}

/// The key under which further data sets are inputs.
const MIX: &str = "mix";

impl Configured for Tune {
    fn references(&self) -> Vec<Reference> {
        let further = self.own.mix.iter().map(|mixed| Reference { key: MIX, value: mixed.data.clone() });
        self.shared.references().into_iter().chain(further).collect()
    }

    fn effective_config(&self) -> Value {
        let mut config = json!(self.shared);
        if let (Some(config), Value::Object(own)) = (config.as_object_mut(), json!(self.own)) {
            config.insert("task".into(), json!(Conversations.name()));
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
        let (model, tokenizer) = load_to_change(&input.path, &device)?;
        let max_len = settings.context_len(model.decoder()?.spec());
        let first = Mixed { data: settings.data.clone(), name: "data".into(), weight: 1.0 };
        let all = [&first].into_iter().chain(&self.own.mix);
        let sets = all.map(|mixed| self.set(context, &tokenizer, max_len, mixed)).collect::<Result<_>>()?;
        let form = LossForm { label_smoothing: self.own.label_smoothing, ..LossForm::default() };
        let layout = if self.own.packing { Layout::Packed(max_len) } else { Layout::Padded };
        learn(settings, context, (model, tokenizer), Lesson { sets, things: "conversations", form, layout })
    }
}

#[cfg(test)]
#[path = "conversations_tests.rs"]
mod tests;
