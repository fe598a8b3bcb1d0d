#![allow(dead_code)]
use cupola_kernels::{available_levels, with_level};

/// Reproducible numbers in -1..1.
pub fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Largest difference, relative to `scale` + the expected size.
#[track_caller]
pub fn assert_close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let same = g == w || (g - w).abs() <= tolerance * (1.0 + w.abs());
        assert!(same, "{what}: element {i} is {g}, the reference says {w}");
    }
}

/// Runs `f` at every instruction set of this machine.
pub fn at_every_level(f: impl Fn()) {
    for level in available_levels() {
        with_level(level, &f);
    }
}

/// Runs `f` on 1, 2 and 3 threads and asserts that its results have the same bits.
#[track_caller]
pub fn assert_same_on_any_threads(f: impl Fn() -> Vec<f32> + Sync) {
    let bits = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| f().into_iter().map(f32::to_bits).collect::<Vec<_>>())
    };
    let one = bits(1);
    for threads in [2, 3, 3, 2] {
        assert!(one == bits(threads), "1 and {threads} threads differ");
    }
}

/// Asserts that `grad` is the slope of `loss` at `x`, by central differences.
#[track_caller]
pub fn assert_slope(what: &str, x: &[f32], grad: &[f32], loss: impl Fn(&[f32]) -> f64) {
    const STEP: f32 = 1e-2;
    for i in 0..x.len() {
        let at = |delta: f32| {
            let mut moved = x.to_vec();
            moved[i] += delta;
            loss(&moved)
        };
        let slope = (at(STEP) - at(-STEP)) / f64::from(2.0 * STEP);
        let off = (slope - f64::from(grad[i])).abs();
        assert!(off < 3e-3 * (1.0 + slope.abs()), "{what}[{i}]: gradient {}, differences say {slope}", grad[i]);
    }
}
