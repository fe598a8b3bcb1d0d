//! What packed panels hold: 32-bit floats, or 16-bit numbers of half the size.
//!
//! Every format's layout is told in 32-bit words. A *step* of a panel is a word for each row of `a` or column of `b`,
//! one float or two neighbours in `k` as bfloat16; in float16 it is half a word, so that neighbouring lanes share one.

use super::tile;
#[cfg(target_arch = "x86_64")]
use crate::simd::Avx512;
use crate::simd::Level;

/// The numbers that a matrix product multiplies; sums are in 32-bit floats always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// Both factors rounded to bfloat16 (8 bits of precision, the range of a 32-bit float).
    Bf16,
    /// Both factors rounded to float16 (11 bits of precision), each panel scaled by a power of two so that its largest
    /// number fits; products are summed in float16 over runs of [`super::half::RUN`] steps and in 32-bit floats beyond.
    F16,
}

impl Precision {
    /// The fastest precision of this processor.
    ///
    /// With AVX-512 FP16 (Intel since Sapphire Rapids) that is float16: 128 operations per cycle, against 64 with
    /// 32-bit floats and 32 with bfloat16, whose instruction runs every other cycle there. AMD's processors (Zen 4 and
    /// later) have no float16 arithmetic, but start a bfloat16 product of 64 operations per cycle, twice the rate of
    /// their 32-bit floats.
    pub fn fastest() -> Self {
        if native_f16() {
            Precision::F16
        } else if native_bf16() && amd() {
            Precision::Bf16
        } else {
            Precision::F32
        }
    }

    /// Its name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::F16 => "f16",
        }
    }

    /// Whether this processor multiplies in it; elsewhere the factors are rounded and multiplied as 32-bit floats.
    pub fn is_native(self) -> bool {
        match self {
            Precision::F32 => true,
            Precision::Bf16 => native_bf16(),
            Precision::F16 => native_f16(),
        }
    }
}

/// Instructions on 16-bit numbers and on vectors shorter than 512 bits.
#[cfg(target_arch = "x86_64")]
fn has_narrow() -> bool {
    is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl")
}
#[cfg(target_arch = "x86_64")]
fn native_bf16() -> bool {
    Avx512::new().is_some() && is_x86_feature_detected!("avx512bf16") && has_narrow()
}
#[cfg(target_arch = "x86_64")]
fn native_f16() -> bool {
    Avx512::new().is_some() && is_x86_feature_detected!("avx512fp16") && has_narrow()
}
#[cfg(target_arch = "x86_64")]
fn amd() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    vendor.ebx == u32::from_le_bytes(*b"Auth")
}
#[cfg(not(target_arch = "x86_64"))]
fn native_bf16() -> bool {
    false
}
#[cfg(not(target_arch = "x86_64"))]
fn native_f16() -> bool {
    false
}
#[cfg(not(target_arch = "x86_64"))]
fn amd() -> bool {
    false
}

/// How panels are packed for a precision at an instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    F32,
    /// 32-bit floats that hold rounded numbers: what a processor without the instructions does.
    Rounded(Precision),
    Bf16,
    F16,
}

/// Which factor a panel belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    A,
    B,
}

impl Format {
    pub fn new(level: Level, precision: Precision) -> Self {
        match precision {
            Precision::F32 => Format::F32,
            #[cfg(target_arch = "x86_64")]
            Precision::Bf16 if level == Level::Avx512 && native_bf16() => Format::Bf16,
            #[cfg(target_arch = "x86_64")]
            Precision::F16 if level == Level::Avx512 && native_f16() => Format::F16,
            rounded => {
                let _ = level;
                Format::Rounded(rounded)
            }
        }
    }

    /// Rows and columns of the register tile.
    pub fn tile(self, level: Level) -> (usize, usize) {
        let (rows, columns) = tile::shape(level);
        if self == Format::F16 { (rows, 2 * columns) } else { (rows, columns) }
    }

    /// Steps of `k`.
    pub fn steps(self, k: usize) -> usize {
        if self == Format::Bf16 { k.div_ceil(2) } else { k }
    }

    /// Words of one step of a panel of `width` lanes, an even number.
    pub fn step_words(self, width: usize) -> usize {
        if self == Format::F16 { width / 2 } else { width }
    }
}
