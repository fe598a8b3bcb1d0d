//! How well labels are told, as GLUE, CoNLL and SQuAD measure it.

use std::collections::BTreeSet;

use cupola_ops::IGNORE;

use crate::labelled::Wanted;

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One of several labels.
    Label,
    /// Any of several labels.
    Labels,
    /// A number.
    Number,
    /// A label for each token.
    Tokens,
    /// Where an answer is.
    Span,
}

impl Kind {
    /// Whether there are scores for each token.
    pub fn reads_tokens(self) -> bool {
        matches!(self, Kind::Tokens | Kind::Span)
    }
}

/// What a head has said of a text: rows of `width` scores, for the text or for each of its tokens.
#[derive(Clone, Debug)]
pub struct Said {
    /// What was wanted.
    pub wanted: Wanted,
    /// The scores.
    pub scores: Vec<f32>,
    /// Scores in a row.
    pub width: usize,
}

/// The figures of a kind.
pub fn figures(kind: Kind, labels: &[String], said: &[Said]) -> Vec<(&'static str, f64)> {
    match kind {
        Kind::Label => of_labels(said, labels.len()),
        Kind::Labels => of_label_sets(said, labels.len()),
        Kind::Number => of_numbers(said),
        Kind::Tokens => of_tokens(said, labels),
        Kind::Span => of_spans(said),
    }
}

fn likeliest(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// Counts of true positives, of what was said, and of what was wanted, by label.
#[derive(Clone, Default)]
struct Counts {
    right: Vec<f64>,
    said: Vec<f64>,
    wanted: Vec<f64>,
}

impl Counts {
    fn new(labels: usize) -> Self {
        Self { right: vec![0.0; labels], said: vec![0.0; labels], wanted: vec![0.0; labels] }
    }

    /// The mean of the labels' F1, those left out that neither occur nor were said.
    fn macro_f1(&self) -> f64 {
        let seen: Vec<usize> = (0..self.right.len()).filter(|i| self.said[*i] + self.wanted[*i] > 0.0).collect();
        let f1 = |i: &usize| 2.0 * self.right[*i] / (self.said[*i] + self.wanted[*i]);
        seen.iter().map(f1).sum::<f64>() / seen.len().max(1) as f64
    }

    fn micro_f1(&self) -> f64 {
        let sum = |values: &[f64]| values.iter().sum::<f64>();
        let all = sum(&self.said) + sum(&self.wanted);
        if all == 0.0 { 0.0 } else { 2.0 * sum(&self.right) / all }
    }
}

/// Accuracy, macro F1, and Matthews' correlation for several classes (Gorodkin 2004).
fn of_labels(said: &[Said], labels: usize) -> Vec<(&'static str, f64)> {
    let mut counts = Counts::new(labels);
    for one in said {
        let Wanted::Label(wanted) = one.wanted else { continue };
        let (wanted, found) = (wanted as usize, likeliest(&one.scores));
        counts.said[found] += 1.0;
        counts.wanted[wanted] += 1.0;
        counts.right[found] += f64::from(u8::from(found == wanted));
    }
    let (n, right) = (said.len() as f64, counts.right.iter().sum::<f64>());
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let top = right * n - product(&counts.said, &counts.wanted);
    let below = (n * n - product(&counts.said, &counts.said)) * (n * n - product(&counts.wanted, &counts.wanted));
    let matthews = if below > 0.0 { top / below.sqrt() } else { 0.0 };
    vec![("accuracy", right / n), ("macro_f1", counts.macro_f1()), ("matthews", matthews)]
}

/// The share of texts whose labels are all right, and F1 over all labels together and label by label.
fn of_label_sets(said: &[Said], labels: usize) -> Vec<(&'static str, f64)> {
    let (mut counts, mut right) = (Counts::new(labels), 0.0);
    for one in said {
        let Wanted::Values(wanted) = &one.wanted else { continue };
        let mut same = true;
        for (i, (score, wanted)) in one.scores.iter().zip(wanted).enumerate() {
            let (found, wanted) = (*score > 0.0, *wanted > 0.5);
            counts.said[i] += f64::from(u8::from(found));
            counts.wanted[i] += f64::from(u8::from(wanted));
            counts.right[i] += f64::from(u8::from(found && wanted));
            same &= found == wanted;
        }
        right += f64::from(u8::from(same));
    }
    vec![("accuracy", right / said.len() as f64), ("micro_f1", counts.micro_f1()), ("macro_f1", counts.macro_f1())]
}

/// Pearson's and Spearman's correlation, and the mean squared error, over all numbers.
fn of_numbers(said: &[Said]) -> Vec<(&'static str, f64)> {
    let found: Vec<f64> = said.iter().flat_map(|one| &one.scores).map(|s| f64::from(*s)).collect();
    let wanted: Vec<f64> = said
        .iter()
        .flat_map(|one| if let Wanted::Values(values) = &one.wanted { values.clone() } else { vec![] })
        .map(f64::from)
        .collect();
    let error = found.iter().zip(&wanted).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / found.len().max(1) as f64;
    vec![
        ("pearson", correlation(&found, &wanted)),
        ("spearman", correlation(&ranks(&found), &ranks(&wanted))),
        ("mean_squared_error", error),
    ]
}

fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let (of_a, of_b) = (mean(a), mean(b));
    let (mut both, mut left, mut right) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        both += (a - of_a) * (b - of_b);
        left += (a - of_a).powi(2);
        right += (b - of_b).powi(2);
    }
    if left * right > 0.0 { both / (left * right).sqrt() } else { 0.0 }
}

