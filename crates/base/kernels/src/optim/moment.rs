//! How moments are stored: as they are, or in 16 bits.

/// A number as a moment is stored: `f32`, or a bfloat16 in a `u16`.
///
/// A moment in 16 bits halves the memory, but has 8 significant bits: rounded to nearest, `0.999 * v` is `v` again and a
/// second moment would never fall. So a number between two neighbours goes up or down by turns, in the proportion that
/// makes the mean over steps right: it goes up where its share of the way up, plus a threshold, reaches one. The
/// thresholds are Weyl's sequence, equidistributed over the steps and over neighbouring elements; nothing is drawn, so
/// a step gives the same bits on any number of threads and after a resumption.
pub trait Moment: Copy + Send + Sync + 'static {
    /// The number.
    fn to_f32(self) -> f32;
    /// The number rounded; the lower 16 bits of `dither` are the threshold.
    fn from_f32(x: f32, dither: u32) -> Self;
}

impl Moment for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(x: f32, _: u32) -> Self {
        x
    }
}

impl Moment for u16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self) << 16)
    }
    #[inline(always)]
    fn from_f32(x: f32, dither: u32) -> Self {
        let bits = x.to_bits();
        // A NaN stays one: its lower bits are dropped, and a bit that is kept is set.
        let rounded = if x.is_nan() { bits | 0x0040_0000 } else { bits.wrapping_add(dither & 0xFFFF) };
        (rounded >> 16) as u16
    }
}

/// The threshold of element `i` of moment `slot` at `step`; successive steps lie 2^16 / golden ratio apart.
pub fn dither(step: u64, slot: usize, i: usize) -> u32 {
    const STEP: u32 = 40_503;
    const SLOT: u32 = 21_845;
    (step as u32).wrapping_mul(STEP).wrapping_add((slot as u32).wrapping_mul(SLOT)).wrapping_add(element(i))
}

/// What element `i` adds to the threshold: neighbours lie 2^16 (sqrt(2) - 1) apart.
#[inline(always)]
pub const fn element(i: usize) -> u32 {
    (i as u32).wrapping_mul(27_145)
}
