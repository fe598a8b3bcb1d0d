//! Restoring damaged texts: what encoder-decoders learn (Raffel et al. 2020; Lewis et al. 2020).

use std::sync::Arc;

use cupola_arch::Model;
use cupola_artifact::{Error, Result};
use cupola_nn::{EncoderDecoder, Pairs, Rng};
use cupola_ops::IGNORE;
use cupola_train::{Objective, Part};
use serde_json::Value;

use crate::corruption::Corruption;
use crate::rows::Rows;
use crate::stream::{Stream, StreamRows};

/// Damaged rows in, what they were out.
pub struct Denoising {
    /// Where rows come from.
    pub rows: Box<dyn Rows>,
    /// Sequences of an optimizer step.
    pub sequences: usize,
    /// Sequences at once.
    pub micro_batch: usize,
    /// Tokens of a sequence.
    pub seq_len: usize,
    /// Held-out text.
    pub held_out: Option<Arc<Stream>>,
    /// How rows are damaged.
    pub corruption: Box<dyn Corruption>,
    /// Where chance starts.
    pub seed: u64,
    /// Floating-point operations of training on one token, of the text or of the answer.
    pub flops_per_token: f64,
    /// The step that runs.
    pub step: u64,
}

/// Held-out rows that are looked at.
const HELD_OUT_ROWS: usize = 256;

impl Denoising {
    /// Rows as pairs, and the labels.
    fn pairs(&self, network: &EncoderDecoder, ids: &[u32], seq: usize, rng: &mut Rng) -> (Pairs, Arc<[i32]>) {
        let damaged: Vec<(Vec<u32>, Vec<u32>)> = ids.chunks(seq).map(|row| self.corruption.corrupt(row, rng)).collect();
        let read: Vec<&[u32]> = damaged.iter().map(|pair| &pair.0[..]).collect();
        let written: Vec<&[u32]> = damaged.iter().map(|pair| &pair.1[..]).collect();
        let spec = network.spec();
        Pairs::padded(&read, &written, [spec.start, spec.padding()])
    }
}

fn counted(labels: &[i32]) -> usize {
    labels.iter().filter(|label| **label != IGNORE).count()
}

impl Objective for Denoising {
    fn begin_step(&mut self, _: &Model, step: u64) -> Result<usize> {
        self.step = step;
        Ok(self.sequences.div_ceil(self.micro_batch))
    }

    /// Each micro-batch counts by its rows.
    fn part(&mut self, model: &Model, index: usize) -> Result<Part> {
        let count = self.micro_batch.min(self.sequences - index * self.micro_batch);
        let ids = self.rows.draw(count)?.ids;
        let mut rng = Rng::new(self.seed, &format!("damage of step {}, {index}", self.step));
        let network = model.encoder_decoder()?;
        let (pairs, labels) = self.pairs(network, &ids, self.seq_len, &mut rng);
        let weight = count as f32 / self.sequences as f32 / counted(&labels).max(1) as f32;
        let weights: Arc<[f32]> = vec![weight; labels.len()].into();
        let tokens = pairs.source.ids.len() + pairs.target.ids.len();
        Ok(Part { loss: network.loss(&pairs, &labels, &weights), tokens, figures: vec![] })
    }

