//! The stage `pretrain`.

use std::sync::Arc;

use cupola_arch::{Family, Model, Spec};
use cupola_artifact::stage::{Configured, Input, Plan, PlanInputs, Reference, Report, Stage, StageContext};
use cupola_artifact::{Context, Error, Result, human_bytes, human_count, parse_config, write_atomic};
use cupola_nn::Module;
use cupola_ops::LossForm;
use cupola_records::{Split, read_documents};
use cupola_tokenizer::Tokenizer;
use cupola_train::optim::{Optimizer, OptimizerConfig};
use cupola_train::schedule::ScheduleConfig;
use cupola_train::{Objective, PROGRAM_BYTES, StepSize, TrainIo, TrainSettings, TrainSummary, train, training_bytes};
use serde_json::{Map, Value, json};

use crate::config::{Derived, Learned, PretrainConfig};
use crate::corpus::{Corpus, Drawing, known, mixture, packs, tokenizer_of};
use crate::corruption;
use crate::denoising::Denoising;
use crate::masked::MaskedLm;
use crate::masking::Masking;
use crate::objective::CausalLm;
use crate::rows::{Drawn, Rows};

/// Trains a model from nothing.
pub struct PretrainStage;

impl Stage for PretrainStage {
    fn kind(&self) -> &'static str {
        "pretrain"
    }

    fn about(&self) -> &'static str {
        "trains a model from nothing: to predict the next token, or as its family learns"
    }

    fn configure(&self, table: toml::Table) -> Result<Box<dyn Configured>> {
        let config: PretrainConfig = parse_config(self.kind(), table)?;
        let derived = config.derive()?;
        let pretraining = Pretraining { config, derived };
        Optimizer::new(&pretraining.optimizer())?;
        pretraining.schedule(1).ratio(0, 1)?;
        Ok(Box::new(pretraining))
    }
}

struct Pretraining {
    config: PretrainConfig,
    derived: Derived,
}

/// What every objective is made of.
struct Given<'a> {
    rows: Box<dyn Rows>,
    corpus: &'a Corpus,
    model: &'a Model,
    tokenizer: &'a Tokenizer,
    start: u32,
    seed: u64,
}

/// The token before each document.
fn start_of_documents(spec: &Spec, tokenizer: &Tokenizer) -> Result<u32> {
    let (bos, eos, _) = spec.special();
    tokenizer.bos().or(tokenizer.eos()).or(bos).or(eos.first().copied()).ok_or_else(|| {
        Error::failed("neither the tokenizer nor the model says which token begins a document")
            .with_hint("set `bos_token` or `eos_token` in tokenizer_config.json")
    })
}

fn no_tokenizer() -> Error {
    Error::usage("`tokenizer` is missing in [pretrain]")
        .with_hint("add `tokenizer = …` to [pretrain]; only packs bring their own")
}

/// Whether the family learns the next token.
fn learns_next_tokens(family: &'static dyn Family, config: &PretrainConfig, derived: &Derived) -> Result<bool> {
    let spec = Model::fresh_spec(family, &config.sizes(derived, 4096, None))?;
    Ok(matches!(spec, Spec::Decoder(_)))
}

impl Pretraining {
    fn optimizer(&self) -> OptimizerConfig {
        let c = &self.config;
        OptimizerConfig {
            name: c.optimizer.clone(),
            weight_decay: c.weight_decay,
            beta2: c.beta2,
            momentum: c.momentum,
            nesterov: c.nesterov,
            adjust_lr: c.adjust_lr,
            state: c.optimizer_state,
            ..Default::default()
        }
    }

    fn schedule(&self, steps: u64) -> ScheduleConfig {
        ScheduleConfig {
            name: self.config.schedule.clone(),
            warmup_steps: (steps as f64 * self.config.warmup).ceil() as u64,
            min_ratio: self.config.min_lr_ratio,
        }
    }

    fn sequences(&self) -> usize {
        (self.derived.batch_tokens / self.derived.seq_len).max(1)
    }

