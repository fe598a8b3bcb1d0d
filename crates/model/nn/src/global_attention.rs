//! Attention of long texts (Beltagy et al. 2020): a token sees a window around itself, and a few tokens, which have
//! projections of their own, see everything and are seen by everything.

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Tensor, TensorData};
use cupola_artifact::Result;
use cupola_ops::{AttentionOptions, Heads, Mask, Precision};

use crate::batch::Batch;
use crate::layer::{Layer, LayerKind, Pass, Reach};
use crate::linear::Linear;
use crate::module::{Module, Piece};
use crate::source::Scope;

/// The numbers that make it.
#[derive(Clone, Debug, PartialEq)]
pub struct GlobalAttentionSpec {
    /// Heads.
    pub n_heads: usize,
    /// Width of a head.
    pub d_head: usize,
    /// How many tokens before and after itself a token sees.
    pub window: usize,
}

impl LayerKind for GlobalAttentionSpec {
    fn about(&self) -> String {
        "attention (window, global tokens)".into()
    }

    fn build(&self, scope: &mut Scope<'_>, d_model: usize) -> Result<Box<dyn Layer>> {
        let wide = [self.n_heads * self.d_head, d_model];
        let mut three = |parts: [&str; 3]| -> Result<[Linear; 3]> {
            let [q, k, v] = parts;
            Ok([scope.linear(q, wide, true)?, scope.linear(k, wide, true)?, scope.linear(v, wide, true)?])
        };
        let (local, global) = (three(["q", "k", "v"])?, three(["global_q", "global_k", "global_v"])?);
        let o = scope.linear_out("o", [d_model, wide[0]], true)?;
        Ok(Box::new(GlobalAttention { spec: self.clone(), local, global, o }))
    }

    /// Two products with a stretch of three windows.
    fn mixing_flops(&self, seq: usize) -> f64 {
        2.0 * (self.n_heads * self.d_head * seq.min(6 * self.window)) as f64
    }

    /// Queries, three times the keys and values, scores and shares, and the mix.
    fn kept(&self, _: usize, _: Precision) -> usize {
        8 * self.n_heads * self.d_head + 3 * self.n_heads * 3 * self.window
    }
}

#[derive(Clone, Debug)]
struct GlobalAttention {
    spec: GlobalAttentionSpec,
    local: [Linear; 3],
    global: [Linear; 3],
    o: Linear,
}

/// Which keys lie before which queries: `chunks` stretches of `queries` rows, each with `keys` rows. A number of no row
/// stands for none.
struct Plan {
    queries: Vec<usize>,
    keys: Vec<usize>,
    chunks: usize,
    /// For each chunk, query and key, whether the query may not see the key.
    hidden: Vec<bool>,
}

impl GlobalAttention {
    fn plan(&self, batch: &Batch, global: &[Vec<usize>]) -> Plan {
        let (seq, rows, none) = (batch.seq(), batch.batch, batch.ids.len());
        let window = self.spec.window.min(seq);
        let chunk = if window + 1 >= seq { seq } else { window.max(1) };
        let slots = global.iter().map(Vec::len).max().unwrap_or(0);
        let (mut queries, mut keys) = (vec![], vec![]);
        for (row, global) in global.iter().enumerate() {
            let place = |at: usize| if at < seq { row * seq + at } else { none };
            for start in (0..seq).step_by(chunk) {
                queries.extend((start..start + chunk).map(place));
                // A window before the chunk, the chunk, a window after it; or everything.
                let side = if chunk == seq { 0 } else { window };
                let around = start..start + chunk + 2 * side;
                keys.extend(around.map(|at| at.checked_sub(side).map_or(none, place)));
                keys.extend((0..slots).map(|slot| global.get(slot).map_or(none, |at| row * seq + at)));
            }
        }
        let chunks = rows * seq.div_ceil(chunk);
        let (per, near) = (keys.len() / chunks.max(1), keys.len() / chunks.max(1) - slots);
        let is_global = |key: usize| global[key / seq].contains(&(key % seq));
        let sees = |query: usize, key: usize, far: bool| {
            let reached = (batch.mask.lo[query]..batch.mask.hi[query]).contains(&((key % seq) as u32));
            reached && (far || query.abs_diff(key) <= self.spec.window && !is_global(key))
        };
        let hidden = queries.chunks(chunk).zip(keys.chunks(per.max(1))).flat_map(|(queries, keys)| {
            queries.iter().flat_map(move |query| {
                keys.iter()
                    .enumerate()
                    .map(move |(i, key)| *query == none || *key == none || !sees(*query, *key, i >= near))
            })
        });
        let hidden = hidden.collect();
        Plan { queries, keys, chunks, hidden }
    }

    /// What each token sees of its window and of the global tokens, `[N, H·dh]`.
    fn near(&self, x: &Tensor<2>, batch: &Batch, global: &[Vec<usize>]) -> Tensor<2> {
        let (n, h, d) = (batch.ids.len(), self.spec.n_heads, self.spec.d_head);
        let Plan { queries, keys, chunks, hidden } = self.plan(batch, global);
        let (per_q, per_k) = (queries.len() / chunks, keys.len() / chunks);
        let split = |x: Tensor<2>, rows: &[usize], per: usize| -> Tensor<4> {
            let rows = rows.iter().map(|row| if *row < n { *row as u32 } else { 0 }).collect();
            cupola_ops::embedding(x, &rows).reshape([chunks, per, h, d]).swap_dims(1, 2)
        };
        let [q, k, v] = [0, 1, 2].map(|i| self.local[i].forward(x.clone()));
        let (q, k, v) = (split(q, &queries, per_q), split(k, &keys, per_k), split(v, &keys, per_k));
        let hidden = Tensor::<4, Bool>::from_data(TensorData::new(hidden, [chunks, 1, per_q, per_k]), &x.device());
        let scores = q.matmul(k.transpose()).mul_scalar((d as f32).powf(-0.5));
        let scores = scores.mask_fill(hidden.expand([chunks, h, per_q, per_k]), -1.0e30);
        let mixed: Tensor<2> = softmax(scores, 3).matmul(v).swap_dims(1, 2).reshape([queries.len(), h * d]);
        let mut back = vec![0u32; n];
        queries.iter().enumerate().filter(|(_, row)| **row < n).for_each(|(i, row)| back[*row] = i as u32);
        cupola_ops::embedding(mixed, &back.into())
    }

