//! An n-gram model with modified Kneser-Ney smoothing (Chen and Goodman 1999), interpolated, on hashed words.
//!
//! What a word after others is worth is kept where it was seen, with what is left for words that were not seen there, as in
//! the ARPA format. The file is a line that names the format, a line of JSON ([`Header`]), and the table, compressed with zstd.

use cupola_artifact::{Context, Error, Result, sha256_hex};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::tokens::{END, words_of};

const MAGIC: &str = "cupola n-gram model 1";
/// The longest n-gram.
pub const MOST_ORDER: usize = 6;
/// The most words that a model learns from: 16 million, which take about 1 GiB.
const MOST_WORDS: usize = 1 << 24;
/// The most n-grams of a model.
const MOST_GRAMS: usize = MOST_WORDS * MOST_ORDER;
/// What comes before a line's first word.
const START: u64 = 2;

/// Natural logarithms: of an n-gram's probability, and of what its words leave to shorter ones.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Gram {
    key: u64,
    probability: f32,
    rest: f32,
}

/// Scores texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    order: usize,
    /// Of a word that was never seen.
    unknown: f32,
    /// Sorted by key.
    grams: Vec<Gram>,
    /// For a key's first 16 bits, where its n-grams begin.
    starts: Vec<u32>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    order: usize,
    unknown: f32,
    grams: usize,
    /// SHA-256 of what follows this line.
    sha256: String,
}

