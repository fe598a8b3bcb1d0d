//! Orthogonal fine-tuning (Qiu et al. 2023): blocks of a layer's input are turned. A rotation is the Cayley transform of a
//! skew-symmetric matrix, exact or as the first terms of its Neumann series (Qiu et al. 2025, "OFTv2").

use burn::tensor::{Device, Int, Tensor, TensorData};
use cupola_artifact::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::adapters::linear_adapter::{Base, LinearAdapter, Make, on_tape};
use crate::adapters::targets::{EXCLUDE_MODULES, LAYERS, Selection, TARGET_MODULES, Targets};
use crate::adapters::{Adapter, AdapterKind, Field, OnLinears, Stands, object, require, settings};
use crate::param::{Param, ParamMut};
use crate::source::Init;

/// What OFT is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OftSettings {
    block_size: usize,
    blocks: usize,
    target_modules: Option<Targets>,
    exclude_modules: Option<Targets>,
    layers: Option<Vec<usize>>,
    share: bool,
    series: bool,
    terms: usize,
}

const FIELDS: &[Field] = &[
    Field {
        name: "block_size",
        peft: "oft_block_size",
        about: "how many neighbours of the input turn together; 0 where `blocks` is given",
    },
    Field { name: "blocks", peft: "r", about: "how many blocks there are instead; 0 where `block_size` is given" },
    Field { name: "target_modules", peft: "target_modules", about: TARGET_MODULES },
    Field { name: "exclude_modules", peft: "exclude_modules", about: EXCLUDE_MODULES },
    Field { name: "layers", peft: "layers_to_transform", about: LAYERS },
    Field { name: "share", peft: "block_share", about: "whether all blocks of a layer turn alike" },
    Field {
        name: "series",
        peft: "use_cayley_neumann",
        about: "whether the rotation is the beginning of a series instead of exact",
    },
    Field { name: "terms", peft: "num_cayley_neumann_terms", about: "how many terms of the series" },
];

/// OFT.
pub struct OftKind;

impl OftKind {
    fn preset(&self) -> OftSettings {
        OftSettings {
            block_size: 32,
            blocks: 0,
            target_modules: None,
            exclude_modules: None,
            layers: None,
            share: false,
            series: true,
            terms: 5,
        }
    }
}

impl AdapterKind for OftKind {
    fn name(&self) -> &'static str {
        "oft"
    }

    fn peft_type(&self) -> &'static str {
        "OFT"
    }

    fn about(&self) -> &'static str {
        "turns blocks of a layer's input (Qiu et al. 2023)"
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    settings!(OftKind: OftSettings);
}

impl OftSettings {
    fn check(&self) -> Result<()> {
        require(
            (self.block_size == 0) != (self.blocks == 0),
            "one of `block_size` and `blocks` must be above 0, the other 0",
        )?;
        require(self.block_size != 1, "`block_size` must be at least 2: one number cannot turn")?;
        require(self.terms > 0, "`terms` must be at least 1")
    }

    /// Blocks of an input and their size: what is asked for, or what is nearest to it and divides the width.
    fn blocks(&self, width: usize) -> [usize; 2] {
        match self.blocks {
            0 => {
                let size = nearest_divisor(width, self.block_size);
                [width / size, size]
            }
            blocks => {
                let blocks = nearest_divisor(width, blocks);
                [blocks, width / blocks]
            }
        }
    }
}

/// The divisor of a width that is nearest to a number, the smaller of two.
fn nearest_divisor(width: usize, number: usize) -> usize {
    if number >= width {
        return width;
    }
    let above = (number..=width).find(|n| width.is_multiple_of(*n)).unwrap_or(width);
    let below = (1..=number).rev().find(|n| width.is_multiple_of(*n)).unwrap_or(1);
    if number - below <= above - number { below } else { above }
}

impl Adapter for OftSettings {
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

impl OnLinears for OftSettings {
    fn selection(&self) -> Selection {
        Selection {
            target_modules: self.target_modules.clone(),
            exclude_modules: self.exclude_modules.clone(),
            layers: self.layers.clone(),
        }
    }

