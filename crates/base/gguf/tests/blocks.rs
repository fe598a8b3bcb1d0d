//! The block formats against llama.cpp's own package, and against their definitions written out element by element.

#![allow(clippy::unwrap_used)]

use cupola_gguf::{FORMATS, Format, format_by_name};
use cupola_testkit::{Golden, assert_close};
use half::f16;

fn golden() -> Golden {
    Golden::load("gguf-blocks")
}

fn bytes(golden: &Golden, name: &str) -> Vec<u8> {
    golden.i64(&format!("{name}.bytes")).1.into_iter().map(|b| b as u8).collect()
}

/// Numbers of a fixed sequence between -1 and 1, near 0 more often.
fn noise(count: usize, seed: u32) -> Vec<f32> {
    let mut state = u64::from(seed) * 2 + 1;
    let mut draw = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| (draw() + draw() + draw()) * 2.0 / 3.0).collect()
}

#[test]
fn every_golden_format_decodes_to_the_golden_numbers() {
    let golden = golden();
    let names: Vec<String> =
        golden.names().iter().filter_map(|n| n.strip_suffix(".bytes").map(str::to_owned)).collect();
    assert_eq!(names.len(), 16);
    for name in names {
        let got = format_by_name(&name).unwrap().decode(&bytes(&golden, &name)).unwrap();
        assert_close(&name, &got, &golden.f32(&format!("{name}.decoded")).1, 1e-6, 1e-5);
    }
}

#[test]
fn every_golden_encoding_is_equal_byte_for_byte() {
    let golden = golden();
    let values = golden.f32("in.values").1;
    let names = golden.info["encoded_from_in.values"].as_array().unwrap();
    assert_eq!(names.len(), 9);
    for name in names {
        let name = name.as_str().unwrap();
        let got = format_by_name(name).unwrap().encode(&values).unwrap();
        let want = bytes(&golden, name);
        let first = got.iter().zip(&want).position(|(a, b)| a != b);
        assert_eq!((got.len(), first), (want.len(), None), "{name}");
    }
}

/// A number of a block by the definition of the format, bit by bit, element by element.
mod reference {
    use super::*;

    fn half(b: &[u8], at: usize) -> f32 {
        f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
    }

    /// Bits of a field that begins at a bit of the block.
    fn bits(b: &[u8], bit: usize, count: usize) -> i32 {
        (0..count).map(|k| i32::from(b[(bit + k) / 8] >> ((bit + k) % 8) & 1) << k).sum()
    }

    /// The six-bit scale and least value of a group of Q4_K and Q5_K, from 12 bytes.
    fn six(b: &[u8], group: usize) -> (f32, f32) {
        let at = |byte: usize, bit: usize, count: usize| bits(b, 8 * byte + bit, count);
        let (scale, least) = match group {
            0..4 => (at(group, 0, 6), at(group + 4, 0, 6)),
            _ => (at(group + 4, 0, 4) + (at(group - 4, 6, 2) << 4), at(group + 4, 4, 4) + (at(group, 6, 2) << 4)),
        };
        (scale as f32, least as f32)
    }

