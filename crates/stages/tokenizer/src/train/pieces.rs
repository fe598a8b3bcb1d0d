//! Pieces of words: which ones occur often, and a tree to find those that begin at a place.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};

/// What a blank is written as.
pub(super) const BLANK: char = '▁';
/// Characters of the longest piece.
const LONGEST: usize = 16;
/// Pieces to begin with.
const MOST: usize = 1_000_000;

/// A piece and its log probability.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub text: Vec<char>,
    pub score: f64,
}

/// All single characters, and the parts of words that occur at least twice and `min_frequency` times; of too many, those
/// that cover most text. The score is the logarithm of their share in it.
pub(super) fn seeds(words: &[(Vec<char>, f64)], min_frequency: u64) -> Vec<Piece> {
    let least = min_frequency.max(2) as f64;
    let mut found: Vec<(&[char], f64)> = Vec::new();
    let mut last: HashMap<&[char], f64> = HashMap::new();
    for length in 1..=LONGEST {
        let mut counts: HashMap<&[char], f64> = HashMap::new();
        for (word, count) in words {
            for part in word.windows(length) {
                // A part is no more frequent than its beginning.
                if length == 1 || (last.contains_key(&part[..length - 1]) && !mixed(part)) {
                    *counts.entry(part).or_default() += count;
                }
            }
        }
        counts.retain(|_, count| length == 1 || *count >= least);
        found.extend(counts.iter().map(|(part, count)| (*part, count * length as f64)));
        last = counts;
        if last.is_empty() {
            break;
        }
    }
    found.sort_by(|a, b| {
        let order = |p: &(&[char], f64)| Reverse(p.0.len() == 1);
        order(a).cmp(&order(b)).then(b.1.total_cmp(&a.1)).then_with(|| a.0.cmp(b.0))
    });
    found.truncate(MOST.max(found.iter().take_while(|(part, _)| part.len() == 1).count()));
    let total: f64 = found.iter().map(|(_, weight)| weight).sum();
    found.into_iter().map(|(part, weight)| Piece { text: part.to_vec(), score: (weight / total).ln() }).collect()
}

/// Whether a part mixes letters, digits and other signs; a blank may begin anything. As in sentencepiece, no piece does:
/// a word is the same before a comma.
fn mixed(part: &[char]) -> bool {
    let class = |c: &char| if c.is_alphabetic() { 0 } else { 1 + u8::from(c.is_numeric()) };
    let rest = if part.first() == Some(&BLANK) { &part[1..] } else { part };
    rest.windows(2).any(|pair| class(&pair[0]) != class(&pair[1]) || pair[1] == BLANK)
}

/// A node of the tree: its children lie side by side.
#[derive(Clone, Copy)]
struct Node {
    first: u32,
    count: u32,
    /// The piece that ends here, or `NONE`.
    piece: u32,
}

const NONE: u32 = u32::MAX;

/// Pieces by their beginnings.
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// The character that leads to each node.
    labels: Vec<char>,
}

impl Tree {
    pub(super) fn new(pieces: &[Piece]) -> Self {
        let mut order: Vec<u32> = (0..pieces.len() as u32).collect();
        let text = |at: u32| &pieces[at as usize].text;
        order.sort_by(|&a, &b| text(a).cmp(text(b)));
        let mut tree = Self { nodes: vec![Node { first: 0, count: 0, piece: NONE }], labels: vec!['\0'] };
        // Node, the range of `order` below it, and the characters that lead there.
        let mut open = VecDeque::from([(0, 0..order.len(), 0)]);
        while let Some((node, mut range, depth)) = open.pop_front() {
            if range.start < range.end && text(order[range.start]).len() == depth {
                tree.nodes[node].piece = order[range.start];
                range.start += 1;
            }
            tree.nodes[node].first = tree.nodes.len() as u32;
            while range.start < range.end {
                let label = text(order[range.start])[depth];
                let same = order[range.clone()].partition_point(|&at| text(at)[depth] <= label);
                open.push_back((tree.nodes.len(), range.start..range.start + same, depth + 1));
                tree.nodes.push(Node { first: 0, count: 0, piece: NONE });
                tree.labels.push(label);
                tree.nodes[node].count += 1;
                range.start += same;
            }
        }
        tree
    }

    /// Calls `found` with every piece that `text` begins with and its length, the shortest first.
    pub(super) fn beginnings(&self, text: &[char], mut found: impl FnMut(usize, usize)) {
        let mut node = self.nodes[0];
        for (depth, c) in text.iter().enumerate() {
            let (first, end) = (node.first as usize, (node.first + node.count) as usize);
            let Ok(at) = self.labels[first..end].binary_search(c) else { return };
            node = self.nodes[first + at];
            if node.piece != NONE {
                found(node.piece as usize, depth + 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chars(text: &str) -> Vec<char> {
        text.chars().collect()
    }

    #[test]
    fn seeds_are_what_occurs_twice_and_single_characters() {
        let words = [(chars("abc"), 3.0), (chars("bcd"), 1.0)];
        let mut found: Vec<String> = seeds(&words, 2).iter().map(|p| p.text.iter().collect()).collect();
        found.sort();
        assert_eq!(found, ["a", "ab", "abc", "b", "bc", "c", "d"]);
        let of = |text: &str| seeds(&words, 2).iter().find(|p| p.text == chars(text)).map(|p| p.score.exp());
        // Characters covered: a 3, b 4, c 4, d 1, ab 6, bc 8, abc 9.
        assert!((of("bc").unwrap_or(0.0) - 8.0 / 35.0).abs() < 1e-12);
    }

    #[test]
    fn pieces_do_not_mix_letters_digits_and_signs() {
        for (part, want) in
            [("▁the", false), ("▁24", false), ("▁,", false), ("...", false), ("▁", false), ("naïve", false)]
        {
            assert_eq!(mixed(&chars(part)), want, "{part}");
        }
        for part in ["the,", "▁don't", "a1", "▁1a", "1,"] {
            assert!(mixed(&chars(part)), "{part}");
        }
    }

    #[test]
    fn the_tree_finds_all_beginnings() {
        let pieces: Vec<Piece> =
            ["b", "ab", "a", "abcd", "ba", "abce"].map(|t| Piece { text: chars(t), score: 0.0 }).into();
        let tree = Tree::new(&pieces);
        let find = |text: &str| {
            let mut found = Vec::new();
            tree.beginnings(&chars(text), |piece, length| found.push((piece, length)));
            found
        };
        assert_eq!(find("abcex"), [(2, 1), (1, 2), (5, 4)]);
        assert_eq!(find("ba"), [(0, 1), (4, 2)]);
        assert_eq!(find("x"), []);
        assert_eq!(find(""), []);
    }
}
