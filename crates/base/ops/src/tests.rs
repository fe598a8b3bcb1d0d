//! Each operation against the same mathematics composed of the tensor library's operations, gradients included.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use burn::tensor::{Device, Tensor};

use crate::*;

mod experts;
mod listed;
mod logic;
mod recurrent;
mod scan;

/// Numbers that look random and are the same each time.
fn noise(n: usize, salt: u64) -> Vec<f32> {
    let mut state = salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n).map(|_| next() * 2.0).collect()
}

fn leaf<const D: usize>(shape: [usize; D], salt: u64) -> Tensor<D> {
    let n = shape.iter().product();
    from_vec(noise(n, salt), shape, &Device::flex().autodiff()).require_grad()
}

fn close(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= 2e-5 + 1e-4 * w.abs(), "{what}[{i}]: got {g}, want {w}");
    }
}

/// Compares results, and the gradients of a random projection of them.
fn same<const N: usize, const D: usize>(
    what: &str,
    leaves: [Tensor<2>; N],
    ours: impl Fn([Tensor<2>; N]) -> Tensor<D>,
    composed: impl Fn([Tensor<2>; N]) -> Tensor<D>,
) {
    let run = |f: &dyn Fn([Tensor<2>; N]) -> Tensor<D>| {
        let out = f(leaves.clone());
        let shape = out.dims();
        let weights = from_vec(noise(shape.iter().product(), 99), shape, &Device::flex().autodiff());
        let grads = (out.clone() * weights).sum().backward();
        (to_vec(&out), leaves.each_ref().map(|l| to_vec(&l.grad(&grads).unwrap())))
    };
    let ((got, got_grads), (want, want_grads)) = (run(&ours), run(&composed));
    close(what, &got, &want);
    for (i, (g, w)) in got_grads.iter().zip(&want_grads).enumerate() {
        close(&format!("{what}, gradient {i}"), g, w);
    }
}

#[test]
fn feed_forward_equals_its_composed_form() {
    for [n, d, ff] in [[1, 1, 1], [3, 5, 7], [70, 16, 33], [200, 9, 20]] {
        let what = format!("feed-forward {n}x{d}x{ff}");
        let leaves = [leaf([n, d], 1), leaf([ff, d], 2), leaf([ff, d], 3), leaf([d, ff], 4)];
        same(
            &what,
            leaves.clone(),
            |[x, g, u, w]| feed_forward(Activation::Silu, x, Some((g, None)), (u, None), (w, None), Precision::F32),
            |[x, g, u, w]| {
                crate::ffn::composed(Activation::Silu, x, Some((g, None)), (u, None), (w, None), Precision::F32)
            },
        );
        let [x, u, _, w] = leaves;
        let (bu, bw) = (leaf([1, ff], 5), leaf([1, d], 6));
        let row = |bias: Tensor<2>| Some(bias.flatten::<1>(0, 1));
        same(
            &format!("{what} with biases"),
            [x, u, bu, w, bw],
            |[x, u, bu, w, bw]| feed_forward(Activation::GeluTanh, x, None, (u, row(bu)), (w, row(bw)), Precision::F32),
            |[x, u, bu, w, bw]| {
                crate::ffn::composed(Activation::GeluTanh, x, None, (u, row(bu)), (w, row(bw)), Precision::F32)
            },
        );
    }
}

#[test]
fn linear_equals_its_composed_form() {
    for [n, k, m] in [[1, 1, 1], [1, 7, 5], [3, 16, 17], [33, 31, 65], [64, 48, 96]] {
        same(
            &format!("linear {n}x{k}x{m}"),
            [leaf([n, k], 1), leaf([m, k], 2)],
            |[x, w]| linear(x, w, None, Precision::F32),
            |[x, w]| crate::linear::composed(x, w, None),
        );
    }
}

