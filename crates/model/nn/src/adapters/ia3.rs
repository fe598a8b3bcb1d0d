//! (IA)³ (Liu et al. 2022): keys, values and the hidden numbers of feed-forward layers are scaled, one factor for each.

use burn::tensor::Tensor;
use cupola_artifact::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::adapters::linear_adapter::{Base, LinearAdapter, Make};
use crate::adapters::targets::{EXCLUDE_MODULES, Roles, Selection, TARGET_MODULES, Targets};
use crate::adapters::{Adapter, AdapterKind, Field, OnLinears, Stands, object, settings};
use crate::param::{Param, ParamMut};
use crate::source::Init;

/// What (IA)³ is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ia3Settings {
    target_modules: Option<Targets>,
    exclude_modules: Option<Targets>,
    feedforward_modules: Option<Targets>,
}

const FIELDS: &[Field] = &[
    Field { name: "target_modules", peft: "target_modules", about: TARGET_MODULES },
    Field { name: "exclude_modules", peft: "exclude_modules", about: EXCLUDE_MODULES },
    Field {
        name: "feedforward_modules",
        peft: "feedforward_modules",
        about: "those of them whose input is scaled instead of their result",
    },
];

/// (IA)³.
pub struct Ia3Kind;

impl Ia3Kind {
    fn preset(&self) -> Ia3Settings {
        Ia3Settings { target_modules: None, exclude_modules: None, feedforward_modules: None }
    }
}

impl AdapterKind for Ia3Kind {
    fn name(&self) -> &'static str {
        "ia3"
    }

    fn peft_type(&self) -> &'static str {
        "IA3"
    }

    fn about(&self) -> &'static str {
        "scales keys, values and the hidden numbers of feed-forward layers (Liu et al. 2022)"
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    /// 3e-3 for a width of 2048 (Liu et al. 2022).
    fn lr_factor(&self) -> f64 {
        100.0
    }

    settings!(Ia3Kind: Ia3Settings);
}

impl Ia3Settings {
    fn check(&self) -> Result<()> {
        Ok(())
    }
}

impl Adapter for Ia3Settings {
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

impl OnLinears for Ia3Settings {
    fn selection(&self) -> Selection {
        Selection {
            target_modules: self.target_modules.clone(),
            exclude_modules: self.exclude_modules.clone(),
            layers: None,
        }
    }

    fn roles(&self) -> Roles {
        Roles::KeysValuesDown
    }

    fn make(&self, make: &mut Make<'_>) -> Result<Option<Box<dyn LinearAdapter>>> {
        let [d_out, d_in] = make.dims;
        let of_input = match &self.feedforward_modules {
            Some(modules) => modules.matches(&make.module)?,
            None => false,
        };
        let shape = if of_input { [1, d_in] } else { [d_out, 1] };
        Ok(Some(Box::new(Ia3 { factors: make.param("ia3_l", shape, Init::Fill(1.0))?, of_input })))
    }
}

/// One layer's factors.
#[derive(Clone, Debug)]
struct Ia3 {
    /// `[1, d_in]` of the input, or `[d_out, 1]` of the result.
    factors: Param<2>,
    of_input: bool,
}

impl LinearAdapter for Ia3 {
    fn forward(&self, x: Tensor<2>, base: &Base<'_>) -> Tensor<2> {
        match self.of_input {
            true => base.forward(x * self.factors.value()),
            false => base.forward(x) * self.factors.value().transpose(),
        }
    }

    fn merged(&self, weight: Tensor<2>, bias: Option<Tensor<1>>) -> (Tensor<2>, Option<Tensor<1>>) {
        let bias = match self.of_input {
            true => bias,
            false => bias.map(|bias| bias * self.factors.value().squeeze_dim::<1>(1)),
        };
        (weight * self.factors.value(), bias)
    }

    fn params_mut<'a>(&'a mut self, out: &mut Vec<ParamMut<'a>>) {
        out.push(ParamMut::Matrix(&mut self.factors));
    }

    fn boxed(&self) -> Box<dyn LinearAdapter> {
        Box::new(self.clone())
    }
}
