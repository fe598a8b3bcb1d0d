//! Four-bit numbers that point into a table of levels.

use super::{extreme, half_at, pack, unpack};

/// The levels of the IQ4 formats.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// Twice the levels of a 4-bit float: a sign, two bits of exponent, one of mantissa (OCP Microscaling Formats 1.0).
const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Byte l holds the index of element l and above it that of element l + 16.
fn levels(table: &[i8; 16], q: &[u8], d: f32, y: &mut [f32]) {
    for (l, byte) in q.iter().enumerate() {
        y[l] = d * f32::from(table[usize::from(byte & 15)]);
        y[l + 16] = d * f32::from(table[usize::from(byte >> 4)]);
    }
}

pub fn decode_iq4_nl(bytes: &[u8], out: &mut [f32]) {
    unpack(bytes, out, |b: &[u8; 18], y: &mut [f32; 32]| levels(&IQ4, &b[2..], half_at(b, 0), y));
}

/// Eight groups of 32, each with a six-bit scale: four bits in one place, two in another.
pub fn decode_iq4_xs(bytes: &[u8], out: &mut [f32]) {
    unpack(bytes, out, |b: &[u8; 136], y: &mut [f32; 256]| {
        let (d, high) = (half_at(b, 0), u16::from_le_bytes([b[2], b[3]]));
        for (group, y) in y.chunks_exact_mut(32).enumerate() {
            let scale = (b[4 + group / 2] >> (4 * (group % 2)) & 15) | ((high >> (2 * group) & 3) << 4) as u8;
            levels(&IQ4, &b[8 + 16 * group..][..16], d * (f32::from(scale) - 32.0), y);
        }
    });
}

pub fn decode_mxfp4(bytes: &[u8], out: &mut [f32]) {
    unpack(bytes, out, |b: &[u8; 17], y: &mut [f32; 32]| levels(&E2M1, &b[1..], half_power(b[0]), y));
}

pub fn encode_mxfp4(values: &[f32], out: &mut [u8]) {
    pack(values, out, |x: &[f32; 32], b: &mut [u8; 17]| {
        let most = extreme(x).abs();
        b[0] = if most > 0.0 { (most.log2().floor() + 125.0) as u8 } else { 0 };
        let d = half_power(b[0]);
        let nearest = |v: f32| {
            let error = |level: &i8| (d * f32::from(*level) - v).abs();
            (0..16).fold(0, |best, i| if error(&E2M1[i]) < error(&E2M1[best]) { i } else { best }) as u8
        };
        (0..16).for_each(|l| b[1 + l] = nearest(x[l]) | nearest(x[l + 16]) << 4);
    });
}

/// 2 ** (e - 128): half the power of two that eight bits of exponent name, as the table holds twice the levels.
fn half_power(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (u32::from(e) - 1) << 23 })
}
