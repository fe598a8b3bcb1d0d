//! Batches of text: what comes next follows from the seed and the position alone, so that a resumed run goes on exactly.

use cupola_artifact::{Context, Result};
use cupola_nn::Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::batching::groups;

/// Goes through the numbers below `len` in random order, again and again, each round in a new order.
#[derive(Clone, Debug)]
pub struct Shuffle {
    seed: u64,
    len: usize,
    order: Vec<u32>,
    at: Position,
}

/// Where a [`Shuffle`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Rounds completed.
    pub epoch: u64,
    /// Numbers given in this round.
    pub taken: usize,
}

impl Shuffle {
    /// The order for `len` things; `len` is at least 1.
    pub fn new(len: usize, seed: u64) -> Self {
        assert!(len > 0, "nothing to shuffle");
        let mut shuffle = Self { seed, len, order: vec![], at: Position::default() };
        shuffle.go_to(Position::default());
        shuffle
    }

    /// Where it is.
    pub fn position(&self) -> Position {
        self.at
    }

    /// Goes to a position.
    pub fn go_to(&mut self, at: Position) {
        self.order = Rng::new(self.seed, &format!("epoch {}", at.epoch)).permutation(self.len);
        self.at = at;
    }

    /// The next number.
    pub fn draw(&mut self) -> usize {
        if self.at.taken == self.len {
            self.go_to(Position { epoch: self.at.epoch + 1, taken: 0 });
        }
        self.at.taken += 1;
        self.order[self.at.taken - 1] as usize
    }
}

/// The records of each step, in random order, divided among forward passes.
#[derive(Clone, Debug)]
pub struct Steps {
    /// Each set of records, and the number of its first.
    sets: Vec<(usize, Shuffle)>,
    /// The share of the draws that each set and those before it get.
    shares: Vec<f64>,
    seed: u64,
    drawn: u64,
    /// Records of a step.
    pub batch_size: usize,
    /// Records of a forward pass; not set, as many as have a certain number of tokens.
    pub micro_batch: Option<usize>,
}

impl Steps {
    /// Steps through `len` records; `len` is at least 1.
    pub fn new(len: usize, seed: u64, batch_size: usize, micro_batch: Option<usize>) -> Self {
        Self::mixed(&[(len, 1.0)], seed, batch_size, micro_batch)
    }

    /// Steps through several sets of records, numbered one after another, each with the number of its records (at least 1)
    /// and its weight: a record is drawn from a set as often as its weight is of all. Within a set each record comes once
    /// before any comes again.
    pub fn mixed(sets: &[(usize, f64)], seed: u64, batch_size: usize, micro_batch: Option<usize>) -> Self {
        let total: f64 = sets.iter().map(|(_, weight)| weight).sum();
        let (mut first, mut share) = (0, 0.0);
        let (mut all, mut shares) = (vec![], vec![]);
        for (i, (len, weight)) in sets.iter().enumerate() {
            // The first set alone is drawn from as it always was.
            all.push((first, Shuffle::new(*len, seed.wrapping_add(i as u64))));
            first += len;
            share += weight / total;
            shares.push(share);
        }
        Self { sets: all, shares, seed, drawn: 0, batch_size, micro_batch }
    }

    /// The next step's records.
    pub fn draw(&mut self) -> Vec<usize> {
        (0..self.batch_size).map(|_| self.draw_one()).collect()
    }

    fn draw_one(&mut self) -> usize {
        let last = self.sets.len() - 1;
        let set = match last {
            0 => 0,
            _ => {
                let draw = Rng::new(self.seed, &format!("set {}", self.drawn)).uniform();
                self.shares.iter().position(|share| draw < *share).unwrap_or(last)
            }
        };
        self.drawn += 1;
        let (first, shuffle) = &mut self.sets[set];
        *first + shuffle.draw()
    }

    /// The next step's records by forward pass; `length` tells a record's tokens.
    pub fn draw_parts(&mut self, length: impl Fn(usize) -> usize) -> Vec<Vec<usize>> {
        let drawn = self.draw();
        let lengths: Vec<usize> = drawn.iter().map(|i| length(*i)).collect();
        groups(&lengths, self.micro_batch).into_iter().map(|group| drawn[group].to_vec()).collect()
    }

    /// Where it is, for a checkpoint.
    pub fn position(&self) -> Value {
        let sets: Vec<Position> = self.sets.iter().map(|(_, shuffle)| shuffle.position()).collect();
        json!({"drawn": self.drawn, "sets": sets})
    }

    /// Goes to where a checkpoint was.
    ///
    /// # Errors
    /// A checkpoint without a position.
    pub fn restore(&mut self, position: &Value) -> Result<()> {
        let none = || "the checkpoint has no loader position".to_owned();
        let sets: Vec<Position> = serde_json::from_value(position["sets"].clone()).context(none)?;
        self.drawn = serde_json::from_value(position["drawn"].clone()).context(none)?;
        self.sets.iter_mut().zip(sets).for_each(|((_, shuffle), at)| shuffle.go_to(at));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing test should panic")]

    use super::*;

    #[test]
    fn every_round_holds_each_number_once_in_its_own_order() {
        let mut shuffle = Shuffle::new(10, 7);
        let rounds: Vec<Vec<usize>> = (0..2).map(|_| (0..10).map(|_| shuffle.draw()).collect()).collect();
        for round in &rounds {
            let mut sorted = round.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(rounds[0], rounds[1]);
    }

    #[test]
    fn sets_are_drawn_by_their_weights_and_steps_go_on_from_their_position() {
        let make = || Steps::mixed(&[(100, 3.0), (10, 1.0)], 5, 40, None);
        let mut steps = make();
        let drawn: Vec<usize> = (0..10).flat_map(|_| steps.draw()).collect();
        let second = drawn.iter().filter(|i| **i >= 100).count();
        assert!((70..130).contains(&second), "{second} of 400");
        // Each of a set comes once before any comes again.
        let mut first: Vec<usize> = drawn.iter().copied().filter(|i| *i < 100).take(100).collect();
        first.sort_unstable();
        assert_eq!(first, (0..100).collect::<Vec<_>>());
        let mut resumed = make();
        resumed.restore(&steps.position()).unwrap();
        assert_eq!(resumed.draw(), steps.draw());
        assert!(make().restore(&Value::Null).is_err());
    }

    #[test]
    fn a_shuffle_goes_on_from_its_position() {
        let mut shuffle = Shuffle::new(5, 3);
        for _ in 0..7 {
            shuffle.draw();
        }
        let mut resumed = Shuffle::new(5, 3);
        resumed.go_to(shuffle.position());
        assert_eq!(
            (0..9).map(|_| shuffle.draw()).collect::<Vec<_>>(),
            (0..9).map(|_| resumed.draw()).collect::<Vec<_>>()
        );
    }
}
