//! An inverted file: keys in cells around centroids, of which a query visits the nearest few (Jégou et al. 2011, Product
//! Quantization for Nearest Neighbor Search, the coarse part).

use cupola_nn::Rng;
use rayon::prelude::*;

use crate::search::{Best, Found, Keys};

/// Rounds of k-means.
const ROUNDS: usize = 8;
/// Keys for each centroid that k-means looks at.
const SAMPLE: usize = 64;

/// Centroids, and where the keys that are nearest to each stand.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cells {
    /// The centroids.
    pub centroids: Keys,
    /// Where the keys of each cell begin; one more than cells.
    pub starts: Vec<usize>,
}

impl Cells {
    /// Cells around centroids that are found among a sample of the keys (k-means, Lloyd 1982), and the order in which the
    /// keys stand cell by cell.
    pub fn build(keys: &Keys, count: usize, seed: u64) -> (Self, Vec<u32>) {
        Self::around(centroids(keys, count.clamp(1, keys.len().max(1)), seed), keys)
    }

    /// Cells around given centroids, and the order in which the keys stand cell by cell.
    pub fn around(centroids: Keys, keys: &Keys) -> (Self, Vec<u32>) {
        let assigned = assign(&centroids, &keys.numbers);
        let mut starts = vec![0; centroids.len() + 1];
        assigned.iter().for_each(|cell| starts[*cell + 1] += 1);
        (1..starts.len()).for_each(|i| starts[i] += starts[i - 1]);
        let (mut next, mut order) = (starts.clone(), vec![0; assigned.len()]);
        for (at, cell) in assigned.iter().enumerate() {
            order[next[*cell]] = at as u32;
            next[*cell] += 1;
        }
        (Self { centroids, starts }, order)
    }

    /// Of each query the `k` nearest among the keys of the `probes` cells nearest to it; the keys stand cell by cell. A cell
    /// is looked through once for all queries that visit it.
    pub fn nearest(&self, keys: &Keys, queries: &[f32], k: usize, probes: usize) -> Vec<Vec<Found>> {
        let width = keys.width;
        let mut visitors = vec![vec![]; self.centroids.len()];
        for (query, cells) in self.centroids.nearest(queries, probes).iter().enumerate() {
            cells.iter().for_each(|cell| visitors[cell.at].push(query));
        }
        let visit = |(cell, visitors): (usize, &Vec<usize>)| {
            let (start, end) = (self.starts[cell], self.starts[cell + 1]);
            let mut best = vec![Best::new(k); visitors.len()];
            if start < end && !visitors.is_empty() {
                let asked: Vec<f32> =
                    visitors.iter().flat_map(|q| &queries[q * width..(q + 1) * width]).copied().collect();
                keys.look_through(&asked, start, end, &mut best);
            }
            best
        };
        let found: Vec<Vec<Best>> = visitors.par_iter().enumerate().map(visit).collect();
        let mut all = vec![Best::new(k); queries.len() / width];
        for (visitors, found) in visitors.iter().zip(found) {
            visitors.iter().zip(found).for_each(|(query, best)| all[*query].take_over(best));
        }
        all.into_iter().zip(queries.chunks_exact(width)).map(|(best, query)| best.finish(query)).collect()
    }
}

/// The nearest centroid of each key.
fn assign(centroids: &Keys, keys: &[f32]) -> Vec<usize> {
    // A key that is no number belongs somewhere, too.
    let nearest = centroids.nearest(keys, 1);
    nearest.iter().map(|found| found.first().map_or(0, |f| f.at)).collect()
}

