//! The merges of a byte-level BPE and how a word becomes tokens: of all neighbours that can be merged, those of the
//! earliest merge first, and of these the leftmost.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Stands for "no merge" and "no token".
pub(super) const NONE: u32 = u32::MAX;

/// Up to so many tokens, looking for the earliest merge among all of them is faster than a heap.
const SHORT: usize = 48;

/// Which pairs of tokens become which token, and in which order.
pub(super) struct Merges {
    /// The token of each byte.
    bytes: Box<[u32; 256]>,
    /// The rank of the merge of each pair of bytes, or [`NONE`].
    byte_pairs: Vec<u32>,
    /// Pairs of tokens in a table with open addressing; [`EMPTY`] where there is none.
    keys: Vec<u64>,
    /// The rank of each pair's merge.
    ranks: Vec<u32>,
    /// What the merge of a rank gives.
    made: Vec<u32>,
    /// How far a hash is shifted to be a place in the table.
    shift: u32,
}

/// A pair that no merge has: tokens are below 2^32 - 1.
const EMPTY: u64 = u64::MAX;

/// What merging a word needs besides, kept from word to word.
#[derive(Default)]
pub(super) struct Workspace {
    ids: Vec<u32>,
    ranks: Vec<u32>,
    neighbours: Vec<(u32, u32)>,
    heap: BinaryHeap<Reverse<(u32, u32)>>,
}

impl Merges {
    /// `bytes` are the tokens of the bytes, `merges` pairs and what they give, in order; of a repeated pair the last counts.
    pub fn new(bytes: Box<[u32; 256]>, merges: &[([u32; 2], u32)]) -> Self {
        let size = (2 * merges.len()).next_power_of_two().max(16);
        let mut table = Self {
            byte_pairs: vec![NONE; 1 << 16],
            bytes,
            keys: vec![EMPTY; size],
            ranks: vec![NONE; size],
            made: merges.iter().map(|(_, made)| *made).collect(),
            shift: 64 - size.trailing_zeros(),
        };
        for (rank, (pair, _)) in merges.iter().enumerate() {
            let place = table.place(key(pair[0], pair[1]));
            table.keys[place] = key(pair[0], pair[1]);
            table.ranks[place] = rank as u32;
        }
        for a in 0..256 {
            for b in 0..256 {
                table.byte_pairs[a << 8 | b] = table.rank(table.bytes[a], table.bytes[b]);
            }
        }
        table
    }

    /// Where a pair stands in the table, or would stand.
    #[inline]
    fn place(&self, key: u64) -> usize {
        let mask = self.keys.len() - 1;
        let mut place = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize & mask;
        while self.keys[place] != key && self.keys[place] != EMPTY {
            place = (place + 1) & mask;
        }
        place
    }

    /// The rank of the merge of two tokens, or [`NONE`].
    #[inline]
    fn rank(&self, a: u32, b: u32) -> u32 {
        self.ranks[self.place(key(a, b))]
    }

    /// Appends the tokens of a word.
    pub fn encode(&self, word: &[u8], work: &mut Workspace, out: &mut Vec<u32>) {
        match word {
            [] => {}
            [byte] => out.push(self.bytes[usize::from(*byte)]),
            [a, b] => match self.byte_pairs[usize::from(*a) << 8 | usize::from(*b)] {
                NONE => out.extend([a, b].map(|byte| self.bytes[usize::from(*byte)])),
                rank => out.push(self.made[rank as usize]),
            },
            _ if word.len() <= SHORT => self.encode_short(word, work, out),
            _ => self.encode_long(word, work, out),
        }
    }

    /// Sets up the tokens of the bytes, and the rank of each with its right neighbour.
    fn start(&self, word: &[u8], work: &mut Workspace) {
        work.ids.clear();
        work.ids.extend(word.iter().map(|byte| self.bytes[usize::from(*byte)]));
        work.ranks.clear();
        let pair = |w: &[u8]| self.byte_pairs[usize::from(w[0]) << 8 | usize::from(w[1])];
        work.ranks.extend(word.windows(2).map(pair));
        work.ranks.push(NONE);
    }

    /// Looks through all ranks for each merge.
    pub(super) fn encode_short(&self, word: &[u8], work: &mut Workspace, out: &mut Vec<u32>) {
        self.start(word, work);
        let (ids, ranks) = (&mut work.ids, &mut work.ranks);
        loop {
            let least = ranks.iter().copied().min().unwrap_or(NONE);
            if least == NONE {
                break;
            }
            let at = ranks.iter().position(|rank| *rank == least).unwrap_or(0);
            ids[at] = self.made[least as usize];
            ids.remove(at + 1);
            ranks.remove(at + 1);
            ranks[at] = ids.get(at + 1).map_or(NONE, |next| self.rank(ids[at], *next));
            if at > 0 {
                ranks[at - 1] = self.rank(ids[at - 1], ids[at]);
            }
        }
        out.extend_from_slice(ids);
    }

    /// Keeps the possible merges in a heap: for n bytes some n log n steps, so that no text is slow.
    pub(super) fn encode_long(&self, word: &[u8], work: &mut Workspace, out: &mut Vec<u32>) {
        self.start(word, work);
        let Workspace { ids, ranks, neighbours, heap } = work;
        let count = ids.len() as u32;
        neighbours.clear();
        neighbours.extend((0..count).map(|i| (i.wrapping_sub(1), i + 1)));
        heap.clear();
        heap.extend(ranks.iter().zip(0..).filter(|(rank, _)| **rank != NONE).map(|(rank, at)| Reverse((*rank, at))));
        while let Some(Reverse((rank, at))) = heap.pop() {
            let here = at as usize;
            // The pair at this place is another by now, or this place is gone.
            if ranks[here] != rank {
                continue;
            }
            let gone = neighbours[here].1 as usize;
            let next = neighbours[gone].1;
            ids[here] = self.made[rank as usize];
            ids[gone] = NONE;
            ranks[gone] = NONE;
            neighbours[here].1 = next;
            ranks[here] = NONE;
            if next < count {
                neighbours[next as usize].0 = at;
                ranks[here] = self.rank(ids[here], ids[next as usize]);
                if ranks[here] != NONE {
                    heap.push(Reverse((ranks[here], at)));
                }
            }
            let before = neighbours[here].0;
            if before < count {
                let rank = self.rank(ids[before as usize], ids[here]);
                ranks[before as usize] = rank;
                if rank != NONE {
                    heap.push(Reverse((rank, before)));
                }
            }
        }
        out.extend(ids.iter().copied().filter(|id| *id != NONE));
    }
}

fn key(a: u32, b: u32) -> u64 {
    u64::from(a) << 32 | u64::from(b)
}
