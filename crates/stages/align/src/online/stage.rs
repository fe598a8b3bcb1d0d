//! Prompts and rewards in, a model directory out.

use cupola_artifact::stage::{Configured, Plan, PlanInputs, Reference, Report, StageContext};
use cupola_artifact::{Error, Result, human_count};
use cupola_generate::{document_start, load_to_change};
use cupola_nn::{Decoder, DecoderSpec, Module};
use cupola_tokenizer::{Message, Tokenizer};
use cupola_train::conversation::{hold_out, prompt_key, prompt_of, read_all, with_system, wrong};
use cupola_train::finetune::metrics;
use cupola_train::loader::Steps;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::Baseline;
use super::config::OnlineConfig;
use super::objective::Learning;
use super::rollout::{Judges, Prompt};
use crate::algorithm::Algorithm;
use crate::doctor::conclude;
use crate::reward::{MODELS, Making};

/// The learning rate times the model's width: 3e-6 at 4096, three times what Shao et al. 2024 (section 4.2) take for seven
/// billion parameters, and 5e-5 at 256.
const LR_SCALE: f64 = 0.0128;

/// Bytes of some messages.
fn text_len(messages: Vec<Message>) -> usize {
    messages.iter().map(|m| m.content.len()).sum()
}

/// Prompts, divided.
struct Prompts {
    train: Vec<Prompt>,
    validation: Vec<Prompt>,
    too_long: usize,
}

impl OnlineConfig {
    fn prompts(&self, context: &StageContext<'_>, tokenizer: &Tokenizer, decoder: &Decoder) -> Result<Prompts> {
        let path = &context.input("data")?.path;
        let records = read_all(path)?;
        let room = self.shared.context_len(decoder.spec()).saturating_sub(self.policy.max_tokens);
        let chat = self.chat.unwrap_or(tokenizer.chat_template().is_some());
        let encoded: Vec<(String, Prompt)> = records
            .par_iter()
            .map(|record| {
                let messages = prompt_of(&record.value).map_err(|what| wrong(record, &what))?;
                let messages = messages.ok_or_else(|| wrong(record, "there is no `prompt`"))?;
                let messages = with_system(messages, self.shared.system.as_deref());
                let ids = match chat {
                    true => tokenizer.encode_chat(&messages, true),
                    false => {
                        let text: String = messages.iter().map(|m| m.content.as_str()).collect();
                        let start = document_start(decoder, tokenizer)?;
                        Ok([&[start][..], &tokenizer.encode(&text)?].concat())
                    }
                };
                let place = || format!("{}: line {}", record.source.display(), record.line);
                let ids = ids.map_err(|e| e.wrap(place()))?;
                Ok((prompt_key(&messages), Prompt { messages, ids, record: record.value.clone() }))
            })
            .collect::<Result<_>>()?;
        let (fitting, long): (Vec<_>, Vec<_>) = encoded.into_iter().partition(|(_, prompt)| prompt.ids.len() <= room);
        if fitting.is_empty() {
            let message = format!(
                "no prompt in {} leaves room for an answer of {} tokens",
                path.display(),
                self.policy.max_tokens
            );
            return Err(Error::failed(message).with_hint("lower `max_tokens`, or use a model with a longer context"));
        }
        if !long.is_empty() {
            context.progress.warn(&format!(
                "{} of {} prompts are left out: they leave no room for an answer of {} tokens",
                long.len(),
                records.len(),
                self.policy.max_tokens
            ));
        }
        let (train, validation) = hold_out(fitting, self.shared.holdout, self.shared.validation_fraction);
        Ok(Prompts { train, validation, too_long: long.len() })
    }

    /// Optimizer steps.
    fn optimizer_steps(&self, prompts: usize) -> u64 {
        self.shared.steps(prompts) * self.updates()
    }

    /// Floating-point operations of training on a token, answering and scoring included.
    fn flops(&self, spec: &DecoderSpec, length: usize) -> f64 {
        self.shared.training_flops(spec.train_flops_per_token(length))
    }
}

impl Configured for OnlineConfig {
    fn references(&self) -> Vec<Reference> {
        let models = self.rewards.iter().filter_map(|reward| reward.settings.model());
        let models = models.map(|value| Reference { key: MODELS, value: value.to_owned() });
        self.shared.references().into_iter().chain(models).collect()
    }

    fn effective_config(&self) -> Value {
        self.effective()
    }