/// The hash of words in a row; a longer row's is made from a shorter one's and the word before it, so that the words of an
/// n-gram are taken from the last to the first.
fn extend(hash: u64, word: u64) -> u64 {
    let mut z = (hash.rotate_left(5) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z ^ (z >> 32)
}

impl Model {
    /// Learns from texts, line by line.
    pub fn train(texts: &[String], order: usize) -> Result<Self> {
        let lines: Vec<Vec<u64>> = texts.par_iter().flat_map_iter(|text| lines_of(text, order)).collect();
        let words: usize = lines.iter().map(|line| line.len() - (order - 1)).sum();
        if words == 0 {
            return Err(Error::failed("there is no word to train an n-gram model on"));
        }
        if words > MOST_WORDS {
            return Err(Error::failed(format!("{words} words are too many for an n-gram model"))
                .with_hint(format!("draw a sample of at most {MOST_WORDS}")));
        }
        // From the longest n-grams to the shortest; of shorter ones it counts before how many different words they stood.
        let mut counted = occurrences(&lines, order);
        let mut levels = Vec::new();
        for n in (1..=order).rev() {
            let shorter = if n > 1 { continuations(&counted, &lines, n - 1) } else { Vec::new() };
            levels.push(Level::new(counted));
            counted = shorter;
        }
        levels.reverse();
        Ok(Self::from_levels(levels, &lines))
    }

    fn from_levels(levels: Vec<Level>, lines: &[Vec<u64>]) -> Self {
        let order = levels.len();
        let vocabulary = levels[0].counted.len() as f64 + 1.0;
        let left = levels[0].left(0);
        let unknown = left / vocabulary;
        // Probabilities of the order below, sorted by key.
        let mut below: Vec<(u64, f64)> = Vec::new();
        let mut grams: Vec<Gram> = Vec::new();
        for (i, level) in levels.iter().enumerate() {
            let probability = |count: &Counted| {
                let suffix = || hash_of(&count.row(lines, i + 1)[1..]);
                let lower = if i == 0 { 1.0 / vocabulary } else { find(&below, suffix()).unwrap_or(unknown) };
                level.seen(count) + level.left(count.context) * lower
            };
            let mut these: Vec<(u64, f64)> =
                level.counted.par_iter().map(|count| (count.key, probability(count))).collect();
            these.par_sort_unstable_by_key(|(key, _)| *key);
            let next = levels.get(i + 1);
            grams.par_extend(these.par_iter().map(|(key, probability)| Gram {
                key: *key,
                probability: probability.ln() as f32,
                rest: next.map_or(0.0, |next| next.left(*key).ln() as f32),
            }));
            // A context that is no n-gram itself, as the beginning of a line, needs its rest all the same.
            if let Some(next) = next {
                let missing = next.contexts.iter().filter(|context| find(&these, context.key).is_none());
                grams.extend(missing.map(|context| Gram {
                    key: context.key,
                    probability: f32::NAN,
                    rest: next.left(context.key).ln() as f32,
                }));
            }
            below = these;
        }
        grams.par_sort_unstable_by_key(|gram| gram.key);
        Self { order, unknown: unknown.ln() as f32, starts: starts(&grams), grams }
    }

    /// The perplexity of a text: the inverse of the mean probability of its words and line ends; none without words.
    pub fn perplexity(&self, text: &str) -> Option<f64> {
        let (mut sum, mut words) = (0.0, 0_usize);
        for line in lines_of(text, self.order) {
            for end in self.order..=line.len() {
                sum += f64::from(self.word(&line[end - self.order..end]));
                words += 1;
            }
        }
        (words > 0).then(|| (-sum / words as f64).exp())
    }

    /// What the last of some words is worth after the others.
    fn word(&self, row: &[u64]) -> f32 {
        let last = row.len() - 1;
        // From the word alone to the longest n-gram that was seen.
        let (mut key, mut seen, mut value) = (0, 0, self.unknown);
        for n in 1..=row.len() {
            key = extend(key, row[row.len() - n]);
            match self.find(key) {
                Some(gram) if !gram.probability.is_nan() => (seen, value) = (n, gram.probability),
                _ => break,
            }
        }
        // What the contexts that are longer than that leave to shorter ones.
        let mut context = 0;
        for n in 1..=last {
            context = extend(context, row[last - n]);
            match self.find(context) {
                Some(gram) if n >= seen.max(1) => value += gram.rest,
                Some(_) => {}
                None => break,
            }
        }
        value
    }

    fn find(&self, key: u64) -> Option<&Gram> {
        let bucket = (key >> 48) as usize;
        let grams = &self.grams[self.starts[bucket] as usize..self.starts[bucket + 1] as usize];
        grams.binary_search_by_key(&key, |gram| gram.key).ok().map(|at| &grams[at])
    }

    /// The file's content.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut table = Vec::with_capacity(self.grams.len() * 16);
        self.grams.iter().for_each(|gram| table.extend(gram.key.to_le_bytes()));
        self.grams.iter().for_each(|gram| table.extend(gram.probability.to_le_bytes()));
        self.grams.iter().for_each(|gram| table.extend(gram.rest.to_le_bytes()));
        let table = zstd::encode_all(table.as_slice(), 3).context(|| "cannot compress an n-gram model".to_owned())?;
        let header =
            Header { order: self.order, unknown: self.unknown, grams: self.grams.len(), sha256: sha256_hex(&table) };
        let header = serde_json::to_string(&header).context(|| "cannot write an n-gram model".to_owned())?;
        Ok([format!("{MAGIC}\n{header}\n").as_bytes(), &table].concat())
    }

    /// Reads a file's content.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let broken = |what: &str| Error::failed(format!("not a whole n-gram model: {what}"));
        let mut parts = bytes.splitn(3, |b| *b == b'\n');
        if parts.next() != Some(MAGIC.as_bytes()) {
            return Err(broken(&format!("its first line is not `{MAGIC}`"))
                .with_hint("train one anew: only files that this program wrote can be read"));
        }
        let (Some(header), Some(table)) = (parts.next(), parts.next()) else { return Err(broken("it is cut off")) };
        let header: Header = serde_json::from_slice(header).context(|| "the model's header is broken".to_owned())?;
        if sha256_hex(table) != header.sha256 {
            return Err(broken("its checksum differs").with_hint("copy or train it again"));
        }
        let n = header.grams;
        if !(1..=MOST_ORDER).contains(&header.order) || n > MOST_GRAMS {
            return Err(broken("its header contradicts itself"));
        }
        let table = zstd::bulk::decompress(table, n * 16).context(|| "the table is broken".to_owned())?;
        if table.len() != n * 16 {
            return Err(broken("n-grams are missing"));
        }
        let four = |at: usize| [table[at], table[at + 1], table[at + 2], table[at + 3]];
        let grams: Vec<Gram> = (0..n)
            .map(|i| Gram {
                key: u64::from(u32::from_le_bytes(four(i * 8))) | u64::from(u32::from_le_bytes(four(i * 8 + 4))) << 32,
                probability: f32::from_le_bytes(four(n * 8 + i * 4)),
                rest: f32::from_le_bytes(four(n * 12 + i * 4)),
            })
            .collect();
        if !grams.is_sorted_by_key(|gram| gram.key) {
            return Err(broken("its table is not in order"));
        }
        Ok(Self { order: header.order, unknown: header.unknown, starts: starts(&grams), grams })
    }
}

