//! Panels of one factor of a product: where their blocks of `k`, their steps and their scales lie, and how they are filled.

use super::format::{Format, Precision, Side};
use super::pack::{Lanes, pack_panels};
use super::{Mat, Out, for_each, in_parallel};
use crate::scratch;
use crate::simd::{self, Level};

/// The layout of one factor's panels: all blocks of `k` one after another, then (in float16) a scale for each block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels {
    pub level: Level,
    pub format: Format,
    pub k: usize,
    /// The length of a block of `k`, a function of `k` alone.
    pub kc: usize,
    /// Lanes of a panel.
    pub width: usize,
    /// Whether the lanes lie one after another instead of step by step: nothing is transposed then. Only of `a` in 16-bit
    /// formats.
    in_rows: bool,
}

/// The longest block of `k`: sums stay in registers that long, and a task's rows of `a` in the second cache.
const K_BLOCK: usize = 512;

/// Length of the blocks that `k` is cut into: even, a function of `k` alone.
pub(crate) fn k_block(k: usize) -> usize {
    k.div_ceil(k.div_ceil(K_BLOCK).max(1)).next_multiple_of(8).min(k).max(1)
}

impl Panels {
    pub fn new(level: Level, format: Format, side: Side, k: usize) -> Self {
        let (mr, nr) = format.tile(level);
        let width = if side == Side::A { mr } else { nr };
        Panels { level, format, k, kc: k_block(k), width, in_rows: false }
    }

    /// The layout of rows of `a` in one block of `k`; `contiguous` where a row's numbers are neighbours.
    pub fn of_rows(level: Level, format: Format, k: usize, contiguous: bool) -> Self {
        let in_rows = contiguous && matches!(format, Format::Bf16 | Format::F16);
        Panels { in_rows, kc: k.max(1), ..Self::new(level, format, Side::A, k) }
    }

    /// Words from row to row of a panel that lies row by row: a line more than needed, against conflicts in the cache.
    pub fn stride(&self) -> Option<usize> {
        self.in_rows.then(|| self.k.div_ceil(2).next_multiple_of(16) + 16)
    }

    fn scaled(&self) -> bool {
        self.format == Format::F16
    }

    /// Words of a panel; panels keep to cache lines.
    pub fn words(&self) -> usize {
        let scales = if self.scaled() { self.k.div_ceil(self.kc) } else { 0 };
        self.scale_at(0) + scales.next_multiple_of(16)
    }

    /// Where block `block` of `k` begins in a panel.
    pub fn block_at(&self, block: usize) -> usize {
        block * self.block_words(self.width)
    }

    /// Words of a block of `k` in the panels of `lanes` lanes.
    pub fn block_words(&self, lanes: usize) -> usize {
        lanes.div_ceil(self.width) * self.format.steps(self.kc) * self.format.step_words(self.width)
    }

    /// Where the scale of block `block` of `k` stands in a panel.
    pub fn scale_at(&self, block: usize) -> usize {
        let words = match self.stride() {
            Some(stride) => self.width * stride,
            None => self.format.steps(self.k) * self.format.step_words(self.width),
        };
        words.next_multiple_of(16) + block
    }

    /// Packs all lanes, a panel after another.
    ///
    /// # Safety
    /// Each lane must be readable for `k` elements.
    pub unsafe fn pack_all(&self, lanes: Lanes, to: &mut [f32], parallel: bool) {
        let (count, words) = (lanes.count().div_ceil(self.width), self.words());
        assert!(to.len() >= count * words, "pack: {} words for {count} panels of {words}", to.len());
        let to = Out::new(to, words);
        #[cfg(target_arch = "x86_64")]
        if matches!(self.format, Format::Bf16 | Format::F16) && lanes.are_columns() && !self.in_rows {
            let panels = super::pack_half::GROUP / self.width;
            let blocks = self.k.div_ceil(self.kc);
            return for_each(parallel, count.div_ceil(panels) * blocks, |i| {
                let (i, block) = (i / blocks, i % blocks);
                // SAFETY: this block of these panels is this task's; the lanes are the caller's promise.
                unsafe {
                    let lanes = lanes.part(i * panels * self.width, panels * self.width);
                    self.pack_columns(lanes, block, to.offset(i * panels, 0));
                }
            });
        }
        for_each(parallel, count, |i| {
            // SAFETY: panel `i` of the buffer is this task's; the lanes are the caller's promise.
            unsafe { self.pack(lanes.part(i * self.width, self.width), to.row(i, 0, words)) }
        });
    }