/// Each number's place in order, from 1; equal numbers share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut out = vec![0.0; values.len()];
    let mut from = 0;
    while from < order.len() {
        let equal = order[from..].iter().take_while(|i| values[**i] == values[order[from]]).count();
        let rank = from as f64 + (equal + 1) as f64 / 2.0;
        order[from..from + equal].iter().for_each(|i| out[*i] = rank);
        from += equal;
    }
    out
}

/// The share of tokens told right; and where labels are of the form `B-…`, `I-…`, `O`, F1 of whole entities.
fn of_tokens(said: &[Said], labels: &[String]) -> Vec<(&'static str, f64)> {
    let (mut right, mut all, mut hits, mut found_n, mut wanted_n) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for one in said {
        let Wanted::Tokens(wanted) = &one.wanted else { continue };
        let told = one.scores.chunks(one.width).map(likeliest);
        let pairs: Vec<(usize, usize)> =
            told.zip(wanted).filter(|(_, w)| **w != IGNORE).map(|(found, wanted)| (found, *wanted as usize)).collect();
        right += pairs.iter().filter(|(found, wanted)| found == wanted).count() as f64;
        all += pairs.len() as f64;
        let found = entities(pairs.iter().map(|pair| pair.0), labels);
        let wanted = entities(pairs.iter().map(|pair| pair.1), labels);
        hits += found.intersection(&wanted).count() as f64;
        found_n += found.len() as f64;
        wanted_n += wanted.len() as f64;
    }
    let mut out = vec![("accuracy", right / f64::max(all, 1.0))];
    if labels.iter().any(|label| label.starts_with("B-")) {
        out.push(("entity_f1", 2.0 * hits / f64::max(found_n + wanted_n, 1.0)));
    }
    out
}

/// Entities in labelled tokens: kind, first token, and the one after the last. An `I-` that continues nothing begins one, as
/// CoNLL's script has it.
fn entities(told: impl Iterator<Item = usize>, labels: &[String]) -> BTreeSet<(&str, usize, usize)> {
    let mut out = BTreeSet::new();
    let mut open: Option<(&str, usize)> = None;
    let mut at = 0;
    for label in told {
        let (begins, kind) = match labels[label].split_once('-') {
            Some(("B", kind)) => (true, Some(kind)),
            Some(("I", kind)) => (open.is_none_or(|(k, _)| k != kind), Some(kind)),
            _ => (false, None),
        };
        if let Some((kind, from)) = open.filter(|_| begins || kind.is_none()) {
            out.insert((kind, from, at));
            open = None;
        }
        if begins {
            open = kind.map(|kind| (kind, at));
        }
        at += 1;
    }
    out.extend(open.map(|(kind, from)| (kind, from, at)));
    out
}

