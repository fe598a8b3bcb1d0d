//! The training loop that pretraining, tuning and alignment share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use burn::tensor::Tensor;
use cupola_arch::Model;
use cupola_artifact::stage::Progress;
use cupola_artifact::{
    Checkpoints, Context, DType, Error, HostTensor, Result, read_safetensors, write_atomic, write_safetensors_with,
};
use cupola_nn::{Module, ParamMut};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::memory::peak_memory;
use crate::metrics::Metrics;
use crate::optim::{Gradients, Moments, Optimizer, OptimizerConfig, accumulate};
use crate::ranks::Ranks;
use crate::schedule::ScheduleConfig;

/// The loss of one micro-batch. The losses of a step's micro-batches add up to the step's loss.
pub struct Part {
    /// The loss, `[1]`, on the tape.
    pub loss: Tensor<1>,
    /// Tokens that passed through the model.
    pub tokens: usize,
    /// Further figures, which add up over the micro-batches of a step.
    pub figures: Vec<(&'static str, f64)>,
}

/// What is trained for.
pub trait Objective {
    /// Prepares step `step`, whose data the model may have a part in; gives the number of its micro-batches.
    fn begin_step(&mut self, model: &Model, step: u64) -> Result<usize>;

    /// The loss of micro-batch `index` of the step.
    fn part(&mut self, model: &Model, index: usize) -> Result<Part>;

    /// Figures on held-out data; the model has no tape.
    fn evaluate(&mut self, model: &Model) -> Result<Vec<(String, f64)>>;

    /// Something to look at now and then, e.g. a sample of text; the model has no tape.
    fn sample(&mut self, _model: &Model) -> Result<Option<String>> {
        Ok(None)
    }

    /// Floating-point operations of training on one token.
    fn flops_per_token(&self) -> f64;

    /// Where the loader and its random numbers are.
    fn position(&self) -> Value;

    /// Goes to a position that [`Self::position`] gave.
    fn restore(&mut self, position: &Value) -> Result<()>;
}

/// How training goes.
#[derive(Clone, Debug)]
pub struct TrainSettings {
    /// Optimizer steps.
    pub steps: u64,
    /// The peak learning rate.
    pub lr: f64,
    /// How the learning rate moves.
    pub schedule: ScheduleConfig,
    /// The optimizer.
    pub optimizer: OptimizerConfig,
    /// The largest norm of all gradients together; larger ones are scaled down (Pascanu et al. 2013). 0 is none.
    pub clip: f64,
    /// Steps between two evaluations; 0 evaluates at the end only.
    pub eval_every: u64,
    /// Steps between two samples; 0 is none.
    pub sample_every: u64,
    /// Steps between two checkpoints; 0 is none.
    pub checkpoint_every: u64,
    /// Steps between two lines of metrics.
    pub log_every: u64,
    /// What the bar says.
    pub task: String,
}

/// Where training writes and shows itself.
pub struct TrainIo<'a> {
    /// Checkpoints.
    pub checkpoints: PathBuf,
    /// `metrics.jsonl` and the event files.
    pub metrics: PathBuf,
    /// The bar.
    pub progress: &'a dyn Progress,
}

/// What training came to.
#[derive(Clone, Debug, Default)]
pub struct TrainSummary {
    /// Optimizer steps.
    pub steps: u64,
    /// Tokens, attempts before a resumption included.
    pub tokens: u64,
    /// Seconds, attempts before a resumption included.
    pub seconds: f64,
    /// The mean training loss of the last tenth of the steps.
    pub train_loss: f64,
    /// The last evaluation.
    pub evaluation: Vec<(String, f64)>,
    /// Tokens per second of training, evaluation and checkpoints left out.
    pub tokens_per_second: f64,
    /// Share of the machine's measured peak; 0 on other devices than the CPU.
    pub mfu: f64,
    /// The largest amount of memory that the process held since the stage began, bytes.
    pub peak_memory: u64,
    /// The step it was resumed at.
    pub resumed_at: Option<u64>,
}

/// What a checkpoint holds besides tensors.
#[derive(Serialize, Deserialize)]
struct Saved {
    step: u64,
    tokens: u64,
    seconds: f64,
    train_seconds: f64,
    recent_losses: Vec<f64>,
    position: Value,
}

