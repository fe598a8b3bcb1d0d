//! Sequences for layers that read from the first token to the last: their rows side by side in grids of equal lengths.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};

use crate::batch::Batch;
use crate::layer::{LayerState, Pass, Reach};

/// The sequences of one run.
pub(crate) struct Run<'a> {
    /// How many; all are equally long.
    pub batch: usize,
    /// What is remembered of them, kind by kind, sequence after sequence: read, and replaced. None in training, where
    /// every sequence begins.
    pub states: Option<&'a mut [Vec<f32>]>,
    /// Whether nothing precedes.
    pub fresh: bool,
    /// 1 where a token is real and 0 where it is padding, `[B·T, 1]`; none where all are real.
    pub real: Option<Tensor<2>>,
}

/// A layer that carries a state from token to token.
pub(crate) trait Scan {
    /// x `[B·T, D]`, gives `[B·T, D]`.
    fn scan(&self, x: Tensor<2>, run: Run<'_>) -> Tensor<2>;

    /// Whether padding in front of a text changes what becomes of it, as the reference has it.
    fn sees_padding(&self) -> bool {
        false
    }

    /// What it remembers of a sequence before its first token, after `padding` tokens that are none.
    fn start(&self, padding: usize) -> Vec<Vec<f32>>;
}

/// Runs a layer over all sequences that a pass reaches: x `[N, D]`, gives `[N, D]`.
pub(crate) fn scanned(layer: &impl Scan, x: Tensor<2>, pass: &mut Pass<'_, '_>) -> Tensor<2> {
    match &pass.reach {
        Reach::Batch(batch) => whole(layer, x, batch),
        Reach::Caches(_) => continued(layer, x, pass),
    }
}

fn whole(layer: &impl Scan, x: Tensor<2>, batch: &Batch) -> Tensor<2> {
    let real = batch.real.as_ref().filter(|_| layer.sees_padding());
    let sequences = if real.is_some() { batch.scanned_sequences() } else { batch.sequences() };
    let real = real.map(|real| {
        let ones: Vec<f32> = real.iter().map(|real| f32::from(*real)).collect();
        Tensor::<2>::from_data(TensorData::new(ones, [real.len(), 1]), &x.device())
    });
    let run = |batch, real| Run { batch, states: None, fresh: true, real };
    if sequences.iter().all(|s| s.len() == sequences[0].len()) {
        return layer.scan(x, run(sequences.len(), real));
    }
    let rows = x.dims()[0];
    let (grids, back) = grids(&sequences, rows);
    let outputs = grids.iter().map(|grid| {
        let real = real.as_ref().map(|real| cupola_ops::embedding(real.clone(), &grid.rows));
        layer.scan(cupola_ops::embedding(x.clone(), &grid.rows), run(grid.batch, real))
    });
    cupola_ops::embedding(Tensor::cat(outputs.collect(), 0), &back)
}

/// Sequences of similar lengths side by side, their last rows repeated up to the longest.
struct Grid {
    batch: usize,
    /// Which row each place holds, `[B·T]`.
    rows: Arc<[u32]>,
}

/// Lengths up to this share a grid: 1, 2, 3, 4, 6, 8, 12, …
fn shared_length(len: usize) -> usize {
    let power = len.next_power_of_two();
    if len <= power / 4 * 3 { power / 4 * 3 } else { power }
}

/// The grids, and where each of the `rows` stands among all of their places.
fn grids(sequences: &[Range<usize>], rows: usize) -> (Vec<Grid>, Arc<[u32]>) {
    let mut lengths: Vec<usize> = sequences.iter().map(|s| shared_length(s.len())).collect();
    lengths.sort_unstable();
    lengths.dedup();
    let (mut back, mut grids, mut place) = (vec![0; rows], Vec::new(), 0);
    for length in lengths {
        let members: Vec<_> = sequences.iter().filter(|s| shared_length(s.len()) == length).collect();
        let longest = members.iter().map(|s| s.len()).max().unwrap_or(0);
        let mut held = Vec::with_capacity(members.len() * longest);
        for sequence in &members {
            for step in 0..longest {
                let row = sequence.start + step.min(sequence.len() - 1);
                if step < sequence.len() {
                    back[row] = place;
                }
                held.push(row as u32);
                place += 1;
            }
        }
        grids.push(Grid { batch: members.len(), rows: held.into() });
    }
    (grids, back.into())
}

/// Goes on with all sequences at once where they have equally many rows, otherwise with one after another.
fn continued(layer: &impl Scan, x: Tensor<2>, pass: &mut Pass<'_, '_>) -> Tensor<2> {
    let mut all: Vec<Member<'_>> = pass.padded_states().filter(|(_, rows, _)| *rows > 0).collect();
    let like = |a: &Member<'_>, b: &Member<'_>| a.1 == b.1 && a.0.numbers.is_empty() == b.0.numbers.is_empty();
    let together = all.iter().all(|member| like(member, &all[0]));
    let size = if together { all.len().max(1) } else { 1 };
    let (mut outputs, mut from) = (Vec::new(), 0);
    for group in all.chunks_mut(size) {
        let rows = group.iter().map(|member| member.1).sum();
        let fresh = group.iter().all(|member| member.0.numbers.is_empty());
        let mut states = joined(layer, group);
        let run = Run { batch: group.len(), states: Some(&mut states), fresh, real: None };
        outputs.push(layer.scan(x.clone().narrow(0, from, rows), run));
        for (i, (state, _, _)) in group.iter_mut().enumerate() {
            let share = |kind: &Vec<f32>| kind[kind.len() / size * i..kind.len() / size * (i + 1)].to_vec();
            state.numbers = states.iter().map(share).collect();
        }
        from += rows;
    }
    if outputs.is_empty() { x } else { Tensor::cat(outputs, 0) }
}

/// A sequence's state, its rows, and how much padding precedes it.
type Member<'a> = (&'a mut LayerState, usize, usize);

/// The states of a group, kind by kind.
fn joined(layer: &impl Scan, group: &[Member<'_>]) -> Vec<Vec<f32>> {
    let mut kinds: Vec<Vec<f32>> = Vec::new();
    for (state, _, padding) in group {
        let own = if state.numbers.is_empty() { layer.start(*padding) } else { state.numbers.clone() };
        kinds.resize_with(own.len(), Vec::new);
        kinds.iter_mut().zip(&own).for_each(|(kind, own)| kind.extend(own));
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_stands_in_a_grid_of_its_own_sequence() {
        let sequences = [0..5, 5..6, 6..17, 17..24, 24..32];
        let (grids, back) = grids(&sequences, 32);
        let places: Vec<(usize, usize, u32)> = grids
            .iter()
            .enumerate()
            .flat_map(|(g, grid)| {
                let seq = grid.rows.len() / grid.batch;
                grid.rows.iter().enumerate().map(move |(i, row)| (g, i / seq, *row))
            })
            .collect();
        for (row, place) in back.iter().enumerate() {
            assert_eq!(places[*place as usize].2 as usize, row);
        }
        // 7 and 8 are as good as equal.
        assert_eq!(grids.iter().map(|g| g.batch).collect::<Vec<_>>(), [1, 1, 2, 1]);
        let (of_one, _, _) = places[back[0] as usize];
        assert!(sequences[0].clone().all(|row| places[back[row] as usize].0 == of_one));
        let waste = places.len() as f64 / 32.0;
        assert!(waste < 1.34, "grids are {waste} of what they hold");
    }
}