    /// The same rows are damaged in the same way each time.
    fn evaluate(&mut self, model: &Model) -> Result<Vec<(String, f64)>> {
        let Some(held_out) = &self.held_out else { return Ok(vec![]) };
        let network = model.encoder_decoder()?;
        let mut rng = Rng::new(self.seed, "damage of held-out text");
        // A text that is too short for rows is one.
        let seq = self.seq_len.min(held_out.len().saturating_sub(1) / 2).max(1);
        let mut rows = StreamRows::new(Arc::clone(held_out), seq, self.seed)
            .map_err(|_| Error::failed("the held-out text is too short to be evaluated on"))?;
        let all = (held_out.len() / seq).clamp(1, HELD_OUT_ROWS);
        let (mut sum, mut count) = (0.0, 0);
        for at in (0..all).step_by(self.micro_batch.max(1)) {
            let ids = rows.draw(self.micro_batch.min(all - at))?.ids;
            let (pairs, labels) = self.pairs(network, &ids, seq, &mut rng);
            sum += cupola_ops::to_vec(&network.nll(&pairs, &labels)).iter().map(|nll| f64::from(*nll)).sum::<f64>();
            count += counted(&labels);
        }
        let loss = sum / count.max(1) as f64;
        Ok(vec![("validation_loss".into(), loss), ("perplexity".into(), loss.exp())])
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
    use cupola_arch::{ExpertSizes, Sizes};
    use cupola_artifact::stage::Silent;
    use cupola_nn::Module;
    use cupola_train::optim::OptimizerConfig;
    use cupola_train::schedule::ScheduleConfig;
    use cupola_train::{TrainIo, TrainSettings, train};

    use crate::corruption::{Infilling, Spans};

    const VOCABULARY: usize = 40;

    /// Runs of tokens that each follow from the one before by the run's stride: neighbours tell a lost token, and how often
    /// tokens are there tells nothing.
    fn text(runs: usize, length: usize, seed: u64) -> Arc<Stream> {
        let mut rng = Rng::new(seed, "text");
        let run = |rng: &mut Rng| {
            let (first, stride) = (rng.below(20), 1 + 2 * rng.below(2));
            (0..length).map(move |i| 4 + ((first + i * stride) % 20) as u32)
        };
        Arc::new(Stream::of((0..runs).flat_map(|_| run(&mut rng)).collect()))
    }

    fn sizes() -> Sizes {
        let (vocab_size, d_model, n_layers, n_heads) = (VOCABULARY, 32, 2, 4);
        let (n_kv_heads, d_head, d_ff, max_seq_len) = (4, 8, 64, 64);
        let (tie_embeddings, bos, eos, pad) = (false, Some(2), vec![0], Some(1));
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
            bos,
            eos,
            pad,
            experts: ExpertSizes { count: 4, per_token: 1, ..ExpertSizes::default() },
        }
    }

    /// The held-out loss of a fresh model of a family after training.
    fn trained(family: &str, corruption: Box<dyn Corruption>, length: usize, steps: u64) -> f64 {
        let dir = tempfile::tempdir().unwrap();
        let mut model = Model::fresh(cupola_arch::family(family).unwrap(), &sizes(), 3, &Device::flex()).unwrap();
        model.set_trainable(|_| true);
        let mut objective = Denoising {
            rows: Box::new(StreamRows::new(text(24_000 / length, length, 1), 12, 5).unwrap()),
            sequences: 32,
            micro_batch: 32,
            seq_len: 12,
            held_out: Some(text(2_400 / length, length, 2)),
            corruption,
            seed: 7,
            flops_per_token: 0.0,
            step: 0,
        };
        let settings = TrainSettings {
            steps,
            lr: 4e-3,
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
        summary.evaluation.iter().find(|figure| figure.0 == "validation_loss").unwrap().1
    }

    /// The damage without the damaged text: what is left to a model whose decoder does not see what the encoder read.
    struct Unseen<C>(C);

    impl<C: Corruption> Corruption for Unseen<C> {
        fn corrupt(&self, row: &[u32], rng: &mut Rng) -> (Vec<u32>, Vec<u32>) {
            (vec![0], self.0.corrupt(row, rng).1)
        }
    }

    fn spans() -> Spans {
        Spans::new((30..40).collect(), Some(0))
    }

    fn infilling() -> Infilling {
        Infilling { share: 0.15, ..Infilling::new(30, vec![], Some(0)) }
    }

    /// The first token of a lost span costs ln 20 = 3.0 without its context, of five tokens that are written.
    #[test]
    fn families_of_spans_find_them_by_their_context() {
        for family in ["t5", "mt5", "switch_transformers"] {
            let loss = trained(family, Box::new(spans()), 120, 350);
            assert!(loss < 0.35, "{family}: {loss}");
        }
        let unseen = trained("t5", Box::new(Unseen(spans())), 120, 350);
        assert!(unseen > 0.6, "{unseen}");
    }

    /// The first token of each run costs ln 20 where the damaged text is not seen, of twelve tokens.
    #[test]
    fn families_of_whole_texts_restore_them() {
        for family in ["bart", "pegasus", "led"] {
            let loss = trained(family, Box::new(infilling()), 12, 500);
            assert!(loss < 0.35, "{family}: {loss}");
        }
        let unseen = trained("bart", Box::new(Unseen(infilling())), 12, 500);
        assert!(unseen > 0.45, "{unseen}");
    }
}
