//! What stands on an encoder: from its last hidden states to scores of words, labels or places, and their losses.

use std::sync::Arc;

use burn::tensor::activation::{log_sigmoid, log_softmax};
use burn::tensor::{Int, Tensor, TensorData};
use cupola_artifact::Result;
use cupola_ops::{Activation, IGNORE, Precision};

use crate::batch::Batch;
use crate::linear::Linear;
use crate::module::{Module, Piece};
use crate::norm::{Norm, NormSpec};
use crate::param::{Param, ParamMut};
use crate::source::{Init, Scope};

/// What a head is for. Its weights are called after it: `masked.dense.weight`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// One vector for a text.
    Summary,
    /// Words behind masks (Devlin et al. 2019).
    Masked,
    /// Whether a token was replaced (Clark et al. 2020).
    Replaced,
    /// One of several labels for a text.
    Label,
    /// Any of several labels for a text.
    Labels,
    /// Numbers for a text.
    Numbers,
    /// One of several labels for each token.
    Tokens,
    /// Where in a text an answer begins and ends.
    Span,
}

impl Task {
    /// How its weights' names begin.
    pub fn scope(self) -> &'static str {
        match self {
            Task::Summary => "summary",
            Task::Masked => "masked",
            Task::Replaced => "replaced",
            Task::Label | Task::Labels | Task::Numbers => "text",
            Task::Tokens => "token",
            Task::Span => "span",
        }
    }
}

/// What of a text's hidden states stands for all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// The first of its row.
    First,
    /// Its last token's.
    Last,
    /// Their mean.
    Mean,
}

/// A curve of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Squash {
    /// The hyperbolic tangent.
    Tanh,
    /// One of those that feed-forward layers have.
    Of(Activation),
}

/// A linear layer with a curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DenseSpec {
    /// Its width.
    pub width: usize,
    /// Whether it has a bias.
    pub bias: bool,
    /// The curve.
    pub squash: Squash,
}

/// The last layer of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The embedding, with a bias of its own or none.
    Embedding {
        /// Whether it has a bias.
        bias: bool,
    },
    /// A layer with a row and a bias for each word, beside which files keep the bias that the embedding would have.
    Words,
    /// A layer of this width.
    Linear {
        /// Its width.
        width: usize,
        /// Whether it has a bias.
        bias: bool,
    },
}

/// The numbers that make a head: what it reads, then layers of which each may be absent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadSpec {
    /// What it is for.
    pub task: Task,
    /// What of a text it reads; each token's hidden states where it is absent.
    pub pool: Option<Pool>,
    /// A layer in between.
    pub dense: Option<DenseSpec>,
    /// Its norm.
    pub norm: Option<NormSpec>,
    /// The last layer.
    pub out: Option<Output>,
}

impl HeadSpec {
    /// One linear layer with a bias, on each token or on what stands for a text.
    pub fn linear(task: Task, pool: Option<Pool>, width: usize) -> Self {
        Self { task, pool, dense: None, norm: None, out: Some(Output::Linear { width, bias: true }) }
    }
}

/// A head.
#[derive(Clone, Debug)]
pub struct Head {
    spec: HeadSpec,
    dense: Option<Linear>,
    norm: Option<Norm>,
    out: Option<Linear>,
    /// The bias of the embedding as the last layer, `[V]`.
    bias: Option<Param<1>>,
}

/// What the scores should have been.
#[derive(Clone, Debug)]
pub enum Targets {
    /// A class for each row of scores, or [`IGNORE`].
    Classes(Arc<[i32]>),
    /// A number for each score.
    Values(Arc<[f32]>),
    /// The tokens, counted in their row, at which an answer begins and ends; or [`IGNORE`].
    Spans([Arc<[i32]>; 2]),
}

