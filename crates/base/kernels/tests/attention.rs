//! Attention against its definition.
mod common;
use common::{assert_close, assert_same_on_any_threads, assert_slope, at_every_level, noise};
use cupola_kernels::*;

struct Case {
    shape: AttentionShape<'static>,
    lo: Vec<u32>,
    hi: Vec<u32>,
}

impl Case {
    /// `spans` gives lo..hi for query `i` of a batch row.
    fn new(sizes: [usize; 6], spans: impl Fn(usize) -> (u32, u32)) -> Self {
        let [batch, seq_q, seq_k, n_heads, n_kv_heads, d_head] = sizes;
        let shape = AttentionShape { seq_k, ..AttentionShape::new(batch, seq_q, [n_heads, n_kv_heads], d_head) };
        let (lo, hi) = (0..batch * seq_q).map(|i| spans(i % seq_q)).unzip();
        Case { shape, lo, hi }
    }

    fn causal(sizes: [usize; 6]) -> Self {
        let past = (sizes[2] - sizes[1]) as u32;
        Self::new(sizes, |i| (0, past + i as u32 + 1))
    }

    /// Of `rows` of `seq` against themselves.
    fn square(batch: usize, seq: usize, heads: [usize; 2], d_head: usize, spans: fn(usize) -> (usize, usize)) -> Self {
        let sizes = [batch, seq, seq, heads[0], heads[1], d_head];
        Self::new(sizes, |i| (spans(i).0 as u32, spans(i).1.min(seq) as u32))
    }

    fn capped(mut self) -> Self {
        self.shape.soft_cap = Some(1.5);
        self
    }

    fn sloped(mut self) -> Self {
        let slopes: Vec<f32> = (0..self.shape.n_heads).map(|h| 0.5 / (h + 1) as f32).collect();
        self.shape.slopes = Some(slopes.leak());
        self
    }

    fn valued(mut self, d_value: usize) -> Self {
        self.shape.d_value = d_value;
        self
    }

    /// q, k, v, d_out
    fn inputs(&self) -> [Vec<f32>; 4] {
        let s = &self.shape;
        let (queries, keys) = (s.batch * s.seq_q * s.n_heads, s.batch * s.seq_k * s.n_kv_heads);
        let lengths = [queries * s.d_head, keys * s.d_head, keys * s.d_value, queries * s.d_value];
        let mut seed = 0;
        lengths.map(|len| {
            seed += 1;
            noise(len, seed).iter().map(|x| 2.0 * x).collect()
        })
    }

    fn spans(&self) -> Spans<'_> {
        Spans { lo: &self.lo, hi: &self.hi }
    }

    /// out, lse, dq, dk, dv
    fn run(&self, fast: bool) -> [Vec<f32>; 5] {
        self.run_on(self.inputs(), fast)
    }

    fn run_on(&self, [q, k, v, d_out]: [Vec<f32>; 4], fast: bool) -> [Vec<f32>; 5] {
        let s = &self.shape;
        let (mut out, mut lse) = (vec![9.0; d_out.len()], vec![9.0; s.batch * s.n_heads * s.seq_q]);
        let forward = if fast { attention_forward } else { reference::attention_forward };
        forward(&q, &k, &v, &mut out, &mut lse, s, &self.spans());
        let (mut dq, mut dk, mut dv) = (vec![9.0; q.len()], vec![9.0; k.len()], vec![9.0; v.len()]);
        let saved = AttentionSaved { q: &q, k: &k, v: &v, out: &out, lse: &lse };
        let mut grads = AttentionGrads { dq: &mut dq, dk: &mut dk, dv: &mut dv };
        let backward = if fast { attention_backward } else { reference::attention_backward };
        backward(&saved, &d_out, &mut grads, s, &self.spans());
        [out, lse, dq, dk, dv]
    }

    #[track_caller]
    fn check(&self) {
        let (got, want) = (self.run(true), self.run(false));
        for (i, name) in ["out", "lse", "dq", "dk", "dv"].iter().enumerate() {
            assert_close(&format!("{name} of {:?}", self.shape), &got[i], &want[i], 1e-4);
        }
    }
}

