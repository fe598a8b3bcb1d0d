//! Attention to listed keys against its definition.
mod common;
use common::{assert_close, assert_same_on_any_threads, assert_slope, at_every_level, noise};
use cupola_kernels::*;

struct Case {
    shape: ListedShape,
    keys: usize,
    queries: Vec<u32>,
    ends: Vec<u32>,
    list: Vec<u32>,
    lo: Vec<u32>,
    hi: Vec<u32>,
}

impl Case {
    /// Blocks of so many queries and so many entries, which name rows below `keys`; each query attends a stretch of them.
    fn new(blocks: &[(u32, u32)], keys: usize, heads: [usize; 2], d_head: usize) -> Self {
        let mut case = Case {
            shape: ListedShape::new(heads, d_head),
            keys,
            queries: blocks.iter().map(|b| b.0).collect(),
            ends: vec![],
            list: vec![],
            lo: vec![],
            hi: vec![],
        };
        for (b, (queries, entries)) in blocks.iter().enumerate() {
            case.list.extend((0..*entries).map(|e| (e * 7 + b as u32 * 13) % keys as u32));
            case.ends.push(case.list.len() as u32);
            case.lo.extend((0..*queries).map(|i| if i % 5 == 3 { i % (entries + 1) } else { 0 }));
            case.hi.extend((0..*queries).map(|i| entries - (i * 3) % (entries / 2 + 1)));
        }
        case
    }

    fn valued(mut self, d_value: usize) -> Self {
        self.shape.d_value = d_value;
        self
    }

    fn lists(&self) -> KeyLists<'_> {
        KeyLists { queries: &self.queries, ends: &self.ends, keys: &self.list, lo: &self.lo, hi: &self.hi }
    }

    /// q, k, v, d_out
    fn inputs(&self) -> [Vec<f32>; 4] {
        let (s, queries) = (&self.shape, self.lo.len() * self.shape.n_heads);
        let keys = self.keys * s.n_kv_heads;
        let mut seed = 0;
        [queries * s.d_head, keys * s.d_head, keys * s.d_value, queries * s.d_value].map(|len| {
            seed += 1;
            noise(len, seed).iter().map(|x| 2.0 * x).collect()
        })
    }

    /// out, lse, dq, dk, dv
    fn run_on(&self, [q, k, v, d_out]: [Vec<f32>; 4], fast: bool) -> [Vec<f32>; 5] {
        let (mut out, mut lse) = (vec![9.0; d_out.len()], vec![9.0; self.lo.len() * self.shape.n_heads]);
        let forward = if fast { listed_attention_forward } else { reference::listed_attention_forward };
        forward([&q, &k, &v], &mut out, &mut lse, &self.shape, &self.lists());
        let (mut dq, mut dk, mut dv) = (vec![9.0; q.len()], vec![9.0; k.len()], vec![9.0; v.len()]);
        let saved = ListedSaved { q: &q, k: &k, v: &v, out: &out, lse: &lse };
        let mut grads = ListedGrads { dq: &mut dq, dk: &mut dk, dv: &mut dv };
        let backward = if fast { listed_attention_backward } else { reference::listed_attention_backward };
        backward(&saved, &d_out, &mut grads, &self.shape, &self.lists());
        [out, lse, dq, dk, dv]
    }

    #[track_caller]
    fn check(&self) {
        let (got, want) = (self.run_on(self.inputs(), true), self.run_on(self.inputs(), false));
        for (i, name) in ["out", "lse", "dq", "dk", "dv"].iter().enumerate() {
            assert_close(&format!("{name} of {:?}", self.shape), &got[i], &want[i], 1e-4);
        }
    }
}

const FEW: [(u32, u32); 7] = [(1, 1), (3, 5), (8, 31), (1, 0), (0, 4), (1, 17), (2, 2)];
const MANY: [(u32, u32); 6] = [(9, 1), (37, 5), (64, 131), (12, 0), (32, 64), (33, 257)];

#[test]
fn attention_to_lists_equals_its_definition() {
    at_every_level(|| {
        for (heads, d_head) in [([1, 1], 1), ([2, 1], 7), ([4, 2], 16), ([3, 3], 33), ([6, 1], 24)] {
            for keys in [1, 2, 61, 300] {
                Case::new(&FEW, keys, heads, d_head).check();
                Case::new(&MANY, keys, heads, d_head).valued(d_head + 5).check();
                Case::new(&[&FEW[..], &MANY[..], &FEW[..]].concat(), keys, heads, d_head).valued(3).check();
            }
        }
        Case::new(&[], 5, [2, 1], 4).check();
    });
}

#[test]
fn lists_beyond_what_waits_at_once_equal_the_definition() {
    Case::new(&vec![(1, 36); 1500], 700, [2, 1], 8).check();
    Case::new(&[(40, 9000); 5], 6000, [1, 1], 4).check();
}