    pub fn value(name: &str, b: &[u8], i: usize) -> f32 {
        // Of 32: the byte and the bit of four-bit numbers.
        let four = |first: usize| bits(b, 8 * (first + i % 16) + 4 * (i / 16), 4);
        // Of 256: the half, the quarter within it, the place in the quarter.
        let (h, k, l) = (i / 128, i / 32 % 4, i % 32);
        let iq4 =
            |q: i32| [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113][q as usize] as f32;
        match name {
            "Q4_0" => half(b, 0) * (four(2) - 8) as f32,
            "Q4_1" => half(b, 0) * four(4) as f32 + half(b, 2),
            "Q5_0" => half(b, 0) * (four(6) + 16 * bits(b, 16 + i, 1) - 16) as f32,
            "Q5_1" => half(b, 0) * (four(8) + 16 * bits(b, 32 + i, 1)) as f32 + half(b, 2),
            "Q8_0" => half(b, 0) * f32::from(b[2 + i] as i8),
            "Q2_K" => {
                let q = bits(b, 8 * (16 + 32 * h + l) + 2 * k, 2) as f32;
                half(b, 80) * bits(b, 8 * (i / 16), 4) as f32 * q - half(b, 82) * bits(b, 8 * (i / 16) + 4, 4) as f32
            }
            "Q3_K" => {
                let g = i / 16;
                let scale =
                    bits(b, 8 * (96 + g % 8) + 4 * (g / 8), 4) + 16 * bits(b, 8 * (104 + g % 4) + 2 * (g / 4), 2);
                let q = bits(b, 8 * (32 + 32 * h + l) + 2 * k, 2) + 4 * bits(b, 8 * l + 4 * h + k, 1);
                half(b, 108) * (scale - 32) as f32 * (q - 4) as f32
            }
            "Q4_K" => {
                let (scale, least) = six(&b[4..16], i / 32);
                let q = bits(b, 8 * (16 + 32 * (i / 64) + l) + 4 * (i / 32 % 2), 4) as f32;
                half(b, 0) * scale * q - half(b, 2) * least
            }
            "Q5_K" => {
                let (scale, least) = six(&b[4..16], i / 32);
                let q = bits(b, 8 * (48 + 32 * (i / 64) + l) + 4 * (i / 32 % 2), 4)
                    + 16 * bits(b, 8 * (16 + l) + i / 32, 1);
                half(b, 0) * scale * q as f32 - half(b, 2) * least
            }
            "Q6_K" => {
                let q = bits(b, 8 * (64 * h + 32 * (k % 2) + l) + 4 * (k / 2), 4)
                    + 16 * bits(b, 8 * (128 + 32 * h + l) + 2 * k, 2);
                half(b, 208) * f32::from(b[192 + i / 16] as i8) * (q - 32) as f32
            }
            "IQ4_NL" => half(b, 0) * iq4(four(2)),
            "IQ4_XS" => {
                let g = i / 32;
                let scale = bits(b, 32 + 4 * g, 4) + 16 * bits(b, 16 + 2 * g, 2);
                half(b, 0) * (scale - 32) as f32 * iq4(bits(b, 8 * (8 + 16 * g + l % 16) + 4 * (l / 16), 4))
            }
            "TQ1_0" => {
                let (byte, digit) = match i {
                    0..160 => (i % 32, i / 32),
                    160..240 => (32 + i % 16, (i - 160) / 16),
                    _ => (48 + i % 4, (i - 240) / 4),
                };
                // The digit-th digit after the point of byte / 256 in base three.
                let power = 3u32.pow(digit as u32);
                half(b, 52) * ((u32::from(b[byte]) * power % 256 * 3 / 256) as f32 - 1.0)
            }
            "TQ2_0" => half(b, 64) * (bits(b, 8 * (32 * h + l) + 2 * k, 2) - 1) as f32,
            "MXFP4" => {
                let q = four(1);
                let level = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][(q & 7) as usize];
                let scale = (f64::from(b[0]) - 127.0).exp2() * if q & 8 == 0 { 1.0 } else { -1.0 };
                (level * scale) as f32
            }
            "F32" => f32::from_le_bytes(b.try_into().unwrap()),
            "F64" => f64::from_le_bytes(b.try_into().unwrap()) as f32,
            "F16" => half(b, 0),
            "BF16" => f32::from_bits(u32::from(b[0]) << 16 | u32::from(b[1]) << 24),
            other => panic!("no definition of {other}"),
        }
    }
}

fn decoded() -> impl Iterator<Item = &'static Format> {
    FORMATS.iter().filter(|f| f.decode(&[]).is_ok())
}

