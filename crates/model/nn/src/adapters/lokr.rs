//! LoKr (Yeh et al. 2024, "Navigating Text-to-Image Customization"): what is added is the Kronecker product of a small matrix
//! and a larger one, each a product of two narrow ones where it would be large.

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

/// What LoKr is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoKrSettings {
    r: usize,
    alpha: f32,
    target_modules: Option<Targets>,
    exclude_modules: Option<Targets>,
    layers: Option<Vec<usize>>,
    rank_pattern: BTreeMap<String, usize>,
    alpha_pattern: BTreeMap<String, f32>,
    factor: i64,
    decompose_both: bool,
}

const FIELDS: &[Field] = &[
    Field { name: "r", peft: "r", about: "the rank where a factor is a product of two" },
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
    Field { name: "factor", peft: "decompose_factor", about: "into what a width is divided; -1: near its square root" },
    Field {
        name: "decompose_both",
        peft: "decompose_both",
        about: "whether the small factor is a product of two as well",
    },
];

/// LoKr.
pub struct LoKrKind;

impl LoKrKind {
    fn preset(&self) -> LoKrSettings {
        LoKrSettings {
            r: 8,
            alpha: 8.0,
            target_modules: None,
            exclude_modules: None,
            layers: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            factor: -1,
            decompose_both: false,
        }
    }
}

impl AdapterKind for LoKrKind {
    fn name(&self) -> &'static str {
        "lokr"
    }

    fn peft_type(&self) -> &'static str {
        "LOKR"
    }

    fn about(&self) -> &'static str {
        "adds the Kronecker product of a small and a larger matrix (Yeh et al. 2024)"
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    settings!(LoKrKind: LoKrSettings);
}

impl LoKrSettings {
    fn check(&self) -> Result<()> {
        require(self.r > 0 && self.rank_pattern.values().all(|r| *r > 0), "`r` must be at least 1")?;
        require(self.factor == -1 || self.factor > 0, "`factor` must be at least 1, or -1")?;
        require(self.alpha.is_finite(), "`alpha` must be a number")
    }
}

impl Adapter for LoKrSettings {
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

/// Two factors of a width, the smaller first: near its square root, or the first one as near to `factor` as it divides.
fn factors(width: usize, factor: Option<usize>) -> (usize, usize) {
    if let Some(factor) = factor.filter(|factor| width.is_multiple_of(*factor)) {
        return (factor, width / factor);
    }
    let limit = factor.unwrap_or(width);
    let (mut best, mut next) = (1, 1);
    while best < width / best {
        next += 1;
        while !width.is_multiple_of(next) {
            next += 1;
        }
        if next + width / next > best + width / best || next > limit {
            break;
        }
        best = next;
    }
    (best.min(width / best), best.max(width / best))
}

impl OnLinears for LoKrSettings {
    fn selection(&self) -> Selection {
        Selection {
            target_modules: self.target_modules.clone(),
            exclude_modules: self.exclude_modules.clone(),
            layers: self.layers.clone(),
        }
    }

    fn make(&self, make: &mut Make<'_>) -> Result<Option<Box<dyn LinearAdapter>>> {
        let r = of_pattern(&self.rank_pattern, &make.module, self.r)?;
        let alpha = of_pattern(&self.alpha_pattern, &make.module, self.alpha)?;
        let [(a, b), (c, d)] = make.dims.map(|width| factors(width, usize::try_from(self.factor).ok()));
        let narrow = |rows: usize, cols: usize| 2 * r < rows.max(cols);
        let small = match self.decompose_both && narrow(a, c) {
            false => Factor::Whole(make.param("lokr_w1", [a, c], Init::Fill(0.0))?),
            true => Factor::Narrow([
                make.param("lokr_w1_a", [a, r], Init::Fill(0.0))?,
                make.param("lokr_w1_b", [r, c], kaiming(c))?,
            ]),
        };
        let large = match narrow(b, d) {
            false => Factor::Whole(make.param("lokr_w2", [b, d], kaiming(d))?),
            true => Factor::Narrow([
                make.param("lokr_w2_a", [b, r], kaiming(r))?,
                make.param("lokr_w2_b", [r, d], kaiming(d))?,
            ]),
        };
        Ok(Some(Box::new(LoKr { small, large, scale: alpha / r as f32 })))
    }
}

/// A factor of the Kronecker product.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there are two for each layer")]
enum Factor {
    Whole(Param<2>),
    Narrow([Param<2>; 2]),
}

impl Factor {
    fn value(&self) -> Tensor<2> {
        match self {
            Factor::Whole(param) => param.value(),
            Factor::Narrow([a, b]) => product(a.value(), b.value()),
        }
    }

    fn params_mut<'a>(&'a mut self, out: &mut Vec<ParamMut<'a>>) {
        match self {
            Factor::Whole(param) => out.push(ParamMut::Matrix(param)),
            Factor::Narrow(pair) => out.extend(pair.iter_mut().map(ParamMut::Matrix)),
        }
    }
}

/// One layer's adapter.
#[derive(Clone, Debug)]
struct LoKr {
    /// `[a, c]` of `d_out = a·b` and `d_in = c·d`.
    small: Factor,
    /// `[b, d]`.
    large: Factor,
    scale: f32,
}

impl LoKr {
    fn delta(&self) -> Tensor<2> {
        let (small, large) = (self.small.value(), self.large.value());
        let ([a, c], [b, d]) = (small.dims(), large.dims());
        let all: Tensor<4> = small.reshape([a, 1, c, 1]) * large.reshape([1, b, 1, d]);
        all.reshape([a * b, c * d]).mul_scalar(self.scale)
    }
}

impl LinearAdapter for LoKr {
    fn forward(&self, x: Tensor<2>, base: &Base<'_>) -> Tensor<2> {
        base.forward(x.clone()) + cupola_ops::linear(x, self.delta(), None, Precision::F32)
    }

    fn merged(&self, weight: Tensor<2>, bias: Option<Tensor<1>>) -> (Tensor<2>, Option<Tensor<1>>) {
        (weight + self.delta(), bias)
    }

    fn params_mut<'a>(&'a mut self, out: &mut Vec<ParamMut<'a>>) {
        self.small.params_mut(out);
        self.large.params_mut(out);
    }

    fn boxed(&self) -> Box<dyn LinearAdapter> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_divide_near_their_roots_or_by_a_given_factor() {
        for (width, factor, want) in [
            (256, None, (16, 16)),
            (128, None, (8, 16)),
            (127, None, (1, 127)),
            (128, Some(4), (4, 32)),
            (48, Some(5), (4, 12)),
            (1, None, (1, 1)),
        ] {
            assert_eq!(factors(width, factor), want, "{width} {factor:?}");
        }
    }
}