/// Each line's words with its start before and its end after them.
fn lines_of(text: &str, order: usize) -> impl Iterator<Item = Vec<u64>> {
    text.lines().filter_map(move |line| {
        let mut words = vec![START; order - 1];
        words_of(line, |word| words.push(word));
        (words.len() >= order).then(|| {
            words.push(END);
            words
        })
    })
}

fn starts(grams: &[Gram]) -> Vec<u32> {
    (0..=1_u64 << 16).map(|bucket| grams.partition_point(|gram| gram.key >> 48 < bucket) as u32).collect()
}

fn find(sorted: &[(u64, f64)], key: u64) -> Option<f64> {
    sorted.binary_search_by_key(&key, |(key, _)| *key).ok().map(|at| sorted[at].1)
}

/// The hash of an n-gram.
fn hash_of(row: &[u64]) -> u64 {
    row.iter().rev().fold(0, |hash, word| extend(hash, *word))
}

/// An n-gram: what stands at a place, and how often it counts.
#[derive(Clone, Copy)]
struct Counted {
    /// The hash of all words but the last.
    context: u64,
    key: u64,
    line: u32,
    /// Behind its last word.
    end: u32,
    count: u32,
}

impl Counted {
    fn at(lines: &[Vec<u64>], line: u32, end: u32, n: usize) -> Self {
        let row = &lines[line as usize][end as usize - n..end as usize];
        Self { context: hash_of(&row[..n - 1]), key: hash_of(row), line, end, count: 1 }
    }

    fn row<'a>(&self, lines: &'a [Vec<u64>], n: usize) -> &'a [u64] {
        &lines[self.line as usize][self.end as usize - n..self.end as usize]
    }
}

/// All n-grams with their counts. Each ends in a word or a line's end.
fn occurrences(lines: &[Vec<u64>], order: usize) -> Vec<Counted> {
    let line = |i: usize| (order..=lines[i].len()).map(move |end| Counted::at(lines, i as u32, end as u32, order));
    add_up((0..lines.len()).into_par_iter().flat_map_iter(line).collect())
}

/// The n-grams in longer ones, each with the number of different words before it.
fn continuations(longer: &[Counted], lines: &[Vec<u64>], n: usize) -> Vec<Counted> {
    add_up(longer.par_iter().map(|counted| Counted::at(lines, counted.line, counted.end, n)).collect())
}

/// Adds up the counts of equal n-grams.
fn add_up(mut all: Vec<Counted>) -> Vec<Counted> {
    all.par_sort_unstable_by_key(|counted| (counted.context, counted.key, counted.line, counted.end));
    all.dedup_by(|other, first| {
        let equal = other.key == first.key;
        first.count += if equal { other.count } else { 0 };
        equal
    });
    all
}

/// What follows a context: how much, and how many n-grams that count 1, 2 and more.
struct History {
    key: u64,
    total: u64,
    kinds: [u32; 3],
}

/// The n-grams of one length.
struct Level {
    counted: Vec<Counted>,
    /// Sorted by key.
    contexts: Vec<History>,
    /// What is taken from counts of 1, 2 and more.
    discounts: [f64; 3],
}