#[test]
fn rms_norm_equals_its_composed_form() {
    for [n, d] in [[1, 1], [1, 5], [7, 33], [40, 64]] {
        same(
            &format!("rms_norm {n}x{d}"),
            [leaf([n, d], 3), leaf([1, d], 4)],
            |[x, w]| rms_norm(x, w.reshape([d]), 1e-5),
            |[x, w]| crate::norm::composed(x, w.reshape([d]), 1e-5),
        );
    }
}

#[test]
fn layer_norm_equals_its_composed_form() {
    for [n, d] in [[1, 1], [1, 5], [7, 33], [40, 64]] {
        same(
            &format!("layer_norm {n}x{d}"),
            [leaf([n, d], 3), leaf([1, d], 4), leaf([1, d], 5)],
            |[x, w, b]| layer_norm(x, w.reshape([d]), Some(b.reshape([d])), 1e-2),
            |[x, w, b]| crate::norm::composed_layer(x, w.reshape([d]), Some(b.reshape([d])), 1e-2),
        );
        same(
            &format!("layer_norm {n}x{d} without bias"),
            [leaf([n, d], 3), leaf([1, d], 4)],
            |[x, w]| layer_norm(x, w.reshape([d]), None, 1e-2),
            |[x, w]| crate::norm::composed_layer(x, w.reshape([d]), None, 1e-2),
        );
    }
}

/// Both results count, or only one of them.
#[test]
fn norms_of_a_sum_equal_the_sum_and_then_the_norm() {
    let mix = |[sum, y]: [Tensor<2>; 2], uses: usize| match uses {
        0 => sum.mul_scalar(0.3) + y,
        1 => sum,
        _ => y,
    };
    for ([n, d], uses) in [[1, 1], [7, 33], [40, 64]].into_iter().flat_map(|shape| [(shape, 0), (shape, 1), (shape, 2)])
    {
        let leaves = || [leaf([n, d], 3), leaf([n, d], 4), leaf([1, d], 5), leaf([1, d], 6)];
        let [x, delta, w, b] = leaves();
        if uses != 1 {
            same(
                &format!("add_rms_norm {n}x{d}, {uses}"),
                [x, delta, w],
                |[x, delta, w]| mix(add_rms_norm(x, delta, w.reshape([d]), 1e-2), uses),
                |[x, delta, w]| mix([x.clone() + delta.clone(), rms_norm(x + delta, w.reshape([d]), 1e-2)], uses),
            );
            same(
                &format!("add_layer_norm {n}x{d}, {uses}"),
                leaves(),
                |[x, delta, w, b]| mix(add_layer_norm(x, delta, w.reshape([d]), Some(b.reshape([d])), 1e-2), uses),
                |[x, delta, w, b]| {
                    let y = layer_norm(x.clone() + delta.clone(), w.reshape([d]), Some(b.reshape([d])), 1e-2);
                    mix([x + delta, y], uses)
                },
            );
        } else {
            let frozen = |t: Tensor<2>| Tensor::from_inner(t.inner());
            let (w, b): (Tensor<2>, Tensor<2>) = (frozen(w), frozen(b));
            same(
                "only the sum",
                [x, delta],
                |[x, delta]| {
                    let bias = Some(b.clone().reshape([d]));
                    mix(add_layer_norm(x, delta, w.clone().reshape([d]), bias, 1e-2), uses)
                },
                |[x, delta]| x + delta,
            );
        }
    }
}

#[test]
fn activations_equal_their_composed_form() {
    for (f, [n, d]) in Activation::ALL.into_iter().flat_map(|f| [(f, [1, 1]), (f, [3, 17]), (f, [20, 64])]) {
        same(
            &format!("{f:?} {n}x{d}"),
            [leaf([n, d], 5)],
            |[x]| activation(f, x.mul_scalar(4.0)),
            |[x]| crate::activation::composed(f, x.mul_scalar(4.0)),
        );
        same(
            &format!("gated {f:?} {n}x{d}"),
            [leaf([n, d], 5), leaf([n, d], 6)],
            |[gate, up]| gated(f, gate, up),
            |[gate, up]| crate::activation::composed(f, gate) * up,
        );
    }
}