    fn steps(&self, tokens: u64) -> u64 {
        (tokens / (self.sequences() * self.derived.seq_len) as u64).max(1)
    }

    fn settings(&self, steps: u64, task: String) -> TrainSettings {
        let c = &self.config;
        let every = |count: u64| if count == 0 { 0 } else { steps.div_ceil(count + 1).max(1) };
        TrainSettings {
            steps,
            lr: self.derived.lr,
            schedule: self.schedule(steps),
            optimizer: self.optimizer(),
            clip: c.clip,
            eval_every: every(c.evaluations),
            sample_every: every(c.samples),
            checkpoint_every: every(c.checkpoints),
            log_every: 1,
            task,
        }
    }

    fn causal(&self, given: Given<'_>, spec: &Spec) -> Result<Box<dyn Objective>> {
        let mut prompt = vec![given.start];
        prompt.extend(given.tokenizer.encode(&self.config.sample_prompt)?);
        Ok(Box::new(CausalLm {
            rows: given.rows,
            sequences: self.sequences(),
            micro_batch: self.derived.micro_batch.min(self.sequences()),
            drawn: Drawn::default(),
            form: LossForm { label_smoothing: self.config.label_smoothing, z_loss: self.config.z_loss },
            validation: given.corpus.held_out_texts(given.model, given.tokenizer)?,
            tokenizer: given.tokenizer.clone(),
            prompt,
            seed: given.seed,
            flops_per_token: spec.train_flops_per_token(self.derived.seq_len),
        }))
    }

    fn denoising(&self, given: Given<'_>, spec: &Spec) -> Result<Box<dyn Objective>> {
        let damage = cupola_arch::family(&self.config.family)?.damage();
        Ok(Box::new(Denoising {
            held_out: given.corpus.held_out_stream(given.tokenizer)?.map(Arc::new),
            rows: given.rows,
            sequences: self.sequences(),
            micro_batch: self.derived.micro_batch.min(self.sequences()),
            seq_len: self.derived.seq_len,
            corruption: corruption::of(damage, given.tokenizer, self.derived.seq_len).0,
            seed: given.seed,
            flops_per_token: spec.train_flops_per_token(self.derived.seq_len),
            step: 0,
        }))
    }

    fn masked(&self, given: Given<'_>, spec: &Spec, hidden: [f64; 2]) -> Result<Box<dyn Objective>> {
        let masking = Masking::new(given.tokenizer, self.config.mask_share, hidden, self.config.whole_word)?;
        Ok(Box::new(MaskedLm {
            held_out: given.corpus.held_out_stream(given.tokenizer)?,
            rows: given.rows,
            sequences: self.sequences(),
            micro_batch: self.derived.micro_batch.min(self.sequences()),
            seq_len: self.derived.seq_len,
            masking,
            seed: given.seed,
            flops_per_token: spec.train_flops_per_token(self.derived.seq_len),
            step: 0,
        }))
    }

    fn report(&self, summary: &TrainSummary, went_in: String, parameters: u64) -> Report {
        let mut metrics = Map::new();
        metrics.insert("parameters".into(), json!(parameters));
        metrics.insert("tokens".into(), json!(summary.tokens));
        metrics.insert("steps".into(), json!(summary.steps));
        metrics.insert("precision".into(), json!(self.config.precision.resolve().name()));
        metrics.insert("train_loss".into(), json!(summary.train_loss));
        for (name, value) in &summary.evaluation {
            metrics.insert(name.clone(), json!(value));
        }
        metrics.insert("tokens_per_second".into(), json!(summary.tokens_per_second));
        metrics.insert("mfu".into(), json!(summary.mfu));
        metrics.insert("peak_memory_bytes".into(), json!(summary.peak_memory));
        metrics.insert("train_seconds".into(), json!(summary.seconds));
        let came_out = format!("{} parameters, {} steps", human_count(parameters as f64), summary.steps);
        Report { went_in, came_out, metrics, scores: vec![] }
    }
}

