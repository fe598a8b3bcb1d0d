//! The register tile over panels of 16-bit numbers, [`Format::Bf16`] and [`Format::F16`], on AVX-512.
//!
//! The inner loop is assembly: 28 accumulators, two vectors of `b` and two broadcast words of `a` fill the register
//! file, and the compiler spills when it allocates them for 16-bit types.

use super::format::{Format, Precision};
use super::tile::Block;
use std::arch::asm;
use std::arch::x86_64::*;

/// Steps that float16 sums run over before they are added up as 32-bit floats. Of numbers scaled below 16, 64 products
/// stay below 16,384, and the error of the sums below that of rounding the factors to bfloat16.
pub const RUN: usize = 64;
/// Rows of the tile.
const ROWS: usize = 14;
/// Words of a step of `b`: two vectors.
const STEP: usize = 32;

/// The accumulators of a tile as they lay in registers: two vectors for each row.
#[repr(align(64))]
struct Acc([f32; ROWS * STEP]);

/// Computes a block of panels in `format`.
///
/// # Safety
/// The CPU must have AVX-512 F and BW and the format's instructions; whoever made the block vouches for the panels, their
/// scales (float16 only) and for `c`.
pub unsafe fn run(block: &Block, format: Format) {
    // SAFETY: passed on.
    unsafe {
        match format {
            Format::Bf16 => tiles::<false>(block),
            Format::F16 => tiles::<true>(block),
            Format::F32 | Format::Rounded(_) => unreachable!("{format:?} panels hold 32-bit floats"),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn tiles<const F16: bool>(block: &Block) {
    let (m, k, n) = block.shape;
    let (steps, columns, run) = if F16 { (k, 2 * STEP, RUN) } else { (k.div_ceil(2), STEP, usize::MAX) };
    let mut acc = Acc([0.0; ROWS * STEP]);
    let mut sums = Sums([0.0; ROWS * 2 * STEP]);
    for (jp, j) in (0..n).step_by(columns).enumerate() {
        for (ip, i) in (0..m).step_by(ROWS).enumerate() {
            let (rows, cols) = (ROWS.min(m - i), columns.min(n - j));
            // SAFETY: panel `ip` of `a` and `jp` of `b` hold `steps` steps each and, in float16, a scale; the tile at
            // (i, j) of `c` is ours.
            unsafe {
                let (a, b) = (block.a.add(ip * block.a_panel), block.b.add(jp * block.b_panel));
                let mut end = End { block, at: (i, j), size: (rows, cols), scale: 1.0 };
                if F16 {
                    end.scale = *block.a_scale.add(ip * block.a_panel) * *block.b_scale.add(jp * block.b_panel);
                }
                end.prefetch();
                let mut from = 0;
                while steps - from > run {
                    let a = a.add(if block.a_rows.is_some() { from } else { from * ROWS });
                    sum::<F16>(rows, run, (a, b.add(from * STEP)), block.a_rows, &mut acc);
                    sums.add(&acc, rows, from > 0);
                    from += run;
                }
                let a = a.add(if block.a_rows.is_some() { from } else { from * ROWS });
                sum::<F16>(rows, steps - from, (a, b.add(from * STEP)), block.a_rows, &mut acc);
                end.store::<F16>(&acc, (from > 0).then_some(&sums));
            }
        }
    }
}

/// What a tile's runs add up to, as 32-bit floats.
#[repr(align(64))]
struct Sums([f32; ROWS * 2 * STEP]);

impl Sums {
    /// Adds the accumulators' float16 sums, or stores them.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn add(&mut self, acc: &Acc, rows: usize, add: bool) {
        for v in 0..rows * 4 {
            // SAFETY: both hold four vectors for each of at most `ROWS` rows.
            unsafe {
                let x = halves(acc, v);
                let to = self.0.as_mut_ptr().add(16 * v);
                _mm512_store_ps(to, if add { _mm512_add_ps(_mm512_load_ps(to), x) } else { x });
            }
        }
    }
}

/// Vector `v` of float16 accumulators.
#[inline(always)]
unsafe fn halves(acc: &Acc, v: usize) -> __m512 {
    // SAFETY: the caller's promise: `v` is below four times the rows.
    unsafe { _mm512_cvtph_ps(_mm256_load_si256(acc.0.as_ptr().add(8 * v).cast())) }
}

/// Where a tile's sums go.
struct End<'a> {
    block: &'a Block,
    at: (usize, usize),
    size: (usize, usize),
    scale: f32,
}

impl End<'_> {
    /// Asks for the tile's lines while its sums are computed.
    #[inline(always)]
    unsafe fn prefetch(&self) {
        for r in 0..self.size.0 {
            let row = self.block.c.ptr.wrapping_add((self.at.0 + r) * self.block.c.stride + self.at.1);
            for v in (0..self.size.1).step_by(16) {
                // SAFETY: a prefetch may name any address.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(v).cast()) };
            }
        }
    }

    /// Stores the accumulators and what earlier runs gave, times the scale, with the bias.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn store<const F16: bool>(&self, acc: &Acc, sums: Option<&Sums>) {
        let (block, (rows, cols)) = (self.block, self.size);
        let scale = _mm512_set1_ps(self.scale);
        for v in 0..cols.div_ceil(16) {
            let left = (cols - 16 * v).min(16);
            let mask = ((1u32 << left) - 1) as u16;
            // SAFETY: `acc` holds two vectors for each row (four of float16 in the same room), `sums` four; the masked
            // columns of the rows are the caller's, and the bias has all columns.
            unsafe {
                let mut bias = _mm512_setzero_ps();
                if !block.bias.is_null() {
                    bias = _mm512_maskz_loadu_ps(mask, block.bias.add(self.at.1 + 16 * v));
                }
                let mut to = block.c.ptr.add(self.at.0 * block.c.stride + self.at.1 + 16 * v);
                for r in 0..rows {
                    let mut x = if F16 {
                        halves(acc, 4 * r + v)
                    } else {
                        _mm512_load_ps(acc.0.as_ptr().add(r * STEP + 16 * v))
                    };
                    if let Some(sums) = sums {
                        x = _mm512_add_ps(x, _mm512_load_ps(sums.0.as_ptr().add(16 * (4 * r + v))));
                    }
                    x = _mm512_fmadd_ps(x, scale, bias);
                    let x = if block.accumulate { _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), x) } else { x };
                    _mm512_mask_storeu_ps(to, mask, x);
                    to = to.wrapping_add(block.c.stride);
                }
            }
        }
    }
}