    fn make(&self, make: &mut Make<'_>) -> Result<Option<Box<dyn LinearAdapter>>> {
        let [blocks, size] = self.blocks(make.dims[1]);
        if size < 2 {
            return Ok(None);
        }
        let own = if self.share { 1 } else { blocks };
        let weight = make.param("oft_R.weight", [own, size * (size - 1) / 2], Init::Fill(0.0))?;
        Ok(Some(Box::new(Oft { weight, blocks, size, terms: self.series.then_some(self.terms) })))
    }
}

/// One layer's adapter.
#[derive(Clone, Debug)]
struct Oft {
    /// The numbers above the diagonals of the blocks' skew-symmetric matrices, `[blocks, size · (size - 1) / 2]`, or one row
    /// for all.
    weight: Param<2>,
    blocks: usize,
    size: usize,
    /// Terms of the series; none where the rotation is exact.
    terms: Option<usize>,
}

/// `[count, size, size]`: the unit matrix, so many times.
fn units(count: usize, size: usize, device: &Device) -> Tensor<3> {
    Tensor::<2>::eye(size, device).unsqueeze::<3>().repeat_dim(0, count)
}

impl Oft {
    /// The skew-symmetric matrices, `[blocks, size, size]`.
    fn skew(&self) -> Tensor<3> {
        let (weight, size) = (self.weight.value(), self.size);
        let ([count, numbers], device) = (weight.dims(), weight.device());
        let (mut at, mut signs) = (vec![0i32; size * size], vec![0.0f32; size * size]);
        for (i, (row, col)) in (0..size).flat_map(|r| (r + 1..size).map(move |c| (r, c))).enumerate() {
            (at[row * size + col], signs[row * size + col]) = (i as i32, 1.0);
            (at[col * size + row], signs[col * size + row]) = (i as i32, -1.0);
        }
        debug_assert_eq!(numbers, size * (size - 1) / 2);
        let at = Tensor::<1, Int>::from_data(TensorData::new(at, [size * size]), &device);
        let signs = Tensor::<2>::from_data(TensorData::new(signs, [1, size * size]), &device.without_autodiff());
        let taped = weight.is_autodiff();
        (weight.select(1, at) * on_tape(signs, taped)).reshape([count, size, size])
    }