#[test]
fn softmax_equals_its_composed_form() {
    for [n, d] in [[1, 1], [3, 17], [20, 64]] {
        same(&format!("softmax {n}x{d}"), [leaf([n, d], 5)], |[x]| softmax(x), |[x]| crate::softmax::composed(x));
    }
}

#[test]
fn dropout_equals_its_composed_form() {
    for [n, d] in [[1, 1], [3, 17], [20, 64]] {
        let rule = Dropout { p: 0.3, seed: 5, stream: 9 };
        same(
            &format!("dropout {n}x{d}"),
            [leaf([n, d], 5)],
            |[x]| dropout(x, &rule),
            |[x]| crate::dropout::composed(x, &rule),
        );
    }
}

#[test]
fn embedding_equals_its_composed_form() {
    for (v, d, ids) in [(1, 3, vec![0]), (9, 8, vec![3, 3, 8, 0, 3])] {
        let ids: Arc<[u32]> = ids.into();
        same("embedding", [leaf([v, d], 7)], |[t]| embedding(t, &ids), |[t]| crate::embedding::composed(t, &ids));
    }
}

#[test]
fn rope_equals_its_composed_form() {
    for (heads, d_head, rotary) in [(1, 2, 2), (3, 8, 8), (2, 12, 8)] {
        let half = rotary / 2;
        let angle = |i: usize| (i / half) as f32 * 0.7 + (i % half) as f32 * 0.3;
        let angles = Arc::new(RopeAngles {
            cos: (0..16 * half).map(|i| angle(i).cos()).collect(),
            sin: (0..16 * half).map(|i| angle(i).sin()).collect(),
            rotary_dim: rotary,
        });
        let positions: Arc<[u32]> = vec![0, 1, 5, 15, 2].into();
        same(
            "rope",
            [leaf([5, heads * d_head], 8)],
            |[x]| rope(x, &angles, &positions, heads),
            |[x]| crate::rope::composed(x, &angles, &positions, heads),
        );
    }
}

#[test]
fn attention_equals_its_composed_form() {
    for (batch, seq, n_heads, n_kv_heads, d_head) in
        [(1, 1, 1, 1, 1), (2, 5, 2, 1, 3), (1, 33, 4, 2, 16), (2, 70, 3, 3, 8)]
    {
        let heads = Heads { batch, n_heads, n_kv_heads, d_head };
        let segments: Vec<u32> = (0..batch * seq).map(|i| (i % seq) as u32 * 3 / seq as u32).collect();
        let padded: Vec<_> = (0..batch).map(|b| b.min(seq / 3)..seq - seq / 4).collect();
        let causal = Mask::causal(batch, seq);
        let masks = [
            ("causal", causal.clone()),
            ("segments", Mask::causal_segments(&segments, seq)),
            ("full segments", Mask::segments(&segments, seq)),
            ("window", Mask::window(batch, seq, 4, 2)),
            ("padded", Mask::padded(&padded, seq).and(&causal)),
        ];
        let plain = AttentionOptions::default();
        let options = [
            plain.clone(),
            AttentionOptions { soft_cap: Some(0.7), scale: Some(0.4), ..plain.clone() },
            AttentionOptions { slopes: Some(alibi_slopes(n_heads)), d_value: Some(d_head + 3), ..plain },
        ];
        for ((name, mask), options) in masks.iter().flat_map(|mask| options.iter().map(move |options| (mask, options)))
        {
            let rows = batch * seq;
            let d_value = options.d_value.unwrap_or(d_head);
            same(
                &format!("attention {name} {batch}x{seq} {options:?}"),
                [
                    leaf([rows, n_heads * d_head], 9),
                    leaf([rows, n_kv_heads * d_head], 10),
                    leaf([rows, n_kv_heads * d_value], 11),
                ],
                |[q, k, v]| attention_with(q, k, v, heads, mask, options),
                |inputs| crate::attention::composed(inputs, heads, mask, options),
            );
        }
    }
}

