//! Blocks of 256 numbers that are -1, 0 or 1 times a scale.

use super::{extreme, half_at, inverse, pack, put_half, unpack};

/// The runs of a TQ1_0 block: first element, bytes, digits to a byte, first byte. Digit k of byte m is element
/// `first + k * bytes + m`.
const RUNS: [(usize, usize, usize, usize); 3] = [(0, 32, 5, 0), (160, 16, 5, 32), (240, 4, 4, 48)];

/// Up to five digits of base three to a byte, as the fraction digits / 243 of 256, rounded up: multiplying by three moves
/// the next digit above the eighth bit.
pub fn decode_tq1_0(bytes: &[u8], out: &mut [f32]) {
    unpack(bytes, out, |b: &[u8; 54], y: &mut [f32; 256]| {
        let d = half_at(b, 52);
        for (first, count, digits, at) in RUNS {
            for m in 0..count {
                let mut rest = b[at + m];
                for k in 0..digits {
                    let product = u16::from(rest) * 3;
                    y[first + k * count + m] = d * (f32::from(product >> 8) - 1.0);
                    rest = product as u8;
                }
            }
        }
    });
}

pub fn encode_tq1_0(values: &[f32], out: &mut [u8]) {
    pack(values, out, |x: &[f32; 256], b: &mut [u8; 54]| {
        let (d, digit) = digits(x);
        put_half(b, 52, d);
        for (first, count, digits, at) in RUNS {
            for m in 0..count {
                let number = (0..5)
                    .fold(0, |n, k| n * 3 + if k < digits { u32::from(digit(x[first + k * count + m])) } else { 0 });
                b[at + m] = ((number * 256).div_ceil(243)) as u8;
            }
        }
    });
}

/// Two bits each: bits 2k of byte 32 h + l are element 128 h + 32 k + l.
pub fn decode_tq2_0(bytes: &[u8], out: &mut [f32]) {
    unpack(bytes, out, |b: &[u8; 66], y: &mut [f32; 256]| {
        let d = half_at(b, 64);
        y.iter_mut().enumerate().for_each(|(i, y)| {
            let byte = b[32 * (i / 128) + i % 32];
            *y = d * (f32::from(byte >> (2 * (i % 128 / 32)) & 3) - 1.0);
        });
    });
}

pub fn encode_tq2_0(values: &[f32], out: &mut [u8]) {
    pack(values, out, |x: &[f32; 256], b: &mut [u8; 66]| {
        let (d, digit) = digits(x);
        put_half(b, 64, d);
        (0..256).for_each(|i| b[32 * (i / 128) + i % 32] |= digit(x[i]) << (2 * (i % 128 / 32)));
    });
}

/// The scale, and what turns a number into 0, 1 or 2.
fn digits(x: &[f32; 256]) -> (f32, impl Fn(f32) -> u8) {
    let d = extreme(x).abs();
    let id = inverse(d);
    (d, move |v: f32| ((v * id).round() as i8 + 1).clamp(0, 2) as u8)
}
