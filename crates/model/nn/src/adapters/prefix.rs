//! Prefix tuning (Li and Liang 2021): keys and values of each attention layer in front of the text, learned directly or made by a
//! small network while they are learned.

use burn::tensor::Tensor;
use cupola_artifact::Result;
use cupola_ops::Precision;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::adapters::linear_adapter::{Make, kaiming};
use crate::adapters::{Adapter, AdapterKind, Field, Stands, object, require, settings};
use crate::param::{Param, ParamMut};
use crate::source::Init;

/// What prefix tuning is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrefixSettings {
    /// How many keys and values.
    pub tokens: usize,
    projection: bool,
    encoder_width: Option<usize>,
}

const FIELDS: &[Field] = &[
    Field { name: "tokens", peft: "num_virtual_tokens", about: "how many keys and values stand before a text" },
    Field { name: "projection", peft: "", about: "whether a network of two layers makes them while they are learned" },
    Field { name: "encoder_width", peft: "encoder_hidden_size", about: "its width; not set, that of the keys" },
];

/// Prefix tuning.
pub struct PrefixKind;

impl PrefixKind {
    fn preset(&self) -> PrefixSettings {
        PrefixSettings { tokens: 20, projection: false, encoder_width: None }
    }
}

impl AdapterKind for PrefixKind {
    fn name(&self) -> &'static str {
        "prefix_tuning"
    }

    fn peft_type(&self) -> &'static str {
        "PREFIX_TUNING"
    }

    fn about(&self) -> &'static str {
        "keys and values before the text in every attention layer (Li and Liang 2021)"
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    /// As vectors before the text.
    fn lr_factor(&self) -> f64 {
        100.0
    }

    settings!(PrefixKind: PrefixSettings);
}

impl PrefixSettings {
    fn check(&self) -> Result<()> {
        require(self.tokens > 0 && self.encoder_width != Some(0), "`tokens` and `encoder_width` must be at least 1")
    }

    /// The prefix of attention layers of which each has keys of so many numbers; `slots` are their places in the model.
    ///
    /// # Errors
    /// As [`crate::WeightSource::take`].
    pub fn make(&self, make: &mut Make<'_>, slots: Vec<usize>, width: usize) -> Result<Prefix> {
        let (tokens, all) = (self.tokens, 2 * slots.len() * width);
        if !self.projection {
            let numbers = make.param("prompt_embeddings", [tokens, all], Init::Normal)?;
            return Ok(Prefix { form: Form::Direct(numbers), slots, width, tokens });
        }
        let hidden = self.encoder_width.unwrap_or(width);
        let embedding = make.param("prompt_encoder.embedding.weight", [tokens, width], Init::Normal)?;
        let mut layer = |place: usize, [d_out, d_in]: [usize; 2]| -> Result<(Param<2>, Param<1>)> {
            let name = format!("prompt_encoder.transform.{place}");
            Ok((
                make.param(&format!("{name}.weight"), [d_out, d_in], kaiming(d_in))?,
                make.param(&format!("{name}.bias"), [d_out], kaiming(d_in))?,
            ))
        };
        let layers = [layer(0, [hidden, width])?, layer(2, [all, hidden])?];
        Ok(Prefix { form: Form::Projected { embedding, layers }, slots, width, tokens })
    }
}

impl Adapter for PrefixSettings {
    fn settings(&self) -> Map<String, Value> {
        object(self)
    }

    fn stands(&self) -> Stands<'_> {
        Stands::Prefix(self)
    }

    fn boxed(&self) -> Box<dyn Adapter> {
        Box::new(self.clone())
    }
}

/// Keys and values before a text.
#[derive(Clone, Debug)]
pub struct Prefix {
    form: Form,
    slots: Vec<usize>,
    width: usize,
    tokens: usize,
}

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
enum Form {
    /// `[P, layers · 2 · width]`: a layer's keys, then its values.
    Direct(Param<2>),
    /// An embedding `[P, width]` and two layers.
    Projected { embedding: Param<2>, layers: [(Param<2>, Param<1>); 2] },
}

impl Prefix {
    /// All keys and values, `[P, layers · 2 · width]`: a layer's keys, then its values.
    pub fn numbers(&self) -> Tensor<2> {
        match &self.form {
            Form::Direct(numbers) => numbers.value(),
            Form::Projected { embedding, layers: [first, last] } => {
                let apply = |x, (w, b): &(Param<2>, Param<1>)| {
                    cupola_ops::linear(x, w.value(), Some(b.value()), Precision::F32)
                };
                apply(apply(embedding.value(), first).tanh(), last)
            }
        }
    }

    /// How many.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The keys and the values, `[P, width]` each, of the attention layer in a place, out of [`Self::numbers`].
    pub(crate) fn of_slot(&self, numbers: &Tensor<2>, slot: usize) -> Option<[Tensor<2>; 2]> {
        let layer = self.slots.iter().position(|s| *s == slot)?;
        Some([0, 1].map(|part| numbers.clone().narrow(1, (2 * layer + part) * self.width, self.width)))
    }

    /// The places of the attention layers.
    pub(crate) fn slots(&self) -> &[usize] {
        &self.slots
    }

    pub(crate) fn params_mut<'a>(&'a mut self, out: &mut Vec<ParamMut<'a>>) {
        match &mut self.form {
            Form::Direct(numbers) => out.push(ParamMut::Table(numbers)),
            Form::Projected { embedding, layers } => {
                out.push(ParamMut::Table(embedding));
                for (weight, bias) in layers {
                    out.push(ParamMut::Matrix(weight));
                    out.push(ParamMut::Vector(bias));
                }
            }
        }
    }
}
