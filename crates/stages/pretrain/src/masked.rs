//! Masked language modelling (Devlin et al. 2019), and telling which tokens a small generator put in (Clark et al. 2020).

use std::sync::Arc;

use burn::tensor::Tensor;
use cupola_arch::Model;
use cupola_artifact::{Error, Result};
use cupola_nn::{Batch, Encoder, Rng, Targets, cross_entropy};
use cupola_train::{Objective, Part};
use serde_json::Value;

use crate::masking::{Hidden, Masking};
use crate::rows::{Drawn, Rows};
use crate::stream::Stream;

/// How much more finding replaced tokens counts than making them (Clark et al. 2020).
const FINDING: f32 = 50.0;

/// Hidden tokens; where the model has a generator, that is asked for them, and the model for what it put in wrongly.
pub struct MaskedLm {
    /// Where rows come from.
    pub rows: Box<dyn Rows>,
    /// Sequences of an optimizer step.
    pub sequences: usize,
    /// Sequences at once.
    pub micro_batch: usize,
    /// Tokens of a sequence.
    pub seq_len: usize,
    /// Held-out text.
    pub held_out: Option<Stream>,
    /// How tokens are hidden.
    pub masking: Masking,
    /// Where chance starts.
    pub seed: u64,
    /// Floating-point operations of training on one token.
    pub flops_per_token: f64,
    /// The step that runs.
    pub step: u64,
}

/// Held-out rows that are looked at.
const HELD_OUT_ROWS: usize = 256;

/// What a pass over rows gives.
struct Outcome {
    /// The loss, on the tape.
    loss: Tensor<1>,
    /// The mean negative log-likelihood of hidden tokens, and how many of them are the most likely ones.
    masked: [f64; 2],
    /// The mean loss of finding replaced tokens, and how many tokens are told rightly.
    replaced: Option<[f64; 2]>,
}

/// The most likely class of each row of scores.
fn best(scores: &[f32], width: usize) -> impl Iterator<Item = usize> + '_ {
    scores.chunks(width.max(1)).map(|row| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0))
}

/// A class drawn from each row of scores with the probability that these give it (Gumbel).
fn drawn(scores: &[f32], width: usize, rng: &mut Rng) -> Vec<u32> {
    let noisy: Vec<f32> = scores.iter().map(|s| s - (-(rng.uniform().max(1e-300)).ln()).ln() as f32).collect();
    best(&noisy, width).map(|class| class as u32).collect()
}

/// The share of places that are right.
fn right(marks: impl Iterator<Item = bool>) -> f64 {
    let (right, all) = marks.fold((0, 0), |(right, all), mark| (right + usize::from(mark), all + 1));
    right as f64 / f64::from(all.max(1))
}

impl MaskedLm {
    /// The loss of hidden tokens and what it took: their scores, `[places, V]`.
    fn asked(encoder: &Encoder, batch: &Batch, hidden: &Hidden) -> (Tensor<1>, Vec<f32>, [f64; 2]) {
        let classes: Vec<i32> = hidden.places.iter().map(|at| hidden.targets[*at as usize]).collect();
        let weights = vec![1.0 / classes.len().max(1) as f32; classes.len()];
        let scores = encoder.scores_at(encoder.hidden(batch), &hidden.places);
        let width = scores.dims()[1];
        let values = cupola_ops::to_vec(&scores);
        let loss = cross_entropy(scores, &classes, &weights);
        let share = right(best(&values, width).zip(&classes).map(|(got, class)| got as i32 == *class));
        let nll = f64::from(cupola_ops::scalar(&loss));
        (loss, values, [nll, share])
    }

