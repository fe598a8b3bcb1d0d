//! Learning from pairs.

use std::path::Path;

use burn::tensor::Tensor;
use cupola_arch::Model;
use cupola_artifact::stage::Progress;
use cupola_artifact::{Context, HostTensor, Result, StateDict, read_safetensors, write_safetensors};
use cupola_nn::Decoder;
use cupola_train::batching::{Layout, Rows, groups};
use cupola_train::conversation::Example;
use cupola_train::loader::Shuffle;
use cupola_train::{Objective, Part};
use serde_json::{Value, json};

use crate::loss::{LossSettings, PairLogps, PairLoss};

/// Two answers to one prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The better one.
    pub chosen: Example,
    /// The worse one.
    pub rejected: Example,
}

impl Pair {
    fn inputs(&self) -> usize {
        self.chosen.inputs() + self.rejected.inputs()
    }
}

/// A pair with the reference's log-probabilities of its answers.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredPair {
    /// The pair.
    pub pair: Pair,
    /// The chosen answer's and the rejected one's.
    pub reference: [f32; 2],
}

/// The summed log-probabilities of the answers to some pairs, chosen and rejected, `[P]` each; and how many tokens
/// passed through the model.
fn answer_logps(model: &Decoder, pairs: &[&Pair], layout: Layout, pad: u32) -> (Tensor<1>, Tensor<1>, usize) {
    let n = pairs.len();
    let answers: Vec<&Example> = pairs.iter().map(|p| &p.chosen).chain(pairs.iter().map(|p| &p.rejected)).collect();
    let rows = Rows::new(&answers, layout, pad);
    let logps = -rows.sums(model.nll(&rows.batch, &rows.targets)); // [2P]
    (logps.clone().narrow(0, 0, n), logps.narrow(0, n, n), rows.tokens)
}

/// The frozen reference's log-probabilities of all answers, computed once. `file` keeps them, so that a run that goes
/// on need not compute them again.
///
/// # Errors
/// A file that cannot be written.
pub fn reference_logps(
    model: &Decoder,
    pairs: &[Pair],
    (layout, pad): (Layout, u32),
    file: &Path,
    progress: &dyn Progress,
) -> Result<Vec<[f32; 2]>> {
    if let Some(kept) = read_kept(file, pairs.len()) {
        return Ok(kept);
    }
    let lengths: Vec<usize> = pairs.iter().map(Pair::inputs).collect();
    let mut out = Vec::with_capacity(pairs.len());
    progress.begin("reference", Some(pairs.len() as u64), "pairs");
    for group in groups(&lengths, None) {
        let some: Vec<&Pair> = pairs[group].iter().collect();
        let (chosen, rejected, _) = answer_logps(model, &some, layout, pad);
        out.extend(cupola_ops::to_vec(&chosen).into_iter().zip(cupola_ops::to_vec(&rejected)).map(|(c, r)| [c, r]));
        progress.update(out.len() as u64, "");
    }
    progress.end();
    let flat: Vec<f32> = out.iter().flatten().copied().collect();
    let state = StateDict::from([("logps".to_owned(), HostTensor::from_f32(vec![out.len(), 2], &flat))]);
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).context(|| format!("cannot create {}", folder.display()))?;
    }
    write_safetensors(file, &state, &[])?;
    Ok(out)
}

fn read_kept(file: &Path, pairs: usize) -> Option<Vec<[f32; 2]>> {
    let state = if file.exists() { read_safetensors(file).ok()? } else { return None };
    let tensor = state.get("logps").filter(|t| t.shape == [pairs, 2])?;
    Some(tensor.to_f32().ok()?.as_chunks::<2>().0.to_vec())
}

/// Direct preference optimization: the mean loss of each step's pairs.
pub struct Alignment {
    /// What is learned from.
    pub train: Vec<ScoredPair>,
    /// What is measured on.
    pub validation: Vec<ScoredPair>,
    /// The order of the training pairs.
    pub shuffle: Shuffle,
    /// Pairs of a step.
    pub batch_size: usize,
    /// Pairs of a forward pass.
    pub micro_batch: Option<usize>,
    /// How answers are laid out.
    pub layout: Layout,
    /// What fills rows up.
    pub pad: u32,
    /// The loss.
    pub loss: &'static dyn PairLoss,
    /// Its settings.
    pub settings: LossSettings,
    /// Floating-point operations of training on a token.
    pub flops_per_token: f64,
    /// The pairs of the step, by micro-batch.
    pub parts: Vec<Vec<usize>>,
}

/// What is told about some pairs, in the order of [`FIGURES`]: sums over them.
type Figures = [f64; FIGURES.len()];