impl Head {
    /// A head out of a source, on hidden states of `d_model` numbers and an embedding of `vocab_size` rows.
    ///
    /// # Errors
    /// When the source lacks a weight or has it in another shape.
    pub fn build(scope: &mut Scope<'_>, spec: &HeadSpec, d_model: usize, vocab_size: usize) -> Result<Self> {
        let width = spec.dense.map_or(d_model, |dense| dense.width);
        let dense = spec.dense.map(|d| scope.linear("dense", [d.width, d_model], d.bias)).transpose()?;
        let norm = spec.norm.map(|norm| scope.norm("norm", norm, width)).transpose()?;
        let (out, bias) = match spec.out {
            None => (None, false),
            Some(Output::Embedding { bias }) => (None, bias),
            Some(Output::Words) => (Some(scope.linear("out", [vocab_size, width], true)?), true),
            Some(Output::Linear { width: n, bias }) => (Some(scope.linear("out", [n, width], bias)?), false),
        };
        let bias = bias.then(|| scope.param("bias", [vocab_size], Init::Fill(0.0))).transpose()?;
        Ok(Self { spec: *spec, dense, norm, out, bias })
    }

    /// The numbers that make it.
    pub fn spec(&self) -> &HeadSpec {
        &self.spec
    }

    /// What it reads of hidden states `[N, D]`: all of them, or what stands for each text, `[B, D]`.
    pub fn read(&self, hidden: Tensor<2>, batch: &Batch) -> Tensor<2> {
        match self.spec.pool {
            Some(pool) => pooled(pool, hidden, batch),
            None => hidden,
        }
    }

    /// Scores of what it reads, `[rows, width]`; `embedding` `[V, E]` is the last layer where there is no other.
    pub fn scores(&self, x: Tensor<2>, embedding: Tensor<2>, precision: Precision) -> Tensor<2> {
        let x = self.squashed(x);
        match (&self.out, self.spec.out) {
            (Some(out), _) => out.forward(x),
            (None, Some(_)) => cupola_ops::linear(x, embedding, self.bias.as_ref().map(Param::value), precision),
            (None, None) => x,
        }
    }

    fn squashed(&self, mut x: Tensor<2>) -> Tensor<2> {
        if let (Some(dense), Some(spec)) = (&self.dense, self.spec.dense) {
            x = match spec.squash {
                Squash::Tanh => dense.forward(x).tanh(),
                Squash::Of(f) => cupola_ops::activation(f, dense.forward(x)),
            };
        }
        match &self.norm {
            Some(norm) => norm.forward(x),
            None => x,
        }
    }

    /// `sum_i weights[i] · loss_i`, `[1]`, of hidden states `[N, D]`: a loss and a weight for each row that it reads.
    pub fn loss(
        &self,
        hidden: Tensor<2>,
        batch: &Batch,
        (targets, weights): (&Targets, &[f32]),
        embedding: Tensor<2>,
        precision: Precision,
    ) -> Tensor<1> {
        let x = self.read(hidden, batch);
        match targets {
            // Words are many: only where one is asked for there are scores.
            Targets::Classes(classes) if self.spec.pool.is_none() => {
                let rows: Arc<[u32]> = (0..classes.len() as u32).filter(|i| classes[*i as usize] != IGNORE).collect();
                if rows.is_empty() {
                    return x.sum().mul_scalar(0.0);
                }
                let classes: Vec<i32> = rows.iter().map(|i| classes[*i as usize]).collect();
                let weights: Vec<f32> = rows.iter().map(|i| weights[*i as usize]).collect();
                let scores = self.scores(cupola_ops::embedding(x, &rows), embedding, precision);
                cross_entropy(scores, &classes, &weights)
            }
            Targets::Classes(classes) => cross_entropy(self.scores(x, embedding, precision), classes, weights),
            Targets::Values(values) => {
                let scores = self.scores(x, embedding, precision);
                let f = if self.spec.task == Task::Numbers { squared } else { binary };
                averaged(f(scores, values), weights)
            }
            Targets::Spans(ends) => {
                let (rows, seq) = (batch.batch, batch.seq());
                let scores = self.scores(x, embedding, precision); // [N, 2]
                let halves: Vec<f32> = weights.iter().map(|w| w / 2.0).collect();
                let losses = ends.iter().enumerate().map(|(i, places)| {
                    cross_entropy(scores.clone().slice([0..rows * seq, i..i + 1]).reshape([rows, seq]), places, &halves)
                });
                losses.fold(scores.clone().sum().mul_scalar(0.0), |sum, loss| sum + loss)
            }
        }
    }
}

