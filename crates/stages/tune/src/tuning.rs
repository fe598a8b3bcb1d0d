//! Cross-entropy on what the assistant says.

use cupola_arch::Model;
use cupola_artifact::Result;
use cupola_ops::LossForm;
use cupola_train::batching::{Layout, Rows, groups};
use cupola_train::conversation::Example;
use cupola_train::loader::Steps;
use cupola_train::{Objective, Part};
use serde_json::Value;

/// Supervised fine-tuning: the mean negative log-likelihood of the learned tokens of each step's examples.
pub struct Tuning {
    /// What is learned from.
    pub train: Vec<Example>,
    /// What is measured on.
    pub validation: Vec<Example>,
    /// The order of the training examples.
    pub steps: Steps,
    /// Smoothed labels.
    pub form: LossForm,
    /// How they are laid out.
    pub layout: Layout,
    /// What fills rows up.
    pub pad: u32,
    /// Floating-point operations of training on a token.
    pub flops_per_token: f64,
    /// The micro-batches of the step.
    pub parts: Vec<Rows>,
}

/// Lays out examples, so many to a forward pass.
fn lay_out(examples: &[&Example], most: Option<usize>, layout: Layout, pad: u32) -> Vec<Rows> {
    let lengths: Vec<usize> = examples.iter().map(|e| e.inputs()).collect();
    groups(&lengths, most).into_iter().map(|group| Rows::new(&examples[group], layout, pad)).collect()
}

impl Tuning {
    fn learned(parts: &[Rows]) -> usize {
        parts.iter().map(Rows::learned).sum()
    }
}

impl Objective for Tuning {
    fn begin_step(&mut self, _: &Model, _: u64) -> Result<usize> {
        let examples: Vec<&Example> = self.steps.draw().iter().map(|i| &self.train[*i]).collect();
        self.parts = lay_out(&examples, self.steps.micro_batch, self.layout, self.pad);
        Ok(self.parts.len())
    }

    fn part(&mut self, model: &Model, index: usize) -> Result<Part> {
        let rows = &self.parts[index];
        let weights = rows.weights(1.0 / Self::learned(&self.parts) as f64);
        let loss = model.decoder()?.loss_of_form(&rows.batch, &rows.targets, &weights, self.form);
        Ok(Part { loss, tokens: rows.tokens, figures: vec![] })
    }

    fn evaluate(&mut self, model: &Model) -> Result<Vec<(String, f64)>> {
        let examples: Vec<&Example> = self.validation.iter().collect();
        let parts = lay_out(&examples, self.steps.micro_batch, self.layout, self.pad);
        let learned = Self::learned(&parts);
        if learned == 0 {
            return Ok(vec![]);
        }
        let decoder = model.decoder()?;
        let loss = |rows: &Rows| decoder.loss(&rows.batch, &rows.targets, &rows.weights(1.0));
        let sum: f64 = parts.iter().map(|rows| f64::from(cupola_ops::scalar(&loss(rows)))).sum();
        let loss = sum / learned as f64;
        Ok(vec![("validation_loss".into(), loss), ("perplexity".into(), loss.exp())])
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