#[test]
fn causal_attention_equals_its_definition() {
    at_every_level(|| {
        for sizes in [[1, 1, 1, 1, 1, 1], [2, 9, 9, 2, 2, 5], [2, 50, 50, 4, 2, 16], [1, 97, 97, 3, 1, 33]] {
            Case::causal(sizes).check();
            Case::causal(sizes).capped().check();
        }
        Case::causal([1, 300, 300, 2, 1, 32]).check();
        Case::causal([2, 60, 330, 4, 4, 64]).check();
    });
}

#[test]
fn decoding_equals_its_definition() {
    at_every_level(|| {
        for queries in [1, 2, 7, 8] {
            Case::causal([2, queries, 40, 6, 2, 24]).check();
            Case::causal([1, queries, 1300, 4, 1, 64]).check();
        }
        Case::new([3, 1, 1100, 2, 2, 16], |_| (700, 1050)).check();
        Case::new([1, 2, 1100, 2, 2, 16], |i| if i == 0 { (0, 3) } else { (5, 5) }).capped().check();
    });
}

#[test]
fn windows_documents_and_padding_equal_their_definition() {
    at_every_level(|| {
        let window = |i: usize| (i.saturating_sub(70) as u32, i as u32 + 1);
        Case::new([1, 400, 400, 2, 2, 16], window).check();
        let documents = |i: usize| (i as u32 / 37 * 37, i as u32 + 1);
        Case::new([2, 150, 150, 2, 1, 16], documents).check();
        Case::new([1, 20, 310, 2, 1, 16], |_| (3, 307)).check();
        let padded = |i: usize| if i.is_multiple_of(3) { (7, 7) } else { (2, 40) };
        Case::new([1, 60, 64, 2, 2, 8], padded).check();
    });
}

#[test]
fn a_query_without_keys_gives_zero_and_minus_infinity() {
    for queries in [1, 30] {
        let [out, lse, dq, dk, dv] = Case::new([1, queries, 20, 2, 1, 8], |_| (5, 5)).run(true);
        assert!(out.iter().chain(&dq).chain(&dk).chain(&dv).all(|x| *x == 0.0));
        assert!(lse.iter().all(|x| *x == f32::NEG_INFINITY));
    }
}

#[test]
fn every_mask_with_every_score_function_equals_its_definition() {
    let masks: [fn(usize) -> (usize, usize); 6] = [
        |i| (0, i + 1),
        |_| (0, usize::MAX),
        |i| (i.saturating_sub(20), i + 1),
        |i| (i.saturating_sub(3), i + 40),
        |i| (i / 29 * 29, i / 29 * 29 + 29),
        // Neither end grows with the query.
        |i| if i % 5 == 4 { (9, 9) } else { (i * 37 % 61, i * 53 % 97 + 61) },
    ];
    at_every_level(|| {
        for mask in masks {
            for (seq, heads, d_head) in [(9, [1, 1], 1), (97, [2, 1], 7), (131, [3, 3], 24), (200, [4, 2], 48)] {
                let case = || Case::square(1, seq, heads, d_head, mask);
                case().check();
                case().sloped().capped().check();
                case().sloped().valued(d_head + 5).check();
            }
        }
    });
}

#[test]
fn heads_of_any_width_equal_their_definition() {
    at_every_level(|| {
        for (d_head, d_value) in [(1, 1), (3, 1), (1, 17), (15, 16), (33, 20), (64, 128), (100, 31), (192, 128)] {
            Case::causal([1, 70, 70, 2, 1, d_head]).valued(d_value).check();
            Case::causal([2, 3, 50, 2, 1, d_head]).valued(d_value).sloped().check();
        }
        Case::causal([1, 40, 40, 24, 1, 16]).check();
    });
}

#[test]
fn keys_that_are_split_among_tasks_equal_the_definition() {
    Case::causal([1, 1100, 1100, 1, 1, 8]).check();
    Case::causal([1, 40, 1500, 2, 1, 8]).check();
    Case::square(1, 1100, [2, 1], 8, |i| (i.saturating_sub(30), i + 1)).check();
    Case::square(1, 1100, [1, 1], 8, |i| if i < 600 { (0, i / 2 + 1) } else { (3, 3) }).check();
}