    fn plan(&self, inputs: &PlanInputs<'_>) -> Result<Plan> {
        let mut plan = self.shared.plan(inputs, 0.0);
        let data = inputs.inputs.iter().find(|(input, _)| input.key == "data").map(|(input, _)| &input.path);
        // A data set that another stage makes is not there yet.
        let Some(records) = data.filter(|path| path.exists()).map(|path| read_all(path)).transpose()? else {
            plan.notes.push("the answers' tokens are not counted: the prompts are not there yet".into());
            return Ok(plan);
        };
        let bytes: usize = records.iter().map(|r| prompt_of(&r.value).ok().flatten().map_or(0, text_len)).sum();
        let answers = records.len() as f64 * self.shared.epochs * self.group_size as f64;
        // About four bytes to a token; an answer is taken to be as long as it may be.
        let tokens = answers * (bytes as f64 / 4.0 / records.len() as f64 + self.policy.max_tokens as f64);
        let parameters = plan.facts.get("parameters").copied().unwrap_or(0.0);
        let train = self.shared.training_flops(6.0) * self.iterations as f64;
        let scored = if self.needs_reference() { 2.0 } else { 0.0 };
        let peak = inputs.peak_flops.max(1.0);
        plan.flops = parameters * tokens * (train + scored + 2.0);
        // Answering token by token reaches about a twentieth of the peak, the rest a quarter.
        plan.seconds = parameters * tokens * ((train + scored) / (0.25 * peak) + 2.0 / (0.05 * peak)) + 1.0;
        plan.notes = vec![format!(
            "{} answers to {} prompts, about {} tokens; what rewards cost is not counted",
            human_count(answers),
            records.len(),
            human_count(tokens)
        )];
        Ok(plan)
    }

    fn run(&self, context: &StageContext<'_>) -> Result<Report> {
        let (settings, input) = (&self.shared, context.input("model")?);
        let device = cupola_ops::open(context.device)?;
        let (mut model, tokenizer) = load_to_change(&input.path, &device)?;
        model.merge_adapter()?;
        model.network.set_precision(settings.precision.resolve());
        let spec = model.decoder()?.spec().clone();
        let making = Making { inputs: context.inputs, device: &device };
        let rewards: Vec<_> = self
            .rewards
            .iter()
            .map(|reward| Ok((reward.settings.make(&making)?, reward.weight)))
            .collect::<Result<_>>()?;
        let Prompts { train, validation, too_long } = self.prompts(context, &tokenizer, model.decoder()?)?;
        let reference = self.needs_reference().then(|| model.decoder().map(Decoder::frozen)).transpose()?;
        settings.prepare(&mut model, context.seed)?;
        if self.algorithm.baseline == Baseline::Value {
            model.add_value_head()?;
            model.set_trainable(|p| p.trainable() || p.name().starts_with("value_head."));
        }
        let trainable: u64 = model.params_mut().iter().filter(|p| p.trainable()).map(|p| p.numel() as u64).sum();
        let (learned, held_out) = (train.len(), validation.len());
        let (steps, (lr, rule)) = (self.optimizer_steps(learned), settings.peak_lr(LR_SCALE, &spec));
        context.progress.line(&format!(
            "{}: {learned} prompts to learn from, {held_out} held out; {steps} steps of {} answers; {} of {} parameters; {rule}",
            self.algorithm.name(),
            settings.batch_size * self.group_size,
            human_count(trainable as f64),
            human_count(spec.parameters() as f64)
        ));
        let judges = Judges {
            config: self,
            tokenizer: &tokenizer,
            rewards: &rewards,
            reference: reference.as_ref(),
            pad: spec.pad.or(tokenizer.pad()).unwrap_or(0),
            seed: context.seed,
        };
        let length = train.iter().map(|prompt| prompt.ids.len()).sum::<usize>() / learned + self.policy.max_tokens;
        let order = Steps::new(learned, context.seed, settings.batch_size, settings.micro_batch);
        let mut objective =
            Learning::new(judges, (train, validation), order, context.progress, self.flops(&spec, length));
        let (before, summary) = settings.run(&mut model, &mut objective, context, steps, lr)?;
        drop(objective);
        settings.save(&mut model, &tokenizer, context)?;

        let mut metrics = metrics(&before, &summary);
        for (name, value) in [("prompts", learned), ("validation_prompts", held_out), ("too_long", too_long)] {
            metrics.insert(name.into(), json!(value));
        }
        metrics.insert("trainable_parameters".into(), json!(trainable));
        metrics.insert("parameters".into(), json!(spec.parameters()));
        metrics.insert("lr".into(), json!(lr));
        conclude(context, &before, &summary, &mut metrics)?;
        let reward =
            |figures: &[(String, f64)]| figures.iter().find(|(n, _)| n == "validation_reward").map(|(_, v)| *v);
        let came_out = match (reward(&before), reward(&summary.evaluation)) {
            (Some(before), Some(after)) => format!("held-out reward {before:.3} → {after:.3}"),
            _ => format!("training loss {:.3}", summary.train_loss),
        };
        let went_in = format!("model {}, {} prompts", input.reference, learned + held_out);
        Ok(Report { went_in, came_out, metrics, scores: Vec::new() })
    }
}
