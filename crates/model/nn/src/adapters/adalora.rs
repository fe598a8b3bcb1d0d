//! AdaLoRA (Zhang et al. 2023): `y += scale · x·(A·diag(E))ᵀ·Bᵀ`, as a singular value decomposition would be, of which those
//! triplets of a row of A, a number of E and a column of B that matter least give way during training.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use cupola_artifact::{Error, Result};
use cupola_ops::Precision;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::adapters::linear_adapter::{Base, LinearAdapter, Make, product};
use crate::adapters::targets::{EXCLUDE_MODULES, LAYERS, Selection, TARGET_MODULES, Targets};
use crate::adapters::{Adapter, AdapterKind, Field, OnLinears, Stands, object, require, settings};
use crate::param::{Param, ParamMut};
use crate::source::Init;

/// What AdaLoRA is told. Of the steps of a run, `warmup` are without a change of rank at the beginning and `settle` at the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaLoraSettings {
    /// The rank at the beginning.
    pub r: usize,
    /// The mean rank at the end.
    pub target_r: usize,
    /// The scale's numerator.
    pub alpha: f32,
    /// The layers that get one.
    pub target_modules: Option<Targets>,
    /// The layers that do not.
    pub exclude_modules: Option<Targets>,
    /// The blocks.
    pub layers: Option<Vec<usize>>,
    /// Steps before the rank falls; not set, a tenth of them.
    pub warmup: Option<u64>,
    /// Steps after it has fallen; not set, a third of them.
    pub settle: Option<u64>,
    /// Steps between two changes.
    pub every: u64,
    /// How much of the old sensitivity stays.
    pub beta1: f32,
    /// How much of the old uncertainty stays.
    pub beta2: f32,
    /// The weight of the penalty on rows of A and columns of B that are not orthogonal.
    pub orthogonality: f32,
    /// The steps of the run that made a file.
    pub total_step: Option<u64>,
    /// Which triplets of each layer a file still has.
    pub rank_pattern: Option<BTreeMap<String, Vec<bool>>>,
}

const FIELDS: &[Field] = &[
    Field { name: "r", peft: "init_r", about: "the rank of every layer at the beginning" },
    Field { name: "target_r", peft: "target_r", about: "the mean rank at the end" },
    Field { name: "alpha", peft: "lora_alpha", about: "the numerator of the scale alpha / r" },
    Field { name: "target_modules", peft: "target_modules", about: TARGET_MODULES },
    Field { name: "exclude_modules", peft: "exclude_modules", about: EXCLUDE_MODULES },
    Field { name: "layers", peft: "layers_to_transform", about: LAYERS },
    Field { name: "warmup", peft: "tinit", about: "steps before ranks fall; not set, a tenth of all" },
    Field { name: "settle", peft: "tfinal", about: "steps after they have fallen; not set, a third of all" },
    Field { name: "every", peft: "deltaT", about: "steps between two changes of ranks" },
    Field { name: "beta1", peft: "beta1", about: "how much of a number's old sensitivity stays at a step" },
    Field { name: "beta2", peft: "beta2", about: "the same of how uncertain that is" },
    Field {
        name: "orthogonality",
        peft: "orth_reg_weight",
        about: "the weight of the penalty on rows of A and columns of B that are not orthogonal",
    },
    Field { name: "total_step", peft: "total_step", about: "the steps of the run; it sets them itself" },
    Field {
        name: "rank_pattern",
        peft: "rank_pattern",
        about: "which triplets of each layer are left; the run sets them itself",
    },
];

/// AdaLoRA.
pub struct AdaLoraKind;

impl AdaLoraKind {
    /// As the paper has it for GLUE: half as much again at the beginning as at the end.
    fn preset(&self) -> AdaLoraSettings {
        AdaLoraSettings {
            r: 12,
            target_r: 8,
            alpha: 32.0,
            target_modules: None,
            exclude_modules: None,
            layers: None,
            warmup: None,
            settle: None,
            every: 1,
            beta1: 0.85,
            beta2: 0.85,
            orthogonality: 0.5,
            total_step: None,
            rank_pattern: None,
        }
    }
}

impl AdapterKind for AdaLoraKind {
    fn name(&self) -> &'static str {
        "adalora"
    }

    fn peft_type(&self) -> &'static str {
        "ADALORA"
    }

    fn about(&self) -> &'static str {
        "LoRA in the form of a singular value decomposition, whose ranks move to the layers that need them (Zhang et al. 2023)"
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    fn of_files(&self) -> Map<String, Value> {
        let steps = [("warmup", 0), ("settle", 0), ("alpha", 8)];
        steps.map(|(name, n)| (name.to_string(), Value::from(n))).into_iter().collect()
    }

    settings!(AdaLoraKind: AdaLoraSettings);
}

