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

    fn capped(mut self) -> Self {
        self.shape.soft_cap = Some(1.5);
        self
    }

    fn inputs(&self) -> [Vec<f32>; 4] {
        let s = &self.shape;
        let (q, k) = (s.batch * s.seq_q * s.n_heads * s.d_head, s.batch * s.seq_k * s.n_kv_heads * s.d_head);
        [(q, 1), (k, 2), (k, 3), (q, 4)].map(|(len, seed)| noise(len, seed).iter().map(|x| 2.0 * x).collect())
    }

    fn spans(&self) -> Spans<'_> {
        Spans { lo: &self.lo, hi: &self.hi }
    }

    /// out, lse, dq, dk, dv
    fn run(&self, fast: bool) -> [Vec<f32>; 5] {
        let ([q, k, v, d_out], s) = (self.inputs(), &self.shape);
        let (mut out, mut lse) = (vec![9.0; q.len()], vec![9.0; s.batch * s.n_heads * s.seq_q]);
        let forward = if fast { attention_forward } else { reference::attention_forward };
        forward(&q, &k, &v, &mut out, &mut lse, s, &self.spans());
        let (mut dq, mut dk, mut dv) = (vec![9.0; q.len()], vec![9.0; k.len()], vec![9.0; k.len()]);
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
fn gradients_are_slopes() {
    for case in [Case::causal([1, 3, 4, 2, 1, 3]), Case::causal([1, 10, 10, 1, 1, 2]).capped()] {
        let [q, k, v, d_out] = case.inputs();
        let [_, _, dq, dk, dv] = case.run(true);
        let loss = |q: &[f32], k: &[f32], v: &[f32]| {
            let (mut out, mut lse) = (vec![0.0; q.len()], vec![0.0; case.shape.n_heads * case.shape.seq_q]);
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
    for sizes in [[2, 130, 130, 4, 2, 32], [1, 1, 3000, 4, 2, 64]] {
        assert_same_on_any_threads(|| Case::causal(sizes).run(true).concat());
    }
}

#[test]
#[should_panic(expected = "a span ends at 6, but there are 5 keys")]
fn spans_outside_the_keys_are_refused() {
    Case::new([1, 4, 5, 1, 1, 4], |_| (0, 6)).run(true);
}
