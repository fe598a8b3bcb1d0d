//! Eight-bit weights against plain loops, and the rounding's bound.
mod common;
use common::{assert_close, assert_same_on_any_threads, at_every_level, noise};
use cupola_kernels::*;

#[test]
fn rounding_is_off_by_at_most_half_a_step() {
    for (rows, cols, group) in [(1, 1, 1), (3, 100, 32), (5, 64, 64), (2, 33, 100)] {
        let w = noise(rows * cols, 1);
        let (q, scales) = quantize_q8(&w, rows, cols, group);
        let m = Q8 { q: &q, scales: &scales, rows, cols, group };
        let (mut got, mut want) = (vec![0.0; w.len()], vec![0.0; w.len()]);
        dequantize_q8(&m, &mut got);
        reference::dequantize_q8(&m, &mut want);
        assert_eq!(got, want);
        for (i, (w, g)) in w.iter().zip(&got).enumerate() {
            let step = scales[i / cols * cols.div_ceil(group) + i % cols / group];
            assert!((w - g).abs() <= 0.5001 * step, "weight {i}: {w} became {g}, a step is {step}");
        }
    }
}

#[test]
fn a_group_of_zeros_has_scale_zero() {
    let (q, scales) = quantize_q8(&[0.0, 0.0, 1.0, -2.0], 1, 4, 2);
    assert_eq!((q, scales), (vec![0, 0, 64, -127], vec![0.0, 2.0 / 127.0]));
}

#[test]
fn products_equal_plain_loops() {
    at_every_level(|| {
        for n in [1, 2, 3, 4, 5, 6, 7, 8, 9, 20] {
            for (rows, cols, group) in
                [(1, 1, 1), (5, 7, 3), (40, 64, 32), (33, 100, 32), (3, 300, 128), (900, 250, 64)]
            {
                let (w, x) = (noise(rows * cols, 1), noise(n * cols, 2));
                let (q, scales) = quantize_q8(&w, rows, cols, group);
                let m = Q8 { q: &q, scales: &scales, rows, cols, group };
                let (mut got, mut want) = (vec![0.0; n * rows], vec![0.0; n * rows]);
                matmul_q8(&x, &m, &mut got);
                reference::matmul_q8(&x, &m, &mut want);
                assert_close(&format!("{n} x [{rows}, {cols}] by {group}"), &got, &want, 2e-5);
            }
        }
    });
}

#[test]
fn threads_change_no_bit() {
    for n in [1, 3, 30] {
        assert_same_on_any_threads(|| {
            let (q, scales) = quantize_q8(&noise(700 * 300, 1), 700, 300, 64);
            let mut y = vec![0.0; n * 700];
            matmul_q8(&noise(n * 300, 2), &Q8 { q: &q, scales: &scales, rows: 700, cols: 300, group: 64 }, &mut y);
            y
        });
    }
}
