//! Smallest values under random orders, against the plain loop.
mod common;
use common::at_every_level;
use cupola_kernels::*;

/// Reproducible numbers of 32 bits.
fn bits(len: usize, seed: u64) -> Vec<u32> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        (state >> 32) as u32
    };
    std::iter::repeat_with(next).take(len).collect()
}

#[test]
fn minima_are_those_of_the_plain_loop_at_every_level() {
    at_every_level(|| {
        for n in [0, 1, 7, 8, 15, 16, 17, 63, 64, 65, 112, 120, 128, 200] {
            for values in [0, 1, 2, 5, 333] {
                let (x, a, b) = (bits(values, 1), bits(n, 2), bits(n, 3));
                // What was smaller already stays.
                let mut got: Vec<u32> = bits(n, 4).iter().map(|x| x | 1 << 24).collect();
                let mut want = got.clone();
                min_hash(&x, &a, &b, &mut got);
                reference::min_hash(&x, &a, &b, &mut want);
                assert_eq!(got, want, "{values} values, {n} orders");
            }
        }
    });
}

#[test]
#[should_panic(expected = "min_hash: 2 multipliers, 3 addends, 3 minima")]
fn wrong_lengths_are_named() {
    min_hash(&[1], &[1, 3], &[0; 3], &mut [0; 3]);
}
