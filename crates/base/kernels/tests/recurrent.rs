//! Recurrent layers against plain loops.
mod common;
use common::{assert_close, assert_same_on_any_threads, assert_slope, at_every_level, noise};
use cupola_kernels::*;

const KINDS: [RecurrentKind; 3] = [RecurrentKind::Tanh, RecurrentKind::Lstm, RecurrentKind::Gru];

/// The numbers of a run: `x`, `w`, `bias`, `h0`, `c0`.
fn numbers(kind: RecurrentKind, (batch, seq, d): (usize, usize, usize)) -> [Vec<f32>; 5] {
    let g = kind.gates() * d;
    let c0 = if kind.has_memory() { noise(batch * d, 5) } else { vec![] };
    let w = noise(g * d, 2).into_iter().map(|w| w * (d as f32).powf(-0.5)).collect();
    [noise(batch * seq * g, 1), w, noise(g, 3), noise(batch * d, 4), c0]
}

fn problem<'a>(
    kind: RecurrentKind,
    sizes: (usize, usize, usize),
    n: &'a [Vec<f32>; 5],
    lengths: Option<&'a [u32]>,
) -> Recurrence<'a> {
    Recurrence { kind, sizes, x: &n[0], w: &n[1], bias: &n[2], h0: &n[3], c0: &n[4], lengths }
}

/// The memory after the last step.
fn last(c: &[f32], (_, seq, d): (usize, usize, usize)) -> Vec<f32> {
    c.chunks(seq * d).flat_map(|c| c[(seq - 1) * d..].to_vec()).collect()
}

#[test]
fn a_layer_equals_its_definition() {
    at_every_level(|| {
        for kind in KINDS {
            for sizes in [(1, 1, 1), (1, 7, 5), (3, 4, 17), (2, 9, 32), (33, 3, 40), (70, 2, 129)] {
                let n = numbers(kind, sizes);
                let lengths: Vec<u32> = (0..sizes.0).map(|b| (b * 5 % (sizes.1 + 1)) as u32).collect();
                for lengths in [None, Some(lengths.as_slice())] {
                    let r = problem(kind, sizes, &n, lengths);
                    let (got, want) = (recurrent_forward(&r), reference::recurrent(&r));
                    assert_close(&format!("{kind:?} {sizes:?}"), &got.h, &want.0, 5e-6);
                    assert_close(&format!("{kind:?} {sizes:?}, memory"), &last(&got.c, sizes), &want.1, 5e-6);
                }
            }
        }
    });
}

#[test]
fn gradients_are_slopes() {
    at_every_level(|| {
        for kind in KINDS {
            for (sizes, lengths) in [((2, 3, 3), None), ((3, 4, 2), Some([4, 0, 2].as_slice())), ((1, 2, 17), None)] {
                slopes(kind, sizes, lengths);
            }
        }
    });
}

fn slopes(kind: RecurrentKind, sizes: (usize, usize, usize), lengths: Option<&[u32]>) {
    let n = numbers(kind, sizes);
    let (dh, dc) = (noise(sizes.0 * sizes.1 * sizes.2, 6), noise(n[4].len(), 7));
    let loss = |n: &[Vec<f32>; 5]| -> f64 {
        let (h, c) = reference::recurrent(&problem(kind, sizes, n, lengths));
        h.iter().zip(&dh).chain(c.iter().zip(&dc)).map(|(x, g)| f64::from(*x) * f64::from(*g)).sum()
    };
    let r = problem(kind, sizes, &n, lengths);
    let g = recurrent_backward(&r, &recurrent_forward(&r), &dh, &dc);
    for (i, (name, grad)) in
        [("x", &g.dx), ("w", &g.dw), ("bias", &g.dbias), ("h0", &g.dh0), ("c0", &g.dc0)].into_iter().enumerate()
    {
        assert_slope(&format!("{kind:?} {name}"), &n[i], grad, |x| {
            let mut moved = n.clone();
            moved[i] = x.to_vec();
            loss(&moved)
        });
    }
}

#[test]
fn what_follows_a_rows_end_changes_nothing() {
    for kind in KINDS {
        let (sizes, lengths) = ((2, 5, 9), [3, 5]);
        let mut n = numbers(kind, sizes);
        let want = recurrent_forward(&problem(kind, sizes, &n, Some(&lengths)));
        let g = kind.gates() * 9;
        n[0][3 * g..5 * g].fill(f32::NAN);
        let r = problem(kind, sizes, &n, Some(&lengths));
        let got = recurrent_forward(&r);
        assert_eq!((&got.h, &got.c), (&want.h, &want.c));
        assert_eq!(got.h[2 * 9..3 * 9], got.h[4 * 9..5 * 9], "the state is frozen");
        let grads = recurrent_backward(&r, &got, &noise(90, 1), &noise(n[4].len(), 2));
        assert!(grads.dw.iter().chain(&grads.dx).all(|g| g.is_finite()));
        assert!(grads.dx[3 * g..5 * g].iter().all(|&g| g == 0.0));
    }
}

#[test]
fn nan_reaches_all_that_follows_in_its_row() {
    at_every_level(|| {
        for kind in KINDS {
            let sizes = (2, 4, 11);
            let mut n = numbers(kind, sizes);
            n[0][kind.gates() * 11] = f32::NAN; // row 0, step 1, unit 0
            let h = recurrent_forward(&problem(kind, sizes, &n, None)).h;
            assert!(h[..11].iter().chain(&h[44..]).all(|h| h.is_finite()), "before it, and the other row");
            assert!(h[11].is_nan() && h[22..44].iter().all(|h| h.is_nan()), "{kind:?}: {h:?}");
        }
    });
}

#[test]
fn threads_change_no_bit() {
    for kind in KINDS {
        assert_same_on_any_threads(|| {
            let sizes = (70, 4, 96);
            let n = numbers(kind, sizes);
            let r = problem(kind, sizes, &n, None);
            let states = recurrent_forward(&r);
            let g = recurrent_backward(&r, &states, &noise(states.h.len(), 1), &noise(n[4].len(), 2));
            [states.h, states.c, g.dx, g.dw, g.dbias, g.dh0, g.dc0].concat()
        });
    }
}

#[test]
#[should_panic(expected = "a row of 3 steps, but there are 2")]
fn a_length_beyond_the_end_is_refused() {
    let n = numbers(RecurrentKind::Gru, (1, 2, 3));
    recurrent_forward(&problem(RecurrentKind::Gru, (1, 2, 3), &n, Some(&[3])));
}