impl Configured for Pretraining {
    fn references(&self) -> Vec<Reference> {
        let data = self.config.data.all().iter().map(|value| Reference { key: "data", value: value.clone() });
        let tokenizer = self.config.tokenizer.iter().map(|value| Reference { key: "tokenizer", value: value.clone() });
        data.chain(tokenizer).collect()
    }

    fn effective_config(&self) -> Value {
        json!({"settings": self.config, "derived": self.derived})
    }

    fn plan(&self, inputs: &PlanInputs<'_>) -> Result<Plan> {
        let family = cupola_arch::family(&self.config.family)?;
        let data: Vec<_> = inputs.inputs.iter().filter(|(i, _)| i.key == "data").map(|(i, plan)| (i, *plan)).collect();
        let arranged = learns_next_tokens(family, &self.config, &self.derived)?;
        let packs = known(&data, self.derived.seq_len, arranged)?;
        if packs.is_none() && self.config.tokenizer.is_none() {
            return Err(no_tokenizer());
        }
        let packed = packs.as_deref().unwrap_or_default();
        let vocab = packed.first().and_then(|pack| pack.vocab_size);
        let vocab = vocab.unwrap_or(inputs.fact("tokenizer", "vocab_size").unwrap_or(4096.0) as usize);
        let spec = Model::fresh_spec(family, &self.config.sizes(&self.derived, vocab, None))?;
        self.config.learned(&spec)?;
        let generator = Model::generator_spec(family, &self.config.sizes(&self.derived, vocab, None))?;
        let both = || [&spec].into_iter().chain(&generator);
        let bytes = inputs.fact("data", "train_bytes").or(inputs.fact("data", "bytes")).unwrap_or(0.0);
        // English text: between two and four bytes to a token, more with a larger vocabulary.
        let bytes_per_token = inputs.fact("tokenizer", "bytes_per_token").unwrap_or((vocab as f64).log2() / 4.0);
        // Shards stay where they are.
        let (bytes, stream) = if packs.is_some() { (0.0, 0.0) } else { (bytes, bytes / bytes_per_token) };
        let given = packed.iter().map(|pack| pack.tokens).sum::<f64>() + stream;
        let (tokens, rule) = self.config.token_budget(spec.matrix_parameters(), given as u64);
        let steps = self.steps(tokens);
        let per_token: f64 = both().map(|spec| spec.train_flops_per_token(self.derived.seq_len)).sum();
        let flops = per_token * tokens as f64;
        let parameters = both().map(Spec::parameters).sum::<u64>() as f64;
        let at_once = self.derived.micro_batch.min(self.sequences());
        let (rows, precision) = (at_once * self.derived.seq_len, self.config.precision.resolve());
        let step = StepSize {
            rows,
            accumulates: at_once < self.sequences(),
            recompute: self.config.activation_checkpointing,
            precision,
            state: Optimizer::new(&self.optimizer())?.bytes_per_parameter(),
        };
        // While the text is encoded there are its tokens, twice for a moment, and their documents; then only the latter.
        let training = both().map(|spec| training_bytes(spec, step)).sum::<f64>() + 8.0 * stream;
        let memory_bytes = PROGRAM_BYTES + training.max(4.0 * parameters + bytes + 12.0 * stream);
        let mut plan = Plan {
            flops,
            memory_bytes,
            disk_bytes: 4.0 * parameters,
            // Small models reach about half of the peak.
            seconds: flops / (0.5 * inputs.peak_flops.max(1.0)),
            notes: [self.derived.rules.clone(), vec![rule], mixture(packed, &self.config, steps, self.sequences())?]
                .concat(),
            ..Default::default()
        };
        for (fact, value) in [("parameters", parameters), ("tokens", tokens as f64), ("vocab_size", vocab as f64)] {
            plan.facts.insert(fact.into(), value);
        }
        plan.facts.insert("d_model".into(), spec.stack().d_model as f64);
        plan.facts.insert("seq_len".into(), self.derived.seq_len as f64);
        Ok(plan)
    }