impl Module for Head {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        self.dense.pieces(out);
        self.norm.pieces(out);
        let words = self.spec.task == Task::Masked;
        out.extend(self.out.as_mut().map(|l| if words { Piece::Output(l) } else { Piece::Linear(l) }));
        out.extend(self.bias.as_mut().map(|bias| Piece::Param(ParamMut::Vector(bias))));
    }
}

/// What stands for each row's text, `[B, D]`.
pub fn pooled(pool: Pool, hidden: Tensor<2>, batch: &Batch) -> Tensor<2> {
    let (rows, seq, texts) = (batch.batch, batch.seq(), batch.texts());
    match pool {
        Pool::First => cupola_ops::embedding(hidden, &(0..rows).map(|row| (row * seq) as u32).collect()),
        Pool::Last => {
            let last = |row: usize| texts[row].end.max(row * seq + 1) - 1;
            cupola_ops::embedding(hidden, &(0..rows).map(|row| last(row) as u32).collect())
        }
        Pool::Mean => {
            let mut shares = vec![0.0f32; rows * seq];
            texts.iter().for_each(|text| shares[text.clone()].fill(1.0 / text.len() as f32));
            let [_, width] = hidden.dims();
            let shares = Tensor::<2>::from_data(TensorData::new(shares, [rows * seq, 1]), &hidden.device());
            (hidden * shares).reshape([rows, seq, width]).sum_dim(1).reshape([rows, width])
        }
    }
}

/// `sum_i weights[i] · nll_i` of scores `[N, C]`; a class of [`IGNORE`] counts nothing.
pub fn cross_entropy(scores: Tensor<2>, classes: &[i32], weights: &[f32]) -> Tensor<1> {
    let (rows, device) = (classes.len(), scores.device());
    let at: Vec<i32> = classes.iter().map(|class| (*class).max(0)).collect();
    let counted = classes.iter().zip(weights).map(|(class, weight)| if *class == IGNORE { 0.0 } else { *weight });
    let counted = Tensor::<1>::from_data(&counted.collect::<Vec<f32>>()[..], &device);
    let at = Tensor::<1, Int>::from_data(&at[..], &device).reshape([rows, 1]);
    let found: Tensor<1> = log_softmax(scores, 1).gather(1, at).reshape([rows]);
    (found.neg() * counted).sum()
}

fn like(values: &[f32], scores: &Tensor<2>) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values.to_vec(), scores.dims()), &scores.device())
}

/// `-log` of the probability that each score gives to 1 or to 0, or to both in these shares.
fn binary(scores: Tensor<2>, values: &[f32]) -> Tensor<2> {
    let values = like(values, &scores);
    // log σ(-s) = log σ(s) - s
    scores.clone() * (values.neg() + 1.0) - log_sigmoid(scores)
}

fn squared(scores: Tensor<2>, values: &[f32]) -> Tensor<2> {
    let values = like(values, &scores);
    (scores - values).powi_scalar(2)
}

/// The weighted sum over rows of losses `[N, C]`, each row's the mean of its own.
fn averaged(losses: Tensor<2>, weights: &[f32]) -> Tensor<1> {
    let weights = Tensor::<2>::from_data(TensorData::new(weights.to_vec(), [weights.len(), 1]), &losses.device());
    (losses.mean_dim(1) * weights).sum()
}
