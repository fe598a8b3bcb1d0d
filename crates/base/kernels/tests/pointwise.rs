//! Rotary positions, embeddings, softmax, dropout and the optimizer against plain loops.
mod common;
use common::{assert_close, assert_same_on_any_threads, assert_slope, at_every_level, noise};
use cupola_kernels::*;

const SHAPES: [(usize, usize); 7] = [(1, 1), (3, 5), (2, 8), (70, 33), (65, 64), (33, 257), (100, 288)];

#[test]
fn rope_equals_its_definition_and_its_inverse_undoes_it() {
    at_every_level(|| {
        for (n, heads, d_head, rotary) in [(1, 1, 2, 2), (5, 3, 8, 4), (40, 2, 34, 34), (600, 4, 64, 64), (3, 2, 5, 0)]
        {
            let angles = noise(50 * rotary / 2, 1);
            let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
            let table = RopeTable { cos: &cos, sin: &sin, rotary_dim: rotary };
            let positions: Vec<u32> = (0..n as u32).map(|i| i * 7 % 50).collect();
            let x = noise(n * heads * d_head, 2);
            let (mut got, mut want) = (x.clone(), x.clone());
            let how = Rope { positions: &positions, table, n_heads: heads, d_head, inverse: false };
            rope(&mut got, &how);
            reference::rope(&mut want, &how);
            assert_close("rope", &got, &want, 1e-6);
            let mut elsewhere = vec![f32::NAN; x.len()];
            rope_into(&x, &mut elsewhere, &how);
            assert_eq!(elsewhere, got);
            rope(&mut got, &Rope { inverse: true, ..how });
            assert_close("undone", &got, &x, 1e-6);
        }
    });
}

#[test]
fn embedding_equals_its_definition() {
    for (n, v, d) in [(1, 1, 1), (9, 4, 3), (500, 130, 17), (3, 1000, 64)] {
        let (table, dy) = (noise(v * d, 1), noise(n * d, 2));
        let ids: Vec<u32> = (0..n).map(|i| ((i * i * 31 + 5 * i) % v) as u32).collect();
        let (mut y, mut ry, mut dt, mut rt) = (vec![0.0; n * d], vec![0.0; n * d], vec![9.0; v * d], vec![8.0; v * d]);
        embedding_forward(&table, &ids, d, &mut y);
        reference::embedding_forward(&table, &ids, d, &mut ry);
        embedding_backward(&dy, &ids, d, &mut dt);
        reference::embedding_backward(&dy, &ids, d, &mut rt);
        assert_eq!((y, dt), (ry, rt));
    }
}

#[test]
#[should_panic(expected = "id 4, but the table has 4 rows")]
fn an_id_outside_the_table_is_refused() {
    embedding_forward(&[0.0; 8], &[4], 2, &mut [0.0; 2]);
}

#[test]
fn log_softmax_equals_its_definition() {
    at_every_level(|| {
        for (n, d) in SHAPES {
            let x: Vec<f32> = noise(n * d, 1).iter().map(|x| x * 30.0).collect();
            let (mut got, mut want) = (vec![0.0; n * d], vec![0.0; n * d]);
            log_softmax_rows(&x, d, &mut got);
            reference::log_softmax_rows(&x, d, &mut want);
            assert_close(&format!("[{n}, {d}]"), &got, &want, 2e-6);
        }
    });
}

#[test]
fn softmax_equals_its_definition() {
    at_every_level(|| {
        for (n, d) in SHAPES {
            let x: Vec<f32> = noise(n * d, 1).iter().map(|x| x * 30.0).collect();
            let dy = noise(n * d, 2);
            let [mut y, mut dx, mut ry, mut rx] = [(); 4].map(|()| vec![9.0; n * d]);
            softmax_rows(&x, d, &mut y);
            reference::softmax_rows(&x, d, &mut ry);
            softmax_rows_backward(&y, &dy, d, &mut dx);
            reference::softmax_rows_backward(&ry, &dy, d, &mut rx);
            assert_close(&format!("y of [{n}, {d}]"), &y, &ry, 5e-6);
            assert_close(&format!("dx of [{n}, {d}]"), &dx, &rx, 5e-6);
        }
    });
}

#[test]
fn softmax_gradients_are_slopes() {
    let (x, dy) = (noise(14, 1), noise(14, 2));
    let (mut y, mut dx) = (vec![0.0; 14], vec![0.0; 14]);
    softmax_rows(&x, 7, &mut y);
    softmax_rows_backward(&y, &dy, 7, &mut dx);
    assert_slope("dx", &x, &dx, |x| {
        let mut y = vec![0.0; 14];
        reference::softmax_rows(x, 7, &mut y);
        y.iter().zip(&dy).map(|(y, g)| f64::from(*y) * f64::from(*g)).sum()
    });
}