#[test]
fn decoders_equal_the_definitions_on_random_bytes() {
    for format in decoded() {
        // Enough blocks for several threads, and an odd number of them.
        let blocks = if format.block == 1 { 70_001 } else { 4099 / (format.block / 32) };
        let raw: Vec<u8> = noise(blocks * format.bytes, format.id).iter().map(|v| (v * 4096.0) as i32 as u8).collect();
        let got = format.decode(&raw).unwrap();
        assert_eq!(got.len(), blocks * format.block);
        for (at, block) in raw.chunks_exact(format.bytes).enumerate() {
            for i in 0..format.block {
                let (got, want) = (got[at * format.block + i], reference::value(format.name, block, i));
                let near = (got - want).abs() <= want.abs() * 1e-6 || got == want || (got.is_nan() && want.is_nan());
                // Sums of infinite parts differ in nothing but which is not a number first.
                assert!(near, "{} block {at} element {i}: {got} {want}", format.name);
            }
        }
    }
}

#[test]
fn what_is_encoded_decodes_to_nearly_the_same() {
    for (name, allowed) in [
        ("F32", 0.0),
        ("F16", 0.0003),
        ("BF16", 0.003),
        ("Q8_0", 0.007),
        ("Q6_K", 0.025),
        ("Q5_K", 0.05),
        ("Q5_1", 0.06),
        ("Q5_0", 0.06),
        ("Q4_K", 0.09),
        ("Q4_1", 0.10),
        ("Q4_0", 0.11),
        ("MXFP4", 0.15),
    ] {
        let values = noise(256 * 64, 7);
        let format = format_by_name(name).unwrap();
        let back = format.decode(&format.encode(&values).unwrap()).unwrap();
        let off: f64 = values.iter().zip(&back).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let all: f64 = values.iter().map(|a| f64::from(*a).powi(2)).sum();
        let error = (off / all).sqrt();
        assert!(error <= allowed && (error > allowed * 0.3 || allowed == 0.0), "{name}: {error}");
    }
}

#[test]
fn what_a_format_holds_exactly_is_kept_exactly() {
    // Whole multiples of a scale, of which every group reaches the end.
    let whole =
        |levels: i32, least: i32| -> Vec<f32> { (0..256).map(|i| (least + (i * 7) % levels) as f32 * 0.5).collect() };
    for (name, values) in [
        ("Q4_K", whole(16, -4)),
        ("Q5_K", whole(32, -9)),
        ("Q6_K", (0..256).map(|i| if i % 16 == 5 { -16.0 } else { ((i * 7) % 63 - 31) as f32 * 0.5 }).collect()),
        ("Q4_K", vec![0.0; 256]),
        ("Q6_K", vec![0.0; 256]),
    ] {
        let format = format_by_name(name).unwrap();
        let back = format.decode(&format.encode(&values).unwrap()).unwrap();
        // Float16 rounds the shared scale.
        assert_close(name, &back, &values, 1e-6, 2e-3);
    }
}

#[test]
fn odd_numbers_are_survived() {
    for format in FORMATS.iter().filter(|f| f.writes()) {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-45] {
            let mut values = noise(format.block.max(4) * 4, 3);
            values[1] = bad;
            let back = format.decode(&format.encode(&values).unwrap()).unwrap();
            assert_eq!(back.len(), values.len());
            // Other blocks do not notice.
            let last = back.len() - 1;
            assert!((back[last] - values[last]).abs() < 0.7, "{} {bad}: {}", format.name, back[last]);
        }
    }
}

#[test]
fn ids_and_names_are_unique_and_sizes_fit() {
    for (i, a) in FORMATS.iter().enumerate() {
        assert!(FORMATS[i + 1..].iter().all(|b| a.id < b.id && a.name != b.name), "{}", a.name);
        assert_eq!(32768 % a.block, 0, "{}: threads share whole blocks", a.name);
        assert_eq!(format_by_name(&a.name.to_lowercase()).unwrap(), a);
    }
    let error = format_by_name("q4_k_m").unwrap_err();
    assert!(error.hint().unwrap().contains("did you mean Q4_K?"), "{error:?}");
    let listed = format_by_name("IQ2_XS").unwrap();
    assert!(listed.decode(&[0; 74]).unwrap_err().hint().unwrap().contains("Q4_K"));
    assert!(listed.encode(&[0.0; 256]).is_err());
    assert!(format_by_name("Q8_0").unwrap().encode(&[0.0; 33]).is_err());
    assert!(format_by_name("Q8_0").unwrap().decode(&[0; 33]).is_err());
}
