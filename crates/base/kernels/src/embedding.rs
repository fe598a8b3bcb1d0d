//! Rows of a table by token id, and their gradient.

use rayon::prelude::*;

/// `y[i] = table[ids[i]]`: table `[V, d]`, y `[N, d]`.
pub fn embedding_forward(table: &[f32], ids: &[u32], d: usize, y: &mut [f32]) {
    check("embedding_forward", table.len(), ids, d, y.len());
    if d == 0 {
        return;
    }
    let rows = (1usize << 14).div_ceil(d);
    y.par_chunks_mut(rows * d).zip(ids.par_chunks(rows)).for_each(|(y, ids)| {
        for (y, &id) in y.chunks_exact_mut(d).zip(ids) {
            y.copy_from_slice(&table[id as usize * d..][..d]);
        }
    });
}

/// `dtable[v]` = the sum of `dy[i]` over all `i` with `ids[i] == v`, in order of `i`; overwrites `dtable`.
pub fn embedding_backward(dy: &[f32], ids: &[u32], d: usize, dtable: &mut [f32]) {
    check("embedding_backward", dtable.len(), ids, d, dy.len());
    if d == 0 {
        return;
    }
    // A task owns some rows of the table and looks through all ids for them, so no two tasks add to one row.
    let rows = (dtable.len() / d).div_ceil(64).max(1);
    dtable.par_chunks_mut(rows * d).enumerate().for_each(|(t, part)| {
        part.fill(0.0);
        let (from, to) = (t * rows, t * rows + part.len() / d);
        for (dy, &id) in dy.chunks_exact(d).zip(ids) {
            let id = id as usize;
            if (from..to).contains(&id) {
                part[(id - from) * d..][..d].iter_mut().zip(dy).for_each(|(sum, g)| *sum += g);
            }
        }
    });
}

fn check(what: &str, table: usize, ids: &[u32], d: usize, y: usize) {
    assert_eq!(y, ids.len() * d, "{what}: {y} floats for {} ids of width {d}", ids.len());
    let far = ids.iter().copied().max().unwrap_or(0) as usize;
    assert!(ids.is_empty() || (far + 1) * d <= table, "{what}: id {far}, but the table has {} rows", table / d.max(1));
}
