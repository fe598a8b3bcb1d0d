//! Low-rank adaptation (Hu et al. 2021): `y += (alpha / r) · x·Aᵀ·Bᵀ`; rank-stabilized (Kalajdzievski 2023) with
//! `alpha / sqrt(r)`; decomposed into magnitude and direction (DoRA, Liu et al. 2024); with a faster B (LoRA+, Hayou et al.
//! 2024).

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use cupola_artifact::{Error, Result};
use cupola_ops::Precision;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::adapters::linear_adapter::{Base, LinearAdapter, Make, kaiming, product};
use crate::adapters::targets::{EXCLUDE_MODULES, LAYERS, Selection, TARGET_MODULES, Targets, of_pattern};
use crate::adapters::{Adapter, AdapterKind, EmbeddingLora, Field, OnLinears, Stands, object, require, settings};
use crate::param::{Param, ParamMut};
use crate::source::Init;

/// What LoRA and its kin are told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraSettings {
    /// The rank r.
    pub r: usize,
    /// The scale's numerator.
    pub alpha: f32,
    /// The layers that get one.
    pub target_modules: Option<Targets>,
    /// The layers that do not.
    pub exclude_modules: Option<Targets>,
    /// The blocks.
    pub layers: Option<Vec<usize>>,
    /// Other ranks for some layers.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Other numerators for some layers.
    pub alpha_pattern: BTreeMap<String, f32>,
    /// Whether the scale is `alpha / sqrt(r)`.
    pub rank_stabilized: bool,
    /// Whether the weight's rows have magnitudes of their own.
    pub magnitudes: bool,
    /// B's learning rate over A's.
    pub lr_ratio: f32,
}

const FIELDS: &[Field] = &[
    Field { name: "r", peft: "r", about: "the rank" },
    Field { name: "alpha", peft: "lora_alpha", about: "the numerator of the scale" },
    Field { name: "target_modules", peft: "target_modules", about: TARGET_MODULES },
    Field { name: "exclude_modules", peft: "exclude_modules", about: EXCLUDE_MODULES },
    Field { name: "layers", peft: "layers_to_transform", about: LAYERS },
    Field {
        name: "rank_pattern",
        peft: "rank_pattern",
        about: "other ranks, by regular expressions for ends of names",
    },
    Field { name: "alpha_pattern", peft: "alpha_pattern", about: "other numerators, likewise" },
    Field {
        name: "rank_stabilized",
        peft: "use_rslora",
        about: "whether the scale is alpha / sqrt(r) instead of alpha / r",
    },
    Field {
        name: "magnitudes",
        peft: "use_dora",
        about: "whether the rows of the weight have trained magnitudes, and the rest turns them only",
    },
    Field { name: "lr_ratio", peft: "", about: "B's learning rate over that of everything else" },
];

/// LoRA or one of its kin: the same with other defaults.
pub struct LoraKind {
    name: &'static str,
    about: &'static str,
    rank_stabilized: bool,
    magnitudes: bool,
    lr_ratio: f32,
}

const PLAIN: LoraKind = LoraKind { name: "", about: "", rank_stabilized: false, magnitudes: false, lr_ratio: 1.0 };

/// LoRA.
pub const LORA: LoraKind = LoraKind {
    name: "lora",
    about: "adds a product of two narrow matrices to a weight, times alpha / r (Hu et al. 2021)",
    ..PLAIN
};

/// rsLoRA.
pub const RSLORA: LoraKind = LoraKind {
    name: "rslora",
    about: "LoRA times alpha / sqrt(r), so that large ranks learn as fast (Kalajdzievski 2023)",
    rank_stabilized: true,
    ..PLAIN
};

/// DoRA.
pub const DORA: LoraKind = LoraKind {
    name: "dora",
    about: "LoRA turns the rows of a weight, and their lengths are trained apart (Liu et al. 2024)",
    magnitudes: true,
    ..PLAIN
};

/// LoRA+, with the ratio that its authors propose.
pub const LORA_PLUS: LoraKind = LoraKind {
    name: "lora_plus",
    about: "LoRA whose B learns `lr_ratio` times as fast as A (Hayou et al. 2024)",
    lr_ratio: 16.0,
    ..PLAIN
};

impl LoraKind {
    fn preset(&self) -> LoraSettings {
        LoraSettings {
            r: 8,
            alpha: 16.0,
            target_modules: None,
            exclude_modules: None,
            layers: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            rank_stabilized: self.rank_stabilized,
            magnitudes: self.magnitudes,
            lr_ratio: self.lr_ratio,
        }
    }
}

impl AdapterKind for LoraKind {
    fn name(&self) -> &'static str {
        self.name
    }

    fn peft_type(&self) -> &'static str {
        "LORA"
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    fn of_files(&self) -> Map<String, Value> {
        [("alpha".to_string(), 8.into())].into_iter().collect()
    }

    settings!(LoraKind: LoraSettings);
}

impl LoraSettings {
    fn check(&self) -> Result<()> {
        require(self.r > 0 && self.rank_pattern.values().all(|r| *r > 0), "`r` must be at least 1")?;
        require(self.alpha.is_finite(), "`alpha` must be a number")?;
        require(self.lr_ratio.is_finite() && self.lr_ratio > 0.0, "`lr_ratio` must be above 0")
    }

