//! Rotary positions, activations, embeddings, softmax and the optimizer against plain loops.
mod common;
use common::{assert_close, assert_same_on_any_threads, at_every_level, noise};
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
        [table, vec![sum as f32, (sum - f64::from(sum as f32)) as f32]].concat()
    });
}
