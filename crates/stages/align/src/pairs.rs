//! Learning from pairs.

use burn::tensor::Tensor;
use cupola_arch::Model;
use cupola_artifact::Result;
use cupola_nn::Decoder;
use cupola_train::batching::{Layout, Rows, groups};
use cupola_train::conversation::Example;
use cupola_train::loader::Steps;
use cupola_train::{Objective, Part};
use serde_json::Value;

use crate::loss::{LossSettings, PairLogps, PairLoss, Reward};

/// Two answers to one prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The better one.
    pub chosen: Example,
    /// The worse one.
    pub rejected: Example,
}

impl Pair {
    /// Tokens that the model reads.
    pub fn inputs(&self) -> usize {
        self.chosen.inputs() + self.rejected.inputs()
    }
}

/// A pair with the reference's log-probabilities of its answers.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredPair {
    /// The pair.
    pub pair: Pair,
    /// The chosen answer's and the rejected one's; not read by a loss that needs no reference.
    pub reference: [f32; 2],
}

/// The summed log-probabilities of some answers, `[A]`; and how many tokens passed through the model.
pub(crate) fn logps(model: &Decoder, answers: &[&Example], layout: Layout, pad: u32) -> (Tensor<1>, usize) {
    let rows = Rows::new(answers, layout, pad);
    (-rows.sums(model.nll(&rows.batch, &rows.targets)), rows.tokens)
}

/// Preference optimization: the mean loss of each step's pairs.
pub struct PairAlignment {
    /// What is learned from.
    pub train: Vec<ScoredPair>,
    /// What is measured on.
    pub validation: Vec<ScoredPair>,
    /// The order of the training pairs.
    pub steps: Steps,
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

/// The rewards are as the loss says ([`PairLoss::reward`]).
const FIGURES: [&str; 6] =
    ["reward_accuracy", "reward_margin", "rewards_chosen", "rewards_rejected", "logps_chosen", "logps_rejected"];

impl PairAlignment {
    /// The sum of the losses of some pairs, `[1]`, their figures, and the tokens they have. `mean_chosen` is the mean
    /// length of the chosen answers that are averaged over.
    fn losses(&self, model: &Decoder, pairs: &[&ScoredPair], mean_chosen: f64) -> (Tensor<1>, Figures, usize) {
        let n = pairs.len();
        let chosen = pairs.iter().map(|p| &p.pair.chosen);
        let answers: Vec<&Example> = chosen.chain(pairs.iter().map(|p| &p.pair.rejected)).collect();
        let (logps, tokens) = logps(model, &answers, self.layout, self.pad); // [2P]
        let device = logps.device();
        let constant = |f: &dyn Fn(&ScoredPair) -> f32| {
            cupola_ops::from_vec::<1>(pairs.iter().map(|p| f(p)).collect(), [n], &device)
        };
        let logps = PairLogps {
            ref_chosen: constant(&|p| p.reference[0]),
            ref_rejected: constant(&|p| p.reference[1]),
            chosen_tokens: constant(&|p| p.pair.chosen.learned() as f32),
            rejected_tokens: constant(&|p| p.pair.rejected.learned() as f32),
            chosen: logps.clone().narrow(0, 0, n),
            rejected: logps.narrow(0, n, n),
            mean_chosen_tokens: mean_chosen,
        };
        let loss = self.loss.loss(&logps, &self.settings).sum();
        (loss, self.figures(&logps, pairs), tokens)
    }

    fn figures(&self, logps: &PairLogps, pairs: &[&ScoredPair]) -> Figures {
        let (chosen, rejected) = (cupola_ops::to_vec(&logps.chosen), cupola_ops::to_vec(&logps.rejected));
        let mut sums = Figures::default();
        for ((c, r), pair) in chosen.into_iter().zip(rejected).zip(pairs) {
            let reward = |logp: f32, reference: f32, answer: &Example| {
                let logp = f64::from(logp);
                self.settings.beta
                    * match self.loss.reward() {
                        Reward::Ratio => logp - f64::from(reference),
                        Reward::Sum => logp,
                        Reward::Mean => logp / answer.learned() as f64,
                    }
            };
            let good = reward(c, pair.reference[0], &pair.pair.chosen);
            let bad = reward(r, pair.reference[1], &pair.pair.rejected);
            let own = [f64::from(u8::from(good > bad)), good - bad, good, bad, f64::from(c), f64::from(r)];
            sums.iter_mut().zip(own).for_each(|(sum, value)| *sum += value);
        }
        sums
    }
}

fn mean_chosen<'a>(pairs: impl Iterator<Item = &'a ScoredPair>) -> f64 {
    let (tokens, n) = pairs.fold((0, 0), |(tokens, n), p| (tokens + p.pair.chosen.learned(), n + 1));
    tokens as f64 / n.max(1) as f64
}

impl Objective for PairAlignment {
    fn begin_step(&mut self, _: &Model, _: u64) -> Result<usize> {
        let train = &self.train;
        self.parts = match self.loss.compares_pairs() {
            true => vec![self.steps.draw()],
            false => self.steps.draw_parts(|i| train[i].pair.inputs()),
        };
        Ok(self.parts.len())
    }

    fn part(&mut self, model: &Model, index: usize) -> Result<Part> {
        let pairs: Vec<&ScoredPair> = self.parts[index].iter().map(|i| &self.train[*i]).collect();
        let mean_chosen = mean_chosen(self.parts.iter().flatten().map(|i| &self.train[*i]));
        let (loss, sums, tokens) = self.losses(model.decoder()?, &pairs, mean_chosen);
        let share = 1.0 / self.steps.batch_size as f64;
        let figures = FIGURES.into_iter().zip(sums.map(|sum| sum * share)).collect();
        Ok(Part { loss: loss.mul_scalar(share), tokens, figures })
    }

    fn evaluate(&mut self, model: &Model) -> Result<Vec<(String, f64)>> {
        if self.validation.is_empty() {
            return Ok(vec![]);
        }
        let lengths: Vec<usize> = self.validation.iter().map(|p| p.pair.inputs()).collect();
        let mean_chosen = mean_chosen(self.validation.iter());
        // A loss that compares pairs sees as many together as in training.
        let most = if self.loss.compares_pairs() { Some(self.steps.batch_size) } else { self.steps.micro_batch };
        let (mut loss, mut sums) = (0.0, Figures::default());
        for group in groups(&lengths, most) {
            let pairs: Vec<&ScoredPair> = self.validation[group].iter().collect();
            let (sum, figures, _) = self.losses(model.decoder()?, &pairs, mean_chosen);
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
        self.steps.position()
    }

    fn restore(&mut self, position: &Value) -> Result<()> {
        self.steps.restore(position)
    }
}
