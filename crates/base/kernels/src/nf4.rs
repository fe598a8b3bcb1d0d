//! Four-bit weights in blocks: NF4 with doubly quantized scales (Dettmers et al. 2023, "QLoRA"), number for number as
//! bitsandbytes stores them.

use rayon::prelude::*;

/// What the four-bit codes stand for, times the block's scale: quantiles of the normal distribution.
pub const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Numbers of a row-major weight that share a scale.
pub const NF4_BLOCK: usize = 64;
/// Scales that share a scale of theirs.
pub const NF4_NESTED: usize = 256;
/// Blocks of a task.
const TASK: usize = 1 << 10;

/// A weight in four bits: element = `NF4[code] · scale` of its block, and that scale = `code' · scale'` of its own block, plus
/// `offset`.
#[derive(Clone, Copy)]
pub struct Nf4<'a> {
    /// Two codes to a byte, the first in the high half.
    pub packed: &'a [u8],
    /// The scales' codes into [`nf4_scale_codes`], one for each [`NF4_BLOCK`] numbers.
    pub scales: &'a [u8],
    /// The scales' scales, one for each [`NF4_NESTED`] of them.
    pub nested: &'a [f32],
    /// The mean of the scales.
    pub offset: f32,
    /// How many numbers there are.
    pub len: usize,
}

/// The same with what it owns.
#[derive(Clone, Debug, PartialEq)]
pub struct Nf4Parts {
    /// As [`Nf4::packed`].
    pub packed: Vec<u8>,
    /// As [`Nf4::scales`].
    pub scales: Vec<u8>,
    /// As [`Nf4::nested`].
    pub nested: Vec<f32>,
    /// As [`Nf4::offset`].
    pub offset: f32,
}

/// What the eight-bit codes of scales stand for: a sign and a number whose exponent and fraction share seven bits (Dettmers et
/// al. 2022, "8-bit Optimizers"), in rising order.
pub fn nf4_scale_codes() -> [f32; 256] {
    let mut codes = Vec::with_capacity(256);
    for exponent in 0..7 {
        let (parts, power) = (1u32 << exponent, 10f64.powi(exponent as i32 - 6));
        // The means of neighbours among `parts + 1` even steps from 0.1 to 1.
        let step = 0.9f32 / parts as f32;
        let bound = |i: u32| {
            if i < parts.div_ceil(2) { step.mul_add(i as f32, 0.1) } else { (-step).mul_add((parts - i) as f32, 1.0) }
        };
        for i in 0..parts {
            let mean = (bound(i) + bound(i + 1)) / 2.0;
            let value = (power as f32) * mean;
            codes.extend([value, -value]);
        }
    }
    codes.extend([0.0, 1.0]);
    codes.sort_by(f32::total_cmp);
    std::array::from_fn(|i| codes[i])
}

/// The place of the nearest of some rising numbers.
fn nearest(codes: &[f32], x: f32) -> u8 {
    let above = codes.partition_point(|code| *code < x).min(codes.len() - 1);
    let below = above.saturating_sub(1);
    let lower = (x - codes[below]).abs() <= (codes[above] - x).abs();
    (if lower { below } else { above }) as u8
}

/// A number from -1 to 1 rounded to one of 2¹⁶ even steps, as bitsandbytes does before it looks for a scale's code.
fn on_grid(x: f32) -> f32 {
    ((x + 1.0) * 32767.5 + 0.5).floor() / 32767.5 - 1.0
}

/// Rounds numbers to the nearest codes, block by block. A block of zeros stays one.
pub fn quantize_nf4(w: &[f32]) -> Nf4Parts {
    let tops: Vec<f32> =
        w.par_chunks(NF4_BLOCK).map(|block| block.iter().fold(0.0f32, |top, x| top.max(x.abs()))).collect();
    let mut packed = vec![0u8; w.len().div_ceil(2)];
    let tasks = packed.par_chunks_mut(TASK * NF4_BLOCK / 2).zip(w.par_chunks(TASK * NF4_BLOCK));
    tasks.zip(tops.par_chunks(TASK)).for_each(|((packed, w), tops)| {
        for ((packed, w), top) in packed.chunks_mut(NF4_BLOCK / 2).zip(w.chunks(NF4_BLOCK)).zip(tops) {
            let inverse = if *top > 0.0 { 1.0 / top } else { 0.0 };
            let code = |x: &f32| nearest(&NF4, (x * inverse).clamp(-1.0, 1.0));
            for (byte, pair) in packed.iter_mut().zip(w.chunks(2)) {
                *byte = code(&pair[0]) << 4 | pair.get(1).map_or(0, code);
            }
        }
    });
    let offset = (tops.iter().map(|top| f64::from(*top)).sum::<f64>() / tops.len().max(1) as f64) as f32;
    let codes = nf4_scale_codes();
    let (mut scales, mut nested) = (Vec::with_capacity(tops.len()), vec![]);
    for block in tops.chunks(NF4_NESTED) {
        let top = block.iter().fold(0.0f32, |top, x| top.max((x - offset).abs()));
        nested.push(top);
        scales.extend(block.iter().map(|x| nearest(&codes, on_grid(if top > 0.0 { (x - offset) / top } else { 0.0 }))));
    }
    Nf4Parts { packed, scales, nested, offset }
}

impl Nf4Parts {
    /// To read.
    pub fn view(&self, len: usize) -> Nf4<'_> {
        Nf4 { packed: &self.packed, scales: &self.scales, nested: &self.nested, offset: self.offset, len }
    }
}

/// The numbers as floats.
pub fn dequantize_nf4(m: &Nf4<'_>, out: &mut [f32]) {
    let blocks = m.len.div_ceil(NF4_BLOCK);
    assert_eq!(out.len(), m.len, "dequantize_nf4: out has {} floats, m {}", out.len(), m.len);
    assert_eq!(m.packed.len(), m.len.div_ceil(2), "dequantize_nf4: the bytes of {} numbers", m.len);
    assert_eq!(m.scales.len(), blocks, "dequantize_nf4: a scale for each block");
    assert_eq!(m.nested.len(), blocks.div_ceil(NF4_NESTED), "dequantize_nf4: scales' scales");
    let codes = nf4_scale_codes();
    let tasks = out.par_chunks_mut(TASK * NF4_BLOCK).zip(m.packed.par_chunks(TASK * NF4_BLOCK / 2)).enumerate();
    tasks.for_each(|(task, (out, packed))| {
        for (i, (out, packed)) in out.chunks_mut(NF4_BLOCK).zip(packed.chunks(NF4_BLOCK / 2)).enumerate() {
            let block = task * TASK + i;
            let scale = codes[usize::from(m.scales[block])] * m.nested[block / NF4_NESTED] + m.offset;
            let values = NF4.map(|value| value * scale);
            for (out, byte) in out.chunks_mut(2).zip(packed) {
                out[0] = values[usize::from(byte >> 4)];
                if let Some(second) = out.get_mut(1) {
                    *second = values[usize::from(byte & 15)];
                }
            }
        }
    });
}