#[test]
fn all_keys_in_order_are_plain_attention() {
    let mut case = Case::new(&[(100, 100)], 100, [4, 2], 16);
    case.list = (0..100).collect();
    (case.lo, case.hi) = (vec![0; 100], (1..=100).collect());
    let [q, k, v, _] = case.inputs();
    let (mut out, mut lse) = (vec![0.0; q.len()], vec![0.0; 400]);
    listed_attention_forward([&q, &k, &v], &mut out, &mut lse, &case.shape, &case.lists());
    let (mut whole, mut lse) = (vec![0.0; q.len()], vec![0.0; 400]);
    let spans = Spans { lo: &case.lo, hi: &case.hi };
    attention_forward(&q, &k, &v, &mut whole, &mut lse, &AttentionShape::new(1, 100, [4, 2], 16), &spans);
    assert_eq!(out, whole);
}

#[test]
fn a_query_without_keys_gives_zero_and_minus_infinity() {
    for queries in [1, 30] {
        let mut case = Case::new(&[(queries, 20)], 20, [2, 1], 8);
        (case.lo, case.hi) = (vec![5; queries as usize], vec![5; queries as usize]);
        let [out, lse, dq, dk, dv] = case.run_on(case.inputs(), true);
        assert!(out.iter().chain(&dq).chain(&dk).chain(&dv).all(|x| *x == 0.0));
        assert!(lse.iter().all(|x| *x == f32::NEG_INFINITY));
    }
}

#[test]
fn gradients_are_slopes() {
    for blocks in [&[(1, 3), (2, 5), (1, 0), (1, 4)][..], &[(9, 4), (1, 6), (10, 3)]] {
        for (heads, d_head, d_value) in [([1, 1], 2, 1), ([2, 1], 3, 4), ([2, 2], 1, 2)] {
            let case = Case::new(blocks, 5, heads, d_head).valued(d_value);
            let [q, k, v, d_out] = case.inputs();
            let [_, _, dq, dk, dv] = case.run_on(case.inputs(), true);
            let loss = |q: &[f32], k: &[f32], v: &[f32]| {
                let (mut out, mut lse) = (vec![0.0; d_out.len()], vec![0.0; case.lo.len() * case.shape.n_heads]);
                reference::listed_attention_forward([q, k, v], &mut out, &mut lse, &case.shape, &case.lists());
                out.iter().zip(&d_out).map(|(o, g)| f64::from(*o) * f64::from(*g)).sum()
            };
            assert_slope("dq", &q, &dq, |q| loss(q, &k, &v));
            assert_slope("dk", &k, &dk, |k| loss(&q, k, &v));
            assert_slope("dv", &v, &dv, |v| loss(&q, &k, v));
        }
    }
}

#[test]
fn threads_change_no_bit() {
    for blocks in [vec![(1, 40); 1000], vec![(64, 700); 30], [FEW.as_slice(), &MANY].concat()] {
        let case = Case::new(&blocks, 500, [4, 2], 16).valued(9);
        assert_same_on_any_threads(|| case.run_on(case.inputs(), true).concat());
    }
}

#[test]
fn not_a_number_reaches_those_who_attend_it() {
    for queries in [2, 20] {
        // Two blocks of which the second lists no row of the first.
        let mut case = Case::new(&[(queries, 4), (queries, 4)], 8, [1, 1], 8);
        case.list = (0..8).collect();
        (case.lo, case.hi) = (vec![0; 2 * queries as usize], vec![4; 2 * queries as usize]);
        for which in 0..3 {
            let mut inputs = case.inputs();
            inputs[which][3] = f32::NAN;
            let [out, _, dq, dk, dv] = case.run_on(inputs, true);
            let (own, other) = out.split_at(queries as usize * 8);
            let hit = if which == 2 { &own[3..4] } else { &own[..8] };
            assert!(hit.iter().all(|x| x.is_nan()), "input {which}: {own:?}");
            assert!(dq.iter().chain(&dk).chain(&dv).any(|x| x.is_nan()), "gradients of input {which}");
            assert!(other.iter().chain(&dk[32..]).chain(&dv[32..]).all(|x| x.is_finite()), "the other block sees it");
        }
    }
}

#[test]
#[should_panic(expected = "a list names row 9, but there are 8 keys")]
fn lists_of_rows_that_are_not_there_are_refused() {
    let mut case = Case::new(&[(2, 3)], 8, [1, 1], 4);
    case.list[1] = 9;
    case.run_on(case.inputs(), true);
}

#[test]
#[should_panic(expected = "a span ends at 4, but the list has 3 entries")]
fn spans_outside_a_list_are_refused() {
    let mut case = Case::new(&[(2, 3)], 8, [1, 1], 4);
    case.hi[1] = 4;
    case.run_on(case.inputs(), true);
}
