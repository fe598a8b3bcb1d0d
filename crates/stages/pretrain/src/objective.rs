//! Causal language modelling on packed sequences.

use std::sync::Arc;

use cupola_arch::Model;
use cupola_artifact::Result;
use cupola_generate::{Sampler, SamplingParams, ScoreTexts};
use cupola_nn::Step;
use cupola_ops::LossForm;
use cupola_tokenizer::Tokenizer;
use cupola_train::{Objective, Part};
use serde_json::Value;

use crate::rows::{Drawn, Rows};

/// The next token, everywhere.
pub struct CausalLm {
    /// Where rows come from.
    pub rows: Box<dyn Rows>,
    /// The rows of the step that runs.
    pub drawn: Drawn,
    /// Sequences of an optimizer step.
    pub sequences: usize,
    /// Sequences at once.
    pub micro_batch: usize,
    /// Smoothed labels and a penalty on the logits' size.
    pub form: LossForm,
    /// Held-out documents.
    pub validation: Option<ScoreTexts>,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// What a sample begins with.
    pub prompt: Vec<u32>,
    /// Where sampling starts.
    pub seed: u64,
    /// Floating-point operations of training on one token.
    pub flops_per_token: f64,
}

impl Objective for CausalLm {
    fn begin_step(&mut self, _: &Model, _: u64) -> Result<usize> {
        self.drawn = self.rows.draw(self.sequences)?;
        Ok(self.sequences.div_ceil(self.micro_batch))
    }

    /// Every token of the step that is predicted counts the same.
    fn part(&mut self, model: &Model, index: usize) -> Result<Part> {
        let first = index * self.micro_batch;
        let rows = first..self.sequences.min(first + self.micro_batch);
        let (batch, targets) = self.drawn.batch(rows, self.sequences);
        let weight = 1.0 / self.drawn.counted().max(1) as f32;
        let weights: Arc<[f32]> = vec![weight; targets.len()].into();
        let loss = model.decoder()?.loss_of_form(&batch, &targets, &weights, self.form);
        Ok(Part { loss, tokens: targets.len(), figures: vec![] })
    }

    fn evaluate(&mut self, model: &Model) -> Result<Vec<(String, f64)>> {
        let Some(texts) = &self.validation else { return Ok(vec![]) };
        let score = texts.score(model.decoder()?, &mut |_, _| {})?;
        Ok(vec![
            ("validation_loss".into(), score.nats_per_token()),
            ("perplexity".into(), score.perplexity()),
            ("bits_per_byte".into(), score.bits_per_byte()),
        ])
    }

    fn sample(&mut self, model: &Model) -> Result<Option<String>> {
        let decoder = model.decoder()?;
        let params = SamplingParams { temperature: 0.8, top_p: 0.95, ..Default::default() };
        let mut sampler = Sampler::new(&params, self.seed);
        let mut cache = decoder.cache();
        let (mut next, mut text) = (self.prompt.clone(), Vec::new());
        while cache.len() + next.len() < decoder.spec().max_seq_len && text.len() < 64 {
            let rows = next.len();
            let ids: Arc<[u32]> = std::mem::take(&mut next).into();
            let hidden = decoder.step(&ids, &mut [Step { cache: &mut cache, rows }]);
            let logits = cupola_ops::to_vec(&decoder.logits(hidden.narrow(0, rows - 1, 1)));
            let Ok(id) = sampler.sample(&logits) else { break };
            text.push(id);
            next.push(id);
        }
        Ok(Some(self.tokenizer.decode(&text)?))
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

    use burn::tensor::Device;
    use cupola_arch::Model;
    use cupola_records::Document;
    use cupola_testkit::{TempDir, tiny_llama_dir};

    use super::*;
    use crate::stream::{Stream, StreamRows};

    #[test]
    fn smoothed_labels_and_the_z_loss_change_the_training_loss_alone() {
        let dir = TempDir::new("objective");
        tiny_llama_dir(dir.path(), 1);
        let model = Model::load(dir.path(), &Device::flex()).unwrap();
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        let text = "to be or not to be ".repeat(20);
        let figures = |label_smoothing: f32, z_loss: f32| {
            let document = Document::new("", text.clone(), "");
            let stream = Stream::encode(&[document], &tokenizer, 256).unwrap();
            let mut objective = CausalLm {
                rows: Box::new(StreamRows::new(Arc::new(stream), 32, 1).unwrap()),
                drawn: Drawn::default(),
                sequences: 2,
                micro_batch: 2,
                form: LossForm { label_smoothing, z_loss },
                validation: Some(ScoreTexts::encode(model.decoder().unwrap(), &tokenizer, &[&text]).unwrap()),
                tokenizer: tokenizer.clone(),
                prompt: vec![256],
                seed: 1,
                flops_per_token: 1.0,
            };
            objective.begin_step(&model, 0).unwrap();
            let part = objective.part(&model, 0).unwrap();
            (cupola_ops::scalar(&part.loss), objective.evaluate(&model).unwrap())
        };
        let (plain, smoothed, with_z) = (figures(0.0, 0.0), figures(0.3, 0.0), figures(0.0, 0.1));
        assert!(plain.0 != smoothed.0 && with_z.0 > plain.0, "{} {} {}", plain.0, smoothed.0, with_z.0);
        assert!(plain.1 == smoothed.1 && plain.1 == with_z.1);
    }
}
