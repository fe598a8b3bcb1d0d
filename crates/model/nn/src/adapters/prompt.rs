//! Vectors in front of a text in the place of tokens: learned directly (prompt tuning, Lester et al. 2021) or made by a small
//! network while they are learned (P-tuning, Liu et al. 2021).

use burn::tensor::Tensor;
use cupola_artifact::Result;
use cupola_ops::{Activation, Precision};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::adapters::linear_adapter::{Make, kaiming};
use crate::adapters::{Adapter, AdapterKind, Field, Stands, object, require, settings};
use crate::param::{Param, ParamMut};
use crate::rng::Rng;
use crate::source::Init;

/// What the vectors begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// The vectors of tokens that are drawn.
    Vocabulary,
    /// Random numbers of the embedding's size.
    Random,
}

/// What prompt tuning and P-tuning are told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptSettings {
    /// How many vectors.
    pub tokens: usize,
    start: Start,
    encoder: bool,
    encoder_width: Option<usize>,
}

const FIELDS: &[Field] = &[
    Field { name: "tokens", peft: "num_virtual_tokens", about: "how many vectors stand before a text" },
    Field {
        name: "start",
        peft: "",
        about: "what they begin with: `vocabulary`, the vectors of drawn tokens, or `random`",
    },
    Field { name: "encoder", peft: "", about: "whether a network of three layers makes them while they are learned" },
    Field { name: "encoder_width", peft: "encoder_hidden_size", about: "its width; not set, the model's" },
];

/// Prompt tuning or P-tuning.
pub struct PromptKind {
    name: &'static str,
    peft_type: &'static str,
    about: &'static str,
    encoder: bool,
}

/// Prompt tuning.
pub const PROMPT_TUNING: PromptKind = PromptKind {
    name: "prompt_tuning",
    peft_type: "PROMPT_TUNING",
    about: "vectors before the text in the place of tokens (Lester et al. 2021)",
    encoder: false,
};

/// P-tuning.
pub const P_TUNING: PromptKind = PromptKind {
    name: "p_tuning",
    peft_type: "P_TUNING",
    about: "the same, made by a small network while they are learned (Liu et al. 2021)",
    encoder: true,
};

impl PromptKind {
    fn preset(&self) -> PromptSettings {
        PromptSettings { tokens: 20, start: Start::Vocabulary, encoder: self.encoder, encoder_width: None }
    }
}

impl AdapterKind for PromptKind {
    fn name(&self) -> &'static str {
        self.name
    }

    fn peft_type(&self) -> &'static str {
        self.peft_type
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    /// Files hold what the network has made.
    fn of_files(&self) -> Map<String, Value> {
        [("encoder".to_string(), Value::Bool(false))].into_iter().collect()
    }

    /// Vectors alone want rates that are far higher (Lester et al. 2021: 0.3); a network that makes them does not.
    fn lr_factor(&self) -> f64 {
        if self.encoder { 10.0 } else { 100.0 }
    }

    settings!(PromptKind: PromptSettings);
}

impl PromptSettings {
    fn check(&self) -> Result<()> {
        require(self.tokens > 0 && self.encoder_width != Some(0), "`tokens` and `encoder_width` must be at least 1")
    }

    /// The vectors; `make.dims` is `[V, D]`, and `make.weight()` the table of tokens.
    ///
    /// # Errors
    /// As [`crate::WeightSource::take`].
    pub fn make(&self, make: &mut Make<'_>, seed: u64) -> Result<Prompt> {
        let ([_, d], tokens) = (make.dims, self.tokens);
        let table = make.weight().filter(|_| self.start == Start::Vocabulary).map(|table| {
            let mut rng = Rng::new(seed, "virtual tokens");
            let rows: Vec<u32> = (0..tokens).map(|_| rng.below(table.dims()[0]) as u32).collect();
            cupola_ops::to_vec(&cupola_ops::embedding(table, &rows.into()))
        });
        let drawn = |i: usize| table.as_ref().map_or(0.0, |numbers| numbers[i]);
        let start = if table.is_some() { Init::Each(&drawn) } else { Init::Normal };
        if !self.encoder {
            return Ok(Prompt(Form::Direct(make.param("prompt_embeddings", [tokens, d], start)?)));
        }
        let width = self.encoder_width.unwrap_or(d);
        let embedding = make.param("prompt_encoder.embedding.weight", [tokens, d], start)?;
        let mut layer = |place: usize, [d_out, d_in]: [usize; 2]| -> Result<(Param<2>, Param<1>)> {
            let name = format!("prompt_encoder.mlp_head.{place}");
            Ok((
                make.param(&format!("{name}.weight"), [d_out, d_in], kaiming(d_in))?,
                make.param(&format!("{name}.bias"), [d_out], kaiming(d_in))?,
            ))
        };
        let layers = [layer(0, [width, d])?, layer(2, [width, width])?, layer(4, [d, width])?];
        Ok(Prompt(Form::Encoded { embedding, layers }))
    }
}

impl Adapter for PromptSettings {
    fn settings(&self) -> Map<String, Value> {
        object(self)
    }

    fn stands(&self) -> Stands<'_> {
        Stands::Prompt(self)
    }

    fn boxed(&self) -> Box<dyn Adapter> {
        Box::new(self.clone())
    }
}

/// Vectors before a text.
#[derive(Clone, Debug)]
pub struct Prompt(Form);

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
enum Form {
    /// `[P, D]`.
    Direct(Param<2>),
    /// An embedding `[P, D]` and three layers.
    Encoded { embedding: Param<2>, layers: [(Param<2>, Param<1>); 3] },
}

impl Prompt {
    /// The vectors, `[P, D]`.
    pub fn vectors(&self) -> Tensor<2> {
        match &self.0 {
            Form::Direct(vectors) => vectors.value(),
            Form::Encoded { embedding, layers } => {
                let apply = |x, (w, b): &(Param<2>, Param<1>)| {
                    cupola_ops::linear(x, w.value(), Some(b.value()), Precision::F32)
                };
                let [first, second, last] = layers;
                let wide = cupola_ops::activation(Activation::Relu, apply(embedding.value(), first));
                apply(cupola_ops::activation(Activation::Relu, apply(wide, second)), last)
            }
        }
    }

    /// How many.
    pub fn tokens(&self) -> usize {
        match &self.0 {
            Form::Direct(vectors) | Form::Encoded { embedding: vectors, .. } => vectors.value().dims()[0],
        }
    }

    pub(crate) fn params_mut<'a>(&'a mut self, out: &mut Vec<ParamMut<'a>>) {
        match &mut self.0 {
            Form::Direct(vectors) => out.push(ParamMut::Table(vectors)),
            Form::Encoded { embedding, layers } => {
                out.push(ParamMut::Table(embedding));
                for (weight, bias) in layers {
                    out.push(ParamMut::Matrix(weight));
                    out.push(ParamMut::Vector(bias));
                }
            }
        }
    }
}
