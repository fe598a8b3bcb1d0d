//! Plain numbers.

use half::{bf16, f16};

use super::{pack, unpack};

pub fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    unpack(bytes, out, |b, y: &mut [f32; 1]| y[0] = f32::from_le_bytes(*b));
}

pub fn encode_f32(values: &[f32], out: &mut [u8]) {
    pack(values, out, |x: &[f32; 1], b| *b = x[0].to_le_bytes());
}

pub fn decode_f64(bytes: &[u8], out: &mut [f32]) {
    unpack(bytes, out, |b, y: &mut [f32; 1]| y[0] = f64::from_le_bytes(*b) as f32);
}

pub fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    unpack(bytes, out, |b, y: &mut [f32; 1]| y[0] = f16::from_le_bytes(*b).to_f32());
}

pub fn encode_f16(values: &[f32], out: &mut [u8]) {
    pack(values, out, |x: &[f32; 1], b| *b = f16::from_f32(x[0]).to_le_bytes());
}

pub fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
    unpack(bytes, out, |b, y: &mut [f32; 1]| y[0] = bf16::from_le_bytes(*b).to_f32());
}

pub fn encode_bf16(values: &[f32], out: &mut [u8]) {
    pack(values, out, |x: &[f32; 1], b| *b = bf16::from_f32(x[0]).to_le_bytes());
}
