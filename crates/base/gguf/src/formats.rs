//! The formats of a tensor's elements: plain numbers, and blocks of numbers that share their scales.

mod float;
mod four;
mod k_decode;
mod k_encode;
mod legacy;
mod ternary;

use cupola_artifact::{Error, Result, nearest};
use rayon::prelude::*;

/// Blocks of bytes to numbers.
type Decode = fn(&[u8], &mut [f32]);
/// Numbers to blocks of bytes.
type Encode = fn(&[f32], &mut [u8]);

/// How elements are stored.
pub struct Format {
    /// The name, as llama.cpp has it.
    pub name: &'static str,
    /// The number by which files name it.
    pub id: u32,
    /// Elements to a block.
    pub block: usize,
    /// Bytes to a block.
    pub bytes: usize,
    decode: Option<Decode>,
    encode: Option<Encode>,
}

/// A format that is read and written.
const fn full(name: &'static str, id: u32, block: usize, bytes: usize, code: (Decode, Encode)) -> Format {
    Format { name, id, block, bytes, decode: Some(code.0), encode: Some(code.1) }
}

/// A format that is read alone.
const fn read(name: &'static str, id: u32, block: usize, bytes: usize, decode: Decode) -> Format {
    Format { name, id, block, bytes, decode: Some(decode), encode: None }
}

/// A format whose size alone is known: files that have it can be listed, and their other tensors read.
const fn sized(name: &'static str, id: u32, block: usize, bytes: usize) -> Format {
    Format { name, id, block, bytes, decode: None, encode: None }
}

/// Every format.
pub const FORMATS: &[Format] = &[
    full("F32", 0, 1, 4, (float::decode_f32, float::encode_f32)),
    full("F16", 1, 1, 2, (float::decode_f16, float::encode_f16)),
    full("Q4_0", 2, 32, 18, (legacy::decode_q4_0, legacy::encode_q4_0)),
    full("Q4_1", 3, 32, 20, (legacy::decode_q4_1, legacy::encode_q4_1)),
    full("Q5_0", 6, 32, 22, (legacy::decode_q5_0, legacy::encode_q5_0)),
    full("Q5_1", 7, 32, 24, (legacy::decode_q5_1, legacy::encode_q5_1)),
    full("Q8_0", 8, 32, 34, (legacy::decode_q8_0, legacy::encode_q8_0)),
    sized("Q8_1", 9, 32, 40),
    read("Q2_K", 10, 256, 84, k_decode::q2_k),
    read("Q3_K", 11, 256, 110, k_decode::q3_k),
    full("Q4_K", 12, 256, 144, (k_decode::q4_k, k_encode::q4_k)),
    full("Q5_K", 13, 256, 176, (k_decode::q5_k, k_encode::q5_k)),
    full("Q6_K", 14, 256, 210, (k_decode::q6_k, k_encode::q6_k)),
    sized("Q8_K", 15, 256, 292),
    sized("IQ2_XXS", 16, 256, 66),
    sized("IQ2_XS", 17, 256, 74),
    sized("IQ3_XXS", 18, 256, 98),
    sized("IQ1_S", 19, 256, 50),
    read("IQ4_NL", 20, 32, 18, four::decode_iq4_nl),
    sized("IQ3_S", 21, 256, 110),
    sized("IQ2_S", 22, 256, 82),
    read("IQ4_XS", 23, 256, 136, four::decode_iq4_xs),
    sized("I8", 24, 1, 1),
    sized("I16", 25, 1, 2),
    sized("I32", 26, 1, 4),
    sized("I64", 27, 1, 8),
    read("F64", 28, 1, 8, float::decode_f64),
    sized("IQ1_M", 29, 256, 56),
    full("BF16", 30, 1, 2, (float::decode_bf16, float::encode_bf16)),
    full("TQ1_0", 34, 256, 54, (ternary::decode_tq1_0, ternary::encode_tq1_0)),
    full("TQ2_0", 35, 256, 66, (ternary::decode_tq2_0, ternary::encode_tq2_0)),
    full("MXFP4", 39, 32, 17, (four::decode_mxfp4, four::encode_mxfp4)),
    sized("NVFP4", 40, 64, 36),
    sized("Q1_0", 41, 128, 18),
];

