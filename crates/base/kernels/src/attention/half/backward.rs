//! The gradients: a task as in the 32-bit pass, whose blocks of keys meet the queries several at a time.

use super::super::backward::Part;
use super::super::pack::{FromPanel, write_rows};
use super::super::score::Score;
use super::step::{Between, Block, Sizes, Step, Unit};
use super::{KEYS, QUERIES, STRIPS, WIDTH, pack, within};
use crate::gemm::Out;
use crate::scratch;
use crate::simd::Avx512;

/// Blocks of keys that a unit of queries meets while it is in the second cache.
const BLOCKS: usize = 4;

/// The gradients of the keys of a task, and what they add to the gradients of the queries.
///
/// # Safety
/// The queries of the task's batch row and group in `dq`, and its keys in `dk` and `dv`, must be this call's alone; the
/// CPU must have AVX-512 FP16.
pub unsafe fn backward(part: &Part, dq: Out, dk: Out, dv: Out) {
    let Part { inputs, b, kv_head, keys, .. } = *part;
    let (shape, sizes) = (inputs.shape, Sizes::new(inputs.shape.d_head, inputs.shape.d_value));
    let Some(simd) = Avx512::new() else { return };
    let (near, far) = part.units(WIDTH);
    scratch::with(sizes.between() + BLOCKS * sizes.block() + near.len() * sizes.unit(), |room| {
        let (between, room) = room.split_at_mut(sizes.between());
        let (room, units) = room.split_at_mut(BLOCKS * sizes.block());
        let between = &mut Between::new(between);
        for ((strips, h), unit) in near.iter().zip(units.chunks_exact_mut(sizes.unit())) {
            let rows = strips.iter().map(|strip| strip.rows).sum();
            // SAFETY: the CPU has the instructions.
            unsafe { prepare(part, (strips[0].first, rows, *h), Unit::new(&sizes, unit)) };
        }
        for first in (keys.0..keys.1).step_by(KEYS * BLOCKS) {
            let count = |n: usize| keys.1.saturating_sub(first + n * KEYS).min(KEYS);
            let key = |n: usize| inputs.key(b, first + n * KEYS, kv_head);
            let blocks = room.chunks_exact_mut(sizes.block()).enumerate().take_while(|(n, _)| count(*n) > 0);
            let mut blocks: Vec<Block> = blocks.map(|(_, room)| Block::new(&sizes, room)).collect();
            for (n, block) in blocks.iter_mut().enumerate() {
                let k = inputs.keys(inputs.k, key(n), count(n), shape.d_head);
                let v = inputs.keys(inputs.v, key(n), count(n), shape.d_value);
                // SAFETY: the CPU has the instructions.
                unsafe {
                    block.info[0] = pack::words(k, block.k, sizes.k_row);
                    block.info[1] = pack::words(v, block.v, sizes.v_row);
                }
                block.dk.fill(0.0);
                block.dv.fill(0.0);
            }
            for ((strips, h), unit) in near.iter().zip(units.chunks_exact_mut(sizes.unit())) {
                for (n, block) in blocks.iter_mut().enumerate() {
                    let from = first + n * KEYS;
                    let ranges = within(strips, from, count(n));
                    if ranges != [(0, 0); STRIPS] {
                        let (unit, score) = (Unit::new(&sizes, unit), Score::new(shape, *h));
                        let (sizes, between) = (&sizes, &mut *between);
                        let step = Step { simd, sizes, strips, score, from, ranges, block, unit, between };
                        // SAFETY: the CPU has the instructions.
                        unsafe { step.run() };
                    }
                }
            }
            for (n, block) in blocks.iter().enumerate() {
                // SAFETY: these keys are ours, by the caller's promise.
                unsafe {
                    let (dk, dv) = (dk.offset(0, key(n) * shape.d_head), dv.offset(0, key(n) * shape.d_value));
                    write_rows(block.dk, sizes.k_cols, shape.scale, dk, (count(n), shape.d_head));
                    write_rows(block.dv, sizes.v_cols, 1.0, dv, (count(n), shape.d_value));
                }
            }
        }
        for ((strips, h), unit) in near.iter().zip(units.chunks_exact_mut(sizes.unit())) {
            let (rows, cols) = (strips.iter().map(|strip| strip.rows).sum(), shape.d_head);
            // SAFETY: these queries are ours, by the caller's promise.
            unsafe {
                let to = dq.offset(0, inputs.query(b, strips[0].first, *h) * cols);
                let (from, factors) = (Unit::new(&sizes, unit).dq, &[shape.scale; QUERIES]);
                FromPanel { from, width: QUERIES, factors, to, rows, cols }.run(inputs.level);
            }
        }
    });
    // SAFETY: as above.
    unsafe { part.clear(&far, dq) };
}

/// Lays out what the products need of `rows` queries of head `h` from `first`.
///
/// # Safety
/// The CPU must have AVX-512 F and BW.
unsafe fn prepare(part: &Part, (first, rows, h): (usize, usize, usize), unit: Unit) {
    let (inputs, shape) = (part.inputs, part.inputs.shape);
    let of = |data, width| inputs.queries(data, inputs.query(part.b, first, h), rows, width);
    let (q, d_out) = (of(inputs.q, shape.d_head), of(part.d_out, shape.d_value));
    let columns = |rows: &[f32]| rows.len() / QUERIES * 2;
    // SAFETY: the caller's promise.
    unsafe {
        unit.info[0] = pack::lanes(q, unit.q_lanes, Score::new(shape, h).factor);
        unit.info[1] = pack::lanes(d_out, unit.d_out_lanes, 1.0);
        let (k_cols, v_cols) = (columns(unit.q), columns(unit.d_out));
        unit.info[2] = pack::rows(q, unit.q, k_cols);
        pack::rows(d_out, unit.d_out, v_cols);
    }
    part.rows((first, rows, h), unit.delta, unit.lse);
    unit.dq.fill(0.0);
}