/// One row of a step: two products of the row's broadcast word.
macro_rules! row {
    ($instruction:literal, $at:literal, $word:literal, $first:literal, $second:literal) => {
        concat!(
            "vpbroadcastd zmm",
            $word,
            ", dword ptr [",
            $at,
            "]\n",
            $instruction,
            " zmm",
            $first,
            ", zmm",
            $word,
            ", zmm28\n",
            $instruction,
            " zmm",
            $second,
            ", zmm",
            $word,
            ", zmm29\n",
        )
    };
}

/// Seven rows of a step, their words at the given addresses.
macro_rules! seven {
    ($i:literal: $a:literal $b:literal $c:literal $d:literal $e:literal $f:literal $g:literal) => {
        concat!(
            row!($i, $a, "30", "0", "1"),
            row!($i, $b, "31", "2", "3"),
            row!($i, $c, "30", "4", "5"),
            row!($i, $d, "31", "6", "7"),
            row!($i, $e, "30", "8", "9"),
            row!($i, $f, "31", "10", "11"),
            row!($i, $g, "30", "12", "13"),
        )
    };
}

/// The other seven.
macro_rules! more {
    ($i:literal: $a:literal $b:literal $c:literal $d:literal $e:literal $f:literal $g:literal) => {
        concat!(
            row!($i, $a, "31", "14", "15"),
            row!($i, $b, "30", "16", "17"),
            row!($i, $c, "31", "18", "19"),
            row!($i, $d, "30", "20", "21"),
            row!($i, $e, "31", "22", "23"),
            row!($i, $f, "30", "24", "25"),
            row!($i, $g, "31", "26", "27"),
        )
    };
}