#[test]
fn attention_multiplies_in_the_precision_it_is_told() {
    let heads = Heads { batch: 1, n_heads: 2, n_kv_heads: 2, d_head: 16 };
    let mask = Mask::causal(1, 40);
    let run = |precision| {
        let options = AttentionOptions { precision, ..AttentionOptions::default() };
        let [q, k, v] = [9, 10, 11].map(|seed| leaf([40, 32], seed));
        let out = attention_with(q.clone(), k, v, heads, &mask, &options);
        let slopes = q.grad(&out.clone().sum().backward()).unwrap();
        [to_vec(&out), to_vec(&slopes)]
    };
    let (exact, rounded) = (run(Precision::F32), run(Precision::F16));
    for (exact, rounded) in exact.iter().zip(&rounded) {
        let off = exact.iter().zip(rounded).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off < 0.01, "off by {off}");
        assert_eq!(off > 1e-6, Precision::F16.is_native(), "off by {off}");
    }
}

#[test]
fn alibi_slopes_are_those_of_the_paper() {
    assert_eq!(alibi_slopes(8).to_vec(), [0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625]);
    close("3 heads", &alibi_slopes(3), &[0.0625, 0.00390625, 0.25]);
    close(
        "12 heads",
        &alibi_slopes(12)[7..],
        &[0.00390625, 0.5f32.sqrt(), 0.125f32.sqrt(), 0.03125f32.sqrt(), 0.0078125f32.sqrt()],
    );
}

#[test]
fn token_losses_equal_their_composed_form() {
    for [n, d, v] in [[1, 1, 2], [5, 8, 11], [130, 16, 67]] {
        let targets: Arc<[i32]> = (0..n).map(|i| if i % 4 == 3 { IGNORE } else { (i * 7 % v) as i32 }).collect();
        same(
            "linear_nll",
            [leaf([n, d], 12), leaf([v, d], 13)],
            |[x, w]| linear_nll(x, w, &targets, Precision::F32),
            |[x, w]| crate::loss::composed(x, w, &targets, LossForm::default()),
        );
    }
}

#[test]
fn the_fused_loss_equals_the_weighted_sum_of_token_losses() {
    let (n, d, v) = (37, 8, 29);
    let targets: Arc<[i32]> = (0..n).map(|i| if i % 5 == 0 { IGNORE } else { (i % v) as i32 }).collect();
    let weights: Arc<[f32]> = (0..n).map(|i| if i % 3 == 0 { 0.0 } else { 0.01 * i as f32 }).collect();
    for form in [LossForm::default(), LossForm { label_smoothing: 0.1, z_loss: 0.02 }] {
        same(
            &format!("linear_cross_entropy {form:?}"),
            [leaf([n, d], 14), leaf([v, d], 15)],
            |[x, w]| linear_cross_entropy(x, w, &targets, &weights, form, Precision::F32),
            |[x, w]| {
                let row = from_vec(weights.to_vec(), [n], &Device::flex().autodiff());
                (crate::loss::composed(x, w, &targets, form) * row).sum()
            },
        );
    }
}

#[test]
fn cached_attention_equals_attention_over_the_whole_sequence() {
    let (n_heads, n_kv_heads, d_head, d_value, seq) = (4, 2, 8, 6, 29);
    let heads = Heads { batch: 1, n_heads, n_kv_heads, d_head };
    let device = Device::flex();
    let make = |width: usize, salt| from_vec(noise(seq * width, salt), [seq, width], &device);
    let (q, k, v) = (make(n_heads * d_head, 1), make(n_kv_heads * d_head, 2), make(n_kv_heads * d_value, 3));
    let plain = AttentionOptions { d_value: Some(d_value), ..Default::default() };
    let special = AttentionOptions {
        scale: Some(0.4),
        soft_cap: Some(1.5),
        slopes: Some(alibi_slopes(n_heads)),
        ..plain.clone()
    };
    for (options, before) in
        [(&plain, None), (&special, None), (&plain, Some(3)), (&special, Some(0)), (&plain, Some(50))]
    {
        let mask = before.map_or_else(|| Mask::causal(1, seq), |before| Mask::window(1, seq, before, 0));
        let whole = attention_with(q.clone(), k.clone(), v.clone(), heads, &mask, options);
        let mut cache = LayerCache::default();
        let (mut parts, mut start) = (Vec::new(), 0);
        for rows in [6, 1, 4, 2, 1, 1, 1, 9, 1, 1, 1, 1] {
            let cut = |t: &Tensor<2>| t.clone().narrow(0, start, rows);
            let mut spans = [Span { cache: &mut cache, rows }];
            parts.push(attention_cached([cut(&q), cut(&k), cut(&v)], heads, options, before, &mut spans));
            start += rows;
            let held = before.map_or(start, |before| start.min(cached_rows(before)));
            assert!(cache.bytes() <= 4 * held * n_kv_heads * (d_head + d_value));
        }
        assert_eq!(start, seq);
        close(&format!("cached attention, {before:?} before"), &to_vec(&Tensor::cat(parts, 0)), &to_vec(&whole));
    }
}