impl Level {
    fn new(counted: Vec<Counted>) -> Self {
        let contexts = counted.chunk_by(|a, b| a.context == b.context).map(|run| {
            let mut context = History { key: run[0].context, total: 0, kinds: [0; 3] };
            for gram in run {
                context.total += u64::from(gram.count);
                context.kinds[gram.count.min(3) as usize - 1] += 1;
            }
            context
        });
        let contexts = contexts.collect();
        let of = |n: u32| counted.iter().filter(|gram| gram.count == n).count() as f64;
        let discounts = discounts([of(1), of(2), of(3), of(4)]);
        Self { counted, contexts, discounts }
    }

    fn context(&self, key: u64) -> Option<&History> {
        self.contexts.binary_search_by_key(&key, |context| context.key).ok().map(|at| &self.contexts[at])
    }

    /// An n-gram's own share of its context.
    fn seen(&self, gram: &Counted) -> f64 {
        let discount = self.discounts[gram.count.min(3) as usize - 1];
        let total = self.context(gram.context).map_or(1, |context| context.total);
        (f64::from(gram.count) - discount) / total as f64
    }

    /// What a context leaves to shorter n-grams: all, where nothing followed it.
    fn left(&self, context: u64) -> f64 {
        let Some(context) = self.context(context) else { return 1.0 };
        let taken = context.kinds.iter().zip(&self.discounts).map(|(n, discount)| f64::from(*n) * discount);
        taken.sum::<f64>() / context.total as f64
    }
}

/// Chen and Goodman's discounts from the numbers of n-grams that count 1 to 4; halves where a sample is too small for them.
fn discounts(n: [f64; 4]) -> [f64; 3] {
    let y = n[0] / (n[0] + 2.0 * n[1]);
    let mut all = [0.5, 1.0, 1.5];
    for (i, discount) in all.iter_mut().enumerate() {
        let k = i as f64 + 1.0;
        let value = k - (k + 1.0) * y * n[i + 1] / n[i];
        if value.is_finite() && value > 0.0 && value < k {
            *discount = value;
        }
    }
    all
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    fn model(order: usize) -> Model {
        let texts = [
            "the cat sat on the mat\nthe dog sat on the log\n\na cat and a dog",
            "the cat ran\nthe dog ran after the cat",
        ];
        Model::train(&texts.map(str::to_owned), order).unwrap()
    }

    #[test]
    fn probabilities_after_any_words_add_up_to_one() {
        let mut words = vec![END];
        let text = "the cat sat on mat dog log a and ran after";
        words_of(text, |word| words.push(word));
        for order in 1..=4 {
            let model = model(order);
            for context in ["", "the", "on the", "sat on the", "cat cat", "never seen", "mat the cat"] {
                let mut row = vec![START; order - 1];
                words_of(context, |word| row.push(word));
                let row = &row[row.len() - (order - 1)..];
                let of = |word: &u64| f64::from(model.word(&[row, &[*word]].concat())).exp();
                let unknown = of(&12345);
                let sum = words.iter().map(of).sum::<f64>() + unknown;
                assert!((sum - 1.0).abs() < 1e-4, "order {order} after `{context}`: {sum}");
            }
        }
    }

    #[test]
    fn text_like_the_sample_is_less_perplexing() {
        let model = model(3);
        let of = |text: &str| model.perplexity(text).unwrap();
        assert!(of("the cat sat on the log") < of("log the on sat cat the"));
        assert!(of("log the on sat cat the") < of("quite other words that nobody wrote"));
        assert_eq!(model.perplexity(" \n"), None);
    }

    #[test]
    fn threads_do_not_change_the_model_and_its_file_keeps_all_of_it() {
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let bytes = model(5).to_bytes().unwrap();
        assert_eq!(bytes, one.install(|| model(5)).to_bytes().unwrap());
        let read = Model::from_bytes(&bytes).unwrap();
        assert_eq!(read.to_bytes().unwrap(), bytes);
        assert_eq!(read.perplexity("the cat sat"), model(5).perplexity("the cat sat"));
        assert!(Model::from_bytes(&bytes[..bytes.len() - 1]).is_err_and(|e| e.chain().contains("checksum")));
        assert!(Model::from_bytes(b"").is_err());
    }

    #[test]
    fn nothing_to_learn_is_an_error() {
        assert!(Model::train(&[" \n".to_owned()], 5).is_err());
    }
}