/// Rows of a panel that lies step by step.
macro_rules! in_steps {
    ($i:literal, 7) => { seven!($i: "{a}" "{a} + 4" "{a} + 8" "{a} + 12" "{a} + 16" "{a} + 20" "{a} + 24") };
    ($i:literal, 14) => {
        concat!(
            in_steps!($i, 7),
            more!($i: "{a} + 28" "{a} + 32" "{a} + 36" "{a} + 40" "{a} + 44" "{a} + 48" "{a} + 52"),
        )
    };
}

/// Rows of a panel that lies row by row, `{s}` bytes apart: `{a3}` and so on point at the rows of their numbers.
macro_rules! in_rows {
    ($i:literal, 7) => {
        seven!($i: "{a}" "{a} + {s}" "{a} + 2*{s}" "{a3}" "{a3} + {s}" "{a3} + 2*{s}" "{a6}")
    };
    ($i:literal, 14) => {
        concat!(
            in_rows!($i, 7),
            more!($i: "{a3} + 4*{s}" "{a6} + 2*{s}" "{a9}" "{a6} + 4*{s}" "{a3} + 8*{s}" "{a12}" "{a9} + 4*{s}"),
        )
    };
}

macro_rules! clear {
    ($($register:literal)*) => { concat!($("vpxord zmm", $register, ", zmm", $register, ", zmm", $register, "\n",)*) };
}

macro_rules! store {
    ($($register:literal $at:literal)*) => { concat!($("vmovaps zmmword ptr [{acc} + ", $at, "], zmm", $register, "\n",)*) };
}

macro_rules! clear_rows {
    (7) => { clear!("0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11" "12" "13") };
    (14) => { concat!(clear_rows!(7), clear!("14" "15" "16" "17" "18" "19" "20" "21" "22" "23" "24" "25" "26" "27")) };
}

macro_rules! store_rows {
    (7) => {
        store!("0" "0" "1" "64" "2" "128" "3" "192" "4" "256" "5" "320" "6" "384" "7" "448" "8" "512" "9" "576"
            "10" "640" "11" "704" "12" "768" "13" "832")
    };
    (14) => {
        concat!(
            store_rows!(7),
            store!("14" "896" "15" "960" "16" "1024" "17" "1088" "18" "1152" "19" "1216" "20" "1280" "21" "1344"
                "22" "1408" "23" "1472" "24" "1536" "25" "1600" "26" "1664" "27" "1728")
        )
    };
}

/// The loop over steps between clearing and storing the accumulators; `$next` goes on to the next step of `a`, and the
/// operands after it are what the addresses name besides `{a}`.
macro_rules! steps {
    ($n:expr, $panels:expr, $acc:expr, $rows:tt, $products:expr, $next:expr $(, $name:ident = $operand:expr)*) => {
        asm!(
            clear_rows!($rows),
            "2:",
            "vmovups zmm28, zmmword ptr [{b}]",
            "vmovups zmm29, zmmword ptr [{b} + 64]",
            "prefetcht0 byte ptr [{b} + 1024]",
            "prefetcht0 byte ptr [{b} + 1088]",
            $products,
            $next,
            "add {b}, 128",
            "dec {n}",
            "jnz 2b",
            store_rows!($rows),
            n = inout(reg) $n => _, a = inout(reg) $panels.0 => _, b = inout(reg) $panels.1 => _, acc = in(reg) $acc,
            $($name = inout(reg) $operand => _,)*
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _, out("zmm6") _,
            out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _, out("zmm12") _,
            out("zmm13") _, out("zmm14") _, out("zmm15") _, out("zmm16") _, out("zmm17") _, out("zmm18") _,
            out("zmm19") _, out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _, out("zmm24") _,
            out("zmm25") _, out("zmm26") _, out("zmm27") _, out("zmm28") _, out("zmm29") _, out("zmm30") _,
            out("zmm31") _,
            options(nostack)
        )
    };
}

