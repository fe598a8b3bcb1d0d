//! Orders by a seed that need no list: a position's place is computed.

use super::mix;

/// Rounds of the Feistel network; four make a permutation that cannot be told from random (Luby and Rackoff 1988), two
/// more since the halves are small.
const ROUNDS: u64 = 6;

/// A permutation of `0..n`.
#[derive(Clone, Debug)]
pub struct Permutation {
    n: u64,
    half: u32,
    keys: [u64; ROUNDS as usize],
}

impl Permutation {
    /// The permutation of `0..n` that belongs to a seed.
    pub fn new(n: u64, seed: u64) -> Self {
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        let keys = std::array::from_fn(|round| mix(seed ^ mix(round as u64)));
        Self { n, half: bits.div_ceil(2).max(1), keys }
    }

    /// How many numbers are permuted.
    pub fn len(&self) -> u64 {
        self.n
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Where `i` goes; `i` itself where it is not below `n`.
    pub fn at(&self, i: u64) -> u64 {
        self.walk(i, |(left, right), key| (right, left ^ self.round(right, key)), false)
    }

    /// What goes to `place`.
    pub fn position(&self, place: u64) -> u64 {
        self.walk(place, |(left, right), key| (right ^ self.round(left, key), left), true)
    }

    fn round(&self, half: u64, key: u64) -> u64 {
        mix(half ^ key) & self.mask()
    }

    fn mask(&self) -> u64 {
        (1 << self.half) - 1
    }

    /// The network permutes a power of four; what it puts outside `0..n` is put through it again until it is inside.
    fn walk(&self, from: u64, step: impl Fn((u64, u64), u64) -> (u64, u64), back: bool) -> u64 {
        if from >= self.n {
            return from;
        }
        let mut at = from;
        loop {
            let mut halves = (at >> self.half, at & self.mask());
            for round in 0..self.keys.len() {
                let key = if back { self.keys[self.keys.len() - 1 - round] } else { self.keys[round] };
                halves = step(halves, key);
            }
            at = halves.0 << self.half | halves.1;
            if at < self.n {
                return at;
            }
        }
    }
}

/// An order of `0..n` in blocks: the blocks are permuted and each block in itself, so that neighbours in the order lie near
/// each other in the files.
#[derive(Clone, Debug)]
pub struct Shuffle {
    n: u64,
    block: u64,
    seed: u64,
    blocks: Permutation,
    /// Where the last block, which may be short, comes.
    last: u64,
}

impl Shuffle {
    /// The order that belongs to a seed, in blocks of `block`; with a block of `n` or more, one permutation of all.
    pub fn new(n: u64, block: u64, seed: u64) -> Self {
        let block = block.clamp(1, n.max(1));
        let blocks = Permutation::new(n.div_ceil(block), seed);
        let last = blocks.position(blocks.len().saturating_sub(1));
        Self { n, block, seed, blocks, last }
    }

    /// What comes at position `i` of the order.
    pub fn at(&self, i: u64) -> u64 {
        if i >= self.n {
            return i;
        }
        // Blocks behind the short one begin earlier than if all were full.
        let missing = self.blocks.len() * self.block - self.n;
        let behind = i >= (self.last + 1) * self.block - missing;
        let full = if behind { i + missing } else { i };
        let block = self.blocks.at(full / self.block);
        let length = if block + 1 == self.blocks.len() { self.block - missing } else { self.block };
        let within = Permutation::new(length, mix(self.seed ^ mix(block)));
        block * self.block + within.at(full % self.block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_once_whatever_the_size() {
        for n in [0, 1, 2, 3, 4, 5, 7, 16, 17, 100, 255, 256, 257, 1000] {
            for seed in 0..3 {
                let permutation = Permutation::new(n, seed);
                let mut all: Vec<u64> = (0..n).map(|i| permutation.at(i)).collect();
                assert!((0..n).all(|i| permutation.position(permutation.at(i)) == i), "{n}");
                all.sort_unstable();
                assert_eq!(all, (0..n).collect::<Vec<_>>());
                for block in [1, 2, 3, 16, 100, 5000] {
                    let shuffle = Shuffle::new(n, block, seed);
                    let mut all: Vec<u64> = (0..n).map(|i| shuffle.at(i)).collect();
                    all.sort_unstable();
                    assert_eq!(all, (0..n).collect::<Vec<_>>(), "{n} in blocks of {block}");
                }
            }
        }
    }

    #[test]
    fn seeds_give_different_orders_and_the_same_seed_the_same() {
        let order = |seed| (0..1000).map(|i| Permutation::new(1000, seed).at(i)).collect::<Vec<_>>();
        assert_eq!(order(1), order(1));
        assert!(order(1).iter().zip(order(2)).filter(|(a, b)| **a == *b).count() < 20);
        // No number stays near its place more often than by chance.
        let near = order(3).iter().zip(0u64..).filter(|(place, i)| place.abs_diff(*i) < 50).count();
        assert!((50..150).contains(&near), "{near}");
    }

    #[test]
    fn a_block_is_read_whole_before_the_next() {
        let shuffle = Shuffle::new(1000, 100, 5);
        let blocks: Vec<u64> = (0..1000).map(|i| shuffle.at(i) / 100).collect();
        assert!(blocks.chunks(100).all(|block| block.iter().all(|b| *b == block[0])));
        assert!((0..1000).filter(|i| shuffle.at(*i) == *i).count() < 20);
    }
}
