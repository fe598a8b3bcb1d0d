//! Learning to answer: conversations in, a model directory out.

use cupola_artifact::stage::{Configured, Plan, PlanInputs, Reference, Report, StageContext};
use cupola_artifact::{Error, Result, human_count, parse_config};
use cupola_generate::load_to_change;
use cupola_ops::LossForm;
use cupola_tokenizer::Tokenizer;
use cupola_train::batching::Layout;
use cupola_train::conversation::{
    Example, Fit, Format, format, hold_out, prompt_key, read_all, read_conversation, with_system,
};
use cupola_train::finetune::{FineTune, metrics, split_keys};
use cupola_train::loader::Steps;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::stage::KIND;
use crate::task::TuneTask;
use crate::tuning::Tuning;

/// Learns to answer, from conversations.
pub struct Conversations;

/// The settings beside those of [`FineTune`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Own {
    /// How records hold conversations: `messages`, `alpaca`, `prompt_completion`, or `auto` to look at each.
    format: String,
    /// Whether several conversations share a row, each attending only itself; else one to a row, padded.
    packing: bool,
    /// The share of each learned token's target that all tokens divide equally (Szegedy et al. 2016), in training only.
    label_smoothing: f32,
}

impl Default for Own {
    fn default() -> Self {
        Self { format: "auto".into(), packing: true, label_smoothing: 0.0 }
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
        let (own, shared) = split_keys(KIND, table, &["format", "packing", "label_smoothing"])?;
        let own: Own = parse_config(KIND, own)?;
        let format = format(KIND, &own.format)?;
        if !(0.0..1.0).contains(&own.label_smoothing) {
            let message =
                format!("label_smoothing = {} in [{KIND}] must be at least 0 and below 1", own.label_smoothing);
            return Err(Error::usage(message));
        }
        Ok(Box::new(Tune { own, shared: FineTune::read(KIND, shared, 3.0)?, format }))
    }
}

/// The examples of a data set, and how many did not come through whole.
struct Examples {
    records: usize,
    truncated: usize,
    dropped: usize,
    train: Vec<Example>,
    validation: Vec<Example>,
}

impl Tune {
    fn examples(&self, context: &StageContext<'_>, tokenizer: &Tokenizer, max_len: usize) -> Result<Examples> {
        let path = &context.input("data")?.path;
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
        Ok(Examples { records: records.len(), truncated, dropped, train, validation })
    }
}

impl Configured for Tune {
    fn references(&self) -> Vec<Reference> {
        self.shared.references()
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
        let (mut model, tokenizer) = load_to_change(&input.path, &device)?;
        let spec = model.decoder()?.spec().clone();
        let max_len = settings.context_len(&spec);
        let Examples { records, truncated, dropped, train, validation } =
            self.examples(context, &tokenizer, max_len)?;
        let trainable = settings.prepare(&mut model, context.seed)?;
        let (steps, (lr, rule)) = (settings.steps(train.len()), settings.peak_lr(LR_SCALE, &spec));
        let mean_len = train.iter().map(Example::inputs).sum::<usize>() / train.len();
        context.progress.line(&format!(
            "{} conversations to learn from, {} held out; {steps} steps; {} of {} parameters; {rule}",
            train.len(),
            validation.len(),
            human_count(trainable as f64),
            human_count(spec.parameters() as f64)
        ));
        let (examples, held_out) = (train.len(), validation.len());
        let mut objective = Tuning {
            steps: Steps::new(train.len(), context.seed, settings.batch_size, settings.micro_batch),
            train,
            validation,
            form: LossForm { label_smoothing: self.own.label_smoothing, ..LossForm::default() },
            layout: if self.own.packing { Layout::Packed(max_len) } else { Layout::Padded },
            pad: spec.pad.or(tokenizer.pad()).unwrap_or(0),
            flops_per_token: settings.training_flops(spec.train_flops_per_token(mean_len)),
            parts: vec![],
        };
        let (before, summary) = settings.run(&mut model, &mut objective, context, steps, lr)?;
        settings.save(&mut model, &tokenizer, context)?;

        let mut metrics = metrics(&before, &summary);
        let counts = [("records", records), ("examples", examples), ("validation_examples", held_out)];
        let lost = [("truncated", truncated), ("dropped", dropped)];
        metrics.extend(counts.into_iter().chain(lost).map(|(name, n)| (name.to_owned(), json!(n))));
        metrics.insert("trainable_parameters".into(), json!(trainable));
        metrics.insert("parameters".into(), json!(spec.parameters()));
        metrics.insert("lr".into(), json!(lr));
        let loss = |figures: &[(String, f64)]| figures.first().map(|(_, loss)| *loss);
        let came_out = match (loss(&before), loss(&summary.evaluation)) {
            (Some(before), Some(after)) => format!("validation loss {before:.3} → {after:.3}"),
            _ => format!("training loss {:.3}", summary.train_loss),
        };
        Ok(Report {
            went_in: format!("model {}, {records} conversations", input.reference),
            came_out,
            metrics,
            scores: Vec::new(),
        })
    }
}

#[cfg(test)]
#[path = "conversations_tests.rs"]
mod tests;
