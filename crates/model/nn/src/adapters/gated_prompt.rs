//! LLaMA-Adapter (Zhang et al. 2023): learned vectors that queries attend apart from the text, behind a gate that begins closed.

use burn::tensor::Tensor;
use cupola_artifact::Result;
use cupola_ops::{AttentionOptions, Heads, Mask};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::adapters::linear_adapter::Make;
use crate::adapters::{Adapter, AdapterKind, Field, Stands, object, require, settings};
use crate::linear::Linear;
use crate::param::{Param, ParamMut};
use crate::source::Init;

/// What LLaMA-Adapter is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatedPromptSettings {
    /// Vectors of a layer.
    pub tokens: usize,
    /// How many of the last attention layers have some.
    pub last_layers: Option<usize>,
    target_modules: Option<String>,
}

const FIELDS: &[Field] = &[
    Field { name: "tokens", peft: "adapter_len", about: "vectors of a layer" },
    Field {
        name: "last_layers",
        peft: "adapter_layers",
        about: "how many of the last attention layers have some; not set, all",
    },
    Field { name: "target_modules", peft: "target_modules", about: "what files call attention; the model knows it" },
];

/// LLaMA-Adapter.
pub struct LlamaAdapterKind;

impl LlamaAdapterKind {
    fn preset(&self) -> GatedPromptSettings {
        GatedPromptSettings { tokens: 10, last_layers: None, target_modules: None }
    }
}

impl AdapterKind for LlamaAdapterKind {
    fn name(&self) -> &'static str {
        "llama_adapter"
    }

    fn peft_type(&self) -> &'static str {
        "ADAPTION_PROMPT"
    }

    fn about(&self) -> &'static str {
        "learned vectors that the last attention layers attend besides, through a gate that begins at 0 (Zhang et al. 2023)"
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    /// 9e-3 for a width of 4096 (Zhang et al. 2023), with a long warm-up; a quarter of that.
    fn lr_factor(&self) -> f64 {
        100.0
    }

    settings!(LlamaAdapterKind: GatedPromptSettings);
}

impl GatedPromptSettings {
    fn check(&self) -> Result<()> {
        require(self.tokens > 0 && self.last_layers != Some(0), "`tokens` and `last_layers` must be at least 1")
    }

    /// The vectors of one layer; `make.dims` is `[D, D]`. `projected` says whether what they give goes through the output
    /// layer.
    ///
    /// # Errors
    /// As [`crate::WeightSource::take`].
    pub fn make(&self, make: &mut Make<'_>, projected: bool) -> Result<GatedPrompt> {
        let d = make.dims[0];
        Ok(GatedPrompt {
            prompt: make.param("adaption_prompt", [1, self.tokens, d], Init::Deviation(1.0))?,
            gate: make.param("adaption_gate", [1], Init::Fill(0.0))?,
            projected,
        })
    }
}

impl Adapter for GatedPromptSettings {
    fn settings(&self) -> Map<String, Value> {
        object(self)
    }

    fn stands(&self) -> Stands<'_> {
        Stands::Attention(self)
    }

    fn boxed(&self) -> Box<dyn Adapter> {
        Box::new(self.clone())
    }
}

/// One attention layer's vectors.
#[derive(Clone, Debug)]
pub struct GatedPrompt {
    /// `[1, P, D]`.
    prompt: Param<3>,
    /// `[1]`.
    gate: Param<1>,
    projected: bool,
}

impl GatedPrompt {
    /// What it adds to an attention layer's result, `[N, D]`: q `[N, H·dh]` as attention has them.
    pub(crate) fn added(&self, q: Tensor<2>, [k, v, o]: [&Linear; 3], heads: Heads) -> Tensor<2> {
        let ([_, tokens, width], rows) = (self.prompt.value().dims(), q.dims()[0]);
        let prompt = || self.prompt.value().reshape([tokens, width]);
        let mask = Mask { lo: vec![0; rows].into(), hi: vec![tokens as u32; rows].into() };
        let heads = Heads { batch: 1, ..heads };
        let (k, v) = (k.forward(prompt()), v.forward(prompt()));
        let mixed = cupola_ops::attention_with(q, k, v, heads, &mask, &AttentionOptions::default());
        let mixed = mixed * self.gate.value().unsqueeze::<2>();
        if self.projected { o.forward(mixed) } else { mixed }
    }

    pub(crate) fn params_mut<'a>(&'a mut self, out: &mut Vec<ParamMut<'a>>) {
        out.push(ParamMut::Stack(&mut self.prompt));
        out.push(ParamMut::Vector(&mut self.gate));
    }
}
