//! Copies strips of a matrix into panels: for each step of `k`, the `width` elements that one register tile needs.

use super::Mat;
use crate::simd::{self, Kernel, Level, Simd};

/// Rows of `a` or columns of `b`: `count` lanes, each `k` long.
#[derive(Clone, Copy)]
pub struct Lanes {
    ptr: *const f32,
    lane_stride: usize,
    k_stride: usize,
    count: usize,
}

// SAFETY: lanes are only read, while the matrix that they were taken from is borrowed by the product.
unsafe impl Send for Lanes {}
// SAFETY: as above.
unsafe impl Sync for Lanes {}

impl Lanes {
    pub fn rows(a: &Mat, first: usize, count: usize) -> Self {
        let (lane_stride, k_stride) = (a.row_stride, a.col_stride);
        Lanes { ptr: a.data.as_ptr().wrapping_add(first * lane_stride), lane_stride, k_stride, count }
    }

    pub fn columns(b: &Mat, first: usize, count: usize) -> Self {
        Self::rows(&b.t(), first, count)
    }

    /// Lane `i`, whose `k` numbers must be neighbours.
    ///
    /// # Safety
    /// The lane must be readable for `k` elements.
    #[cfg(target_arch = "x86_64")]
    pub unsafe fn contiguous<'a>(&self, i: usize, k: usize) -> &'a [f32] {
        assert!(i < self.count && self.k_stride == 1);
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts(self.ptr.add(i * self.lane_stride), k) }
    }

    /// Whether the lanes lie side by side.
    #[cfg(target_arch = "x86_64")]
    pub fn are_columns(&self) -> bool {
        self.lane_stride == 1
    }

    /// Where the lanes' step `p` begins.
    #[cfg(target_arch = "x86_64")]
    pub fn step(&self, p: usize) -> *const f32 {
        self.ptr.wrapping_add(p * self.k_stride)
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// At most `count` lanes from `first`.
    pub fn part(self, first: usize, count: usize) -> Self {
        let ptr = self.ptr.wrapping_add(first * self.lane_stride);
        Lanes { ptr, count: count.min(self.count - first), ..self }
    }

    /// The lanes without their first `p` elements.
    pub fn from(self, p: usize) -> Self {
        Lanes { ptr: self.ptr.wrapping_add(p * self.k_stride), ..self }
    }
}

/// Packs `lanes` into panels of `width` lanes (4, 6, 8, 14, 16, 32 or 64), the last filled up with zeros.
///
/// # Safety
/// Each lane must be readable for `k` elements.
pub unsafe fn pack_panels(level: Level, lanes: Lanes, k: usize, dst: &mut [f32], width: usize) {
    assert!(
        dst.len() >= lanes.count.next_multiple_of(width) * k,
        "pack: {} floats for {} lanes",
        dst.len(),
        lanes.count
    );
    simd::run(level, Pack { lanes, k, dst, width });
}

struct Pack<'a> {
    lanes: Lanes,
    k: usize,
    dst: &'a mut [f32],
    width: usize,
}

impl Kernel for Pack<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: `pack_panels` checked the buffer, its caller vouches for the lanes.
        unsafe {
            match self.width {
                4 => self.panels::<S, 4>(s),
                6 => self.panels::<S, 6>(s),
                8 => self.panels::<S, 8>(s),
                14 => self.panels::<S, 14>(s),
                16 => self.panels::<S, 16>(s),
                32 => self.panels::<S, 32>(s),
                64 => self.panels::<S, 64>(s),
                width => unreachable!("no tile is {width} wide"),
            }
        }
    }
}

impl Pack<'_> {
    #[inline(always)]
    unsafe fn panels<S: Simd, const W: usize>(self, s: S) {
        for (i, first) in (0..self.lanes.count).step_by(W).enumerate() {
            let lanes = self.lanes.part(first, W);
            let dst = self.dst[i * W * self.k..][..W * self.k].as_mut_ptr();
            // SAFETY: `dst` holds k x W floats; the lanes are the caller's promise.
            unsafe {
                if lanes.count == W && lanes.lane_stride == 1 {
                    copy::<W>(lanes, self.k, dst);
                } else if lanes.count == W && lanes.k_stride == 1 {
                    transpose::<S, W>(s, lanes, self.k, dst);
                } else {
                    gather::<W>(lanes, 0, self.k, dst);
                }
            }
        }
    }
}

/// Lanes side by side in memory.
#[inline(always)]
unsafe fn copy<const W: usize>(lanes: Lanes, k: usize, dst: *mut f32) {
    for p in 0..k {
        // SAFETY: W adjacent lanes are readable at step p; dst holds k x W floats.
        unsafe { std::ptr::copy_nonoverlapping(lanes.ptr.add(p * lanes.k_stride), dst.add(p * W), W) };
    }
}

/// Each lane contiguous in memory.
#[inline(always)]
unsafe fn transpose<S: Simd, const W: usize>(s: S, lanes: Lanes, k: usize, dst: *mut f32) {
    let even = k / 8 * 8;
    for p in (0..even).step_by(8) {
        // SAFETY: p + 8 <= k; the lanes are readable and dst holds k x W floats.
        unsafe {
            let (src, to, stride) = (lanes.ptr.add(p), dst.add(p * W), lanes.lane_stride);
            for l in 0..W / 8 {
                s.transpose::<8>(src.add(8 * l * stride), stride, to.add(8 * l), W);
            }
            let l = W / 8 * 8;
            match W % 8 {
                6 => s.transpose::<6>(src.add(l * stride), stride, to.add(l), W),
                4 => s.transpose::<4>(src.add(l * stride), stride, to.add(l), W),
                _ => {}
            }
        }
    }
    // SAFETY: the rest of the same lanes.
    unsafe { gather::<W>(lanes, even, k, dst) };
}

/// Any strides and counts, from step `start`.
#[inline(always)]
unsafe fn gather<const W: usize>(lanes: Lanes, start: usize, k: usize, dst: *mut f32) {
    for p in start..k {
        for l in 0..W {
            // SAFETY: l < count and p < k are readable; dst holds k x W floats.
            unsafe {
                let x = if l < lanes.count { *lanes.ptr.add(l * lanes.lane_stride + p * lanes.k_stride) } else { 0.0 };
                *dst.add(p * W + l) = x;
            }
        }
    }
}