/// Trains a model; its parameters must have been marked trainable.
///
/// # Errors
/// A loss that is not finite, or a file that cannot be written or read.
pub fn train(
    model: &mut Model,
    objective: &mut dyn Objective,
    settings: &TrainSettings,
    io: &TrainIo<'_>,
) -> Result<TrainSummary> {
    // What reading and encoding have freed is no part of training.
    cupola_kernels::give_back_memory();
    cupola_kernels::keep_freed_memory();
    let mut run = Run::start(model, objective, settings, io)?;
    io.progress.begin(&settings.task, Some(settings.steps), "step");
    while run.saved.step < settings.steps {
        run.step(model, objective)?;
        run.after_step(model, objective)?;
    }
    run.io.progress.end();
    run.finish(model, objective)
}

struct Run<'a> {
    settings: &'a TrainSettings,
    io: &'a TrainIo<'a>,
    optimizer: Optimizer,
    metrics: Metrics,
    checkpoints: Checkpoints,
    saved: Saved,
    evaluation: Option<(u64, Vec<(String, f64)>)>,
    began: Instant,
    peak_flops: f64,
    resumed_at: Option<u64>,
    /// The ranks of an adapter that moves them.
    ranks: Option<Ranks>,
}

impl<'a> Run<'a> {
    fn start(
        model: &mut Model,
        objective: &mut dyn Objective,
        settings: &'a TrainSettings,
        io: &'a TrainIo<'a>,
    ) -> Result<Self> {
        let mut optimizer = Optimizer::new(&settings.optimizer)?;
        settings.schedule.ratio(0, settings.steps)?;
        let checkpoints = Checkpoints::new(io.checkpoints.clone(), 2);
        let mut saved = Saved {
            step: 0,
            tokens: 0,
            seconds: 0.0,
            train_seconds: 0.0,
            recent_losses: vec![],
            position: Value::Null,
        };
        let mut ranks = Ranks::of(model, settings.steps)?;
        let mut resumed_at = None;
        if let Some((step, dir)) = checkpoints.latest()? {
            saved = restore(model, &mut optimizer, ranks.as_mut(), &dir)?;
            objective.restore(&saved.position)?;
            io.progress.line(&format!("continues at step {step} of {}", settings.steps));
            resumed_at = Some(step);
        }
        let host = cupola_ops::is_host(&model.network.device());
        let peak_flops =
            if host { cupola_kernels::measure_peak_in(model.network.precision(), 0.2) } else { f64::INFINITY };
        let metrics = Metrics::open(&io.metrics, saved.step)?;
        let began = Instant::now();
        Ok(Self {
            settings,
            io,
            optimizer,
            metrics,
            checkpoints,
            saved,
            evaluation: None,
            began,
            peak_flops,
            resumed_at,
            ranks,
        })
    }