/// The share of answers found exactly, and the mean F1 of their tokens; the best span ends at or after its begin.
fn of_spans(said: &[Said]) -> Vec<(&'static str, f64)> {
    let (mut exact, mut f1) = (0.0, 0.0);
    for one in said {
        let Wanted::Span(wanted) = one.wanted else { continue };
        let tokens = one.scores.len() / 2;
        let (mut best, mut begin) = ((f32::NEG_INFINITY, 0, 0), 0);
        for at in 0..tokens {
            if one.scores[2 * at] > one.scores[2 * begin] {
                begin = at;
            }
            let score = one.scores[2 * begin] + one.scores[2 * at + 1];
            if score > best.0 {
                best = (score, begin, at);
            }
        }
        let (from, to) = (best.1.max(wanted[0] as usize), best.2.min(wanted[1] as usize));
        let shared = (to + 1).saturating_sub(from) as f64;
        let lengths = (best.2 - best.1 + 1) as f64 + f64::from(wanted[1] - wanted[0] + 1);
        exact += f64::from(u8::from(best.1 as i32 == wanted[0] && best.2 as i32 == wanted[1]));
        f1 += 2.0 * shared / lengths;
    }
    let n = said.len().max(1) as f64;
    vec![("exact_match", exact / n), ("f1", f1 / n)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(name: &str, figures: &[(&str, f64)], wanted: f64) {
        let found = figures.iter().find(|(n, _)| *n == name).map_or(f64::NAN, |(_, value)| *value);
        assert!((found - wanted).abs() < 1e-6, "{name} is {found}, not {wanted}");
    }

    fn said(wanted: Wanted, scores: &[f32], width: usize) -> Said {
        Said { wanted, scores: scores.to_vec(), width }
    }

    #[test]
    fn labels_are_measured_as_scikit_learn_does() {
        // Wanted 0 0 1 1 1 2, said 0 1 1 1 0 2.
        let one = |wanted: i32, found: usize| {
            let mut scores = [0.0; 3];
            scores[found] = 1.0;
            said(Wanted::Label(wanted), &scores, 3)
        };
        let all = [one(0, 0), one(0, 1), one(1, 1), one(1, 1), one(1, 0), one(2, 2)];
        let names = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let figures = figures(Kind::Label, &names, &all);
        close("accuracy", &figures, 4.0 / 6.0);
        close("macro_f1", &figures, (0.5 + 2.0 / 3.0 + 1.0) / 3.0);
        close("matthews", &figures, 5.0 / 11.0);
    }

    #[test]
    fn sets_of_labels_are_measured_together_and_one_by_one() {
        let all = [
            said(Wanted::Values(vec![1.0, 0.0]), &[2.0, -1.0], 2),
            said(Wanted::Values(vec![1.0, 1.0]), &[2.0, -1.0], 2),
            said(Wanted::Values(vec![0.0, 1.0]), &[1.0, 1.0], 2),
        ];
        let figures = figures(Kind::Labels, &["a".to_owned(), "b".to_owned()], &all);
        close("accuracy", &figures, 1.0 / 3.0);
        close("micro_f1", &figures, 6.0 / 8.0);
        close("macro_f1", &figures, (4.0 / 5.0 + 2.0 / 3.0) / 2.0);
    }

    #[test]
    fn numbers_are_measured_by_their_order_too() {
        let one = |wanted: f32, found: f32| said(Wanted::Values(vec![wanted]), &[found], 1);
        let all = [one(1.0, 1.0), one(2.0, 4.0), one(3.0, 9.0), one(3.0, 9.0)];
        let figures = figures(Kind::Number, &[], &all);
        close("spearman", &figures, 1.0);
        close("mean_squared_error", &figures, (4.0 + 36.0 + 36.0) / 4.0);
        close("pearson", &figures, 11.25 / (46.75_f64 * 2.75).sqrt());
    }

    #[test]
    fn entities_count_whole() {
        let labels: Vec<String> = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"].map(String::from).to_vec();
        let one = |wanted: &[i32], found: &[usize]| {
            let scores: Vec<f32> =
                found.iter().flat_map(|f| (0..5).map(move |i| f32::from(u8::from(i == *f)))).collect();
            said(Wanted::Tokens(wanted.to_vec()), &scores, 5)
        };
        // The place is found whole, of the person the end is missed, and a place is said that is none.
        let all = [one(&[IGNORE, 1, 2, 0, 3, IGNORE], &[0, 1, 0, 0, 3, 0]), one(&[0, 0], &[0, 4])];
        let figures = figures(Kind::Tokens, &labels, &all);
        close("accuracy", &figures, 4.0 / 6.0);
        close("entity_f1", &figures, 2.0 / 5.0);
    }

    #[test]
    fn a_span_ends_where_it_begins_or_later() {
        let scores = [0.0, 8.0, 5.0, 0.0, 0.0, 4.0, 0.0, 0.0];
        let figures = figures(Kind::Span, &[], &[said(Wanted::Span([1, 3]), &scores, 2)]);
        close("exact_match", &figures, 0.0);
        close("f1", &figures, 2.0 * 2.0 / 5.0);
    }
}
