//! Block-sparse attention (Zaheer et al. 2020, BigBird; Child et al. 2019, Sparse Transformers): a text is cut into blocks, and
//! the tokens of a block attend their own and others: the nearest, the first of the text, and a few drawn at random.

use std::collections::BTreeSet;
use std::sync::Arc;

use burn::tensor::Tensor;
use cupola_artifact::Result;
use cupola_ops::{Heads, KeyLists, Precision, Span};

use crate::batch::Batch;
use crate::layer::{Layer, LayerKind, Pass, Reach};
use crate::linear::Linear;
use crate::module::{Module, Piece};
use crate::rng::Rng;
use crate::rope::{Angles, RopeSpec};
use crate::source::Scope;

/// Which blocks a block of a text attends; the same wherever the text stands, and in a causal pattern whatever follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockPattern {
    /// Tokens of a block.
    pub size: usize,
    /// Whether blocks attend earlier ones alone.
    pub causal: bool,
    /// Blocks that are attended for being near, a block's own included; without causality to both sides.
    pub near: usize,
    /// Blocks at the beginning of a text that all attend and that attend all.
    pub global: usize,
    /// Blocks drawn from the rest.
    pub random: usize,
    /// What is drawn, together with the layer.
    pub seed: u64,
    /// The layer, so that each draws others.
    pub layer: usize,
}

impl BlockPattern {
    /// The blocks that block `i` of a text of `count` attends, itself included, in order.
    pub fn attended(&self, i: usize, count: usize) -> Vec<usize> {
        let count = if self.causal { i + 1 } else { count };
        if i < self.global {
            return (0..count).collect();
        }
        let near = (i + 1).saturating_sub(self.near)..count.min(i.saturating_add(self.near));
        let global = self.global.min(near.start);
        let mut all: BTreeSet<usize> = (0..global).chain(near.clone()).collect();
        // Floyd's sample of so many of the rest, no block twice (Bentley and Floyd 1987).
        let rest = near.start - global + count - near.end;
        let wanted = self.random.min(rest);
        let block = |r: usize| if global + r < near.start { global + r } else { global + r + near.len() };
        let mut rng = Rng::new(self.seed, &format!("layer {} block {i}", self.layer));
        for last in rest - wanted..rest {
            if !all.insert(block(rng.below(last + 1))) {
                all.insert(block(last));
            }
        }
        all.into_iter().collect()
    }

    /// Adds what the tokens `from..to` of a text attend of it, whose first key is row `first`.
    fn list(&self, lists: &mut KeyLists, first: usize, from: usize, to: usize) {
        let count = to.div_ceil(self.size);
        for i in from / self.size..count {
            let (begin, end) = (i * self.size, to.min((i + 1) * self.size));
            let attended = self.attended(i, count);
            let keys: Vec<u32> = attended
                .iter()
                .flat_map(|b| b * self.size..to.min((b + 1) * self.size))
                .map(|t| (first + t) as u32)
                .collect();
            // In a causal pattern the last keys are the block's own.
            let hidden = |t: usize| if self.causal { end - t - 1 } else { 0 };
            let ends: Vec<u32> = (from.max(begin)..end).map(|t| (keys.len() - hidden(t)) as u32).collect();
            lists.push(keys, ends.into_iter().map(|end| 0..end));
        }
    }

    /// Who attends whom in a batch.
    fn lists(&self, batch: &Batch) -> KeyLists {
        let texts = if self.causal || batch.texts.is_empty() { batch.sequences() } else { batch.texts() };
        let (mut lists, mut at) = (KeyLists::default(), 0);
        // What lies before and after a text attends nothing.
        let nothing = |lists: &mut KeyLists, rows: usize| {
            if rows > 0 {
                lists.push([], std::iter::repeat_n(0..0, rows));
            }
        };
        for text in texts {
            nothing(&mut lists, text.start - at);
            self.list(&mut lists, text.start, 0, text.len());
            at = text.end;
        }
        nothing(&mut lists, batch.ids.len() - at);
        lists
    }

    /// Keys that a token of a text of `len` attends on average.
    fn reached(&self, len: usize) -> f64 {
        let count = len.div_ceil(self.size);
        let size = |b: usize| self.size.min(len - b * self.size);
        let of_block = |i: usize| {
            let keys: usize = self.attended(i, count).into_iter().map(size).sum();
            size(i) * keys - if self.causal { size(i) * (size(i) - 1) / 2 } else { 0 }
        };
        (0..count).map(of_block).sum::<usize>() as f64 / len.max(1) as f64
    }
}

/// The numbers that make a block-sparse attention layer.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockSparseSpec {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub d_head: usize,
    /// Rotary positions.
    pub rope: RopeSpec,
    /// Who attends whom.
    pub pattern: BlockPattern,
}

impl LayerKind for BlockSparseSpec {
    fn about(&self) -> String {
        "attention (blocks: near, global, random)".into()
    }

