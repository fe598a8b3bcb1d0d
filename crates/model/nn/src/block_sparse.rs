//! Block-sparse attention (Zaheer et al. 2020, BigBird; Child et al. 2019, Sparse Transformers): a text is cut into blocks, and
//! the tokens of a block attend their own and earlier ones: the nearest, the first of the text, and a few drawn at random.

use std::collections::BTreeSet;
use std::sync::Arc;

use burn::tensor::Tensor;
use cupola_artifact::Result;
use cupola_ops::{Heads, KeyLists, Precision, Span};

use crate::layer::{Layer, LayerKind, Pass, Reach};
use crate::linear::Linear;
use crate::module::{Module, Piece};
use crate::rng::Rng;
use crate::rope::{Angles, RopeSpec};
use crate::source::Scope;

/// Which blocks a block of a text attends; the same wherever the text stands, and whatever follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockPattern {
    /// Tokens of a block.
    pub size: usize,
    /// Blocks that are attended for being near, a block's own included.
    pub near: usize,
    /// Blocks at the beginning of a text that all attend.
    pub global: usize,
    /// Blocks drawn from the rest.
    pub random: usize,
    /// What is drawn, together with the layer.
    pub seed: u64,
    /// The layer, so that each draws others.
    pub layer: usize,
}

impl BlockPattern {
    /// The blocks that block `i` attends, itself included, in order.
    pub fn attended(&self, i: usize) -> Vec<usize> {
        let near = (i + 1).saturating_sub(self.near);
        let global = self.global.min(near);
        let mut all: BTreeSet<usize> = (0..global).chain(near..=i).collect();
        // Floyd's sample of so many of what lies between, no block twice (Bentley and Floyd 1987).
        let (rest, wanted) = (near - global, self.random.min(near - global));
        let mut rng = Rng::new(self.seed, &format!("layer {} block {i}", self.layer));
        for last in rest - wanted..rest {
            let drawn = global + rng.below(last + 1);
            if !all.insert(drawn) {
                all.insert(global + last);
            }
        }
        all.into_iter().collect()
    }

    /// Adds what the tokens `from..to` of a text attend of it, whose first key is row `first`.
    fn list(&self, lists: &mut KeyLists, first: usize, from: usize, to: usize) {
        for i in from / self.size..to.div_ceil(self.size) {
            let (begin, end) = (i * self.size, to.min((i + 1) * self.size));
            let attended = self.attended(i);
            let keys = attended.iter().flat_map(|b| b * self.size..end.min((b + 1) * self.size));
            let before = (attended.len() - 1) * self.size;
            let spans = (from.max(begin)..end).map(|t| 0..(before + t - begin + 1) as u32);
            lists.push(keys.map(|t| (first + t) as u32), spans);
        }
    }

    /// Keys that a token of a text of `len` attends on average.
    fn reached(&self, len: usize) -> f64 {
        let of_block = |i: usize| {
            let (before, own) = (self.attended(i).len() - 1, self.size.min(len - i * self.size));
            own * before * self.size + own * (own + 1) / 2
        };
        (0..len.div_ceil(self.size)).map(of_block).sum::<usize>() as f64 / len.max(1) as f64
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
        Some("keys and values")
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

    /// Two products with what is attended.
    fn mixing_flops(&self, seq: usize) -> f64 {
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
            let mut lists = KeyLists::default();
            batch.sequences().iter().for_each(|text| pattern.list(&mut lists, text.start, 0, text.len()));
            cupola_ops::attention_listed([q, k, v], heads, &Arc::new(lists), precision)
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
        BlockPattern { size, near, global, random, seed: 5, layer: 1 }
    }

    #[test]
    fn a_block_attends_what_is_near_and_global_and_as_many_others_as_are_drawn() {
        for (near, global, random) in [(1, 0, 0), (2, 1, 3), (3, 2, 1), (1, 4, 9), (40, 1, 1), (1, 50, 2)] {
            let mut drawn = BTreeSet::new();
            for i in 0..30 {
                let attended = pattern(4, near, global, random).attended(i);
                assert!(attended.is_sorted_by(|a, b| a < b), "{attended:?}");
                assert!(attended.iter().all(|b| *b <= i), "{attended:?} of block {i} are not all earlier");
                let named = |b: &usize| *b < global || b + near > i;
                assert_eq!(attended.iter().filter(|b| named(b)).count(), (0..=i).filter(named).count());
                let others: Vec<usize> = attended.into_iter().filter(|b| !named(b)).collect();
                assert_eq!(others.len(), random.min((0..=i).filter(|b| !named(b)).count()));
                drawn.extend(others);
            }
            assert!(near > 3 || global > 4 || drawn.len() > 3 * random.min(2), "{drawn:?} is not much of a draw");
        }
    }

    #[test]
    fn layers_and_seeds_draw_other_blocks() {
        let draw = |seed, layer| {
            let pattern = BlockPattern { seed, layer, ..pattern(8, 1, 1, 2) };
            (0..50).map(|i| pattern.attended(i)).collect::<Vec<_>>()
        };
        assert_eq!(draw(3, 0), draw(3, 0));
        assert!(draw(3, 0) != draw(3, 1) && draw(3, 0) != draw(4, 0));
    }

    #[test]
    fn the_keys_that_are_attended_are_counted() {
        for len in [1, 3, 4, 5, 63, 64] {
            for pattern in [pattern(4, 1, 0, 0), pattern(5, 2, 1, 2), pattern(64, 1, 1, 1)] {
                let mut lists = KeyLists::default();
                pattern.list(&mut lists, 0, 0, len);
                assert_eq!(lists.queries(), len);
                assert!((lists.pairs() as f64 - pattern.reached(len) * len as f64).abs() < 1e-6);
            }
        }
    }
}
