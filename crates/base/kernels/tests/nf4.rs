//! Four-bit weights against the obvious loops, and the tables they rest on.

use cupola_kernels::{NF4, dequantize_nf4, nf4_scale_codes, quantize_nf4};

/// Numbers that differ in size from block to block.
fn numbers(len: usize) -> Vec<f32> {
    let mut state = 9u64;
    (0..len)
        .map(|i| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let x = (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
            x * (1.0 + (i / 64 % 5) as f32)
        })
        .collect()
}

#[test]
fn the_nearest_code_is_chosen_block_by_block() {
    for len in [1, 2, 63, 64, 65, 640, 64 * 300 + 7] {
        let w = numbers(len);
        let parts = quantize_nf4(&w);
        let mut back = vec![f32::NAN; len];
        dequantize_nf4(&parts.view(len), &mut back);
        let codes = nf4_scale_codes();
        for (block, w) in w.chunks(64).enumerate() {
            let top = w.iter().fold(0.0f32, |top, x| top.max(x.abs()));
            let scale = codes[usize::from(parts.scales[block])] * parts.nested[block / 256] + parts.offset;
            for (i, x) in w.iter().enumerate() {
                let best = NF4.iter().map(|c| (c - x / top).abs()).fold(f32::INFINITY, f32::min);
                let at = block * 64 + i;
                let byte = parts.packed[at / 2];
                let code = if at.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
                assert!((NF4[usize::from(code)] - x / top).abs() <= best + 1e-6, "{len}: {at}");
                assert_eq!(back[at], NF4[usize::from(code)] * scale, "{len}: {at}");
            }
        }
    }
}

#[test]
fn zeros_stay_zeros_and_nothing_is_nothing() {
    let parts = quantize_nf4(&[0.0; 130]);
    let mut back = [1.0; 130];
    dequantize_nf4(&parts.view(130), &mut back);
    assert!(back.iter().all(|x| *x == 0.0));
    let none = quantize_nf4(&[]);
    dequantize_nf4(&none.view(0), &mut []);
    assert!(none.packed.is_empty() && none.offset == 0.0);
}

#[test]
fn the_codes_of_scales_rise_from_almost_minus_one_to_one() {
    let codes = nf4_scale_codes();
    assert!(codes.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!((codes[127], codes[255]), (0.0, 1.0));
    assert!((codes[0] + 0.992_968_75).abs() < 1e-6, "{}", codes[0]);
}
