//! Fitting the probabilities of pieces to words, and choosing which to drop.

use rayon::prelude::*;

use super::pieces::{Piece, Tree};

/// A piece expected less often than this is dropped.
const LEAST_EXPECTED: f64 = 0.5;
/// The share of pieces that a cut keeps.
const SHRINK: f64 = 0.75;
/// Words are summed up in this many parts on any number of threads, so that sums round alike.
const PARTS: usize = 16;

/// Pieces while they are fitted.
pub(super) struct Fit {
    pieces: Vec<Piece>,
    tree: Tree,
}

impl Fit {
    pub(super) fn new(pieces: Vec<Piece>) -> Self {
        let tree = Tree::new(&pieces);
        Self { pieces, tree }
    }

    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    pub(super) fn into_pieces(self) -> Vec<Piece> {
        self.pieces
    }

    /// One round of expectation maximisation: how often each piece is expected in all ways to split the words, weighted
    /// by their probability, gives its new probability. As in sentencepiece, digamma takes the logarithm's place,
    /// which favours few pieces. Single characters stay, so that every word can be split.
    pub(super) fn round(&mut self, words: &[(Vec<char>, f64)]) {
        let expected = self.sum(words, |word, count, sums| self.expect(word, count, sums));
        let expected = expected.into_iter().zip(std::mem::take(&mut self.pieces));
        let kept: Vec<(f64, Piece)> = expected
            .filter(|(n, piece)| *n >= LEAST_EXPECTED || piece.text.len() == 1)
            .map(|(n, piece)| (n.max(LEAST_EXPECTED), piece))
            .collect();
        let total = digamma(kept.iter().map(|(n, _)| n).sum());
        *self = Self::new(kept.into_iter().map(|(n, piece)| Piece { score: digamma(n) - total, ..piece }).collect());
    }

    /// Keeps three quarters of the pieces, or `least`: all single characters, then those without which the best splits
    /// of the words would lose most probability. What no best split uses goes first.
    pub(super) fn prune(&mut self, words: &[(Vec<char>, f64)], least: usize) {
        let used = self.sum(words, |word, count, sums| {
            self.best_split(word, None).into_iter().for_each(|piece| sums[piece] += count);
        });
        let total: f64 = used.iter().sum();
        let all: f64 = words.iter().map(|(_, count)| count).sum();
        let loss = |id: usize| {
            let piece = &self.pieces[id];
            if piece.text.len() == 1 {
                return Some(f64::INFINITY);
            }
            if used[id] == 0.0 {
                return None;
            }
            let instead = self.best_split(&piece.text, Some(id));
            // Without the piece its uses go to what stands for it, and there are more pieces in all.
            let new_total = (total + used[id] * (instead.len() as f64 - 1.0)).ln();
            let after: f64 = instead.iter().map(|&other| (used[other] + used[id]).ln() - new_total).sum();
            Some(used[id] / all * (used[id].ln() - total.ln() - after))
        };
        let mut ranked: Vec<(f64, usize)> =
            (0..self.len()).into_par_iter().filter_map(|id| Some((loss(id)?, id))).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let single = self.pieces.iter().filter(|p| p.text.len() == 1).count();
        ranked.truncate(least.max((self.len() as f64 * SHRINK) as usize).max(single));
        let mut kept: Vec<usize> = ranked.into_iter().map(|(_, id)| id).collect();
        kept.sort_unstable();
        *self = Self::new(kept.into_iter().map(|id| self.pieces[id].clone()).collect());
    }

    /// Sums over all words, one number for each piece.
    fn sum(&self, words: &[(Vec<char>, f64)], add: impl Fn(&[char], f64, &mut [f64]) + Sync) -> Vec<f64> {
        let parts: Vec<Vec<f64>> = words
            .par_chunks(words.len().div_ceil(PARTS).max(1))
            .map(|part| {
                let mut sums = vec![0.0; self.len()];
                part.iter().for_each(|(word, count)| add(word, *count, &mut sums));
                sums
            })
            .collect();
        let mut sums = vec![0.0; self.len()];
        for part in parts {
            sums.iter_mut().zip(part).for_each(|(sum, more)| *sum += more);
        }
        sums
    }