#[test]
fn slopes_alone_give_a_geometric_series() {
    // Without products only the bias speaks.
    let mut case = Case::causal([1, 12, 12, 1, 1, 2]).sloped();
    case.shape.scale = 0.0;
    let [q, k, _, d_out] = case.inputs();
    let v: Vec<f32> = (0..12).flat_map(|j| [j as f32, 1.0]).collect();
    let [out, ..] = case.run_on([q, k, v, d_out], true);
    for i in 0..12i32 {
        let weights: Vec<f64> = (0..=i).map(|j| (0.5 * (f64::from(j) - f64::from(i))).exp()).collect();
        let mean = weights.iter().enumerate().map(|(j, w)| j as f64 * w).sum::<f64>() / weights.iter().sum::<f64>();
        assert_close("mean key", &out[2 * i as usize..][..2], &[mean as f32, 1.0], 1e-5);
    }
}

#[test]
fn gradients_are_slopes() {
    let cases = [
        Case::causal([1, 3, 4, 2, 1, 3]),
        Case::causal([1, 10, 10, 1, 1, 2]).capped(),
        Case::causal([1, 11, 11, 2, 1, 2]).capped().sloped().valued(3),
        Case::square(1, 12, [2, 2], 3, |i| (i / 5 * 5, i / 5 * 5 + 5)).sloped(),
        Case::square(1, 12, [1, 1], 2, |i| (i.saturating_sub(3), i + 1)).valued(1),
    ];
    for case in cases {
        let [q, k, v, d_out] = case.inputs();
        let [_, _, dq, dk, dv] = case.run(true);
        let loss = |q: &[f32], k: &[f32], v: &[f32]| {
            let (mut out, mut lse) = (vec![0.0; d_out.len()], vec![0.0; case.shape.n_heads * case.shape.seq_q]);
            reference::attention_forward(q, k, v, &mut out, &mut lse, &case.shape, &case.spans());
            out.iter().zip(&d_out).map(|(o, g)| f64::from(*o) * f64::from(*g)).sum()
        };
        assert_slope("dq", &q, &dq, |q| loss(q, &k, &v));
        assert_slope("dk", &k, &dk, |k| loss(&q, k, &v));
        assert_slope("dv", &v, &dv, |v| loss(&q, &k, v));
    }
}

#[test]
fn threads_change_no_bit() {
    for sizes in [[2, 130, 130, 4, 2, 32], [1, 1, 3000, 4, 2, 64], [1, 1200, 1200, 1, 1, 16], [3, 90, 90, 6, 1, 20]] {
        assert_same_on_any_threads(|| Case::causal(sizes).run(true).concat());
        assert_same_on_any_threads(|| Case::causal(sizes).sloped().capped().valued(9).run(true).concat());
    }
}

#[test]
fn not_a_number_reaches_those_who_attend_it_and_infinite_values_too() {
    for bad in [f32::NAN, f32::INFINITY] {
        for queries in [4, 100] {
            let case = Case::causal([1, queries, 100, 1, 1, 8]);
            let past = 100 - queries;
            for which in 0..3 {
                let mut inputs = case.inputs();
                let at = [queries / 2, past + queries / 2, past + queries / 2][which];
                inputs[which][at * 8 + 3] = bad;
                let [out, _, dq, dk, dv] = case.run_on(inputs, true);
                let own = &out[queries / 2 * 8..][..8];
                let hit = if which == 2 { own[3..4].to_vec() } else { own.to_vec() };
                // An infinite key times a negative number is minus infinity: merely no weight.
                let may_vanish = which == 1 && bad == f32::INFINITY;
                assert!(may_vanish || hit.iter().all(|x| !x.is_finite()), "input {which} {bad}: {own:?}");
                let grads = dq[queries / 2 * 8..].iter().chain(&dk).chain(&dv);
                assert!(may_vanish || grads.into_iter().any(|x| !x.is_finite()), "gradients of input {which} {bad}");
                // Of the queries that are worked on together some may be hit though they give it no weight.
                let far = if queries < 64 { 0 } else { 25 };
                assert!(out[..far * 8].iter().all(|x| x.is_finite()), "earlier queries do not see it");
            }
        }
    }
}

#[test]
#[should_panic(expected = "a span ends at 6, but there are 5 keys")]
fn spans_outside_the_keys_are_refused() {
    Case::new([1, 4, 5, 1, 1, 4], |_| (0, 6)).run(true);
}