#[test]
fn attention_over_another_sequence_equals_the_composed() {
    let heads = Heads { batch: 2, n_heads: 4, n_kv_heads: 2, d_head: 8 };
    // Five queries a row; of seven keys the second row has four.
    let mask = Mask { lo: vec![0; 10].into(), hi: [[7; 5], [4; 5]].concat().into() };
    for slopes in [None, Some(alibi_slopes(4))] {
        let options = AttentionOptions { slopes, ..Default::default() };
        same(
            "attention over another sequence",
            [leaf([10, 32], 1), leaf([14, 16], 2), leaf([14, 16], 3)],
            |[q, k, v]| attention_with(q, k, v, heads, &mask, &options),
            |qkv| crate::attention::composed(qkv, heads, &mask, &options),
        );
    }
}

#[test]
fn frozen_inputs_get_no_gradient_and_do_not_disturb_the_others() {
    let device = Device::flex().autodiff();
    let x = leaf([4, 6], 1);
    let frozen: Tensor<2> = from_vec(noise(18, 2), [3, 6], &device);
    let grads = linear(x.clone(), frozen.clone(), None, Precision::F32).sum().backward();
    assert!(frozen.grad(&grads).is_none());
    assert_eq!(x.grad(&grads).unwrap().dims(), [4, 6]);
}

#[test]
fn an_unshared_tensor_is_updated_in_place() {
    let tensor: Tensor<2> = from_vec(vec![1.0; 6], [2, 3], &Device::flex());
    let (tensor, in_place) = update(tensor, |data| data[4] = 5.0);
    assert!(in_place);
    let shared = tensor.clone();
    let (changed, in_place) = update(tensor, |data| data[0] = 7.0);
    assert!(!in_place);
    assert_eq!((to_vec(&shared)[0], to_vec(&changed)[0]), (1.0, 7.0));
}

#[test]
fn int8_products_equal_products_with_the_decoded_weight() {
    let (n, k, m) = (3, 37, 11);
    let weight = Int8Weight::quantize(&noise(m * k, 4), m, k, 16);
    let x: Tensor<2> = from_vec(noise(n * k, 5), [n, k], &Device::flex());
    let dense = from_vec(weight.dequantize(), [m, k], &Device::flex());
    close("int8", &to_vec(&linear_int8(x.clone(), &weight)), &to_vec(&crate::linear::composed(x, dense, None)));
}

#[test]
fn linear_with_a_bias_equals_its_composed_form() {
    for [n, k, m] in [[1, 1, 1], [3, 16, 17], [130, 31, 65]] {
        same(
            &format!("linear {n}x{k}x{m} with a bias"),
            [leaf([n, k], 1), leaf([m, k], 2), leaf([1, m], 3)],
            |[x, w, b]| linear(x, w, Some(b.reshape([m])), Precision::F32),
            |[x, w, b]| crate::linear::composed(x, w, Some(b.reshape([m]))),
        );
    }
}