    fn step(&mut self, model: &mut Model, objective: &mut dyn Objective) -> Result<()> {
        let begun = Instant::now();
        let (step, settings) = (self.saved.step, self.settings);
        let lr = settings.lr * settings.schedule.ratio(step, settings.steps)?;
        let parts = objective.begin_step(model, step)?;
        let (mut loss, mut tokens) = (0.0, 0);
        let mut figures: Vec<(&'static str, f64)> = Vec::new();
        let (mut gradients, mut squares): (Gradients, f64) = (Vec::new(), 0.0);
        for index in 0..parts {
            let part = objective.part(model, index)?;
            loss += f64::from(cupola_ops::scalar(&part.loss));
            tokens += part.tokens;
            for (name, value) in part.figures {
                match figures.iter_mut().find(|(n, _)| *n == name) {
                    Some((_, sum)) => *sum += value,
                    None => figures.push((name, value)),
                }
            }
            let fresh = take_gradients(model, part.loss);
            squares = accumulate(&mut gradients, fresh, index + 1 == parts && self.ranks.is_none());
        }
        if let Some(ranks) = &self.ranks {
            let penalty = ranks.penalty(model);
            let fresh = take_gradients(model, penalty);
            squares = accumulate(&mut gradients, fresh, true);
        }
        let norm = squares.sqrt();
        if !loss.is_finite() || !norm.is_finite() {
            let message = format!("the loss is {loss} and the gradient's norm {norm} at step {step}");
            return Err(Error::failed(message)
                .with_hint("lower the learning rate or lengthen the warm-up; the last checkpoint is kept"));
        }
        let clip = settings.clip;
        let scale = if clip > 0.0 && norm > clip { clip / (norm + 1e-6) } else { 1.0 };
        self.optimizer.step(model.params_mut(), &gradients, lr as f32, step + 1, scale as f32);
        let routers = crate::balance::after_step(model);
        if let Some(ranks) = &mut self.ranks {
            ranks.after_step(model, &gradients, scale as f32, step + 1);
        }

        let seconds = begun.elapsed().as_secs_f64();
        self.saved.step += 1;
        self.saved.tokens += tokens as u64;
        self.saved.train_seconds += seconds;
        self.saved.recent_losses.push(loss);
        let keep = (settings.steps as usize / 10).max(1);
        if self.saved.recent_losses.len() > keep {
            self.saved.recent_losses.remove(0);
        }
        let mut figures: Vec<(&str, f64)> = figures;
        figures.extend(routers.iter().map(|(name, value)| (name.as_str(), *value)));
        self.show(loss, &figures, lr, norm, tokens as f64 / seconds, objective.flops_per_token())
    }

    fn show(&mut self, loss: f64, figures: &[(&str, f64)], lr: f64, norm: f64, rate: f64, flops: f64) -> Result<()> {
        let step = self.saved.step - 1;
        let mfu = rate * flops / self.peak_flops;
        if step.is_multiple_of(self.settings.log_every.max(1)) || self.saved.step == self.settings.steps {
            let mut values =
                vec![("loss", loss), ("lr", lr), ("grad_norm", norm), ("tokens_per_second", rate), ("mfu", mfu)];
            values.push(("tokens", self.saved.tokens as f64));
            values.extend(figures);
            self.metrics.write(step, &values)?;
        }
        let per_step = self.saved.train_seconds / self.saved.step as f64;
        let left = per_step * (self.settings.steps - self.saved.step) as f64;
        let mut message = format!("loss {loss:.3}");
        for (name, value) in figures.iter().take(2) {
            message.push_str(&format!(" · {name} {value:.3}"));
        }
        message.push_str(&format!(" · {:.1}k tok/s", rate / 1e3));
        if mfu > 0.0 {
            message.push_str(&format!(" · MFU {:.0}%", mfu * 100.0));
        }
        message.push_str(&format!(" · {} MB · {:.0} s left", peak_memory() >> 20, left));
        self.io.progress.update(self.saved.step, &message);
        Ok(())
    }

    fn after_step(&mut self, model: &mut Model, objective: &mut dyn Objective) -> Result<()> {
        let (step, settings) = (self.saved.step, self.settings);
        let due = |every: u64| every > 0 && step.is_multiple_of(every) && step < settings.steps;
        if due(settings.eval_every) {
            self.evaluate(model, objective)?;
        }
        if due(settings.sample_every)
            && let Some(text) = objective.sample(&model.frozen())?
        {
            self.io.progress.line(&format!("step {step} writes: {}", one_line(&text)));
        }
        if due(settings.checkpoint_every) {
            self.saved.position = objective.position();
            self.saved.seconds += self.began.elapsed().as_secs_f64();
            self.began = Instant::now();
            let (optimizer, saved, ranks) = (&self.optimizer, &self.saved, self.ranks.as_ref());
            self.checkpoints.save(step, |dir| write_checkpoint(model, optimizer, (saved, ranks), dir))?;
        }
        Ok(())
    }

    fn evaluate(&mut self, model: &Model, objective: &mut dyn Objective) -> Result<()> {
        let step = self.saved.step;
        let figures = objective.evaluate(&model.frozen())?;
        let mut named: Vec<(&str, f64)> = figures.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        named.push(("seconds", self.saved.train_seconds));
        self.metrics.write(step, &named)?;
        let text: Vec<_> = figures.iter().map(|(n, v)| format!("{} {v:.4}", n.replace('_', " "))).collect();
        self.io.progress.line(&format!("step {step}: {}", text.join(", ")));
        self.evaluation = Some((step, figures));
        Ok(())
    }

    fn finish(mut self, model: &Model, objective: &mut dyn Objective) -> Result<TrainSummary> {
        self.evaluate(model, objective)?;
        let rate = self.saved.tokens as f64 / self.saved.train_seconds.max(1e-9);
        let losses = &self.saved.recent_losses;
        Ok(TrainSummary {
            steps: self.saved.step,
            tokens: self.saved.tokens,
            seconds: self.saved.seconds + self.began.elapsed().as_secs_f64(),
            train_loss: losses.iter().sum::<f64>() / losses.len().max(1) as f64,
            evaluation: self.evaluation.map(|(_, figures)| figures).unwrap_or_default(),
            tokens_per_second: rate,
            mfu: rate * objective.flops_per_token() / self.peak_flops,
            peak_memory: peak_memory(),
            resumed_at: self.resumed_at,
        })
    }
}

/// A micro-batch's gradients; its tape is gone.
fn take_gradients(model: &mut Model, loss: Tensor<1>) -> Gradients {
    let mut tape = loss.backward();
    drop(loss);
    model.params_mut().iter().map(|p| p.take_gradient(&mut tape)).collect()
}

fn write_checkpoint(
    model: &mut Model,
    optimizer: &Optimizer,
    (saved, ranks): (&Saved, Option<&Ranks>),
    dir: &std::path::Path,
) -> Result<()> {
    // One tensor at a time: a copy of everything would be the largest amount of memory that training takes.
    let mut biases: BTreeMap<String, HostTensor> =
        crate::balance::biases(model).map(|bias| (bias.name().to_owned(), bias.to_host())).collect();
    biases.extend(ranks.map(|ranks| ranks.state(model)).unwrap_or_default());
    let params = model.params_mut();
    let trained: BTreeMap<&str, &ParamMut<'_>> =
        params.iter().filter(|p| p.trainable()).map(|p| (p.name(), p)).collect();
    let slots = trained.iter().map(|(name, p)| ((*name).to_owned(), DType::F32, p.shape()));
    let slots = slots.chain(biases.iter().map(|(name, bias)| (name.clone(), bias.dtype, bias.shape.clone()))).collect();
    write_safetensors_with(&dir.join("model.safetensors"), slots, &[], |name, out| match biases.get(name) {
        Some(bias) => out.write_all(&bias.bytes),
        None => out.write_all(&trained[name].to_host().bytes),
    })?;
    let moments: BTreeMap<String, &Moments> = optimizer.moments().collect();
    let slots = moments.iter().map(|(name, m)| (name.clone(), m.dtype(), vec![m.len()])).collect();
    write_safetensors_with(&dir.join("optimizer.safetensors"), slots, &[], |name, out| {
        out.write_all(&moments[name].to_host().bytes)
    })?;
    let text = serde_json::to_vec(saved).context(|| "cannot write the trainer's state".into())?;
    write_atomic(&dir.join("trainer.json"), &text)
}

fn restore(
    model: &mut Model,
    optimizer: &mut Optimizer,
    ranks: Option<&mut Ranks>,
    dir: &std::path::Path,
) -> Result<Saved> {
    let mut state = read_safetensors(&dir.join("model.safetensors"))?;
    for mut param in model.params_mut().into_iter().filter(ParamMut::trainable) {
        let tensor = state.remove(param.name()).filter(|t| t.shape == param.shape()).ok_or_else(|| {
            Error::failed(format!("the checkpoint {} does not fit the model at `{}`", dir.display(), param.name()))
        })?;
        let data = tensor.to_f32()?;
        param.update(|numbers| numbers.copy_from_slice(&data));
    }
    for bias in crate::balance::biases(model) {
        let tensor = state
            .remove(bias.name())
            .ok_or_else(|| Error::failed(format!("the checkpoint {} has no `{}`", dir.display(), bias.name())))?;
        let data = tensor.to_f32()?;
        bias.update(|numbers| numbers.copy_from_slice(&data));
    }
    if let Some(ranks) = ranks {
        ranks.restore(model, &mut state)?;
    }
    optimizer.restore(read_safetensors(&dir.join("optimizer.safetensors"))?, &model.params_mut())?;
    let path = dir.join("trainer.json");
    let text = std::fs::read(&path).context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).context(|| format!("cannot read {}", path.display()))
}

fn one_line(text: &str) -> String {
    let flat: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    flat.chars().take(160).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_checkpoint_holds_the_biases_of_routers() {
        let load = || {
            let mut model =
                Model::load(&cupola_testkit::fixture("deepseek-v3"), &burn::tensor::Device::flex()).unwrap();
            model.set_trainable(|_| true);
            model
        };
        let (mut model, mut fresh) = (load(), load());
        model.routers()[0].balance(&[9, 1, 1, 1, 1, 1, 1, 1]);
        let mut optimizer = Optimizer::new(&OptimizerConfig::default()).unwrap();
        let saved = Saved {
            step: 1,
            tokens: 1,
            seconds: 0.0,
            train_seconds: 0.0,
            recent_losses: vec![],
            position: Value::Null,
        };
        let dir = tempfile::tempdir().unwrap();
        write_checkpoint(&mut model, &optimizer, (&saved, None), dir.path()).unwrap();
        assert_ne!(fresh.state(), model.state());
        restore(&mut fresh, &mut optimizer, None, dir.path()).unwrap();
        assert_eq!(fresh.state(), model.state());
    }
}