    /// The rotations, `[blocks, size, size]`.
    fn rotations(&self) -> Tensor<3> {
        let q = self.skew();
        let (count, taped) = (q.dims()[0], q.is_autodiff());
        let one = on_tape(units(count, self.size, &q.device().without_autodiff()), taped);
        let r = match self.terms {
            Some(terms) => series(one, q, terms),
            None => (one.clone() - q.clone()).matmul(inverse(one + q)),
        };
        if count == self.blocks { r } else { r.repeat_dim(0, self.blocks) }
    }
}

/// `1 + 2q + 2q² + … + qⁿ`, which tends to `(1 - q)·(1 + q)⁻¹` with `-q`; `terms` counts as PEFT does.
fn series(one: Tensor<3>, q: Tensor<3>, terms: usize) -> Tensor<3> {
    let mut sum = one;
    if terms > 1 {
        sum = sum + q.clone().mul_scalar(2.0);
    }
    if terms > 2 {
        let mut power = q.clone().matmul(q.clone());
        sum = sum + power.clone().mul_scalar(2.0);
        for _ in 3..terms - 1 {
            power = power.matmul(q.clone());
            sum = sum + power.clone().mul_scalar(2.0);
        }
        sum = sum + power.matmul(q);
    }
    sum
}

/// The inverses of matrices `[n, s, s]`, with their gradients: of an inverse found without a tape, one step of Newton's has
/// the same value and the right slope.
fn inverse(m: Tensor<3>) -> Tensor<3> {
    let ([count, size, _], device, taped) = (m.dims(), m.device().without_autodiff(), m.is_autodiff());
    let numbers = cupola_ops::to_vec(&m);
    let found: Vec<f32> = numbers.chunks(size * size).flat_map(|block| inverted(block, size)).collect();
    let found = on_tape(cupola_ops::from_vec(found, [count, size, size], &device), taped);
    let two = on_tape(units(count, size, &device).mul_scalar(2.0), taped);
    found.clone().matmul(two - m.matmul(found))
}

/// The inverse of one matrix `[s, s]` by elimination in double precision. The symmetric part is the unit matrix, so every
/// pivot is at least 1.
fn inverted(m: &[f32], s: usize) -> Vec<f32> {
    let mut left: Vec<f64> = m.iter().map(|x| f64::from(*x)).collect();
    let mut right: Vec<f64> = (0..s * s).map(|i| if i / s == i % s { 1.0 } else { 0.0 }).collect();
    for p in 0..s {
        let pivot = left[p * s + p];
        for c in 0..s {
            left[p * s + c] /= pivot;
            right[p * s + c] /= pivot;
        }
        for row in (0..s).filter(|row| *row != p) {
            let factor = left[row * s + p];
            for c in 0..s {
                left[row * s + c] -= factor * left[p * s + c];
                right[row * s + c] -= factor * right[p * s + c];
            }
        }
    }
    right.into_iter().map(|x| x as f32).collect()
}

impl LinearAdapter for Oft {
    fn forward(&self, x: Tensor<2>, base: &Base<'_>) -> Tensor<2> {
        let [rows, width] = x.dims();
        let r = self.rotations();
        let x = on_tape(x, r.is_autodiff());
        let blocks: Tensor<3> = x.reshape([rows, self.blocks, self.size]).swap_dims(0, 1);
        base.forward(blocks.matmul(r).swap_dims(0, 1).reshape([rows, width]))
    }

    fn merged(&self, weight: Tensor<2>, bias: Option<Tensor<1>>) -> (Tensor<2>, Option<Tensor<1>>) {
        let [d_out, d_in] = weight.dims();
        let r = self.rotations().swap_dims(1, 2);
        let weight = on_tape(weight, r.is_autodiff());
        let blocks: Tensor<3> = weight.reshape([d_out, self.blocks, self.size]).swap_dims(0, 1);
        (blocks.matmul(r).swap_dims(0, 1).reshape([d_out, d_in]), bias)
    }

    fn params_mut<'a>(&'a mut self, out: &mut Vec<ParamMut<'a>>) {
        out.push(ParamMut::Matrix(&mut self.weight));
    }

    fn boxed(&self) -> Box<dyn LinearAdapter> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oft(terms: Option<usize>) -> Oft {
        let numbers = (0..12).map(|i| 0.1 * (i as f32 - 5.0) / 5.0).collect();
        let weight = Param::new("r", cupola_ops::from_vec(numbers, [2, 6], &Device::flex()));
        Oft { weight, blocks: 2, size: 4, terms }
    }

    #[test]
    fn exact_rotations_are_orthogonal_and_the_series_tends_to_them() {
        let exact = oft(None).rotations();
        let gram = cupola_ops::to_vec(&exact.clone().matmul(exact.clone().swap_dims(1, 2)));
        cupola_testkit::assert_close("R·Rᵀ", &gram, &cupola_ops::to_vec(&units(2, 4, &Device::flex())), 1e-6, 0.0);
        // The series is of the inverse rotation's sign.
        let inverse = cupola_ops::to_vec(&exact.swap_dims(1, 2));
        cupola_testkit::assert_close("series", &cupola_ops::to_vec(&oft(Some(12)).rotations()), &inverse, 1e-5, 0.0);
    }

    #[test]
    fn block_sizes_that_do_not_divide_move_to_the_nearest_that_do() {
        assert_eq!([(48, 32), (48, 5), (7, 3), (8, 9)].map(|(w, n)| nearest_divisor(w, n)), [24, 4, 1, 8]);
    }
}
