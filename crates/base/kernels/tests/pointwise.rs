//! Norms, rotary positions, activations, embeddings and softmax against plain loops.
mod common;
use common::{assert_close, assert_same_on_any_threads, assert_slope, at_every_level, noise};
use cupola_kernels::*;

const SHAPES: [(usize, usize); 7] = [(1, 1), (3, 5), (2, 8), (70, 33), (65, 64), (33, 257), (100, 288)];

#[test]
fn rms_norm_equals_its_definition() {
    at_every_level(|| {
        for (n, d) in SHAPES {
            let (x, w, dy) = (noise(n * d, 1), noise(d, 2), noise(n * d, 3));
            let run = |forward: Forward, backward: Backward| {
                let (mut y, mut rstd, mut dx, mut dw) =
                    (vec![0.0; n * d], vec![0.0; n], vec![0.0; n * d], vec![9.0; d]);
                forward(&x, &w, 1e-5, &mut y, &mut rstd);
                backward(&x, &w, &rstd, &dy, &mut dx, &mut dw);
                [y, rstd, dx, dw]
            };
            let got = run(rms_norm_forward, rms_norm_backward);
            let want = run(reference::rms_norm_forward, reference::rms_norm_backward);
            got.iter().zip(&want).for_each(|(g, w)| assert_close(&format!("[{n}, {d}]"), g, w, 2e-5));
        }
    });
}
type Forward = fn(&[f32], &[f32], f32, &mut [f32], &mut [f32]);
type Backward = fn(&[f32], &[f32], &[f32], &[f32], &mut [f32], &mut [f32]);

#[test]
fn rms_norm_gradients_are_slopes() {
    let (x, w, dy) = (noise(6, 1), noise(3, 2), noise(6, 3));
    let loss = |x: &[f32], w: &[f32]| {
        let (mut y, mut rstd) = (vec![0.0; 6], vec![0.0; 2]);
        rms_norm_forward(x, w, 0.1, &mut y, &mut rstd);
        y.iter().zip(&dy).map(|(y, g)| f64::from(*y) * f64::from(*g)).sum()
    };
    let (mut y, mut rstd, mut dx, mut dw) = ([0.0; 6], [0.0; 2], [0.0; 6], [0.0; 3]);
    rms_norm_forward(&x, &w, 0.1, &mut y, &mut rstd);
    rms_norm_backward(&x, &w, &rstd, &dy, &mut dx, &mut dw);
    assert_slope("dx", &x, &dx, |x| loss(x, &w));
    assert_slope("dw", &w, &dw, |w| loss(&x, w));
}

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
            rope(&mut got, &positions, &table, heads, d_head, false);
            reference::rope(&mut want, &positions, &table, heads, d_head, false);
            assert_close("rope", &got, &want, 1e-6);
            rope(&mut got, &positions, &table, heads, d_head, true);
            assert_close("undone", &got, &x, 1e-6);
        }
    });
}

#[test]
fn swiglu_equals_its_definition() {
    at_every_level(|| {
        for len in [1, 7, 8, 17, 1000, 40_001] {
            let gate: Vec<f32> = noise(len, 1).iter().map(|x| x * 12.0).collect();
            let (up, dy) = (noise(len, 2), noise(len, 3));
            let [mut y, mut dg, mut du, mut ry, mut rg, mut ru] = [(); 6].map(|()| vec![0.0; len]);
            swiglu_forward(&gate, &up, &mut y);
            reference::swiglu_forward(&gate, &up, &mut ry);
            swiglu_backward(&gate, &up, &dy, &mut dg, &mut du);
            reference::swiglu_backward(&gate, &up, &dy, &mut rg, &mut ru);
            assert_close("y", &y, &ry, 1e-6);
            assert_close("dgate", &dg, &rg, 2e-6);
            assert_close("dup", &du, &ru, 1e-6);
        }
    });
}

#[test]
fn extreme_gates_saturate_and_nan_survives() {
    at_every_level(|| {
        let gate = [-1e30, -200.0, -90.0, 0.0, 90.0, 200.0, f32::NAN, 1.0, f32::NAN];
        let mut y = [0.0; 9];
        swiglu_forward(&gate, &[1.0; 9], &mut y);
        assert!(y[1].abs() < 1e-30 && y[2].abs() < 1e-30 && y[3] == 0.0 && y[4] == 90.0 && y[5] == 200.0, "{y:?}");
        assert!(y[6].is_nan() && y[8].is_nan() && (y[7] - 0.731_058_6).abs() < 1e-6, "{y:?}");
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
fn threads_change_no_bit() {
    let (n, d) = (700, 96);
    assert_same_on_any_threads(|| {
        let (x, w, dy) = (noise(n * d, 1), noise(d, 2), noise(n * d, 3));
        let ids: Vec<u32> = (0..n as u32).map(|i| i * i % 200).collect();
        let (mut y, mut rstd, mut dx, mut dw) = (vec![0.0; n * d], vec![0.0; n], vec![0.0; n * d], vec![0.0; d]);
        rms_norm_forward(&x, &w, 1e-5, &mut y, &mut rstd);
        rms_norm_backward(&x, &w, &rstd, &dy, &mut dx, &mut dw);
        let mut table = vec![0.0; 200 * d];
        embedding_backward(&dy, &ids, d, &mut table);
        [y, rstd, dx, dw, table].concat()
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
