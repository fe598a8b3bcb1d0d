//! Attention to listed keys.

use crate::{KeyLists, ListedGrads, ListedSaved, ListedShape};

/// A query's place: its block's first query and number of queries, itself in the block, and what it attends.
struct Place<'a> {
    first: usize,
    rows: usize,
    i: usize,
    keys: &'a [u32],
}

fn places<'a>(lists: &KeyLists<'a>) -> Vec<Place<'a>> {
    let (mut places, mut first, mut start) = (vec![], 0, 0);
    for (rows, end) in lists.queries.iter().zip(lists.ends) {
        let (rows, end, list) = (*rows as usize, *end as usize, lists.keys);
        for i in 0..rows {
            let (lo, hi) = (lists.lo[first + i] as usize, lists.hi[first + i] as usize);
            let keys = if lo < hi { &list[start..end][lo..hi] } else { &[] };
            places.push(Place { first, rows, i, keys });
        }
        (first, start) = (first + rows, end);
    }
    places
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

/// See [`crate::listed_attention_forward`].
pub fn listed_attention_forward(
    [q, k, v]: [&[f32]; 3],
    out: &mut [f32],
    lse: &mut [f32],
    s: &ListedShape,
    lists: &KeyLists,
) {
    let (d, dv, group) = (s.d_head, s.d_value, s.n_heads / s.n_kv_heads);
    for place in places(lists) {
        for h in 0..s.n_heads {
            let query = (place.first + place.i) * s.n_heads + h;
            let at = |row: &u32| *row as usize * s.n_kv_heads + h / group;
            let score = |row: &u32| dot(&q[query * d..][..d], &k[at(row) * d..][..d]) * f64::from(s.scale);
            let scores: Vec<f64> = place.keys.iter().map(score).collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|x| (x - max).exp()).sum();
            lse[place.first * s.n_heads + h * place.rows + place.i] = (max + sum.ln()) as f32;
            for j in 0..dv {
                let value = |row: &u32| f64::from(v[at(row) * dv + j]);
                let x: f64 = scores.iter().zip(place.keys).map(|(x, row)| (x - max).exp() / sum * value(row)).sum();
                out[query * dv + j] = x as f32;
            }
        }
    }
}

/// See [`crate::listed_attention_backward`].
pub fn listed_attention_backward(
    saved: &ListedSaved,
    d_out: &[f32],
    grads: &mut ListedGrads,
    s: &ListedShape,
    lists: &KeyLists,
) {
    let ListedSaved { q, k, v, out, lse } = *saved;
    let (d, dv, group) = (s.d_head, s.d_value, s.n_heads / s.n_kv_heads);
    let [mut sum_q, mut sum_k, mut sum_v] = [q, k, v].map(|x| vec![0.0; x.len()]);
    for place in places(lists) {
        for h in 0..s.n_heads {
            let query = (place.first + place.i) * s.n_heads + h;
            let (own, d_own) = (&q[query * d..][..d], &d_out[query * dv..][..dv]);
            let delta = dot(d_own, &out[query * dv..][..dv]);
            let lse = f64::from(lse[place.first * s.n_heads + h * place.rows + place.i]);
            for row in place.keys {
                let at = *row as usize * s.n_kv_heads + h / group;
                let (key, value) = (&k[at * d..][..d], &v[at * dv..][..dv]);
                let share = (dot(own, key) * f64::from(s.scale) - lse).exp();
                let slope = share * (dot(d_own, value) - delta) * f64::from(s.scale);
                (0..d).for_each(|j| sum_q[query * d + j] += slope * f64::from(key[j]));
                (0..d).for_each(|j| sum_k[at * d + j] += slope * f64::from(own[j]));
                (0..dv).for_each(|j| sum_v[at * dv + j] += share * f64::from(d_own[j]));
            }
        }
    }
    for (to, from) in [(&mut *grads.dq, sum_q), (&mut *grads.dk, sum_k), (&mut *grads.dv, sum_v)] {
        to.iter_mut().zip(from).for_each(|(to, x)| *to = x as f32);
    }
}