#[test]
fn three_layers_of_one_input_equal_three_layers() {
    let device = Device::flex().autodiff();
    for ([n, k, m], biased) in
        [([1, 1, 1], 0), ([3, 16, 17], 3), ([65, 33, 20], 0), ([130, 31, 65], 3), ([70, 8, 9], 1), ([300, 24, 40], 3)]
    {
        let biases: [Tensor<2>; 3] =
            [0, 1, 2].map(|i| from_vec(noise(m + i, 50 + i as u64), [1, m + i], &device).require_grad());
        let leaves = [leaf([n, k], 1), leaf([m, k], 2), leaf([m + 1, k], 3), leaf([m + 2, k], 4)];
        let bias = |i: usize| (i < biased).then(|| biases[i].clone().reshape([m + i]));
        same(
            &format!("{n}x{k}x{m}, {biased} biases"),
            leaves.clone(),
            |[x, q, k, v]| {
                let layers = [(q, bias(0)), (k, bias(1)), (v, bias(2))];
                Tensor::cat(linear_three(x, layers, Precision::F32).to_vec(), 1)
            },
            |[x, q, k, v]| {
                let parts = [(q, 0), (k, 1), (v, 2)].map(|(w, i)| crate::linear::composed(x.clone(), w, bias(i)));
                Tensor::cat(parts.to_vec(), 1)
            },
        );
        let [x, q, k, v] = leaves;
        let layers = || [(q.clone(), bias(0)), (k.clone(), bias(1)), (v.clone(), bias(2))];
        let [_, second, _] = linear_three(x.clone(), layers(), Precision::F32);
        let grads = second.sum().backward();
        let want = crate::linear::composed(x.clone(), k.clone(), bias(1)).sum().backward();
        close("one result, x", &to_vec(&x.grad(&grads).unwrap()), &to_vec(&x.grad(&want).unwrap()));
        close("one result, w", &to_vec(&k.grad(&grads).unwrap()), &to_vec(&k.grad(&want).unwrap()));
        assert!(q.grad(&grads).is_none_or(|grad| to_vec(&grad).iter().all(|x| *x == 0.0)));
        if biased == 3 {
            let grads = linear_three(x, layers(), Precision::F32).map(Tensor::sum).into_iter().reduce(|a, b| a + b);
            let grads = grads.unwrap().backward();
            close("bias", &to_vec(&biases[2].grad(&grads).unwrap()), &vec![n as f32; m + 2]);
        }
    }
}

#[test]
fn a_part_computed_again_has_the_same_gradients_bit_for_bit() {
    let ([n, d, f], device) = ([70, 24, 40], Device::flex().autodiff());
    let weights = [leaf([f, d], 21), leaf([d, f], 22)];
    let forward = |x: Tensor<2>, [up, down]: &[Tensor<2>; 2]| {
        let hidden = activation(Activation::GeluTanh, linear(x.clone(), up.clone(), None, Precision::F32));
        x + linear(hidden, down.clone(), None, Precision::F32)
    };
    let slope = from_vec(noise(n * d, 23), [n, d], &device);
    for tracked in [true, false] {
        let start = leaf([n, d], 20);
        let x = if tracked { start.clone() } else { start.clone().inner() };
        let run = |y: Tensor<2>| {
            let grads = (y.clone() * slope.clone()).sum().backward();
            let of = |t: &Tensor<2>| t.grad(&grads).map(|g| to_vec(&g));
            (to_vec(&y), of(&start), weights.each_ref().map(|w| of(w).unwrap()))
        };
        let want = run(forward(x.clone(), &weights));
        let plain = weights.clone().map(Tensor::inner);
        let inner = if tracked { x.clone().inner() } else { x.clone() };
        let result = forward(inner, &plain);
        let parameters = weights.clone().map(crate::host::erase);
        let part: Arc<Part> = Arc::new(move |x| {
            let fresh = plain.clone().map(|w| Tensor::from_inner(w).require_grad());
            (forward(x, &fresh), fresh.map(crate::host::erase).to_vec())
        });
        assert_eq!(run(recompute(x, result, &parameters, part)), want, "input tracked: {tracked}");
        assert_eq!(want.1.is_some(), tracked);
    }
}
