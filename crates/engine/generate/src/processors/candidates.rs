//! The tokens that may still be chosen, and selections among many that need no sort of all.

use std::cmp::Ordering;

/// A token that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The token.
    pub token: u32,
    /// Its logit.
    pub logit: f32,
}

/// The tokens that may still be chosen, in the order of their ids.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Candidates {
    /// The tokens.
    pub list: Vec<Candidate>,
}

impl Candidates {
    /// All tokens that are not removed yet.
    pub fn new(logits: &[f32]) -> Self {
        let all = logits.iter().enumerate().filter(|(_, logit)| **logit > f32::NEG_INFINITY);
        Self { list: all.map(|(i, &logit)| Candidate { token: i as u32, logit }).collect() }
    }

    /// The largest logit.
    pub fn max(&self) -> f32 {
        self.list.iter().fold(f32::NEG_INFINITY, |max, c| max.max(c.logit))
    }

    /// The logarithm of each one's probability, in the list's order.
    pub fn log_probabilities(&self) -> impl Iterator<Item = f64> + use<'_> {
        let max = f64::from(self.max());
        let sum = self.list.iter().map(|c| (f64::from(c.logit) - max).exp()).sum::<f64>().ln();
        self.list.iter().map(move |c| (f64::from(c.logit) - max) - sum)
    }

    /// `-Σ p log p`, nats.
    pub fn entropy(&self) -> f64 {
        self.log_probabilities().map(|log| -log * log.exp()).sum()
    }

    /// Keeps the tokens of at least a probability, and the likeliest.
    pub fn keep_above(&mut self, least: f64) {
        let max = f64::from(self.max());
        let sum: f64 = self.list.iter().map(|c| (f64::from(c.logit) - max).exp()).sum();
        self.list.retain(|c| f64::from(c.logit) >= max || (f64::from(c.logit) - max).exp() / sum >= least);
    }
}

/// The likelier candidate first; of equals, the lower id.
pub fn likelier(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

/// The first `count` items in an order, in this order. One pass: what cannot be among them is looked at once.
pub fn best<T: Copy>(count: usize, items: impl Iterator<Item = T>, order: impl Fn(&T, &T) -> Ordering) -> Vec<T> {
    let mut kept: Vec<T> = Vec::new();
    let mut last: Option<T> = None;
    for item in items {
        if count == 0 || last.is_some_and(|last| order(&item, &last).is_ge()) {
            continue;
        }
        kept.push(item);
        if kept.len() >= count.saturating_mul(2) {
            last = Some(*kept.select_nth_unstable_by(count - 1, &order).1);
            kept.truncate(count);
        }
    }
    kept.sort_unstable_by(order);
    kept.truncate(count);
    kept
}

/// The last of the first items in an order whose weights together reach `need`; the very last when all do not. Halves
/// what is left instead of sorting it: a time linear in the number of items, which are reordered.
pub fn reaching<T: Copy>(
    mut need: f64,
    weighed: &mut [(T, f64)],
    order: impl Fn(&T, &T) -> Ordering,
) -> Option<(T, f64)> {
    let mut open = weighed;
    while open.len() > 1 {
        let half = open.len() / 2;
        open.select_nth_unstable_by(half, |a, b| order(&a.0, &b.0));
        let (first, second) = open.split_at_mut(half);
        let weight: f64 = first.iter().map(|(_, weight)| weight).sum();
        open = match weight >= need {
            true => first,
            false => {
                need -= weight;
                second
            }
        };
    }
    open.first().copied()
}