/// The rewards are `β·(log π - log π_ref)` (Rafailov et al. 2023, section 4).
const FIGURES: [&str; 6] =
    ["reward_accuracy", "reward_margin", "rewards_chosen", "rewards_rejected", "logps_chosen", "logps_rejected"];

impl Alignment {
    /// The sum of the losses of some pairs, `[1]`, their figures, and the tokens they have.
    fn losses(&self, model: &Decoder, pairs: &[&ScoredPair]) -> (Tensor<1>, Figures, usize) {
        let plain: Vec<&Pair> = pairs.iter().map(|p| &p.pair).collect();
        let (chosen, rejected, tokens) = answer_logps(model, &plain, self.layout, self.pad);
        let device = chosen.device();
        let constant = |f: &dyn Fn(&ScoredPair) -> f32| {
            cupola_ops::from_vec::<1>(pairs.iter().map(|p| f(p)).collect(), [pairs.len()], &device)
        };
        let logps = PairLogps {
            ref_chosen: constant(&|p| p.reference[0]),
            ref_rejected: constant(&|p| p.reference[1]),
            chosen_tokens: constant(&|p| p.pair.chosen.learned() as f32),
            rejected_tokens: constant(&|p| p.pair.rejected.learned() as f32),
            chosen,
            rejected,
        };
        let loss = self.loss.loss(&logps, &self.settings).sum();
        (loss, self.figures(&logps, pairs), tokens)
    }

    fn figures(&self, logps: &PairLogps, pairs: &[&ScoredPair]) -> Figures {
        let (chosen, rejected) = (cupola_ops::to_vec(&logps.chosen), cupola_ops::to_vec(&logps.rejected));
        let mut sums = Figures::default();
        for ((c, r), pair) in chosen.into_iter().zip(rejected).zip(pairs) {
            let reward = |logp: f32, reference: f32| self.settings.beta * (f64::from(logp) - f64::from(reference));
            let (good, bad) = (reward(c, pair.reference[0]), reward(r, pair.reference[1]));
            let own = [f64::from(u8::from(good > bad)), good - bad, good, bad, f64::from(c), f64::from(r)];
            sums.iter_mut().zip(own).for_each(|(sum, value)| *sum += value);
        }
        sums
    }
}

impl Objective for Alignment {
    fn begin_step(&mut self, _: u64) -> Result<usize> {
        let chosen: Vec<usize> = (0..self.batch_size).map(|_| self.shuffle.draw()).collect();
        let lengths: Vec<usize> = chosen.iter().map(|i| self.train[*i].pair.inputs()).collect();
        self.parts = groups(&lengths, self.micro_batch).into_iter().map(|group| chosen[group].to_vec()).collect();
        Ok(self.parts.len())
    }

    fn part(&mut self, model: &Model, index: usize) -> Result<Part> {
        let pairs: Vec<&ScoredPair> = self.parts[index].iter().map(|i| &self.train[*i]).collect();
        let (loss, sums, tokens) = self.losses(model.decoder()?, &pairs);
        let share = 1.0 / self.batch_size as f64;
        let figures = FIGURES.into_iter().zip(sums.map(|sum| sum * share)).collect();
        Ok(Part { loss: loss.mul_scalar(share), tokens, figures })
    }

    fn evaluate(&mut self, model: &Model) -> Result<Vec<(String, f64)>> {
        if self.validation.is_empty() {
            return Ok(vec![]);
        }
        let lengths: Vec<usize> = self.validation.iter().map(|p| p.pair.inputs()).collect();
        let (mut loss, mut sums) = (0.0, Figures::default());
        for group in groups(&lengths, self.micro_batch) {
            let pairs: Vec<&ScoredPair> = self.validation[group].iter().collect();
            let (sum, figures, _) = self.losses(model.decoder()?, &pairs);
            loss += f64::from(cupola_ops::scalar(&sum));
            sums.iter_mut().zip(figures).for_each(|(all, new)| *all += new);
        }
        let n = self.validation.len() as f64;
        let named = FIGURES.into_iter().zip(sums).map(|(name, sum)| (format!("validation_{name}"), sum / n));
        Ok([("validation_loss".to_owned(), loss / n)].into_iter().chain(named).collect())
    }

    fn flops_per_token(&self) -> f64 {
        self.flops_per_token
    }

    fn position(&self) -> Value {
        json!(self.shuffle.position())
    }

    fn restore(&mut self, position: &Value) -> Result<()> {
        let at = serde_json::from_value(position.clone()).context(|| "the checkpoint has no loader position".into())?;
        self.shuffle.go_to(at);
        Ok(())
    }
}