impl AdaLoraSettings {
    fn check(&self) -> Result<()> {
        require(self.r > 0 && self.target_r > 0, "`r` and `target_r` must be at least 1")?;
        require(self.target_r <= self.r, "`target_r` must not be above `r`: ranks only fall")?;
        require(self.every > 0, "`every` must be at least 1")?;
        let decays = [self.beta1, self.beta2].iter().all(|beta| *beta > 0.0 && *beta < 1.0);
        require(decays, "`beta1` and `beta2` must be between 0 and 1")?;
        require(self.alpha.is_finite() && self.orthogonality >= 0.0, "`orthogonality` must not be negative")
    }

    /// PEFT divides by the rank and a little.
    fn scale(&self) -> f32 {
        let r = self.r as f32;
        (if self.alpha > 0.0 { self.alpha } else { r }) / (r + 1e-5)
    }
}

impl Adapter for AdaLoraSettings {
    fn settings(&self) -> Map<String, Value> {
        object(self)
    }

    fn stands(&self) -> Stands<'_> {
        Stands::Linears(self)
    }

    fn ranks(&self) -> Option<&AdaLoraSettings> {
        Some(self)
    }

    fn boxed(&self) -> Box<dyn Adapter> {
        Box::new(self.clone())
    }
}

impl OnLinears for AdaLoraSettings {
    fn selection(&self) -> Selection {
        Selection {
            target_modules: self.target_modules.clone(),
            exclude_modules: self.exclude_modules.clone(),
            layers: self.layers.clone(),
        }
    }

    fn make(&self, make: &mut Make<'_>) -> Result<Option<Box<dyn LinearAdapter>>> {
        let [d_out, d_in] = make.dims;
        let kept = match &self.rank_pattern {
            None => self.r,
            Some(pattern) => {
                let key = format!("{}.lora_E", make.module);
                let kept = pattern.get(&key).ok_or_else(|| Error::failed(format!("`rank_pattern` has no `{key}`")))?;
                kept.iter().filter(|kept| **kept).count()
            }
        };
        if kept == 0 {
            return Ok(None);
        }
        let deviation = Init::Deviation(0.02);
        Ok(Some(Box::new(AdaLora {
            a: make.param("lora_A", [kept, d_in], deviation)?,
            e: make.param("lora_E", [kept, 1], Init::Fill(0.0))?,
            b: make.param("lora_B", [d_out, kept], deviation)?,
            scale: self.scale(),
            kept: vec![true; kept],
        })))
    }
}

/// One layer's adapter.
#[derive(Clone, Debug)]
pub struct AdaLora {
    /// `[r, d_in]`.
    pub a: Param<2>,
    /// `[r, 1]`.
    pub e: Param<2>,
    /// `[d_out, r]`.
    pub b: Param<2>,
    scale: f32,
    /// Which triplets are left.
    pub kept: Vec<bool>,
}

impl AdaLora {
    /// A with the singular values.
    fn values(&self) -> Tensor<2> {
        self.a.value() * self.e.value()
    }

    /// The mean of `‖A·Aᵀ - 1‖` and `‖Bᵀ·B - 1‖`, `[1]`, as a pair's share of the penalty.
    pub fn penalty(&self) -> [Tensor<1>; 2] {
        [self.a.value(), self.b.value().transpose()].map(|rows| {
            let r = rows.dims()[0];
            let gram = rows.clone().matmul(rows.transpose());
            let off = gram.clone() - on_tape_like(Tensor::eye(r, &gram.device().without_autodiff()), &gram);
            // A root has no slope at zero.
            off.powi_scalar(2).sum().add_scalar(1e-12).sqrt()
        })
    }
}

/// A tensor on the tape where another is.
fn on_tape_like(tensor: Tensor<2>, other: &Tensor<2>) -> Tensor<2> {
    crate::adapters::linear_adapter::on_tape(tensor, other.is_autodiff())
}

impl LinearAdapter for AdaLora {
    fn forward(&self, x: Tensor<2>, base: &Base<'_>) -> Tensor<2> {
        let down = cupola_ops::linear(x.clone(), self.values(), None, Precision::F32);
        base.forward(x) + cupola_ops::linear(down, self.b.value(), None, Precision::F32).mul_scalar(self.scale)
    }

    fn merged(&self, weight: Tensor<2>, bias: Option<Tensor<1>>) -> (Tensor<2>, Option<Tensor<1>>) {
        (weight + product(self.b.value(), self.values()).mul_scalar(self.scale), bias)
    }

    fn params_mut<'a>(&'a mut self, out: &mut Vec<ParamMut<'a>>) {
        out.extend([&mut self.a, &mut self.e, &mut self.b].map(ParamMut::Matrix));
    }

    fn ranked(&mut self) -> Option<&mut AdaLora> {
        Some(self)
    }

    fn boxed(&self) -> Box<dyn LinearAdapter> {
        Box::new(self.clone())
    }
}
