//! Blocks of 256 numbers in groups of 16 or 32, whose scales are small numbers that share a scale themselves.

use super::{half_at, unpack};

/// Two bits; groups of 16 with four-bit scales and least values. Bits 2k of byte 32 h + l are element 128 h + 32 k + l.
pub fn q2_k(bytes: &[u8], out: &mut [f32]) {
    unpack(bytes, out, |b: &[u8; 84], y: &mut [f32; 256]| {
        let (d, d_least) = (half_at(b, 80), half_at(b, 82));
        for (group, y) in y.chunks_exact_mut(16).enumerate() {
            let (scale, least) = (d * f32::from(b[group] & 15), d_least * f32::from(b[group] >> 4));
            let (first, shift) = (16 + 32 * (group / 8) + 16 * (group % 2), 2 * (group % 8 / 2));
            y.iter_mut().zip(&b[first..]).for_each(|(y, q)| *y = scale * f32::from(q >> shift & 3) - least);
        }
    });
}

/// Three bits: two as in Q2_K, the third in bit 4 h + k of byte l; groups of 16 with six-bit scales.
pub fn q3_k(bytes: &[u8], out: &mut [f32]) {
    unpack(bytes, out, |b: &[u8; 110], y: &mut [f32; 256]| {
        let (d, scales) = (half_at(b, 108), &b[96..108]);
        for (group, y) in y.chunks_exact_mut(16).enumerate() {
            let low = scales[group % 8] >> (4 * (group / 8)) & 15;
            let high = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
            let scale = d * (f32::from(low | high << 4) - 32.0);
            let (half, k, within) = (group / 8, group % 8 / 2, 16 * (group % 2));
            for (l, y) in y.iter_mut().enumerate() {
                let low = b[32 + 32 * half + within + l] >> (2 * k) & 3;
                let third = b[within + l] >> (4 * half + k) & 1;
                *y = scale * (f32::from(low | third << 2) - 4.0);
            }
        }
    });
}

/// Four bits: groups of 32 with six-bit scales and least values. The low halves of 32 bytes are one group, the high ones
/// the next.
pub fn q4_k(bytes: &[u8], out: &mut [f32]) {
    unpack(bytes, out, |b: &[u8; 144], y: &mut [f32; 256]| {
        let (d, d_least) = (half_at(b, 0), half_at(b, 2));
        for (group, y) in y.chunks_exact_mut(32).enumerate() {
            let (scale, least) = scale_and_least(&b[4..16], group);
            let (scale, least) = (d * f32::from(scale), d_least * f32::from(least));
            let (first, shift) = (16 + 32 * (group / 2), 4 * (group % 2));
            y.iter_mut().zip(&b[first..]).for_each(|(y, q)| *y = scale * f32::from(q >> shift & 15) - least);
        }
    });
}

/// Five bits: four as in Q4_K, the fifth in bit g of byte l for element l of group g.
pub fn q5_k(bytes: &[u8], out: &mut [f32]) {
    unpack(bytes, out, |b: &[u8; 176], y: &mut [f32; 256]| {
        let (d, d_least) = (half_at(b, 0), half_at(b, 2));
        for (group, y) in y.chunks_exact_mut(32).enumerate() {
            let (scale, least) = scale_and_least(&b[4..16], group);
            let (scale, least) = (d * f32::from(scale), d_least * f32::from(least));
            let (first, shift) = (48 + 32 * (group / 2), 4 * (group % 2));
            for (l, y) in y.iter_mut().enumerate() {
                let q = (b[first + l] >> shift & 15) | (b[16 + l] >> group & 1) << 4;
                *y = scale * f32::from(q) - least;
            }
        }
    });
}

/// Six bits: groups of 16 with eight-bit scales. Of element 128 h + 32 k + l, four bits are half k / 2 of byte
/// 64 h + 32 (k % 2) + l, two are bits 2k of byte 32 h + l of the second part.
pub fn q6_k(bytes: &[u8], out: &mut [f32]) {
    unpack(bytes, out, |b: &[u8; 210], y: &mut [f32; 256]| {
        let (d, scales) = (half_at(b, 208), &b[192..208]);
        for (group, y) in y.chunks_exact_mut(16).enumerate() {
            let scale = d * f32::from(scales[group].cast_signed());
            let (half, k, within) = (group / 8, group % 8 / 2, 16 * (group % 2));
            for (l, y) in y.iter_mut().enumerate() {
                let low = b[64 * half + 32 * (k % 2) + within + l] >> (4 * (k / 2)) & 15;
                let high = b[128 + 32 * half + within + l] >> (2 * k) & 3;
                *y = scale * (f32::from(low | high << 4) - 32.0);
            }
        }
    });
}

/// The six-bit scale and least value of a group: those of groups 0 to 3 stand whole in the first eight bytes, those of the
/// others in halves of the last four and the free bits above the first eight.
fn scale_and_least(packed: &[u8], group: usize) -> (u8, u8) {
    if group < 4 {
        return (packed[group] & 63, packed[group + 4] & 63);
    }
    let halves = packed[group + 4];
    ((halves & 15) | (packed[group - 4] >> 6) << 4, (halves >> 4) | (packed[group] >> 6) << 4)
}
