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
    // Where step `from` of a panel of `a` begins, in words.
    let at = |from: usize| match (F16, block.a_rows.is_some()) {
        (true, true) => from / 2,
        (true, false) => from * ROWS / 2,
        (false, true) => from,
        (false, false) => from * ROWS,
    };
    let mut acc = Acc([0.0; ROWS * STEP]);
    let mut sums = Sums([0.0; ROWS * 2 * STEP]);
    for (jp, j) in (0..n).step_by(columns).enumerate() {
        for (ip, i) in (0..m).step_by(ROWS).enumerate() {
            let (rows, cols) = (ROWS.min(m - i), columns.min(n - j));
            let size = (rows, cols <= columns / 2);
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
                    sum::<F16>(size, run, (a.add(at(from)), b.add(from * STEP)), block.a_rows, &mut acc);
                    match from {
                        0 => sums.add::<false>(&acc, size),
                        _ => sums.add::<true>(&acc, size),
                    }
                    from += run;
                }
                sum::<F16>(size, steps - from, (a.add(at(from)), b.add(from * STEP)), block.a_rows, &mut acc);
                match (from > 0, block.accumulate) {
                    (false, false) => end.store::<F16, false, false>(&acc, &sums),
                    (false, true) => end.store::<F16, false, true>(&acc, &sums),
                    (true, false) => end.store::<F16, true, false>(&acc, &sums),
                    (true, true) => end.store::<F16, true, true>(&acc, &sums),
                }
            }
        }
    }
}

/// What a tile's runs add up to, as 32-bit floats: four vectors for each row.
#[repr(align(64))]
struct Sums([f32; ROWS * 2 * STEP]);