    fn positions(&self) -> Option<&'static str> {
        Some("rotary")
    }

    fn remembers(&self) -> Option<&'static str> {
        self.pattern.causal.then_some("keys and values")
    }

    fn build(&self, scope: &mut Scope<'_>, d_model: usize) -> Result<Box<dyn Layer>> {
        let (q, kv) = (self.n_heads * self.d_head, self.n_kv_heads * self.d_head);
        Ok(Box::new(BlockSparse {
            q: scope.linear("q", [q, d_model], false)?,
            k: scope.linear("k", [kv, d_model], false)?,
            v: scope.linear("v", [kv, d_model], false)?,
            o: scope.linear_out("o", [d_model, q], false)?,
            angles: scope.angles(&self.rope),
            spec: self.clone(),
        }))
    }

    /// Two products with what is attended. Who attends in both directions is asked for a sequence of twice the length.
    fn mixing_flops(&self, seq: usize) -> f64 {
        let seq = if self.pattern.causal { seq } else { seq / 2 };
        4.0 * (self.n_heads * self.d_head) as f64 * self.pattern.reached(seq)
    }

    /// Queries, keys, values, the mix and its log-sum-exp.
    fn kept(&self, _: usize, _: Precision) -> usize {
        2 * self.n_heads * self.d_head + 2 * self.n_kv_heads * self.d_head + self.n_heads
    }

    /// The gradients of listed keys and values that wait to be added up.
    fn passing(&self, rows: usize) -> usize {
        let BlockPattern { size, near, global, random, .. } = self.pattern;
        let listed = near.saturating_add(global).saturating_add(random).saturating_mul(rows.div_ceil(size) * size);
        2 * self.n_kv_heads * self.d_head * listed.min(1 << 15)
    }

    fn remembered(&self, _: usize, len: usize) -> usize {
        2 * self.n_kv_heads * self.d_head * len
    }
}

#[derive(Clone, Debug)]
struct BlockSparse {
    spec: BlockSparseSpec,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    angles: Arc<Angles>,
}

impl Module for BlockSparse {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        out.extend([&mut self.q, &mut self.k, &mut self.v, &mut self.o].map(Piece::Linear));
    }
}

impl Layer for BlockSparse {
    fn forward(&self, x: Tensor<2>, pass: &mut Pass<'_, '_>) -> Tensor<2> {
        let BlockSparseSpec { n_heads, n_kv_heads, d_head, pattern, .. } = &self.spec;
        let heads = Heads { batch: 1, n_heads: *n_heads, n_kv_heads: *n_kv_heads, d_head: *d_head };
        let angles = self.angles.upto(pass.positions_end());
        let placed = |x, n| cupola_ops::rope(x, &angles, &pass.positions, n);
        let q = placed(self.q.forward(x.clone()), *n_heads); // [N, H·dh]
        let k = placed(self.k.forward(x.clone()), *n_kv_heads); // [N, Hkv·dh]
        let v = self.v.forward(x); // [N, Hkv·dh]
        let precision = pass.precision;
        let mixed = if let Reach::Batch(batch) = &pass.reach {
            cupola_ops::attention_listed([q, k, v], heads, &Arc::new(pattern.lists(batch)), precision)
        } else {
            let mut spans: Vec<Span<'_>> =
                pass.states().map(|(state, rows)| Span { cache: &mut state.keys, rows }).collect();
            let lists = |rows: usize, total: usize| {
                let mut lists = KeyLists::default();
                pattern.list(&mut lists, 0, total - rows, total);
                lists
            };
            cupola_ops::attention_cached_listed([q, k, v], heads, precision, &mut spans, &lists)
        };
        self.o.forward(mixed)
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(size: usize, near: usize, global: usize, random: usize) -> BlockPattern {
        BlockPattern { size, causal: true, near, global, random, seed: 5, layer: 1 }
    }

    #[test]
    fn a_block_attends_what_is_near_and_global_and_as_many_others_as_are_drawn() {
        for (near, global, random) in [(1, 0, 0), (2, 1, 3), (3, 2, 1), (1, 4, 9), (40, 1, 1), (1, 50, 2)] {
            for causal in [true, false] {
                let mut drawn = BTreeSet::new();
                for i in 0..30 {
                    let attended = BlockPattern { causal, ..pattern(4, near, global, random) }.attended(i, 30);
                    assert!(attended.is_sorted_by(|a, b| a < b), "{attended:?}");
                    let there = if causal { 0..i + 1 } else { 0..30 };
                    assert!(attended.iter().all(|b| there.contains(b)), "{attended:?} of block {i} are not all there");
                    let named = |b: &usize| *b < global || i < global || b.abs_diff(i) < near;
                    assert_eq!(attended.iter().filter(|b| named(b)).count(), there.clone().filter(named).count());
                    let others: Vec<usize> = attended.into_iter().filter(|b| !named(b)).collect();
                    assert_eq!(others.len(), random.min(there.filter(|b| !named(b)).count()));
                    drawn.extend(others);
                }
                assert!(near > 3 || global > 4 || drawn.len() > 3 * random.min(2), "{drawn:?} is not much of a draw");
            }
        }
    }

    #[test]
    fn layers_and_seeds_draw_other_blocks() {
        let draw = |seed, layer| {
            let pattern = BlockPattern { seed, layer, ..pattern(8, 1, 1, 2) };
            (0..50).map(|i| pattern.attended(i, 50)).collect::<Vec<_>>()
        };
        assert_eq!(draw(3, 0), draw(3, 0));
        assert!(draw(3, 0) != draw(3, 1) && draw(3, 0) != draw(4, 0));
    }

    #[test]
    fn the_keys_that_are_attended_are_counted() {
        for len in [1, 3, 4, 5, 63, 64] {
            for pattern in [pattern(4, 1, 0, 0), pattern(5, 2, 1, 2), pattern(64, 1, 1, 1)] {
                for causal in [true, false] {
                    let pattern = BlockPattern { causal, ..pattern.clone() };
                    let mut lists = KeyLists::default();
                    pattern.list(&mut lists, 0, 0, len);
                    assert_eq!(lists.queries(), len);
                    assert!((lists.pairs() as f64 - pattern.reached(len) * len as f64).abs() < 1e-6);
                }
            }
        }
    }
}
