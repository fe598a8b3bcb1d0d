//! Which pairs a BPE merges, in which order: always the most frequent pair, of equally frequent ones that with the smaller
//! ids; as the library does, so that its vocabularies are reproduced to the last merge.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::BuildHasherDefault;

use super::count::Mix;

/// A pair as one number, which sorts as the pair does.
type Pair = u64;

/// No list of words.
const NONE: u32 = u32::MAX;

/// What training makes.
pub(super) struct Learned {
    /// The tokens by id.
    pub tokens: Vec<String>,
    /// The merged pairs in order. A pair that was merged twice stands where it was merged last.
    pub merges: Vec<[u32; 2]>,
}

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Tokens in all.
    pub vocab_size: usize,
    /// Pairs that are rarer are not merged.
    pub min_frequency: u64,
}

/// A pair that may be merged next. Greater is more frequent, then smaller ids.
type Candidate = (u64, Reverse<Pair>, Reverse<u32>);

#[derive(Clone, Copy)]
struct Count {
    count: i64,
    /// The list of words that this merge brings the pair into, while there is one.
    fresh: u32,
}

/// The words as tokens, one behind the other.
struct Corpus {
    tokens: Vec<u32>,
    /// Where each word begins, how many tokens it has by now, how often it occurs.
    words: Vec<(usize, u32, u64)>,
}

struct Merging {
    counts: HashMap<Pair, Count, BuildHasherDefault<Mix>>,
    queue: BinaryHeap<Candidate>,
    /// For each candidate the words that may hold its pair.
    places: Vec<Vec<u32>>,
    /// The pairs with a fresh list.
    touched: Vec<Pair>,
}

/// Learns merges. `tokens` are the first tokens; a word is a list of their ids, and occurs so many times.
pub(super) fn learn(tokens: Vec<String>, words: impl Iterator<Item = (Vec<u32>, u64)>, limits: Limits) -> Learned {
    let mut ids: HashMap<String, u32> = tokens.iter().zip(0..).map(|(token, id)| (token.clone(), id)).collect();
    let mut tokens = tokens;
    let mut corpus = Corpus { tokens: Vec::new(), words: Vec::new() };
    for (word, count) in words {
        corpus.words.push((corpus.tokens.len(), word.len() as u32, count));
        corpus.tokens.extend(word);
    }
    let mut merging = Merging::start(&corpus);
    let mut merges: Vec<(Pair, u32)> = Vec::new();
    while ids.len() < limits.vocab_size {
        let Some((count, Reverse(pair), Reverse(list))) = merging.queue.pop() else { break };
        let now = merging.counts.get(&pair).map_or(0, |known| known.count.max(0) as u64);
        if now != count {
            merging.queue.push((now, Reverse(pair), Reverse(list)));
            continue;
        }
        if count < 1 || count < limits.min_frequency {
            break;
        }
        let [a, b] = parts(pair);
        let made = format!("{}{}", tokens[a as usize], tokens[b as usize]);
        let id = *ids.entry(made).or_insert_with_key(|made| {
            tokens.push(made.clone());
            tokens.len() as u32 - 1
        });
        merges.push((pair, id));
        for word in std::mem::take(&mut merging.places[list as usize]) {
            merging.merge_in(&mut corpus, word, [a, b], id);
        }
        merging.queue_fresh();
    }
    // Of a repeated pair the last merge is the one that counts.
    let last: HashMap<Pair, usize> = merges.iter().enumerate().map(|(rank, (pair, _))| (*pair, rank)).collect();
    let kept = merges.iter().enumerate().filter(|(rank, (pair, _))| last[pair] == *rank);
    Learned { merges: kept.map(|(_, (pair, _))| parts(*pair)).collect(), tokens }
}

impl Merging {
    /// Counts the pairs of all words.
    fn start(corpus: &Corpus) -> Self {
        let mut merging =
            Self { counts: HashMap::default(), queue: BinaryHeap::new(), places: Vec::new(), touched: Vec::new() };
        for (place, &(start, length, count)) in corpus.words.iter().enumerate() {
            for neighbours in corpus.tokens[start..start + length as usize].windows(2) {
                merging.change([neighbours[0], neighbours[1]], count as i64, place as u32);
            }
        }
        merging.queue_fresh();
        merging
    }

    /// Changes a pair's count; a pair that comes into a word gets the word on its list.
    fn change(&mut self, [a, b]: [u32; 2], by: i64, word: u32) {
        let pair = whole(a, b);
        let known = self.counts.entry(pair).or_insert(Count { count: 0, fresh: NONE });
        known.count += by;
        if by <= 0 {
            return;
        }
        if known.fresh == NONE {
            known.fresh = self.places.len() as u32;
            self.places.push(Vec::new());
            self.touched.push(pair);
        }
        let list = &mut self.places[known.fresh as usize];
        if list.last() != Some(&word) {
            list.push(word);
        }
    }

    /// Makes candidates of the pairs that came into words.
    fn queue_fresh(&mut self) {
        for pair in self.touched.drain(..) {
            let Some(known) = self.counts.get_mut(&pair) else { continue };
            let list = std::mem::replace(&mut known.fresh, NONE);
            if known.count > 0 {
                self.queue.push((known.count as u64, Reverse(pair), Reverse(list)));
            } else {
                self.places[list as usize] = Vec::new();
            }
        }
    }

    /// Merges a pair wherever it stands in a word, from the left.
    fn merge_in(&mut self, corpus: &mut Corpus, word: u32, [a, b]: [u32; 2], id: u32) {
        let (start, length, count) = corpus.words[word as usize];
        let (start, length, count) = (start, length as usize, count as i64);
        let tokens = &mut corpus.tokens[start..start + length];
        let (mut read, mut written) = (0, 0);
        while read < length {
            if tokens[read] != a || tokens.get(read + 1) != Some(&b) {
                tokens[written] = tokens[read];
                (read, written) = (read + 1, written + 1);
                continue;
            }
            if written > 0 {
                let before = tokens[written - 1];
                self.change([before, a], -count, word);
                self.change([before, id], count, word);
            }
            if let Some(&after) = tokens.get(read + 2) {
                self.change([b, after], -count, word);
                self.change([id, after], count, word);
            }
            tokens[written] = id;
            (read, written) = (read + 2, written + 1);
        }
        corpus.words[word as usize].1 = written as u32;
    }
}

fn whole(a: u32, b: u32) -> Pair {
    u64::from(a) << 32 | u64::from(b)
}

fn parts(pair: Pair) -> [u32; 2] {
    [(pair >> 32) as u32, pair as u32]
}
