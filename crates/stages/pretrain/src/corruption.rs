//! How texts are damaged for a model that learns to restore them.

use cupola_arch::Damage;
use cupola_nn::Rng;
use cupola_tokenizer::Tokenizer;

/// A way to damage texts.
pub trait Corruption: Send {
    /// What the model reads of a row, and what it is to write.
    fn corrupt(&self, row: &[u32], rng: &mut Rng) -> (Vec<u32>, Vec<u32>);
}

/// The damage to rows of `seq` tokens, and the rows that a model's embedding needs for it: what stands for lost text are
/// the tokenizer's own tokens, or where it has none, ids behind its last.
pub fn of(damage: Damage, tokenizer: &Tokenizer, seq: usize) -> (Box<dyn Corruption>, usize) {
    let (known, end) = (tokenizer.vocab_size(), tokenizer.eos());
    match damage {
        Damage::Spans => {
            let needed = Spans::needed(seq);
            let own = tokenizer.sentinels();
            if own.len() >= needed {
                return (Box::new(Spans::new(own.to_vec(), end)), known);
            }
            let more = (known as u32..).take(needed).collect();
            (Box::new(Spans::new(more, end)), known + needed)
        }
        Damage::Infilling => {
            let (mask, vocab) = tokenizer.mask().map_or((known as u32, known + 1), |mask| (mask, known));
            (Box::new(Infilling::new(mask, sentence_ends(tokenizer), end)), vocab)
        }
    }
}

/// Span corruption (Raffel et al. 2020): spans give way to a sentinel each; what is written are the sentinels, each with the
/// span behind it, and one more at the end.
#[derive(Clone, Debug)]
pub struct Spans {
    /// The sentinels, first to last.
    pub sentinels: Vec<u32>,
    /// The share of tokens that is damaged.
    pub share: f64,
    /// The mean length of a span.
    pub length: f64,
    /// What ends a text, where something does.
    pub end: Option<u32>,
}

/// Damaged tokens and spans of a row of `len`, at most `most` spans; some token always stays.
fn damaged(len: usize, share: f64, length: f64, most: usize) -> (usize, usize) {
    let tokens = ((len as f64 * share).round() as usize).clamp(1, len.saturating_sub(1).max(1));
    let spans = ((tokens as f64 / length).round() as usize).clamp(1, most.max(1));
    (tokens, spans.min(tokens).min(len - tokens).max(1))
}

impl Spans {
    /// T5's: 15% in spans of three.
    pub fn new(sentinels: Vec<u32>, end: Option<u32>) -> Self {
        Self { sentinels, share: 0.15, length: 3.0, end }
    }

    /// Sentinels that rows of `len` need, the one at the end included.
    pub fn needed(len: usize) -> usize {
        damaged(len.max(2), 0.15, 3.0, len).1 + 1
    }
}

/// `total` cut at random into `parts` numbers of at least one.
fn cut(total: usize, parts: usize, rng: &mut Rng) -> Vec<usize> {
    let mut places: Vec<usize> =
        rng.permutation(total - 1).into_iter().take(parts - 1).map(|p| p as usize + 1).collect();
    places.sort_unstable();
    let ends = places.iter().copied().chain([total]);
    let starts = [0].into_iter().chain(places.iter().copied());
    starts.zip(ends).map(|(start, end)| end - start).collect()
}

impl Corruption for Spans {
    fn corrupt(&self, row: &[u32], rng: &mut Rng) -> (Vec<u32>, Vec<u32>) {
        let (mut read, mut written) = (vec![], vec![]);
        let most = self.sentinels.len().saturating_sub(1);
        if row.len() < 2 || most == 0 {
            return (row.to_vec(), self.end.into_iter().collect());
        }
        let (tokens, spans) = damaged(row.len(), self.share, self.length, most);
        let (kept, lost) = (cut(row.len() - tokens, spans, rng), cut(tokens, spans, rng));
        let mut rest = row;
        for ((kept, lost), sentinel) in kept.into_iter().zip(lost).zip(&self.sentinels) {
            read.extend_from_slice(&rest[..kept]);
            read.push(*sentinel);
            written.push(*sentinel);
            written.extend_from_slice(&rest[kept..kept + lost]);
            rest = &rest[kept + lost..];
        }
        written.push(self.sentinels[spans]);
        (read.into_iter().chain(self.end).collect(), written.into_iter().chain(self.end).collect())
    }
}

/// Text infilling and permutation of sentences (Lewis et al. 2020): sentences change places, spans give way to one mask
/// each, and here and there a mask stands for nothing; what is written is the whole text.
#[derive(Clone, Debug)]
pub struct Infilling {
    /// The mask.
    pub mask: u32,
    /// The share of tokens that is damaged.
    pub share: f64,
    /// The mean length of a span (Poisson).
    pub length: f64,
    /// Which tokens end a sentence.
    pub ends_sentence: Vec<bool>,
    /// What ends a text, where something does.
    pub end: Option<u32>,
}

impl Infilling {
    /// BART's: 30% in spans of three on average.
    pub fn new(mask: u32, ends_sentence: Vec<bool>, end: Option<u32>) -> Self {
        Self { mask, share: 0.3, length: 3.0, ends_sentence, end }
    }

    fn sentences<'r>(&self, row: &'r [u32]) -> Vec<&'r [u32]> {
        row.split_inclusive(|id| self.ends_sentence.get(*id as usize).copied().unwrap_or(false)).collect()
    }
}

