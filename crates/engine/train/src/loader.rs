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
    shuffle: Shuffle,
    /// Records of a step.
    pub batch_size: usize,
    /// Records of a forward pass; not set, as many as have a certain number of tokens.
    pub micro_batch: Option<usize>,
}

impl Steps {
    /// Steps through `len` records; `len` is at least 1.
    pub fn new(len: usize, seed: u64, batch_size: usize, micro_batch: Option<usize>) -> Self {
        Self { shuffle: Shuffle::new(len, seed), batch_size, micro_batch }
    }

    /// The next step's records.
    pub fn draw(&mut self) -> Vec<usize> {
        (0..self.batch_size).map(|_| self.shuffle.draw()).collect()
    }

    /// The next step's records by forward pass; `length` tells a record's tokens.
    pub fn draw_parts(&mut self, length: impl Fn(usize) -> usize) -> Vec<Vec<usize>> {
        let drawn = self.draw();
        let lengths: Vec<usize> = drawn.iter().map(|i| length(*i)).collect();
        groups(&lengths, self.micro_batch).into_iter().map(|group| drawn[group].to_vec()).collect()
    }

    /// Where it is, for a checkpoint.
    pub fn position(&self) -> Value {
        json!(self.shuffle.position())
    }

    /// Goes to where a checkpoint was.
    ///
    /// # Errors
    /// A checkpoint without a position.
    pub fn restore(&mut self, position: &Value) -> Result<()> {
        let at = serde_json::from_value(position.clone()).context(|| "the checkpoint has no loader position".into())?;
        self.shuffle.go_to(at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
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