    /// The rank and the scale of a layer.
    ///
    /// # Errors
    /// A pattern that is no regular expression.
    pub fn sizes(&self, module: &str) -> Result<(usize, f32)> {
        let r = of_pattern(&self.rank_pattern, module, self.r)?;
        let alpha = of_pattern(&self.alpha_pattern, module, self.alpha)?;
        let divisor = if self.rank_stabilized { (r as f32).sqrt() } else { r as f32 };
        Ok((r, alpha / divisor))
    }
}

impl Adapter for LoraSettings {
    fn settings(&self) -> Map<String, Value> {
        object(self)
    }

    fn stands(&self) -> Stands<'_> {
        Stands::Linears(self)
    }

    fn low_rank(&self) -> Option<&LoraSettings> {
        Some(self)
    }

    fn boxed(&self) -> Box<dyn Adapter> {
        Box::new(self.clone())
    }
}

impl OnLinears for LoraSettings {
    fn selection(&self) -> Selection {
        Selection {
            target_modules: self.target_modules.clone(),
            exclude_modules: self.exclude_modules.clone(),
            layers: self.layers.clone(),
        }
    }

    fn make(&self, make: &mut Make<'_>) -> Result<Option<Box<dyn LinearAdapter>>> {
        let ([d_out, d_in], (r, scale)) = (make.dims, self.sizes(&make.module)?);
        let a = make.param("lora_A.weight", [r, d_in], kaiming(d_in))?;
        let b = make.param("lora_B.weight", [d_out, r], Init::Fill(0.0))?.with_lr_ratio(self.lr_ratio);
        let norms = make.weight().filter(|_| self.magnitudes).map(|weight| cupola_ops::to_vec(&row_norms(weight)));
        let norm = |row: usize| norms.as_ref().map_or(1.0, |norms| norms[row]);
        let magnitude = self.magnitudes.then(|| make.param("lora_magnitude_vector", [d_out], Init::Each(&norm)));
        Ok(Some(Box::new(Lora { a, b, scale, magnitude: magnitude.transpose()? })))
    }

    fn make_embedding(&self, make: &mut Make<'_>) -> Result<EmbeddingLora> {
        if self.magnitudes {
            return Err(Error::usage(format!(
                "`magnitudes` are for linear layers, and {} is an embedding",
                make.module
            )));
        }
        let (r, scale) = self.sizes(&make.module)?;
        EmbeddingLora::make(make, r, scale, self.lr_ratio)
    }
}

/// One layer's low-rank adapter.
#[derive(Clone, Debug)]
pub struct Lora {
    /// `[r, d_in]`.
    a: Param<2>,
    /// `[d_out, r]`.
    b: Param<2>,
    scale: f32,
    /// The lengths of the weight's rows, `[d_out]`.
    magnitude: Option<Param<1>>,
}

/// The lengths of a weight's rows, `[d_out]`.
fn row_norms(weight: Tensor<2>) -> Tensor<1> {
    weight.powi_scalar(2).sum_dim(1).sqrt().squeeze_dim::<1>(1)
}

/// A tensor without its tape.
fn plain(tensor: Tensor<2>) -> Tensor<2> {
    if tensor.is_autodiff() { tensor.inner() } else { tensor }
}

impl Lora {
    /// What it adds, `[N, d_out]`.
    fn added(&self, x: Tensor<2>) -> Tensor<2> {
        let down = cupola_ops::linear(x, self.a.value(), None, Precision::F32);
        cupola_ops::linear(down, self.b.value(), None, Precision::F32).mul_scalar(self.scale)
    }

    /// What it adds to the weight, `[d_out, d_in]`.
    fn delta(&self) -> Tensor<2> {
        product(self.b.value(), self.a.value()).mul_scalar(self.scale)
    }

    /// The factor of each row: its magnitude over the length that the sum has, which counts as a constant (section 4.3).
    fn factors(&self, magnitude: &Param<1>, weight: Tensor<2>) -> Tensor<1> {
        let delta = product(self.b.plain(), self.a.plain()).mul_scalar(self.scale);
        magnitude.value() / row_norms(plain(weight) + delta)
    }
}

impl LinearAdapter for Lora {
    fn forward(&self, x: Tensor<2>, base: &Base<'_>) -> Tensor<2> {
        let Some(magnitude) = &self.magnitude else { return base.forward(x.clone()) + self.added(x) };
        let factors = self.factors(magnitude, base.weight());
        let y = (base.product(x.clone()) + self.added(x)) * factors.unsqueeze::<2>();
        match base.bias() {
            Some(bias) => y + bias.unsqueeze::<2>(),
            None => y,
        }
    }

    fn merged(&self, weight: Tensor<2>, bias: Option<Tensor<1>>) -> (Tensor<2>, Option<Tensor<1>>) {
        let sum = weight.clone() + self.delta();
        match &self.magnitude {
            Some(magnitude) => (sum * self.factors(magnitude, weight).unsqueeze_dim::<2>(1), bias),
            None => (sum, bias),
        }
    }

    fn params_mut<'a>(&'a mut self, out: &mut Vec<ParamMut<'a>>) {
        out.extend([&mut self.a, &mut self.b].map(ParamMut::Matrix));
        out.extend(self.magnitude.as_mut().map(ParamMut::Vector));
    }

    fn boxed(&self) -> Box<dyn LinearAdapter> {
        Box::new(self.clone())
    }
}
