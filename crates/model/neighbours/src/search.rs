//! The nearest keys of queries, exactly: blocks of both are multiplied, and the best of each block's scores are kept.

use cupola_kernels::{Mat, matmul};
use rayon::prelude::*;

/// Queries that are multiplied at once.
const QUERIES: usize = 64;
/// Keys that are multiplied at once: their scores stay in the cache.
const BLOCK: usize = 1024;
/// Keys that one thread looks through before their best are merged with others'.
const SPAN: usize = 16 * BLOCK;

/// A key that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    /// Which one.
    pub at: usize,
    /// The squared distance to the query.
    pub distance: f32,
}

/// Vectors of one width with their squared lengths.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Keys {
    /// Numbers of a vector.
    pub width: usize,
    /// The vectors, one after another.
    pub numbers: Vec<f32>,
    squares: Vec<f32>,
}

impl Keys {
    /// Vectors of this width.
    pub fn new(width: usize, numbers: Vec<f32>) -> Self {
        let squares = numbers.par_chunks_exact(width.max(1)).map(square).collect();
        Self { width, numbers, squares }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.squares.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.squares.is_empty()
    }

    /// One of them.
    pub fn row(&self, at: usize) -> &[f32] {
        &self.numbers[at * self.width..(at + 1) * self.width]
    }

    /// The same vectors in another order.
    #[must_use]
    pub fn reordered(&self, order: &[u32]) -> Self {
        Self::new(self.width, order.iter().flat_map(|at| self.row(*at as usize)).copied().collect())
    }

    /// Adds vectors at the end.
    pub fn extend(&mut self, numbers: &[f32]) {
        self.squares.extend(numbers.chunks_exact(self.width).map(square));
        self.numbers.extend_from_slice(numbers);
    }

    /// The `k` nearest of each query, the nearest first; of equally near ones the first. queries `[Q, width]`.
    pub fn nearest(&self, queries: &[f32], k: usize) -> Vec<Vec<Found>> {
        let width = self.width.max(1);
        queries.chunks(QUERIES * width).flat_map(|queries| self.nearest_of_few(queries, k)).collect()
    }

    fn nearest_of_few(&self, queries: &[f32], k: usize) -> Vec<Vec<Found>> {
        let starts: Vec<usize> = (0..self.len()).step_by(SPAN).collect();
        let spans: Vec<Vec<Best>> = starts
            .par_iter()
            .map(|start| {
                let mut best = vec![Best::new(k); queries.len() / self.width];
                self.look_through(queries, *start, (start + SPAN).min(self.len()), &mut best);
                best
            })
            .collect();
        let mut all = vec![Best::new(k); queries.len() / self.width.max(1)];
        for span in spans {
            for (all, best) in all.iter_mut().zip(span) {
                all.take_over(best);
            }
        }
        all.into_iter().zip(queries.chunks_exact(self.width.max(1))).map(|(best, q)| best.finish(q)).collect()
    }

    /// Offers the keys from `start` to before `end`, block by block, to each query's best.
    pub(crate) fn look_through(&self, queries: &[f32], start: usize, end: usize, best: &mut [Best]) {
        let (rows, width) = (best.len(), self.width);
        let mut scores = vec![0.0; rows * BLOCK.min(end - start)];
        for from in (start..end).step_by(BLOCK) {
            let to = (from + BLOCK).min(end);
            let scores = &mut scores[..rows * (to - from)];
            let keys = Mat::new(&self.numbers[from * width..to * width], to - from, width);
            matmul(scores, Mat::new(queries, rows, width), keys.t(), false);
            for (best, scores) in best.iter_mut().zip(scores.chunks_exact(to - from)) {
                for (i, (score, square)) in scores.iter().zip(&self.squares[from..to]).enumerate() {
                    // The query's own square is the same for all keys.
                    best.offer(from + i, square - 2.0 * score);
                }
            }
        }
    }
}

/// `Σ x²`.
fn square(x: &[f32]) -> f32 {
    x.iter().map(|x| x * x).sum()
}

/// The nearest so far, the nearest first.
#[derive(Clone, Debug)]
pub(crate) struct Best {
    k: usize,
    found: Vec<Found>,
}

impl Best {
    pub(crate) fn new(k: usize) -> Self {
        Self { k, found: Vec::with_capacity(k.min(BLOCK)) }
    }

    /// Takes a key if it is nearer than the last; what is no number is taken never.
    pub(crate) fn offer(&mut self, at: usize, distance: f32) {
        let full = self.found.len() >= self.k;
        let worst = if full { self.found.last().map_or(f32::NEG_INFINITY, |f| f.distance) } else { f32::INFINITY };
        if distance < worst {
            let place = self.found.partition_point(|f| f.distance <= distance);
            if full {
                self.found.pop();
            }
            self.found.insert(place, Found { at, distance });
        }
    }

    /// Takes what others found.
    pub(crate) fn take_over(&mut self, others: Best) {
        others.found.into_iter().for_each(|f| self.offer(f.at, f.distance));
    }

    /// The found keys with whole distances.
    pub(crate) fn finish(mut self, query: &[f32]) -> Vec<Found> {
        let own = square(query);
        self.found.iter_mut().for_each(|f| f.distance = (f.distance + own).max(0.0));
        self.found
    }
}

#[cfg(test)]
mod tests {
    use cupola_nn::Rng;

    use super::*;

    #[test]
    fn the_nearest_are_those_of_the_plain_loops() {
        for (width, count, queries, k) in
            [(1, 1, 1, 1), (7, 300, 5, 3), (32, 20_000, 70, 8), (5, 4, 3, 10), (3, 0, 2, 1)]
        {
            let numbers = Rng::new(1, "keys").normal(width * count, 1.0);
            let asked = Rng::new(2, "queries").normal(width * queries, 1.0);
            let keys = Keys::new(width, numbers);
            let found = keys.nearest(&asked, k);
            assert_eq!(found.len(), queries);
            for (query, found) in asked.chunks_exact(width).zip(&found) {
                let distance =
                    |at: usize| -> f64 { keys.row(at).iter().zip(query).map(|(a, b)| f64::from(a - b).powi(2)).sum() };
                let mut want: Vec<usize> = (0..count).collect();
                want.sort_by(|a, b| distance(*a).total_cmp(&distance(*b)));
                want.truncate(k);
                assert_eq!(found.len(), want.len());
                for (found, want) in found.iter().zip(want) {
                    // Keys that are equally near but for rounding may change places.
                    assert!((distance(found.at) - distance(want)).abs() < 1e-4);
                    assert!((f64::from(found.distance) - distance(found.at)).abs() < 1e-3);
                }
            }
        }
    }

    #[test]
    fn of_equal_keys_the_first_are_found_and_what_is_no_number_never_is() {
        let keys = Keys::new(1, vec![1.0, f32::NAN, 1.0, 1.0, f32::INFINITY]);
        let found = keys.nearest(&[1.0], 5);
        assert_eq!(found[0].iter().map(|f| f.at).collect::<Vec<_>>(), [0, 2, 3]);
        assert!(keys.nearest(&[f32::NAN], 5)[0].is_empty());
        assert!(keys.nearest(&[1.0], 0)[0].is_empty());
    }
}