    fn run(&self, model: &Model, (ids, segments): (&[u32], &[u32]), rng: &mut Rng) -> Result<Outcome> {
        let seq = self.seq_len.min(ids.len());
        let rows = ids.len() / seq.max(1);
        let hidden = self.masking.hide(ids, seq, rng);
        if hidden.places.is_empty() {
            return Err(Error::failed("the training text has rows of special tokens alone"));
        }
        let batch = |ids: Vec<u32>| Batch::bidirectional(ids, rows, segments);
        let encoder = model.encoder()?;
        let Some(generator) = model.generator()? else {
            let (loss, _, masked) = Self::asked(encoder, &batch(hidden.ids.clone()), &hidden);
            return Ok(Outcome { loss, masked, replaced: None });
        };
        let (loss, scores, masked) = Self::asked(&generator, &batch(hidden.ids.clone()), &hidden);
        let mut ids = ids.to_vec();
        let drawn = drawn(&scores, scores.len() / hidden.places.len(), rng);
        hidden.places.iter().zip(drawn).for_each(|(at, id)| ids[*at as usize] = id);
        let replaced = |(at, id): (usize, &u32)| hidden.targets[at] >= 0 && hidden.targets[at] != *id as i32;
        let marks: Arc<[f32]> = ids.iter().enumerate().map(|place| f32::from(replaced(place))).collect();
        let weights: Arc<[f32]> = vec![1.0 / ids.len() as f32; ids.len()].into();
        let batch = batch(ids);
        let finding = encoder.loss(&batch, &Targets::Values(Arc::clone(&marks)), &weights)?;
        let told = match loss.is_autodiff() {
            // Only looked at on held-out text.
            true => 0.0,
            false => {
                let scores = cupola_ops::to_vec(&encoder.scores(encoder.hidden(&batch), &batch));
                right(scores.iter().zip(marks.iter()).map(|(score, mark)| (*score > 0.0) == (*mark > 0.5)))
            }
        };
        let replaced = Some([f64::from(cupola_ops::scalar(&finding)), told]);
        Ok(Outcome { loss: loss + finding.mul_scalar(FINDING), masked, replaced })
    }
}

impl Objective for MaskedLm {
    fn begin_step(&mut self, _: &Model, step: u64) -> Result<usize> {
        self.step = step;
        Ok(self.sequences.div_ceil(self.micro_batch))
    }

    fn part(&mut self, model: &Model, index: usize) -> Result<Part> {
        let count = self.micro_batch.min(self.sequences - index * self.micro_batch);
        let Drawn { ids, segments, .. } = self.rows.draw(count)?;
        let mut rng = Rng::new(self.seed, &format!("masks of step {}, {index}", self.step));
        let outcome = self.run(model, (&ids, &segments), &mut rng)?;
        let share = count as f64 / self.sequences as f64;
        let mut figures = vec![];
        if let Some([finding, _]) = outcome.replaced {
            figures.extend([("masked", share * outcome.masked[0]), ("replaced", share * finding)]);
        }
        Ok(Part { loss: outcome.loss.mul_scalar(share as f32), tokens: ids.len(), figures })
    }

    /// The same tokens are hidden each time.
    fn evaluate(&mut self, model: &Model) -> Result<Vec<(String, f64)>> {
        let Some(held_out) = &self.held_out else { return Ok(vec![]) };
        let mut rng = Rng::new(self.seed, "masks of held-out text");
        let (mut masked, mut replaced, mut rows) = ([0.0; 2], [0.0; 2], 0.0);
        let add = |sum: &mut [f64; 2], more: [f64; 2]| (0..2).for_each(|i| sum[i] += more[i]);
        for (ids, segments) in held_out.rows(self.seq_len).take(HELD_OUT_ROWS) {
            let outcome = self.run(model, (ids, segments), &mut rng)?;
            add(&mut masked, outcome.masked);
            add(&mut replaced, outcome.replaced.unwrap_or_default());
            rows += 1.0;
        }
        let mut figures = vec![("validation_loss", masked[0] / rows), ("masked_accuracy", masked[1] / rows)];
        if model.generator()?.is_some() {
            figures.extend([("replaced_loss", replaced[0] / rows), ("replaced_accuracy", replaced[1] / rows)]);
        }
        Ok(figures.into_iter().map(|(name, value)| (name.to_string(), value)).collect())
    }

    fn flops_per_token(&self) -> f64 {
        self.flops_per_token
    }

    fn position(&self) -> Value {
        self.rows.position()
    }