/// Which tokens of a tokenizer end a sentence.
fn sentence_ends(tokenizer: &Tokenizer) -> Vec<bool> {
    let ends = |id: u32| {
        let text = tokenizer.decode(&[id]).unwrap_or_default();
        text.trim_end().ends_with(['.', '!', '?', '。', '！', '？']) || text.ends_with('\n')
    };
    (0..tokenizer.vocab_size() as u32).map(ends).collect()
}

/// A number drawn from Poisson's distribution (Knuth).
fn poisson(mean: f64, rng: &mut Rng) -> usize {
    let (limit, mut product, mut count) = ((-mean).exp(), rng.uniform(), 0);
    while product > limit {
        product *= rng.uniform();
        count += 1;
    }
    count
}

impl Corruption for Infilling {
    fn corrupt(&self, row: &[u32], rng: &mut Rng) -> (Vec<u32>, Vec<u32>) {
        let sentences = self.sentences(row);
        let order = rng.permutation(sentences.len());
        let moved: Vec<u32> = order.iter().flat_map(|i| sentences[*i as usize]).copied().collect();
        let mut budget = (row.len() as f64 * self.share).round() as usize;
        // What each token's place holds: itself, a mask before itself, a mask instead, or nothing.
        let (mut gone, mut masks) = (vec![false; moved.len()], vec![false; moved.len()]);
        // Masks less what is gone; the text must not become longer.
        let (mut attempts, mut growth) = (4 * moved.len(), 0_i64);
        while budget > 0 && attempts > 0 {
            attempts -= 1;
            let (length, at) = (poisson(self.length, rng).min(budget), rng.below(moved.len()));
            // Spans stay apart: neither overlap nor touch.
            let around = at.saturating_sub(1)..(at + length + 1).min(moved.len());
            let longer = growth + 1 > length as i64;
            if longer || at + length > moved.len() || around.clone().any(|i| gone[i] || masks[i]) {
                continue;
            }
            masks[at] = true;
            gone[at..at + length].fill(true);
            // A mask for nothing costs as much as a token, so that there is an end.
            growth += 1 - length as i64;
            budget -= length.max(1);
        }
        let read = moved
            .iter()
            .enumerate()
            .flat_map(|(i, id)| masks[i].then_some(self.mask).into_iter().chain((!gone[i]).then_some(*id)));
        (read.chain(self.end).collect(), row.iter().copied().chain(self.end).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_what_stays_are_the_text() {
        let spans = Spans::new((100..120).collect(), Some(1));
        let mut damaged = 0;
        for seed in 0..200 {
            let row: Vec<u32> = (10..10 + 2 + seed as u32 % 60).collect();
            let mut rng = Rng::new(seed, "test");
            let (read, written) = spans.corrupt(&row, &mut rng);
            let (Some((1, read)), Some((1, written))) =
                (read.split_last().map(|(l, r)| (*l, r)), written.split_last().map(|(l, r)| (*l, r)))
            else {
                panic!("a text without an end")
            };
            // Putting each span where its sentinel stands gives the row.
            let mut restored = vec![];
            for id in read {
                match written.iter().position(|w| w == id) {
                    Some(at) => restored.extend(written[at + 1..].iter().take_while(|w| **w < 100)),
                    None => restored.push(*id),
                }
            }
            assert_eq!(restored, row);
            assert!(written.len() < 2 || *written.last().unwrap_or(&0) >= 100, "a sentinel is last");
            damaged += written.iter().filter(|id| **id < 100).count() * 100 / row.len();
        }
        let mean = damaged / 200;
        assert!((12..22).contains(&mean), "{mean}% of the tokens are damaged");
        assert_eq!(Spans::needed(512), 27);
        assert_eq!(spans.corrupt(&[7], &mut Rng::new(0, "")), (vec![7], vec![1]));
    }

    #[test]
    fn a_text_with_too_few_sentinels_has_fewer_spans() {
        let spans = Spans::new(vec![100, 101], None);
        let (read, written) = spans.corrupt(&[5; 90], &mut Rng::new(0, "test"));
        assert_eq!((read.iter().filter(|id| **id >= 100).count(), *written.last().unwrap_or(&0)), (1, 101));
    }

    #[test]
    fn sentences_change_places_and_spans_become_masks() {
        let ends = (0..60).map(|id| id == 50).collect();
        let infilling = Infilling::new(59, ends, None);
        let row: Vec<u32> = (0..6).flat_map(|s| (s * 8..s * 8 + 7).chain([50])).collect();
        let (mut gone, mut masks, mut moved) = (0, 0, 0);
        for seed in 0..100 {
            let (read, written) = infilling.corrupt(&row, &mut Rng::new(seed, "test"));
            assert_eq!(written, row);
            assert!(read.len() <= row.len());
            let stays: Vec<u32> = read.iter().copied().filter(|id| *id != 59 && *id != 50).collect();
            gone += row.iter().filter(|id| **id != 50 && !stays.contains(id)).count();
            masks += read.len() - read.iter().filter(|id| **id != 59).count();
            moved += usize::from(stays.windows(2).any(|pair| pair[0] > pair[1]));
            // Within a sentence the order stays.
            for sentence in stays.chunk_by(|a, b| a / 8 == b / 8) {
                assert!(sentence.is_sorted(), "{sentence:?}");
            }
        }
        let share = gone as f64 / (100 * 42) as f64;
        assert!((0.2..0.32).contains(&share), "{share} of the tokens are gone");
        assert!((300..700).contains(&masks), "{masks} masks");
        assert!(moved > 90, "{moved} of 100 texts have other orders");
    }
}
