//! The scans against their composed forms, and their steps against the whole.

use burn::tensor::{Device, Tensor};

use super::{close, leaf, noise, same};
use crate::scan::{conv, rglru, selective, wkv as wkv_parts};
use crate::*;

/// `(batch, steps, channels, state)`.
const SIZES: [(usize, usize, usize, usize); 3] = [(1, 1, 1, 1), (2, 5, 3, 4), (1, 35, 18, 2)];

fn zeros<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::zeros(shape, &Device::flex().autodiff())
}

#[test]
fn a_selective_scan_equals_its_composed_form() {
    for (batch, seq, d, n) in SIZES {
        for (decays, soft, gated) in [(n, true, true), (n, false, false), (1, true, false)] {
            let rows = batch * seq;
            let parts = |[x, dt, a, bc, skip, z]: [Tensor<2>; 6]| Selective {
                x,
                dt: if soft { dt } else { dt.add_scalar(1.1) },
                a: a.sub_scalar(1.1),
                b: bc.clone().narrow(1, 0, n),
                c: bc.narrow(1, n, n),
                skip: skip.reshape([d]),
                z: Some(z.clone()).filter(|_| gated),
            };
            let leaves = [leaf([rows, d], 1), leaf([rows, d], 2), leaf([d, decays], 3), leaf([rows, 2 * n], 4)];
            let [x, dt, a, bc] = leaves;
            // Without a gate the last leaf has to matter all the same.
            let z = leaf([rows, d], 6);
            let ungated = |z: Tensor<2>| if gated { zeros([rows, d]) } else { z };
            same(
                &format!("selective scan {batch}x{seq}x{d}, gated {gated}"),
                [x, dt, a, bc, leaf([1, d], 5), z],
                |l| selective_scan(parts(l.clone()), batch, soft) + ungated(l[5].clone()),
                |l| selective::composed(parts(l.clone()), zeros([batch, d, n]), soft).0 + ungated(l[5].clone()),
            );
        }
    }
}

#[test]
fn a_causal_convolution_equals_its_composed_form() {
    for (batch, seq, d, _) in SIZES {
        for k in [1, 4] {
            same(
                &format!("causal convolution {batch}x{seq}x{d} by {k}"),
                [leaf([batch * seq, d], 1), leaf([d, k], 2), leaf([1, d], 3)],
                |[x, w, bias]| causal_conv(x, w, bias.reshape([d]), batch),
                |[x, w, bias]| conv::composed(x, w, bias.reshape([d]), zeros([batch, k - 1, d])).0,
            );
        }
    }
}

#[test]
fn wkv_equals_its_composed_form() {
    for (batch, seq, d, _) in SIZES {
        let rows = batch * seq;
        let start = || from_vec(wkv_start(batch, d), [batch, 3, d], &Device::flex().autodiff());
        // One step alone does not fade; w is added for a gradient of it all the same.
        same(
            &format!("wkv {batch}x{seq}x{d}"),
            [leaf([1, d], 1), leaf([1, d], 2), leaf([rows, d], 3), leaf([rows, d], 4)],
            |[w, u, k, v]| wkv(w.clone().abs().reshape([d]), u.reshape([d]), k, v, batch) + w,
            |[w, u, k, v]| wkv_parts::composed(w.clone().abs().reshape([d]), u.reshape([d]), k, v, start()).0 + w,
        );
    }
}

#[test]
fn the_gated_linear_recurrence_equals_its_composed_form() {
    for (batch, seq, d, _) in SIZES {
        let rows = batch * seq;
        let parts = |[x, r, i, lambda, start]: [Tensor<2>; 5]| GatedRecurrence {
            x,
            r,
            i,
            lambda: lambda.sub_scalar(2.0).reshape([d]),
            start,
        };
        same(
            &format!("gated recurrence {batch}x{seq}x{d}"),
            [leaf([rows, d], 1), leaf([rows, d], 2), leaf([rows, d], 3), leaf([1, d], 4), leaf([batch, d], 5)],
            |l| rg_lru(parts(l)),
            |l| rglru::composed(parts(l)),
        );
    }
}

#[test]
fn going_on_from_a_state_equals_the_whole() {
    let (seq, d, n, k, device) = (9, 7, 3, 4, Device::flex());
    let make = |rows: usize, width: usize, salt| from_vec::<2>(noise(rows * width, salt), [rows, width], &device);
    let row = |salt| from_vec::<1>(noise(d, salt), [d], &device);
    let all = Selective {
        x: make(seq, d, 1),
        dt: make(seq, d, 2),
        a: make(d, n, 3).sub_scalar(1.1),
        b: make(seq, n, 4),
        c: make(seq, n, 5),
        skip: row(6),
        z: Some(make(seq, d, 7)),
    };
    let (w, bias) = (make(d, k, 8), row(9));
    let (fade, bonus) = (row(10).abs(), row(11));
    let mut states = (vec![0.0; n * d], vec![0.0; (k - 1) * d], wkv_start(1, d));
    let mut parts = [vec![], vec![], vec![]];
    for (from, rows) in [(0, 4), (4, 1), (5, 1), (6, 3)] {
        let cut = |t: &Tensor<2>| t.clone().narrow(0, from, rows);
        let part = Selective {
            x: cut(&all.x),
            dt: cut(&all.dt),
            b: cut(&all.b),
            c: cut(&all.c),
            z: all.z.as_ref().map(cut),
            ..all.clone()
        };
        parts[0].push(selective_scan_from(part, &mut states.0, 1, true));
        parts[1].push(causal_conv_from(cut(&all.x), w.clone(), bias.clone(), &mut states.1, 1));
        let rates = [fade.clone(), bonus.clone()];
        parts[2].push(wkv_from(rates, cut(&all.x), cut(&all.dt), &mut states.2, 1));
    }
    let [scan, conv, keys] = parts.map(|p| to_vec(&Tensor::cat(p, 0)));
    close("scan", &scan, &to_vec(&selective_scan(all.clone(), 1, true)));
    close("convolution", &conv, &to_vec(&causal_conv(all.x.clone(), w, bias, 1)));
    close("wkv", &keys, &to_vec(&wkv(fade, bonus, all.x.clone(), all.dt.clone(), 1)));
    let (_, last) = selective::composed(all, Tensor::zeros([1, d, n], &device), true);
    close("last state", &states.0, &to_vec(&last.swap_dims(1, 2)));
}