    /// Packs one panel.
    ///
    /// # Safety
    /// As [`Self::pack_all`].
    unsafe fn pack(&self, lanes: Lanes, to: &mut [f32]) {
        // SAFETY: passed on.
        unsafe {
            match self.format {
                Format::F32 => pack_panels(self.level, lanes, self.k, to, self.width),
                Format::Rounded(precision) => {
                    pack_panels(self.level, lanes, self.k, to, self.width);
                    to[..self.k * self.width].iter_mut().for_each(|x| *x = rounded(*x, precision));
                }
                Format::Bf16 | Format::F16 => self.pack_converted(lanes, to),
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    unsafe fn pack_converted(&self, lanes: Lanes, to: &mut [f32]) {
        if let Some(stride) = self.stride() {
            // SAFETY: the lanes are the caller's promise; the format exists only where the CPU has its instructions.
            let scale = unsafe { super::pack_half::convert_rows(lanes, self.k, to, stride, self.format) };
            if self.scaled() {
                to[self.scale_at(0)] = scale;
            }
            return;
        }
        scratch::with(self.kc * self.width, |floats| {
            for (block, p0) in (0..self.k).step_by(self.kc).enumerate() {
                let kb = self.kc.min(self.k - p0);
                let floats = &mut floats[..kb * self.width];
                let at = self.block_at(block);
                // SAFETY: the lanes are the caller's promise; the format exists only where the CPU has its instructions.
                let scale = unsafe {
                    pack_panels(self.level, lanes.from(p0), kb, floats, self.width);
                    super::pack_half::convert(floats, &mut to[at..], self.width, self.format)
                };
                if self.scaled() {
                    to[self.scale_at(block)] = scale;
                }
            }
        });
    }

    /// Packs a block of `k` of lanes that lie side by side, a group of panels at a time.
    #[cfg(target_arch = "x86_64")]
    unsafe fn pack_columns(&self, lanes: Lanes, block: usize, to: Out) {
        let p0 = block * self.kc;
        let kb = self.kc.min(self.k - p0);
        // SAFETY: the block of the panels behind `to` is the caller's, as are the lanes' promises; the format exists only
        // where the CPU has its instructions.
        unsafe {
            let at = (to.ptr.add(self.block_at(block)), self.words());
            let scales = super::pack_half::convert_columns(lanes.from(p0), kb, at, self.width, self.format);
            if self.scaled() {
                for panel in 0..lanes.count().div_ceil(self.width) {
                    *to.ptr.add(panel * self.words() + self.scale_at(block)) = scales[panel];
                }
            }
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    unsafe fn pack_converted(&self, _: Lanes, _: &mut [f32]) {
        unreachable!("{:?} exists on x86-64 only", self.format)
    }
}

/// The nearest number of 8 (bfloat16) or 11 (float16) bits, ties to even; the range stays a 32-bit float's.
fn rounded(x: f32, precision: Precision) -> f32 {
    let dropped = match precision {
        Precision::F32 => return x,
        Precision::Bf16 => 16,
        Precision::F16 => 13,
    };
    if !x.is_finite() {
        return x;
    }
    let bits = x.to_bits();
    let half = (1u32 << (dropped - 1)) - 1 + ((bits >> dropped) & 1);
    f32::from_bits((bits + half) >> dropped << dropped)
}

/// A factor `b [k, n]` packed for several products.
pub struct PackedB {
    words: scratch::Buffer,
    panels: Panels,
    n: usize,
}

impl PackedB {
    /// Packs `b` in a precision.
    pub fn new(b: Mat, precision: Precision) -> Self {
        b.check("b");
        let level = simd::level();
        let (k, n) = (b.rows, b.cols);
        let panels = Panels::new(level, Format::new(level, precision), Side::B, k);
        let mut words = scratch::Buffer::new(n.div_ceil(panels.width) * panels.words());
        // SAFETY: `b` was checked against its length.
        unsafe { panels.pack_all(Lanes::columns(&b, 0, n), &mut words, in_parallel(&b, 64)) };
        PackedB { words, panels, n }
    }

    pub(super) fn k(&self) -> usize {
        self.panels.k
    }

    pub(super) fn n(&self) -> usize {
        self.n
    }

    pub(super) fn words(&self) -> &[f32] {
        &self.words
    }

    pub(super) fn panels(&self) -> &Panels {
        &self.panels
    }
}

#[cfg(test)]
mod tests {
    use super::{Precision, rounded};

    #[test]
    fn rounding_keeps_the_leading_bits_and_goes_to_even() {
        assert_eq!(rounded(1.0 + 1.0 / 256.0, Precision::Bf16), 1.0);
        assert_eq!(rounded(1.0 + 3.0 / 256.0, Precision::Bf16), 1.0 + 4.0 / 256.0);
        assert_eq!(rounded(-1.0 - 1.0 / 128.0, Precision::Bf16), -1.0 - 1.0 / 128.0);
        assert_eq!(rounded(1.0 + 1.0 / 2048.0, Precision::F16), 1.0);
        assert_eq!(rounded(0.1, Precision::F32), 0.1);
        assert!(rounded(f32::NAN, Precision::Bf16).is_nan());
        assert_eq!(rounded(f32::INFINITY, Precision::F16), f32::INFINITY);
    }
}
