//! Texts with what a head should say of them.

use std::sync::Arc;

use burn::tensor::Tensor;
use cupola_arch::Model;
use cupola_artifact::Result;
use cupola_nn::{Batch, Encoder, Targets};
use cupola_ops::IGNORE;
use cupola_train::batching::groups;
use cupola_train::loader::Steps;
use cupola_train::{Objective, Part};
use serde_json::Value;

use crate::scores::{Kind, Said, figures};

/// What a head should say of a text.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// One of the labels.
    Label(i32),
    /// Which of the labels, 1 or 0 each; or numbers.
    Values(Vec<f32>),
    /// A label for each token, or [`IGNORE`].
    Tokens(Vec<i32>),
    /// The tokens at which an answer begins and ends.
    Span([i32; 2]),
}

impl Wanted {
    /// How many losses it counts for.
    fn counts(&self) -> usize {
        match self {
            Wanted::Tokens(labels) => labels.iter().filter(|label| **label != IGNORE).count(),
            _ => 1,
        }
    }
}

/// A text.
#[derive(Clone, Debug, PartialEq)]
pub struct Labelled {
    /// Its tokens with those around it.
    pub ids: Vec<u32>,
    /// Which of two texts each belongs to.
    pub types: Vec<u32>,
    /// What is wanted.
    pub wanted: Wanted,
}

/// Learning labels: the mean loss of each step's texts, or of their labelled tokens.
pub struct Labelling {
    /// What is learned from.
    pub train: Vec<Labelled>,
    /// What is measured on.
    pub validation: Vec<Labelled>,
    /// The order of the training texts.
    pub steps: Steps,
    /// What fills rows up.
    pub pad: u32,
    /// What is measured.
    pub kind: Kind,
    /// The labels' names.
    pub labels: Vec<String>,
    /// Floating-point operations of training on a token.
    pub flops_per_token: f64,
    /// The texts of the step, by micro-batch.
    pub parts: Vec<Vec<usize>>,
}

/// Texts in rows, with their targets, and one over how many losses count as each loss's weight.
fn lay_out(encoder: &Encoder, texts: &[&Labelled], pad: u32, counted: usize) -> (Batch, Targets, Arc<[f32]>) {
    let width = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0);
    let rows = texts.len();
    let fill = |of: &dyn Fn(&Labelled) -> Vec<u32>, value: u32| {
        let mut all = Vec::with_capacity(rows * width);
        for (row, text) in texts.iter().enumerate() {
            all.extend(of(text));
            all.resize((row + 1) * width, value);
        }
        all
    };
    let places: Vec<_> = texts.iter().map(|text| 0..text.ids.len()).collect();
    let mut batch = encoder.spec().batch(fill(&|text| text.ids.clone(), pad), &places);
    if encoder.spec().stack.embedding.types > 1 {
        batch.types = Some(fill(&|text| text.types.clone(), 0).into());
    }
    let weight = 1.0 / counted.max(1) as f32;
    let (targets, losses) = match texts.first().map(|text| &text.wanted) {
        Some(Wanted::Values(_)) => {
            let all = texts.iter().flat_map(|text| match &text.wanted {
                Wanted::Values(values) => values.clone(),
                _ => vec![],
            });
            (Targets::Values(all.collect()), rows)
        }
        Some(Wanted::Tokens(_)) => {
            let mut all = vec![IGNORE; rows * width];
            for (row, text) in texts.iter().enumerate() {
                if let Wanted::Tokens(labels) = &text.wanted {
                    all[row * width..][..labels.len()].copy_from_slice(labels);
                }
            }
            (Targets::Classes(all.into()), rows * width)
        }
        Some(Wanted::Span(_)) => {
            let end = |i: usize| {
                let of = |text: &&Labelled| if let Wanted::Span(ends) = text.wanted { ends[i] } else { IGNORE };
                texts.iter().map(of).collect::<Arc<[i32]>>()
            };
            (Targets::Spans([end(0), end(1)]), rows)
        }
        _ => {
            let all = texts.iter().map(|text| if let Wanted::Label(label) = text.wanted { label } else { IGNORE });
            (Targets::Classes(all.collect()), rows)
        }
    };
    (batch, targets, vec![weight; losses].into())
}

impl Labelling {
    /// The loss of some texts, `[1]`, of `counted` losses in all, and their tokens.
    fn loss(&self, encoder: &Encoder, texts: &[&Labelled], counted: usize) -> Result<(Tensor<1>, usize)> {
        let (batch, targets, weights) = lay_out(encoder, texts, self.pad, counted);
        Ok((encoder.loss(&batch, &targets, &weights)?, texts.iter().map(|text| text.ids.len()).sum()))
    }

    /// What the head says of some texts.
    fn said(&self, encoder: &Encoder, texts: &[&Labelled]) -> Vec<Said> {
        let (batch, _, _) = lay_out(encoder, texts, self.pad, 1);
        let scores = encoder.scores(encoder.hidden(&batch), &batch);
        let (width, seq) = (scores.dims()[1], batch.seq());
        let scores = cupola_ops::to_vec(&scores);
        let of = |(row, text): (usize, &&Labelled)| {
            let own = match self.kind.reads_tokens() {
                true => scores[row * seq * width..][..text.ids.len() * width].to_vec(),
                false => scores[row * width..][..width].to_vec(),
            };
            Said { wanted: text.wanted.clone(), scores: own, width }
        };
        texts.iter().enumerate().map(of).collect()
    }
}

impl Objective for Labelling {
    fn begin_step(&mut self, _: &Model, _: u64) -> Result<usize> {
        let train = &self.train;
        self.parts = self.steps.draw_parts(|i| train[i].ids.len());
        Ok(self.parts.len())
    }

    fn part(&mut self, model: &Model, index: usize) -> Result<Part> {
        let counted = self.parts.iter().flatten().map(|i| self.train[*i].wanted.counts()).sum();
        let texts: Vec<&Labelled> = self.parts[index].iter().map(|i| &self.train[*i]).collect();
        let (loss, tokens) = self.loss(model.encoder()?, &texts, counted)?;
        Ok(Part { loss, tokens, figures: vec![] })
    }

    fn evaluate(&mut self, model: &Model) -> Result<Vec<(String, f64)>> {
        if self.validation.is_empty() {
            return Ok(vec![]);
        }
        let encoder = model.encoder()?;
        let counted = self.validation.iter().map(|text| text.wanted.counts()).sum();
        let lengths: Vec<usize> = self.validation.iter().map(|text| text.ids.len()).collect();
        let (mut loss, mut said) = (0.0, Vec::with_capacity(self.validation.len()));
        for group in groups(&lengths, self.steps.micro_batch) {
            let texts: Vec<&Labelled> = self.validation[group].iter().collect();
            loss += f64::from(cupola_ops::scalar(&self.loss(encoder, &texts, counted)?.0));
            said.extend(self.said(encoder, &texts));
        }
        let named = figures(self.kind, &self.labels, &said).into_iter();
        let named = named.map(|(name, value)| (format!("validation_{name}"), value));
        Ok([("validation_loss".to_owned(), loss)].into_iter().chain(named).collect())
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