impl Sums {
    /// Adds the accumulators' float16 sums, or stores them; of each row only the first half with `one`.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn add<const ADD: bool>(&mut self, acc: &Acc, (rows, one): (usize, bool)) {
        for r in 0..rows {
            for v in 4 * r..4 * r + if one { 2 } else { 4 } {
                // SAFETY: both hold four vectors for each of at most `ROWS` rows.
                unsafe {
                    let x = halves(acc, v);
                    let to = self.0.as_mut_ptr().add(16 * v);
                    _mm512_store_ps(to, if ADD { _mm512_add_ps(_mm512_load_ps(to), x) } else { x });
                }
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
    unsafe fn store<const F16: bool, const SUMS: bool, const ADD: bool>(&self, acc: &Acc, sums: &Sums) {
        let (block, (rows, cols)) = (self.block, self.size);
        let scale = _mm512_set1_ps(self.scale);
        let mask = |v: usize| ((1u32 << cols.saturating_sub(16 * v).min(16)) - 1) as u16;
        let masks = [0, 1, 2, 3].map(mask);
        let mut bias = [_mm512_setzero_ps(); 4];
        if !block.bias.is_null() {
            for v in 0..4 {
                // SAFETY: the bias has all columns.
                bias[v] = unsafe { _mm512_maskz_loadu_ps(masks[v], block.bias.wrapping_add(self.at.1 + 16 * v)) };
            }
        }
        let vectors = if F16 { 4 } else { 2 };
        for r in 0..rows {
            // SAFETY: `acc` holds two vectors for each row (four of float16 in the same room), `sums` four; the masked
            // columns of the rows are the caller's.
            unsafe {
                let to = block.c.ptr.add((self.at.0 + r) * block.c.stride + self.at.1);
                for v in 0..vectors {
                    let mut x = if F16 {
                        halves(acc, 4 * r + v)
                    } else {
                        _mm512_load_ps(acc.0.as_ptr().add(r * STEP + 16 * v))
                    };
                    if SUMS {
                        x = _mm512_add_ps(x, _mm512_load_ps(sums.0.as_ptr().add(16 * (4 * r + v))));
                    }
                    x = _mm512_fmadd_ps(x, scale, bias[v]);
                    let to = to.wrapping_add(16 * v);
                    let x = if ADD { _mm512_add_ps(_mm512_maskz_loadu_ps(masks[v], to), x) } else { x };
                    _mm512_mask_storeu_ps(to, masks[v], x);
                }
            }
        }
    }
}

/// A product of a row's number, broadcast from memory, with a vector of `b`.
macro_rules! product {
    (f16, $acc:literal, $b:literal, $at:literal) => {
        concat!("vfmadd231ph zmm", $acc, ", zmm", $b, ", word ptr [", $at, "]{{1to32}}\n")
    };
    (bf16, $acc:literal, $b:literal, $at:literal) => {
        concat!("vdpbf16ps zmm", $acc, ", zmm", $b, ", dword ptr [", $at, "]{{1to16}}\n")
    };
}

/// One row of a step: its products with one or two vectors.
macro_rules! row {
    ($form:tt, 1, $at:literal, $first:literal, $second:literal) => {
        product!($form, $first, "28", $at)
    };
    ($form:tt, 2, $at:literal, $first:literal, $second:literal) => {
        concat!(product!($form, $first, "28", $at), product!($form, $second, "29", $at))
    };
}

/// Seven rows of a step, their numbers at the given addresses.
macro_rules! seven {
    ($form:tt, $v:tt: $a:literal $b:literal $c:literal $d:literal $e:literal $f:literal $g:literal) => {
        concat!(
            row!($form, $v, $a, "0", "1"),
            row!($form, $v, $b, "2", "3"),
            row!($form, $v, $c, "4", "5"),
            row!($form, $v, $d, "6", "7"),
            row!($form, $v, $e, "8", "9"),
            row!($form, $v, $f, "10", "11"),
            row!($form, $v, $g, "12", "13"),
        )
    };
}

/// The other seven.
macro_rules! more {
    ($form:tt, $v:tt: $a:literal $b:literal $c:literal $d:literal $e:literal $f:literal $g:literal) => {
        concat!(
            row!($form, $v, $a, "14", "15"),
            row!($form, $v, $b, "16", "17"),
            row!($form, $v, $c, "18", "19"),
            row!($form, $v, $d, "20", "21"),
            row!($form, $v, $e, "22", "23"),
            row!($form, $v, $f, "24", "25"),
            row!($form, $v, $g, "26", "27"),
        )
    };
}

/// Rows of a panel that lies step by step.
macro_rules! in_steps {
    (f16, $v:tt, 7) => { seven!(f16, $v: "{a}" "{a} + 2" "{a} + 4" "{a} + 6" "{a} + 8" "{a} + 10" "{a} + 12") };
    (bf16, $v:tt, 7) => { seven!(bf16, $v: "{a}" "{a} + 4" "{a} + 8" "{a} + 12" "{a} + 16" "{a} + 20" "{a} + 24") };
    (f16, $v:tt, 14) => {
        concat!(
            in_steps!(f16, $v, 7),
            more!(f16, $v: "{a} + 14" "{a} + 16" "{a} + 18" "{a} + 20" "{a} + 22" "{a} + 24" "{a} + 26"),
        )
    };
    (bf16, $v:tt, 14) => {
        concat!(
            in_steps!(bf16, $v, 7),
            more!(bf16, $v: "{a} + 28" "{a} + 32" "{a} + 36" "{a} + 40" "{a} + 44" "{a} + 48" "{a} + 52"),
        )
    };
}

/// Rows of a panel that lies row by row, `{s}` bytes apart: `{a3}` and so on point at the rows of their numbers.
macro_rules! in_rows {
    ($form:tt, $v:tt, 7) => {
        seven!($form, $v: "{a}" "{a} + {s}" "{a} + 2*{s}" "{a3}" "{a3} + {s}" "{a3} + 2*{s}" "{a6}")
    };
    ($form:tt, $v:tt, 14) => {
        concat!(
            in_rows!($form, $v, 7),
            more!($form, $v: "{a3} + 4*{s}" "{a6} + 2*{s}" "{a9}" "{a6} + 4*{s}" "{a3} + 8*{s}" "{a12}" "{a9} + 4*{s}"),
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
    (1, 7) => { clear!("0" "2" "4" "6" "8" "10" "12") };
    (2, 7) => { concat!(clear_rows!(1, 7), clear!("1" "3" "5" "7" "9" "11" "13")) };
    (1, 14) => { concat!(clear_rows!(1, 7), clear!("14" "16" "18" "20" "22" "24" "26")) };
    (2, 14) => {
        concat!(clear_rows!(2, 7), clear!("14" "15" "16" "17" "18" "19" "20" "21" "22" "23" "24" "25" "26" "27"))
    };
}

/// The accumulators into memory, two vectors of room for each row.
macro_rules! store_rows {
    (1, 7) => { store!("0" "0" "2" "128" "4" "256" "6" "384" "8" "512" "10" "640" "12" "768") };
    (2, 7) => {
        concat!(store_rows!(1, 7), store!("1" "64" "3" "192" "5" "320" "7" "448" "9" "576" "11" "704" "13" "832"))
    };
    (1, 14) => {
        concat!(
            store_rows!(1, 7),
            store!("14" "896" "16" "1024" "18" "1152" "20" "1280" "22" "1408" "24" "1536" "26" "1664")
        )
    };
    (2, 14) => {
        concat!(
            store_rows!(1, 14),
            store!("1" "64" "3" "192" "5" "320" "7" "448" "9" "576" "11" "704" "13" "832"),
            store!("15" "960" "17" "1088" "19" "1216" "21" "1344" "23" "1472" "25" "1600" "27" "1728")
        )
    };
}

/// The vectors of a step of `b`, and its lines some steps ahead.
macro_rules! load {
    (1) => {
        concat!("vmovups zmm28, zmmword ptr [{b}]\n", "prefetcht0 byte ptr [{b} + 1024]\n")
    };
    (2) => {
        concat!(load!(1), "vmovups zmm29, zmmword ptr [{b} + 64]\n", "prefetcht0 byte ptr [{b} + 1088]\n")
    };
}

/// The loop over steps between clearing and storing the accumulators; `$next` goes on to the next step of `a`, and the
/// operands after it are what the addresses name besides `{a}`.
macro_rules! steps {
    ($v:tt, $rows:tt, $n:expr, $panels:expr, $acc:expr, $products:expr, $next:expr $(, $name:ident = $operand:expr)*) => {
        asm!(
            clear_rows!($v, $rows),
            "2:",
            load!($v),
            $products,
            $next,
            "add {b}, 128",
            "dec {n}",
            "jnz 2b",
            store_rows!($v, $rows),
            n = inout(reg) $n => _, a = inout(reg) $panels.0 => _, b = inout(reg) $panels.1 => _, acc = in(reg) $acc,
            $($name = inout(reg) $operand => _,)*
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _, out("zmm6") _,
            out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _, out("zmm12") _,
            out("zmm13") _, out("zmm14") _, out("zmm15") _, out("zmm16") _, out("zmm17") _, out("zmm18") _,
            out("zmm19") _, out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _, out("zmm24") _,
            out("zmm25") _, out("zmm26") _, out("zmm27") _, out("zmm28") _, out("zmm29") _,
            options(nostack)
        )
    };
}

/// Bytes of a row's number in a step.
macro_rules! bytes {
    (f16, "steps") => {
        "28"
    };
    (bf16, "steps") => {
        "56"
    };
    (f16, "rows") => {
        "2"
    };
    (bf16, "rows") => {
        "4"
    };
}

/// Adds a number's bytes to each of the pointers.
macro_rules! advance {
    ($form:tt: $($pointer:literal)*) => { concat!($("add ", $pointer, ", ", bytes!($form, "rows"), "\n",)*) };
}

/// The sums over a panel that lies step by step.
macro_rules! over_steps {
    ($form:tt, $v:tt, $rows:tt, $n:expr, $panels:expr, $acc:expr) => {
        steps!($v, $rows, $n, $panels, $acc, in_steps!($form, $v, $rows), concat!("add {a}, ", bytes!($form, "steps")))
    };
}

/// The sums over a panel that lies row by row.
macro_rules! over_rows {
    ($form:tt, $v:tt, 7, $n:expr, $panels:expr, $acc:expr, $stride:expr) => {{
        let row = |r: usize| $panels.0.wrapping_byte_add(r * $stride);
        steps!(
            $v,
            7,
            $n,
            $panels,
            $acc,
            in_rows!($form, $v, 7),
            advance!($form: "{a}" "{a3}" "{a6}"),
            s = $stride,
            a3 = row(3),
            a6 = row(6)
        )
    }};
    ($form:tt, $v:tt, 14, $n:expr, $panels:expr, $acc:expr, $stride:expr) => {{
        let row = |r: usize| $panels.0.wrapping_byte_add(r * $stride);
        steps!(
            $v,
            14,
            $n,
            $panels,
            $acc,
            in_rows!($form, $v, 14),
            advance!($form: "{a}" "{a3}" "{a6}" "{a9}" "{a12}"),
            s = $stride,
            a3 = row(3),
            a6 = row(6),
            a9 = row(9),
            a12 = row(12)
        )
    }};
}

/// The sums of `rows` by one or two vectors over `n` steps, at least one. With a `stride` (in words) the panel of `a` lies
/// row by row, else step by step.
#[inline(always)]
unsafe fn sum<const F16: bool>(
    (rows, one): (usize, bool),
    n: usize,
    panels: (*const f32, *const f32),
    stride: Option<usize>,
    acc: &mut Acc,
) {
    let to = acc.0.as_mut_ptr();
    let bytes = 4 * stride.unwrap_or(0);
    // SAFETY: the panels hold `n` steps of 14 numbers and of two vectors, `acc` 28 vectors; the instructions are the
    // caller's promise.
    unsafe {
        match (F16, stride.is_some(), rows <= ROWS / 2, one) {
            (true, false, false, false) => over_steps!(f16, 2, 14, n, panels, to),
            (true, false, false, true) => over_steps!(f16, 1, 14, n, panels, to),
            (true, false, true, false) => over_steps!(f16, 2, 7, n, panels, to),
            (true, false, true, true) => over_steps!(f16, 1, 7, n, panels, to),
            (true, true, false, false) => over_rows!(f16, 2, 14, n, panels, to, bytes),
            (true, true, false, true) => over_rows!(f16, 1, 14, n, panels, to, bytes),
            (true, true, true, false) => over_rows!(f16, 2, 7, n, panels, to, bytes),
            (true, true, true, true) => over_rows!(f16, 1, 7, n, panels, to, bytes),
            (false, false, false, false) => over_steps!(bf16, 2, 14, n, panels, to),
            (false, false, false, true) => over_steps!(bf16, 1, 14, n, panels, to),
            (false, false, true, false) => over_steps!(bf16, 2, 7, n, panels, to),
            (false, false, true, true) => over_steps!(bf16, 1, 7, n, panels, to),
            (false, true, false, false) => over_rows!(bf16, 2, 14, n, panels, to, bytes),
            (false, true, false, true) => over_rows!(bf16, 1, 14, n, panels, to, bytes),
            (false, true, true, false) => over_rows!(bf16, 2, 7, n, panels, to, bytes),
            (false, true, true, true) => over_rows!(bf16, 1, 7, n, panels, to, bytes),
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
        unsafe { sum::<F16>((ROWS, false), RUN, (a.as_ptr(), b.as_ptr()), None, &mut acc) };
    }
    std::hint::black_box(&acc);
    (TILES * RUN * ROWS * STEP * 4) as f64
}