    /// Adds to `sums` how often each piece is expected in a word that occurs `count` times.
    fn expect(&self, word: &[char], count: f64, sums: &mut [f64]) {
        let n = word.len();
        // Log probabilities of everything before and after each place.
        let (mut before, mut after) = (vec![f64::NEG_INFINITY; n + 1], vec![f64::NEG_INFINITY; n + 1]);
        (before[0], after[n]) = (0.0, 0.0);
        for at in 0..n {
            let here = before[at];
            self.tree.beginnings(&word[at..], |piece, length| {
                before[at + length] = log_add(before[at + length], here + self.pieces[piece].score);
            });
        }
        for at in (0..n).rev() {
            let mut here = f64::NEG_INFINITY;
            self.tree.beginnings(&word[at..], |piece, length| {
                here = log_add(here, after[at + length] + self.pieces[piece].score);
            });
            after[at] = here;
        }
        for at in 0..n {
            let here = before[at] - before[n];
            self.tree.beginnings(&word[at..], |piece, length| {
                sums[piece] += count * (here + self.pieces[piece].score + after[at + length]).exp();
            });
        }
    }

    /// The most probable pieces of a text, without the piece `but`.
    fn best_split(&self, text: &[char], but: Option<usize>) -> Vec<usize> {
        let n = text.len();
        let mut best = vec![(f64::NEG_INFINITY, 0, 0); n + 1];
        best[0].0 = 0.0;
        for at in 0..n {
            let here = best[at].0;
            self.tree.beginnings(&text[at..], |piece, length| {
                let score = here + self.pieces[piece].score;
                if score > best[at + length].0 && Some(piece) != but {
                    best[at + length] = (score, at, piece);
                }
            });
        }
        let mut split = Vec::new();
        let mut end = n;
        while end > 0 {
            let (_, start, piece) = best[end];
            split.push(piece);
            end = start;
        }
        split.reverse();
        split
    }
}

/// `ln(exp(a) + exp(b))`.
fn log_add(a: f64, b: f64) -> f64 {
    let (small, large) = if a < b { (a, b) } else { (b, a) };
    if small == f64::NEG_INFINITY { large } else { large + (small - large).exp().ln_1p() }
}

/// The derivative of the logarithm of the gamma function, for positive numbers: the recurrence up to 6, then the
/// asymptotic series.
fn digamma(mut x: f64) -> f64 {
    let mut sum = 0.0;
    while x < 6.0 {
        sum -= 1.0 / x;
        x += 1.0;
    }
    let y = 1.0 / (x * x);
    sum + x.ln() - 0.5 / x - y * (1.0 / 12.0 - y * (1.0 / 120.0 - y * (1.0 / 252.0 - y * (1.0 / 240.0 - y / 132.0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(all: &[(&str, f64)]) -> Vec<Piece> {
        all.iter().map(|(text, p)| Piece { text: text.chars().collect(), score: p.ln() }).collect()
    }

    #[test]
    fn digamma_has_its_known_values() {
        // -gamma, -gamma - 2 ln 2, and psi(10).
        for (x, want) in
            [(1.0, -0.577_215_664_901_532_9), (0.5, -1.963_510_026_021_423_5), (10.0, 2.251_752_589_066_721)]
        {
            assert!((digamma(x) - want).abs() < 1e-10, "{x}: {}", digamma(x));
        }
    }

    #[test]
    fn expectations_weigh_every_way_to_split() {
        let fit = Fit::new(pieces(&[("a", 0.3), ("b", 0.2), ("ab", 0.5)]));
        let mut sums = vec![0.0; 3];
        fit.expect(&['a', 'b'], 10.0, &mut sums);
        // ab is split with probability 0.06 / 0.56.
        let split = 10.0 * 0.06 / 0.56;
        for (got, want) in sums.iter().zip([split, split, 10.0 - split]) {
            assert!((got - want).abs() < 1e-12, "{sums:?}");
        }
    }

    #[test]
    fn the_best_split_can_leave_a_piece_out() {
        let fit = Fit::new(pieces(&[("a", 0.3), ("b", 0.2), ("ab", 0.5)]));
        assert_eq!(fit.best_split(&['a', 'b', 'a'], None), [2, 0]);
        assert_eq!(fit.best_split(&['a', 'b'], Some(2)), [0, 1]);
    }

    #[test]
    fn rounds_raise_the_likelihood_of_the_words() {
        // With digamma for the logarithm it is not exact maximisation, but it goes the same way.
        let words: Vec<(Vec<char>, f64)> = vec![("abab".chars().collect(), 40.0), ("ba".chars().collect(), 20.0)];
        let mut fit = Fit::new(pieces(&[("a", 0.3), ("b", 0.3), ("ab", 0.2), ("ba", 0.2)]));
        let likelihood = |fit: &Fit| -> f64 {
            let score = |word: &[char]| fit.best_split(word, None).iter().map(|&p| fit.pieces[p].score).sum::<f64>();
            words.iter().map(|(word, count)| count * score(word)).sum()
        };
        let start = likelihood(&fit);
        (0..5).for_each(|_| fit.round(&words));
        assert!(likelihood(&fit) > start, "{} after {start}", likelihood(&fit));
    }
}