fn centroids(keys: &Keys, count: usize, seed: u64) -> Keys {
    let (width, mut rng) = (keys.width, Rng::new(seed, "centroids"));
    // The first places of a shuffle: different keys.
    let mut order: Vec<usize> = (0..keys.len()).collect();
    let size = (count * SAMPLE).min(keys.len());
    (0..size).for_each(|i| order.swap(i, i + rng.below(keys.len() - i)));
    let sample: Vec<f32> = order[..size].iter().flat_map(|at| keys.row(*at)).copied().collect();
    let mut centroids = Keys::new(width, sample[..count.min(size) * width].to_vec());
    for _ in 0..ROUNDS {
        let mut sums = vec![0.0_f64; centroids.numbers.len()];
        let mut members = vec![0_u32; centroids.len()];
        for (key, cell) in sample.chunks_exact(width).zip(assign(&centroids, &sample)) {
            members[cell] += 1;
            sums[cell * width..(cell + 1) * width].iter_mut().zip(key).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        let mut numbers = centroids.numbers.clone();
        for (cell, members) in members.iter().enumerate().filter(|(_, members)| **members > 0) {
            let at = cell * width..(cell + 1) * width;
            numbers[at.clone()].iter_mut().zip(&sums[at]).for_each(|(x, sum)| *x = (sum / f64::from(*members)) as f32);
        }
        centroids = Keys::new(width, numbers);
    }
    centroids
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys in clusters, as hidden states are.
    fn clustered(count: usize, width: usize, seed: u64) -> Vec<f32> {
        let mut rng = Rng::new(seed, "members");
        let middles = Rng::new(7, "middles").normal(40 * width, 1.0);
        (0..count)
            .flat_map(|_| {
                let middle = rng.below(40);
                let noise = rng.normal(width, 0.5);
                (0..width).map(move |i| (middle, i, noise[i])).collect::<Vec<_>>()
            })
            .map(|(middle, i, noise)| middles[middle * width + i] + noise)
            .collect()
    }

    /// Keys cell by cell, and their cells.
    fn sorted(numbers: Vec<f32>, width: usize, count: usize) -> (Cells, Keys) {
        let keys = Keys::new(width, numbers);
        let (cells, order) = Cells::build(&keys, count, 3);
        (cells, keys.reordered(&order))
    }

    fn recall(cells: &Cells, keys: &Keys, queries: &[f32], probes: usize) -> f64 {
        let (exact, found) = (keys.nearest(queries, 10), cells.nearest(keys, queries, 10, probes));
        let pairs = exact.iter().zip(&found);
        let hits: usize = pairs.map(|(e, f)| e.iter().filter(|e| f.iter().any(|f| f.at == e.at)).count()).sum();
        hits as f64 / exact.iter().map(Vec::len).sum::<usize>() as f64
    }

    #[test]
    fn few_cells_find_nearly_all_neighbours_and_all_cells_find_all() {
        let (cells, keys) = sorted(clustered(6000, 24, 1), 24, 64);
        let queries = clustered(100, 24, 2);
        let some = [1, 2, 8].map(|probes| recall(&cells, &keys, &queries, probes));
        assert!((0.3..0.98).contains(&some[0]) && some[0] < some[1] && some[2] > 0.98, "{some:?}");
        assert_eq!(recall(&cells, &keys, &queries, 64), 1.0);
        assert!(cells.starts.windows(2).filter(|w| w[0] < w[1]).count() > 48, "most cells are empty");
    }

    #[test]
    fn every_key_stands_in_the_cell_of_its_nearest_centroid() {
        let (cells, keys) = sorted(clustered(3000, 8, 1), 8, 20);
        for cell in 0..20 {
            for at in cells.starts[cell]..cells.starts[cell + 1] {
                assert_eq!(cells.centroids.nearest(keys.row(at), 1)[0][0].at, cell);
            }
        }
        assert_eq!(cells.starts[20], 3000);
    }

    #[test]
    fn fewer_keys_than_cells_have_a_cell_each() {
        let (cells, keys) = sorted(clustered(5, 3, 1), 3, 20);
        assert_eq!(cells.centroids.len(), 5);
        assert_eq!(recall(&cells, &keys, &keys.numbers.clone(), 5), 1.0);
    }
}
