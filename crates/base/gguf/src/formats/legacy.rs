//! Blocks of 32 numbers with one scale (`_0`), or a scale and a least value (`_1`): value = scale * q + least.
//!
//! Of the four lowest bits, byte l holds those of element l and above them those of element l + 16; of five-bit numbers the
//! highest bit stands apart, element l's as bit l of a 32-bit word.

use super::{extreme, half_at, inverse, pack, put_half, unpack};

pub fn decode_q4_0(bytes: &[u8], out: &mut [f32]) {
    unpack(bytes, out, |b: &[u8; 18], y: &mut [f32; 32]| {
        let d = half_at(b, 0);
        fill(y, |l| d * (f32::from(nibble(&b[2..], l)) - 8.0));
    });
}

pub fn decode_q4_1(bytes: &[u8], out: &mut [f32]) {
    unpack(bytes, out, |b: &[u8; 20], y: &mut [f32; 32]| {
        let (d, least) = (half_at(b, 0), half_at(b, 2));
        fill(y, |l| d * f32::from(nibble(&b[4..], l)) + least);
    });
}

pub fn decode_q5_0(bytes: &[u8], out: &mut [f32]) {
    unpack(bytes, out, |b: &[u8; 22], y: &mut [f32; 32]| {
        let d = half_at(b, 0);
        fill(y, |l| d * (f32::from(nibble(&b[6..], l) | fifth_bit(&b[2..], l)) - 16.0));
    });
}

pub fn decode_q5_1(bytes: &[u8], out: &mut [f32]) {
    unpack(bytes, out, |b: &[u8; 24], y: &mut [f32; 32]| {
        let (d, least) = (half_at(b, 0), half_at(b, 2));
        fill(y, |l| d * f32::from(nibble(&b[8..], l) | fifth_bit(&b[4..], l)) + least);
    });
}

pub fn decode_q8_0(bytes: &[u8], out: &mut [f32]) {
    unpack(bytes, out, |b: &[u8; 34], y: &mut [f32; 32]| {
        let d = half_at(b, 0);
        fill(y, |l| d * f32::from(b[2 + l].cast_signed()));
    });
}

pub fn encode_q4_0(values: &[f32], out: &mut [u8]) {
    pack(values, out, |x: &[f32; 32], b: &mut [u8; 18]| {
        let d = extreme(x) / -8.0;
        let id = inverse(d);
        put_half(b, 0, d);
        put_nibbles(&mut b[2..], |l| level(x[l] * id + 8.5, 15));
    });
}

pub fn encode_q4_1(values: &[f32], out: &mut [u8]) {
    pack(values, out, |x: &[f32; 32], b: &mut [u8; 20]| {
        let (least, d) = span(x, 15.0);
        let id = inverse(d);
        put_half(b, 0, d);
        put_half(b, 2, least);
        put_nibbles(&mut b[4..], |l| level((x[l] - least) * id + 0.5, 15));
    });
}

pub fn encode_q5_0(values: &[f32], out: &mut [u8]) {
    pack(values, out, |x: &[f32; 32], b: &mut [u8; 22]| {
        let d = extreme(x) / -16.0;
        let id = inverse(d);
        put_half(b, 0, d);
        let q = |l: usize| level(x[l] * id + 16.5, 31);
        put_fifth_bits(&mut b[2..6], q);
        put_nibbles(&mut b[6..], |l| q(l) & 15);
    });
}

pub fn encode_q5_1(values: &[f32], out: &mut [u8]) {
    pack(values, out, |x: &[f32; 32], b: &mut [u8; 24]| {
        let (least, d) = span(x, 31.0);
        let id = inverse(d);
        put_half(b, 0, d);
        put_half(b, 2, least);
        let q = |l: usize| level((x[l] - least) * id + 0.5, 31);
        put_fifth_bits(&mut b[4..8], q);
        put_nibbles(&mut b[8..], |l| q(l) & 15);
    });
}

pub fn encode_q8_0(values: &[f32], out: &mut [u8]) {
    pack(values, out, |x: &[f32; 32], b: &mut [u8; 34]| {
        let d = extreme(x).abs() / 127.0;
        let id = inverse(d);
        put_half(b, 0, d);
        b[2..].iter_mut().zip(x).for_each(|(q, v)| *q = ((v * id).round() as i8).cast_unsigned());
    });
}

fn fill(out: &mut [f32; 32], value: impl Fn(usize) -> f32) {
    out.iter_mut().enumerate().for_each(|(l, y)| *y = value(l));
}

fn nibble(bytes: &[u8], l: usize) -> u8 {
    bytes[l % 16] >> (4 * (l / 16)) & 15
}

fn put_nibbles(out: &mut [u8], q: impl Fn(usize) -> u8) {
    out.iter_mut().enumerate().for_each(|(l, byte)| *byte = q(l) | q(l + 16) << 4);
}

fn fifth_bit(bytes: &[u8], l: usize) -> u8 {
    (bytes[l / 8] >> (l % 8) & 1) << 4
}

fn put_fifth_bits(out: &mut [u8], q: impl Fn(usize) -> u8) {
    (0..32).for_each(|l| out[l / 8] |= (q(l) >> 4) << (l % 8));
}

/// The whole number below, within what the bits hold.
fn level(x: f32, most: u8) -> u8 {
    (x as u8).min(most)
}

/// The least value and the step that reaches the largest one.
fn span(x: &[f32; 32], steps: f32) -> (f32, f32) {
    let least = x.iter().copied().fold(f32::INFINITY, f32::min);
    let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (least, (most - least) / steps)
}