/// The answers of Random123, the generator's first implementation (`kat_vectors`, philox4x32 10).
#[test]
fn philox_gives_the_known_answers() {
    for (counter, key, answer) in [
        ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ] {
        assert_eq!(philox(counter, key), answer);
    }
}

#[test]
fn dropout_equals_its_definition_bit_for_bit_at_every_level() {
    at_every_level(|| {
        for (len, p) in [(1, 0.5), (63, 0.1), (65, 0.9), (40_001, 0.3), (200, 0.0)] {
            let d = Dropout { p, seed: 0x1234_5678_9abc_def0, stream: (7 << 32) + 5 };
            let x = noise(len, 1);
            let (mut got, mut want) = (vec![9.0; len], vec![8.0; len]);
            dropout(&d, &x, &mut got);
            reference::dropout(&d, &x, &mut want);
            assert_eq!(got, want);
        }
    });
}

#[test]
fn dropout_drops_its_share_and_differs_by_seed_and_stream() {
    let masks = [(1, 0), (2, 0), (1, 1)].map(|(seed, stream)| {
        let mut y = vec![0.0; 100_000];
        dropout(&Dropout { p: 0.2, seed, stream }, &vec![1.0; 100_000], &mut y);
        let kept = y.iter().filter(|y| **y != 0.0).count();
        // Four deviations of a binomial distribution.
        assert!((kept as f64 - 80_000.0).abs() < 4.0 * (100_000.0f64 * 0.16).sqrt(), "{kept} kept");
        assert!(y.iter().all(|y| *y == 0.0 || *y == 1.25));
        y
    });
    assert!(masks[0] != masks[1] && masks[0] != masks[2] && masks[1] != masks[2]);
}

#[test]
fn dropout_hides_no_nan() {
    let mut y = [0.0; 64];
    dropout(&Dropout { p: 0.5, seed: 3, stream: 0 }, &[f32::NAN; 64], &mut y);
    assert!(y.iter().all(|y| y.is_nan()));
}

#[test]
fn adamw_equals_its_definition_over_steps() {
    at_every_level(|| {
        for len in [1, 8, 19, 40_001] {
            let mut got = [noise(len, 1), vec![0.0; len], vec![0.0; len]];
            let mut want = got.clone();
            for step in 1..=3 {
                let g = noise(len, 10 + step);
                let h =
                    AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step, grad_scale: 0.5 };
                let [p, m, v] = &mut got;
                adamw(p, &g, m, v, &h);
                let [p, m, v] = &mut want;
                reference::adamw(p, &g, m, v, &h);
            }
            got.iter().zip(&want).for_each(|(g, w)| assert_close("state", g, w, 2e-6));
        }
    });
}

#[test]
fn sum_of_squares_equals_its_definition() {
    at_every_level(|| {
        for len in [0, 1, 15, 17, 200_003] {
            let x = noise(len, 1);
            let (got, want) = (sum_of_squares(&x), reference::sum_of_squares(&x));
            assert!((got - want).abs() <= 1e-12 * want, "{got} is not {want}");
        }
    });
}

#[test]
fn threads_change_no_bit() {
    let (n, d) = (700, 96);
    assert_same_on_any_threads(|| {
        let dy = noise(n * d, 3);
        let ids: Vec<u32> = (0..n as u32).map(|i| i * i % 200).collect();
        let mut table = vec![0.0; 200 * d];
        embedding_backward(&dy, &ids, d, &mut table);
        let sum = sum_of_squares(&dy);
        let (mut y, mut dx, mut dropped) = (vec![0.0; n * d], vec![0.0; n * d], vec![0.0; n * d]);
        softmax_rows(&dy, d, &mut y);
        softmax_rows_backward(&y, &dy, d, &mut dx);
        dropout(&Dropout { p: 0.3, seed: 1, stream: 2 }, &dy, &mut dropped);
        [table, y, dx, dropped, vec![sum as f32, (sum - f64::from(sum as f32)) as f32]].concat()
    });
}

#[test]
fn column_sums_equal_their_definition() {
    at_every_level(|| {
        for (n, d) in [(0, 3), (1, 1), (5, 7), (63, 16), (64, 33), (65, 5), (1000, 40)] {
            let x = noise(n * d, 1);
            let (mut got, mut want) = (vec![9.0; d], vec![9.0; d]);
            column_sums(&x, &mut got);
            reference::column_sums(&x, &mut want);
            assert_close(&format!("column sums {n}x{d}"), &got, &want, 1e-5);
        }
    });
}
