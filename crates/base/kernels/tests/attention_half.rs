//! Attention whose products are in float16, against its definition.
mod common;
use common::{assert_same_on_any_threads, noise};
use cupola_kernels::*;

type Span = fn(usize) -> (usize, usize);

/// Attention of `rows` of queries under a mask, with inputs of a size of their own each.
struct Case {
    shape: AttentionShape<'static>,
    lo: Vec<u32>,
    hi: Vec<u32>,
    /// Of q, k, v and d_out.
    sizes: [f32; 4],
}

impl Case {
    fn new([batch, seq_q, seq_k, n_heads, n_kv_heads, d_head]: [usize; 6], span: Span) -> Self {
        let plain = AttentionShape::new(batch, seq_q, [n_heads, n_kv_heads], d_head);
        let shape = AttentionShape { seq_k, precision: Precision::F16, ..plain };
        let end = |i| span(i).1.min(seq_k);
        let (lo, hi) = (0..batch * seq_q).map(|i| i % seq_q).map(|i| (span(i).0 as u32, end(i) as u32)).unzip();
        Case { shape, lo, hi, sizes: [2.0; 4] }
    }

    fn causal(batch: usize, seq: usize, [n_heads, n_kv_heads]: [usize; 2], d_head: usize) -> Self {
        Self::new([batch, seq, seq, n_heads, n_kv_heads, d_head], |i| (0, i + 1))
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

    fn sized(mut self, sizes: [f32; 4]) -> Self {
        self.sizes = sizes;
        self
    }

    fn inputs(&self) -> [Vec<f32>; 4] {
        let s = &self.shape;
        let (queries, keys) = (s.batch * s.seq_q * s.n_heads, s.batch * s.seq_k * s.n_kv_heads);
        let lengths = [queries * s.d_head, keys * s.d_head, keys * s.d_value, queries * s.d_value];
        std::array::from_fn(|i| noise(lengths[i], i as u64 + 1).iter().map(|x| x * self.sizes[i]).collect())
    }

    /// out, lse, dq, dk, dv
    fn run(&self, [q, k, v, d_out]: &[Vec<f32>; 4], fast: bool) -> [Vec<f32>; 5] {
        let (s, spans) = (&self.shape, Spans { lo: &self.lo, hi: &self.hi });
        let (mut out, mut lse) = (vec![9.0; d_out.len()], vec![9.0; s.batch * s.n_heads * s.seq_q]);
        let forward = if fast { attention_forward } else { reference::attention_forward };
        forward(q, k, v, &mut out, &mut lse, s, &spans);
        let (mut dq, mut dk, mut dv) = (vec![9.0; q.len()], vec![9.0; k.len()], vec![9.0; v.len()]);
        let saved = AttentionSaved { q, k, v, out: &out, lse: &lse };
        let mut grads = AttentionGrads { dq: &mut dq, dk: &mut dk, dv: &mut dv };
        let backward = if fast { attention_backward } else { reference::attention_backward };
        backward(&saved, d_out, &mut grads, s, &spans);
        [out, lse, dq, dk, dv]
    }

    /// Of out, lse, dq, dk and dv: the root of the mean square of the error, over that of the exact result (for lse
    /// absolute), and the largest error over the largest number (for lse over at least 1).
    fn errors(&self) -> [(f32, f32); 5] {
        let inputs = self.inputs();
        let (got, want) = (self.run(&inputs, true), self.run(&inputs, false));
        std::array::from_fn(|i| {
            let off = |(g, w): (&f32, &f32)| if g == w { 0.0 } else { g - w };
            let off: Vec<f32> = got[i].iter().zip(&want[i]).map(off).collect();
            let finite = |x: &[f32]| x.iter().copied().filter(|x| x.is_finite()).collect::<Vec<_>>();
            let of = |x: &[f32]| if i == 1 { (1.0, sizes(&finite(x)).1.max(1.0)) } else { sizes(x) };
            let ((mean, most), (of_mean, of_most)) = (sizes(&off), of(&want[i]));
            (mean / of_mean.max(1e-30), most / of_most.max(1e-30))
        })
    }

    /// Rounding a number to 11 bits changes it by 2^-11 at most and by a quarter of that in the mean. A result comes of
    /// three or more such numbers, of sums of up to 64 products that are rounded as they grow, and of differences: values
    /// of either sign average out, and gradients of scores are differences from their mean.
    #[track_caller]
    fn check(&self) {
        let errors = self.errors();
        for (name, (mean, most)) in ["out", "lse", "dq", "dk", "dv"].iter().zip(errors) {
            let fine = mean < 8.0 / 2048.0 && most < 20.0 / 2048.0;
            assert!(fine, "{name} of {:?}: {mean} and {most} ({errors:?})", self.shape);
        }
    }
}

/// The root of the mean square and the largest absolute value.
fn sizes(x: &[f32]) -> (f32, f32) {
    let most = x.iter().fold(0.0, |top: f32, x| if x.is_nan() || x.abs() > top { x.abs() } else { top });
    let squares: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    ((squares / x.len() as f64).sqrt() as f32, most)
}

const MASKS: [Span; 6] = [
    |i| (0, i + 1),
    |_| (0, usize::MAX),
    |i| (i.saturating_sub(20), i + 1),
    |i| (i.saturating_sub(3), i + 40),
    |i| (i / 29 * 29, i / 29 * 29 + 29),
    // Neither end grows with the query.
    |i| if i % 5 == 4 { (9, 9) } else { (i * 37 % 61, i * 53 % 97 + 61) },
];

#[test]
fn every_mask_with_every_score_function_is_as_exact_as_its_factors() {
    for mask in MASKS {
        for (seq, [h, kv], d) in
            [(9, [1, 1], 1), (97, [2, 1], 7), (131, [3, 3], 24), (200, [4, 2], 48), (257, [2, 2], 64)]
        {
            let case = || Case::new([1, seq, seq, h, kv, d], mask);
            case().check();
            case().sloped().capped().check();
            case().sloped().valued(d + 5).check();
        }
    }
}

#[test]
fn heads_of_any_width_and_any_number_of_keys_are_as_exact() {
    for (d_head, d_value) in [(1, 1), (3, 1), (1, 17), (15, 16), (33, 20), (64, 128), (100, 31), (192, 128)] {
        Case::causal(1, 70, [2, 1], d_head).valued(d_value).check();
        Case::causal(2, 131, [2, 1], d_head).valued(d_value).sloped().check();
    }
    Case::new([2, 60, 330, 4, 4, 64], |i| (0, 271 + i)).check();
    Case::new([1, 40, 1500, 2, 1, 8], |i| (3, 1461 + i)).check();
    Case::new([1, 60, 64, 2, 2, 8], |i| if i.is_multiple_of(3) { (7, 7) } else { (2, 40) }).check();
}

#[test]
fn long_sequences_are_as_exact() {
    Case::causal(1, 1100, [1, 1], 64).check();
    Case::new([1, 1100, 1100, 2, 1, 8], |i| (i.saturating_sub(300), i + 1)).check();
    Case::new([1, 1100, 1100, 1, 1, 8], |i| if i < 600 { (0, i / 2 + 1) } else { (3, 3) }).check();
}

#[test]
fn inputs_of_any_size_are_as_exact() {
    for size in [1e-6, 1e4] {
        // Scores of a few units at most: beyond, rounding a score changes its exponential by more than its own error.
        Case::causal(1, 150, [2, 1], 64).sized([size, 1.0 / size, size, size]).check();
        Case::causal(1, 150, [2, 1], 64).sized([1.0 / size, size, size, 1.0 / size]).check();
        Case::causal(1, 150, [2, 1], 24).sized([2.0, 2.0, size, size]).check();
    }
    Case::causal(1, 150, [2, 1], 24).sized([1e-6; 4]).check();
    // All weight lies on one key: nothing overflows.
    let case = Case::causal(1, 150, [2, 1], 24).sized([1e4; 4]);
    assert!(case.run(&case.inputs(), true).iter().flatten().all(|x| x.is_finite()));
}

#[test]
fn float16_is_used_where_the_processor_has_it_and_32_bits_elsewhere() {
    let errors = Case::causal(1, 150, [2, 1], 64).errors();
    assert_eq!(errors[0].0 > 1e-5, Precision::F16.is_native() && simd_name() == "avx512f", "{errors:?}");
    let mut case = Case::causal(1, 150, [2, 1], 64);
    case.shape.precision = Precision::Bf16;
    assert!(case.errors()[0].0 < 1e-5, "bfloat16 is multiplied as 32-bit floats");
    let few = Case::new([1, 8, 150, 2, 1, 64], |_| (0, 150)).errors();
    assert!(few[0].0 < 1e-5, "so are few queries: {few:?}");
}

#[test]
fn a_query_without_keys_gives_zero_and_minus_infinity() {
    let case = Case::new([1, 130, 20, 2, 1, 8], |_| (5, 5));
    let [out, lse, dq, dk, dv] = case.run(&case.inputs(), true);
    assert!(out.iter().chain(&dq).chain(&dk).chain(&dv).all(|x| *x == 0.0));
    assert!(lse.iter().all(|x| *x == f32::NEG_INFINITY));
}

#[test]
fn threads_change_no_bit() {
    let cases = [
        Case::causal(2, 130, [4, 2], 32),
        Case::causal(1, 1200, [1, 1], 16),
        Case::causal(3, 90, [6, 1], 20).sloped().capped().valued(9),
    ];
    for case in cases {
        assert_same_on_any_threads(|| case.run(&case.inputs(), true).concat());
    }
}

#[test]
fn not_a_number_and_infinity_reach_those_who_attend_them() {
    for bad in [f32::NAN, f32::INFINITY] {
        for which in 0..3 {
            let case = Case::causal(1, 200, [1, 1], 8);
            let mut inputs = case.inputs();
            inputs[which][100 * 8 + 3] = bad;
            let [out, _, dq, dk, dv] = case.run(&inputs, true);
            let own = &out[100 * 8..][..8];
            let hit = if which == 2 { &own[3..4] } else { own };
            // An infinite key times a negative number is minus infinity: merely no weight.
            let may_vanish = which == 1 && bad == f32::INFINITY;
            assert!(may_vanish || hit.iter().all(|x| !x.is_finite()), "input {which} {bad}: {own:?}");
            let grads = dq[100 * 8..].iter().chain(&dk).chain(&dv);
            assert!(may_vanish || grads.into_iter().any(|x| !x.is_finite()), "gradients of input {which} {bad}");
            assert!(out[..64 * 8].iter().all(|x| x.is_finite()), "earlier queries do not see input {which} {bad}");
        }
    }
}