    fn run(&self, context: &StageContext<'_>) -> Result<Report> {
        let data: Vec<&Input> = context.inputs_for("data").collect();
        let packs = packs(&data)?;
        let named = context.inputs_for("tokenizer").next();
        let tokenizer = match (&packs, named) {
            (Some(packs), named) => tokenizer_of(packs, named)?,
            (None, Some(named)) => Tokenizer::load(&named.path)?,
            (None, None) => return Err(no_tokenizer()),
        };
        let path = &context.input("data")?.path;
        let documents = if packs.is_none() { read_documents(path, Split::Train)? } else { Vec::new() };
        let device = cupola_ops::open(context.device)?;
        let mut sizes = self.config.sizes(&self.derived, tokenizer.vocab_size(), Some(&tokenizer));
        let family = cupola_arch::family(&self.config.family)?;
        if let Spec::EncoderDecoder(_) = Model::fresh_spec(family, &sizes)? {
            sizes.vocab_size = corruption::of(family.damage(), &tokenizer, self.derived.seq_len).1;
            // An answer has its end and its start besides.
            sizes.max_seq_len += 2;
        }
        let mut model = Model::fresh(family, &sizes, context.seed, &device)?;
        let spec = model.spec().clone();
        let learned = self.config.learned(&spec)?;
        model.set_trainable(|_| true);
        model.network.set_precision(self.config.precision.resolve());
        model.set_recompute(self.config.activation_checkpointing)?;

        let start = start_of_documents(&spec, &tokenizer)?;
        let corpus = match packs {
            Some(packs) => Corpus::Packs(packs),
            None => Corpus::encode(path, documents, &tokenizer, start)?,
        };
        let (bytes, all) = (human_bytes(corpus.bytes() as f64), human_count(corpus.tokens() as f64));
        let (tokens, rule) = self.config.token_budget(spec.matrix_parameters(), corpus.tokens());
        let (sequences, steps, seq_len) = (self.sequences(), self.steps(tokens), self.derived.seq_len);
        for line in self.derived.rules.iter().chain([&rule, &self.config.precision.rule()]) {
            context.progress.line(line);
        }
        let rounds = tokens as f64 / corpus.tokens() as f64;
        let parameters = human_count(spec.parameters() as f64);
        context
            .progress
            .line(&format!("{parameters} parameters; {steps} steps, {rounds:.1} rounds through {all} tokens"));
        let arranged = learned == Learned::Causal;
        for line in mixture(&corpus.known(seq_len, arranged)?, &self.config, steps, sequences)? {
            context.progress.line(&line);
        }
        let drawing = Drawing { config: &self.config, seq_len, sequences, steps, seed: context.seed, arranged };
        let rows = corpus.rows(&drawing, &tokenizer)?;
        let given = Given { rows, corpus: &corpus, model: &model, tokenizer: &tokenizer, start, seed: context.seed };
        let mut objective = match learned {
            Learned::Causal => self.causal(given, &spec)?,
            Learned::Masked => self.masked(given, &spec, [0.8, 0.1])?,
            Learned::Replaced => self.masked(given, &spec, [1.0, 0.0])?,
            Learned::Denoised => self.denoising(given, &spec)?,
        };
        let settings = self.settings(steps, format!("pretrain {}", context.name));
        let io = TrainIo {
            checkpoints: context.work.join("checkpoints"),
            metrics: context.dir.to_path_buf(),
            progress: context.progress,
        };
        let summary = train(&mut model, &mut *objective, &settings, &io)?;
        model.save(context.dir)?;
        tokenizer.save(context.dir)?;
        let derived = serde_json::to_string_pretty(&self.derived).context(|| "cannot write derived.json".into())?;
        write_atomic(&context.dir.join("derived.json"), derived.as_bytes())?;
        Ok(self.report(&summary, format!("{bytes}, {all} tokens"), spec.parameters()))
    }
}