    fn restore(&mut self, position: &Value) -> Result<()> {
        self.rows.restore(position)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use burn::tensor::Device;
    use cupola_arch::Sizes;
    use cupola_artifact::stage::Silent;
    use cupola_nn::Module;
    use cupola_train::optim::OptimizerConfig;
    use cupola_train::schedule::ScheduleConfig;
    use cupola_train::{TrainIo, TrainSettings, train};

    use crate::stream::StreamRows;

    const VOCABULARY: usize = 24;

    /// Runs of one of four sentences of five tokens over and over: how often tokens are there tells nothing of a hidden one,
    /// which others are around it tells the sentence, and where they stand the token.
    fn text(runs: usize, seed: u64) -> Stream {
        let mut rng = Rng::new(seed, "text");
        let run = |rng: &mut Rng| {
            let (sentence, begin) = (rng.below(4), rng.below(5));
            (0..20).map(move |i| 4 + (5 * sentence + (begin + i) % 5) as u32)
        };
        Stream::of((0..runs).flat_map(|_| run(&mut rng)).collect())
    }

    fn sizes() -> Sizes {
        let (vocab_size, d_model, n_layers, n_heads) = (VOCABULARY, 32, 2, 4);
        let (n_kv_heads, d_head, d_ff, max_seq_len) = (4, 8, 64, 20);
        let (tie_embeddings, bos, eos, pad) = (true, Some(0), vec![0], Some(1));
        Sizes {
            settings: Default::default(),
            vocab_size,
            d_model,
            n_layers,
            n_heads,
            n_kv_heads,
            d_head,
            d_ff,
            max_seq_len,
            tie_embeddings,
            experts: cupola_arch::ExpertSizes::default(),
            bos,
            eos,
            pad,
        }
    }

    /// A fresh model of a family, trained; the figures of the last evaluation.
    fn trained(family: &str, steps: u64) -> (Model, Vec<(String, f64)>) {
        let dir = tempfile::tempdir().unwrap();
        let mut model = Model::fresh(cupola_arch::family(family).unwrap(), &sizes(), 3, &Device::flex()).unwrap();
        model.set_trainable(|_| true);
        let special = (0..VOCABULARY).map(|id| id < 4).collect();
        let mut objective = MaskedLm {
            rows: Box::new(StreamRows::new(Arc::new(text(1600, 1)), 20, 5).unwrap()),
            sequences: 16,
            micro_batch: 8,
            seq_len: 20,
            held_out: Some(text(60, 2)),
            masking: Masking { mask: 2, share: 0.15, hidden: [0.8, 0.1], special, begins: None },
            seed: 7,
            flops_per_token: 0.0,
            step: 0,
        };
        let settings = TrainSettings {
            steps,
            lr: 1e-2,
            schedule: ScheduleConfig { name: "cosine".into(), warmup_steps: steps / 10, min_ratio: 0.1 },
            optimizer: OptimizerConfig { name: "adamw".into(), ..Default::default() },
            clip: 1.0,
            eval_every: 0,
            sample_every: 0,
            checkpoint_every: 0,
            log_every: steps,
            task: family.into(),
        };
        let io = TrainIo { checkpoints: dir.path().join("c"), metrics: dir.path().into(), progress: &Silent };
        let summary = train(&mut model, &mut objective, &settings, &io).unwrap();
        (model, summary.evaluation)
    }

    /// Without context each of the 20 tokens is as likely: ln 20 = 3.0; without order each of a sentence's: ln 5 = 1.6.
    #[test]
    fn every_family_that_learns_hidden_tokens_finds_them_by_their_context() {
        for (family, steps, bar) in [
            ("bert", 400, 2.0),
            ("roberta", 400, 2.0),
            ("distilbert", 400, 2.0),
            ("longformer", 400, 2.0),
            // Shared blocks and a narrow embedding learn more slowly, rotary positions order at once.
            ("albert", 1000, 2.0),
            ("modernbert", 400, 1.2),
        ] {
            let figures = trained(family, steps).1;
            assert_eq!(figures[0].0, "validation_loss");
            assert!(figures[0].1 < bar, "{family}: {figures:?}");
        }
    }

    /// Who knows only how many tokens are replaced, an eighth, is at a loss of 0.38.
    #[test]
    fn a_generator_and_who_finds_its_tokens_are_trained_together() {
        let (model, figures) = trained("electra", 500);
        let figure = |name: &str| figures.iter().find(|f| f.0 == name).unwrap().1;
        assert!(figure("validation_loss") < 2.6, "{figures:?}");
        assert!(figure("replaced_loss") < 0.34, "{figures:?}");
        let dir = tempfile::tempdir().unwrap();
        model.save(dir.path()).unwrap();
        let load = |dir: &std::path::Path| Model::load(dir, &Device::flex()).unwrap();
        let (large, small) = (load(dir.path()), load(&dir.path().join("generator")));
        let table = "electra.embeddings.word_embeddings.weight";
        assert_eq!(large.state()[table], small.state()[table]);
        assert_eq!(small.state().len(), model.generator().unwrap().unwrap().state().len());
        assert!(small.spec().parameters() < large.spec().parameters());
    }

    #[test]
    fn classes_are_drawn_as_often_as_their_scores_say() {
        let mut rng = Rng::new(1, "test");
        let scores: Vec<f32> = (0..6000).flat_map(|_| [0.6f32.ln(), 0.3f32.ln(), 0.1f32.ln()]).collect();
        let drawn = drawn(&scores, 3, &mut rng);
        for (class, share) in [(0, 0.6), (1, 0.3), (2, 0.1)] {
            let got = drawn.iter().filter(|d| **d == class).count() as f64 / 6000.0;
            assert!((got - share).abs() < 0.03, "class {class}: {got}");
        }
    }
}
