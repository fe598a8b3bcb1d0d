//! Causal language modelling on packed sequences.

use std::sync::Arc;

use cupola_arch::Model;
use cupola_artifact::{Context, Result};
use cupola_generate::{Sampler, SamplingParams, score_texts};
use cupola_nn::Step;
use cupola_records::Document;
use cupola_tokenizer::Tokenizer;
use cupola_train::{Objective, Part};
use serde_json::{Value, json};

use crate::stream::Rows;

/// The next token, everywhere.
pub struct CausalLm {
    /// Where rows come from.
    pub rows: Rows,
    /// Sequences of an optimizer step.
    pub sequences: usize,
    /// Sequences at once.
    pub micro_batch: usize,
    /// Tokens of a sequence.
    pub seq_len: usize,
    /// Held-out documents.
    pub validation: Vec<Document>,
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
    fn begin_step(&mut self, _: u64) -> Result<usize> {
        Ok(self.sequences.div_ceil(self.micro_batch))
    }

    fn part(&mut self, model: &Model, index: usize) -> Result<Part> {
        let count = self.micro_batch.min(self.sequences - index * self.micro_batch);
        let (batch, targets) = self.rows.next(count);
        let weight = 1.0 / (self.sequences * self.seq_len) as f32;
        let weights: Arc<[f32]> = vec![weight; targets.len()].into();
        Ok(Part { loss: model.decoder()?.loss(&batch, &targets, &weights), tokens: targets.len(), figures: vec![] })
    }

    fn evaluate(&mut self, model: &Model) -> Result<Vec<(String, f64)>> {
        if self.validation.is_empty() {
            return Ok(vec![]);
        }
        let texts: Vec<&str> = self.validation.iter().map(|d| d.text.as_str()).collect();
        let score = score_texts(model.decoder()?, &self.tokenizer, &texts, &mut |_, _| {})?;
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
        json!(self.rows.position())
    }

    fn restore(&mut self, position: &Value) -> Result<()> {
        let at = serde_json::from_value(position.clone()).context(|| "cannot read the loader's position".into())?;
        self.rows.go_to(at);
        Ok(())
    }
}
