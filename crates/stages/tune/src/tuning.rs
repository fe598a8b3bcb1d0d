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
    /// What is measured on, by name; the first is the stage's own data.
    pub validation: Vec<(String, Vec<Example>)>,
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
    /// The mean negative log-likelihood of the learned tokens of some examples.
    fn loss_of(&self, model: &Model, examples: &[Example]) -> Result<f64> {
        let examples: Vec<&Example> = examples.iter().collect();
        let parts = lay_out(&examples, self.steps.micro_batch, self.layout, self.pad);
        let decoder = model.decoder()?;
        let loss = |rows: &Rows| decoder.loss(&rows.batch, &rows.targets, &rows.weights(1.0));
        let sum: f64 = parts.iter().map(|rows| f64::from(cupola_ops::scalar(&loss(rows)))).sum();
        Ok(sum / Self::learned(&parts).max(1) as f64)
    }

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
        let mut out = vec![];
        let named: Vec<&(String, Vec<Example>)> = self.validation.iter().filter(|(_, set)| !set.is_empty()).collect();
        for (name, set) in &named {
            let loss = self.loss_of(model, set)?;
            let suffix = if named.len() == 1 { String::new() } else { format!("_{name}") };
            out.push((format!("validation_loss{suffix}"), loss));
            out.push((format!("perplexity{suffix}"), loss.exp()));
        }
        Ok(out)
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
