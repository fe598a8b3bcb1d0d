//! Rows that lists name are added up, each in the order of the lists.

use rayon::prelude::*;

/// Rows of a task.
const ROWS: usize = 64;

/// For each row which entries name it.
pub(super) struct Order {
    /// Where the entries of each row begin in `entries`, and the end.
    starts: Vec<u32>,
    entries: Vec<u32>,
}

impl Order {
    /// A count and a sort by it.
    pub fn new(list: &[u32]) -> Self {
        let rows = list.iter().max().map_or(0, |row| *row as usize + 1);
        let mut starts = vec![0; rows + 1];
        list.iter().for_each(|row| starts[*row as usize + 1] += 1);
        (0..rows).for_each(|row| starts[row + 1] += starts[row]);
        let (mut next, mut entries) = (starts.clone(), vec![0; list.len()]);
        for (entry, row) in list.iter().enumerate() {
            entries[next[*row as usize] as usize] = entry as u32;
            next[*row as usize] += 1;
        }
        Order { starts, entries }
    }

    /// `to[row] += from[entry]` for each entry that names the row, `width` floats each.
    pub fn add(&self, from: &[f32], to: &mut [f32], width: usize) {
        to.par_chunks_mut(ROWS * width).zip(self.starts.par_chunks(ROWS)).enumerate().for_each(|(t, (to, _))| {
            for (row, to) in to.chunks_exact_mut(width).enumerate() {
                let row = t * ROWS + row;
                let Some(end) = self.starts.get(row + 1) else { return };
                for entry in &self.entries[self.starts[row] as usize..*end as usize] {
                    let from = &from[*entry as usize * width..][..width];
                    to.iter_mut().zip(from).for_each(|(to, x)| *to += x);
                }
            }
        });
    }
}