/// Elements that one thread takes at a time; whole blocks of every format.
const CHUNK: usize = 1 << 15;

/// The format of a number.
pub(crate) fn format_by_id(id: u32) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.id == id)
}

/// The format of a name, in either case.
///
/// # Errors
/// An unknown name; names the nearest and those that can be written.
pub fn format_by_name(name: &str) -> Result<&'static Format> {
    FORMATS.iter().find(|format| format.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
        let known: Vec<_> = FORMATS.iter().filter(|f| f.encode.is_some()).map(|f| f.name).collect();
        let near = nearest(name, known.iter().copied()).map(|near| format!("did you mean {near}? "));
        Error::usage(format!("there is no element type `{name}`")).with_hint(format!(
            "{}those that can be written: {}",
            near.unwrap_or_default(),
            known.join(", ")
        ))
    })
}

impl std::fmt::Debug for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Format {
    /// Whether it can be written.
    pub fn writes(&self) -> bool {
        self.encode.is_some()
    }

    /// Whole blocks as 32-bit floats.
    ///
    /// # Errors
    /// A format that is not decoded, and bytes that are no whole blocks.
    pub fn decode(&self, bytes: &[u8]) -> Result<Vec<f32>> {
        let Some(decode) = self.decode else {
            let known: Vec<_> = FORMATS.iter().filter(|f| f.decode.is_some()).map(|f| f.name).collect();
            return Err(Error::failed(format!("the format {} cannot be decoded", self.name))
                .with_hint(format!("get the model in one of {}", known.join(", "))));
        };
        if !bytes.len().is_multiple_of(self.bytes) {
            let (len, size) = (bytes.len(), self.bytes);
            return Err(Error::failed(format!("{len} bytes are no whole blocks of {size} ({})", self.name)));
        }
        let mut values = vec![0.0; bytes.len() / self.bytes * self.block];
        let chunk = CHUNK / self.block * self.bytes;
        values.par_chunks_mut(CHUNK).zip(bytes.par_chunks(chunk)).for_each(|(values, bytes)| decode(bytes, values));
        Ok(values)
    }

    /// Values as blocks.
    ///
    /// # Errors
    /// A format that is not written, and values that fill no whole blocks.
    pub fn encode(&self, values: &[f32]) -> Result<Vec<u8>> {
        let Some(encode) = self.encode else {
            let known: Vec<_> = FORMATS.iter().filter(|f| f.encode.is_some()).map(|f| f.name).collect();
            return Err(Error::failed(format!("the format {} cannot be written", self.name))
                .with_hint(format!("choose one of {}", known.join(", "))));
        };
        if !values.len().is_multiple_of(self.block) {
            let (len, block) = (values.len(), self.block);
            return Err(Error::failed(format!("{len} values fill no whole blocks of {block} ({})", self.name)));
        }
        let mut bytes = vec![0; values.len() / self.block * self.bytes];
        let chunk = CHUNK / self.block * self.bytes;
        bytes.par_chunks_mut(chunk).zip(values.par_chunks(CHUNK)).for_each(|(bytes, values)| encode(values, bytes));
        Ok(bytes)
    }
}

/// Decodes block by block: `B` bytes to `N` numbers.
fn unpack<const B: usize, const N: usize>(bytes: &[u8], out: &mut [f32], one: impl Fn(&[u8; B], &mut [f32; N])) {
    bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0).for_each(|(block, values)| one(block, values));
}

/// Encodes block by block: `N` numbers to `B` bytes.
fn pack<const N: usize, const B: usize>(values: &[f32], out: &mut [u8], one: impl Fn(&[f32; N], &mut [u8; B])) {
    values.as_chunks().0.iter().zip(out.as_chunks_mut().0).for_each(|(values, block)| one(values, block));
}

/// The float16 number at a place of a block.
fn half_at(block: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Puts a number into a block as float16.
fn put_half(block: &mut [u8], at: usize, value: f32) {
    block[at..at + 2].copy_from_slice(&half::f16::from_f32(value).to_le_bytes());
}

/// 1 / x, or 0 for 0.
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// The first value of the largest magnitude, with its sign.
fn extreme(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |best: f32, v| if v.abs() > best.abs() { *v } else { best })
}