    /// The same with what the global tokens see in its place.
    fn with_global(&self, near: Tensor<2>, x: &Tensor<2>, batch: &Batch, global: &[Vec<usize>]) -> Tensor<2> {
        let (seq, n, slots) = (batch.seq(), batch.ids.len(), global.iter().map(Vec::len).max().unwrap_or(0));
        if slots == 0 {
            return near;
        }
        let (mut rows, mut lo, mut hi) = (vec![], vec![], vec![]);
        let mut from: Vec<u32> = (0..n as u32).collect();
        for (row, global) in global.iter().enumerate() {
            for slot in 0..slots {
                let at = global.get(slot).map(|at| row * seq + at);
                if let Some(at) = at {
                    from[at] = (n + rows.len()) as u32;
                }
                rows.push(at.unwrap_or(0) as u32);
                lo.push(at.map_or(0, |at| batch.mask.lo[at]));
                hi.push(at.map_or(0, |at| batch.mask.hi[at]));
            }
        }
        let mask = Mask { lo: lo.into(), hi: hi.into() };
        let [q, k, v] = &self.global;
        let q = q.forward(cupola_ops::embedding(x.clone(), &rows.into()));
        let (n_heads, d_head) = (self.spec.n_heads, self.spec.d_head);
        let heads = Heads { batch: batch.batch, n_heads, n_kv_heads: n_heads, d_head };
        let (k, v) = (k.forward(x.clone()), v.forward(x.clone()));
        let far = cupola_ops::attention_with(q, k, v, heads, &mask, &AttentionOptions::default());
        cupola_ops::embedding(Tensor::cat(vec![near, far], 0), &from.into())
    }
}

/// The places of each row's global tokens.
fn global_places(batch: &Batch) -> Vec<Vec<usize>> {
    let seq = batch.seq();
    let of_row = |row: usize| match &batch.global {
        Some(global) => (0..seq).filter(|at| global[row * seq + at]).collect(),
        None => vec![],
    };
    (0..batch.batch).map(of_row).collect()
}

impl Module for GlobalAttention {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        out.extend(self.local.iter_mut().chain(&mut self.global).chain([&mut self.o]).map(Piece::Linear));
    }
}

impl Layer for GlobalAttention {
    fn forward(&self, x: Tensor<2>, pass: &mut Pass<'_, '_>) -> Tensor<2> {
        // What follows a text one by one is no encoder's business.
        let Reach::Batch(batch) = &pass.reach else { return x.zeros_like() };
        let global = global_places(batch);
        let near = self.near(&x, batch, &global);
        self.o.forward(self.with_global(near, &x, batch, &global))
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(window: usize) -> GlobalAttention {
        let mut count = crate::source::Count::default();
        let mut angles = vec![];
        let mut scope = Scope::root(&mut count, &mut angles);
        let mut linear = |name| scope.linear(name, [2, 2], false).unwrap_or_else(|e| panic!("{e}"));
        let spec = GlobalAttentionSpec { n_heads: 1, d_head: 2, window };
        let local = ["a", "b", "c"].map(&mut linear);
        GlobalAttention { spec, local, global: ["d", "e", "f"].map(&mut linear), o: linear("o") }
    }

    /// Every pair that may see each other appears exactly once, and no other.
    #[test]
    fn chunks_hold_each_key_that_a_token_sees_once() {
        for (seq, window) in [(1, 1), (5, 1), (7, 2), (8, 3), (9, 4), (6, 5), (6, 9), (12, 2)] {
            for places in [vec![], vec![0], vec![seq / 2, seq - 1]] {
                let mut batch = Batch::padded(vec![0; 2 * seq], &[0..seq, 0..seq.div_ceil(2)], true);
                let mut global = vec![false; 2 * seq];
                places.iter().for_each(|at| global[*at] = true);
                batch.global = Some(global.clone().into());
                let plan = layer(window).plan(&batch, &global_places(&batch));
                let (per_q, per_k) = (plan.queries.len() / plan.chunks, plan.keys.len() / plan.chunks);
                let mut seen = vec![0; 4 * seq * seq];
                for (i, hidden) in plan.hidden.iter().enumerate().filter(|(_, hidden)| !**hidden) {
                    let (chunk, query, key) = (i / per_k / per_q, i / per_k, i % per_k);
                    seen[plan.queries[query] * 2 * seq + plan.keys[chunk * per_k + key]] += 1;
                    assert!(!hidden);
                }
                for (i, seen) in seen.iter().enumerate() {
                    let (query, key) = (i / (2 * seq), i % (2 * seq));
                    let text = if query < seq { 0..seq } else { seq..seq + seq.div_ceil(2) };
                    let near = query.abs_diff(key) <= window || global[key];
                    assert_eq!(*seen, i32::from(text.contains(&key) && near), "{seq} {window} {query} {key}");
                }
            }
        }
    }
}
