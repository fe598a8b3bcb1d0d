//! LoHa (Hyeon-Woo et al. 2022, "FedPara"): what is added is the product, element by element, of two low-rank matrices, whose
//! rank is up to the square of theirs.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use cupola_artifact::Result;
use cupola_ops::Precision;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::adapters::linear_adapter::{Base, LinearAdapter, Make, kaiming, product};
use crate::adapters::targets::{EXCLUDE_MODULES, LAYERS, Selection, TARGET_MODULES, Targets, of_pattern};
use crate::adapters::{Adapter, AdapterKind, Field, OnLinears, Stands, object, require, settings};
use crate::param::{Param, ParamMut};
use crate::source::Init;

/// What LoHa is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoHaSettings {
    r: usize,
    alpha: f32,
    target_modules: Option<Targets>,
    exclude_modules: Option<Targets>,
    layers: Option<Vec<usize>>,
    rank_pattern: BTreeMap<String, usize>,
    alpha_pattern: BTreeMap<String, f32>,
}

pub(crate) const FIELDS: &[Field] = &[
    Field { name: "r", peft: "r", about: "the rank" },
    Field { name: "alpha", peft: "alpha", about: "the numerator of the scale alpha / r" },
    Field { name: "target_modules", peft: "target_modules", about: TARGET_MODULES },
    Field { name: "exclude_modules", peft: "exclude_modules", about: EXCLUDE_MODULES },
    Field { name: "layers", peft: "layers_to_transform", about: LAYERS },
    Field {
        name: "rank_pattern",
        peft: "rank_pattern",
        about: "other ranks, by regular expressions for ends of names",
    },
    Field { name: "alpha_pattern", peft: "alpha_pattern", about: "other numerators, likewise" },
];

/// LoHa.
pub struct LoHaKind;

impl LoHaKind {
    fn preset(&self) -> LoHaSettings {
        LoHaSettings {
            r: 8,
            alpha: 8.0,
            target_modules: None,
            exclude_modules: None,
            layers: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
        }
    }
}

impl AdapterKind for LoHaKind {
    fn name(&self) -> &'static str {
        "loha"
    }

    fn peft_type(&self) -> &'static str {
        "LOHA"
    }

    fn about(&self) -> &'static str {
        "adds the product, element by element, of two low-rank matrices (Hyeon-Woo et al. 2022)"
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    settings!(LoHaKind: LoHaSettings);
}

impl LoHaSettings {
    fn check(&self) -> Result<()> {
        require(self.r > 0 && self.rank_pattern.values().all(|r| *r > 0), "`r` must be at least 1")?;
        require(self.alpha.is_finite(), "`alpha` must be a number")
    }
}

impl Adapter for LoHaSettings {
    fn settings(&self) -> Map<String, Value> {
        object(self)
    }

    fn stands(&self) -> Stands<'_> {
        Stands::Linears(self)
    }

    fn boxed(&self) -> Box<dyn Adapter> {
        Box::new(self.clone())
    }
}

impl OnLinears for LoHaSettings {
    fn selection(&self) -> Selection {
        Selection {
            target_modules: self.target_modules.clone(),
            exclude_modules: self.exclude_modules.clone(),
            layers: self.layers.clone(),
        }
    }

    fn make(&self, make: &mut Make<'_>) -> Result<Option<Box<dyn LinearAdapter>>> {
        let [d_out, d_in] = make.dims;
        let r = of_pattern(&self.rank_pattern, &make.module, self.r)?;
        let alpha = of_pattern(&self.alpha_pattern, &make.module, self.alpha)?;
        // One zero factor, so that nothing changes at first.
        Ok(Some(Box::new(LoHa {
            first: [
                make.param("hada_w1_a", [d_out, r], kaiming(r))?,
                make.param("hada_w1_b", [r, d_in], kaiming(d_in))?,
            ],
            second: [
                make.param("hada_w2_a", [d_out, r], kaiming(r))?,
                make.param("hada_w2_b", [r, d_in], Init::Fill(0.0))?,
            ],
            scale: alpha / r as f32,
        })))
    }
}

/// One layer's adapter.
#[derive(Clone, Debug)]
struct LoHa {
    /// `[d_out, r]` and `[r, d_in]`.
    first: [Param<2>; 2],
    /// The same.
    second: [Param<2>; 2],
    scale: f32,
}

impl LoHa {
    fn delta(&self) -> Tensor<2> {
        let of = |[a, b]: &[Param<2>; 2]| product(a.value(), b.value());
        (of(&self.first) * of(&self.second)).mul_scalar(self.scale)
    }
}

impl LinearAdapter for LoHa {
    fn forward(&self, x: Tensor<2>, base: &Base<'_>) -> Tensor<2> {
        base.forward(x.clone()) + cupola_ops::linear(x, self.delta(), None, Precision::F32)
    }

    fn merged(&self, weight: Tensor<2>, bias: Option<Tensor<1>>) -> (Tensor<2>, Option<Tensor<1>>) {
        (weight + self.delta(), bias)
    }

    fn params_mut<'a>(&'a mut self, out: &mut Vec<ParamMut<'a>>) {
        out.extend(self.first.iter_mut().chain(&mut self.second).map(ParamMut::Matrix));
    }

    fn boxed(&self) -> Box<dyn LinearAdapter> {
        Box::new(self.clone())
    }
}