/// The sums over a panel that lies step by step.
macro_rules! over_steps {
    ($i:literal, $rows:tt, $n:expr, $panels:expr, $acc:expr) => {
        steps!($n, $panels, $acc, $rows, in_steps!($i, $rows), "add {a}, 56")
    };
}

/// The sums over a panel that lies row by row.
macro_rules! over_rows {
    ($i:literal, 7, $n:expr, $panels:expr, $acc:expr, $stride:expr) => {{
        let row = |r: usize| $panels.0.wrapping_byte_add(r * $stride);
        steps!(
            $n,
            $panels,
            $acc,
            7,
            in_rows!($i, 7),
            "add {a}, 4\nadd {a3}, 4\nadd {a6}, 4",
            s = $stride,
            a3 = row(3),
            a6 = row(6)
        )
    }};
    ($i:literal, 14, $n:expr, $panels:expr, $acc:expr, $stride:expr) => {{
        let row = |r: usize| $panels.0.wrapping_byte_add(r * $stride);
        steps!(
            $n,
            $panels,
            $acc,
            14,
            in_rows!($i, 14),
            "add {a}, 4\nadd {a3}, 4\nadd {a6}, 4\nadd {a9}, 4\nadd {a12}, 4",
            s = $stride,
            a3 = row(3),
            a6 = row(6),
            a9 = row(9),
            a12 = row(12)
        )
    }};
}

/// The sums of `rows` by two vectors over `n` steps, at least one. With a `stride` (in words) the panel of `a` lies row by
/// row, else step by step.
#[inline(always)]
unsafe fn sum<const F16: bool>(
    rows: usize,
    n: usize,
    panels: (*const f32, *const f32),
    stride: Option<usize>,
    acc: &mut Acc,
) {
    let to = acc.0.as_mut_ptr();
    let bytes = 4 * stride.unwrap_or(0);
    // SAFETY: the panels hold `n` steps of 14 and 32 words, `acc` 28 vectors; the instructions are the caller's promise.
    unsafe {
        match (F16, rows <= ROWS / 2, stride.is_some()) {
            (true, false, false) => over_steps!("vfmadd231ph", 14, n, panels, to),
            (true, true, false) => over_steps!("vfmadd231ph", 7, n, panels, to),
            (false, false, false) => over_steps!("vdpbf16ps", 14, n, panels, to),
            (false, true, false) => over_steps!("vdpbf16ps", 7, n, panels, to),
            (true, false, true) => over_rows!("vfmadd231ph", 14, n, panels, to, bytes),
            (true, true, true) => over_rows!("vfmadd231ph", 7, n, panels, to, bytes),
            (false, false, true) => over_rows!("vdpbf16ps", 14, n, panels, to, bytes),
            (false, true, true) => over_rows!("vdpbf16ps", 7, n, panels, to, bytes),
        }
    }
}

/// Many tiles over one pair of short panels; the operations done.
pub fn peak_loop<const F16: bool>() -> f64 {
    const TILES: usize = 2000;
    assert!(if F16 { Precision::F16 } else { Precision::Bf16 }.is_native());
    let (a, b) = (vec![0.0; RUN * ROWS], vec![0.0; RUN * STEP]);
    let mut acc = Acc([0.0; ROWS * STEP]);
    for _ in 0..TILES {
        // SAFETY: the panels hold RUN steps, and the CPU has the instructions: the assertion above.
        unsafe { sum::<F16>(ROWS, RUN, (a.as_ptr(), b.as_ptr()), None, &mut acc) };
    }
    std::hint::black_box(&acc);
    (TILES * RUN * ROWS * STEP * 4) as f64
}
