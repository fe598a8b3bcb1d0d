//! Attention's memory grows with the length of a sequence, not with its square.
mod common;
use common::noise;
use cupola_kernels::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Counts the bytes in use and their highest number.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MOST.fetch_max(NOW.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that forward and backward of one head took beyond their arguments.
fn most(seq: usize, d: usize) -> usize {
    let shape = AttentionShape::new(1, seq, [1, 1], d);
    let [q, k, v, d_out] = [1, 2, 3, 4].map(|seed| noise(seq * d, seed));
    let (lo, hi): (Vec<u32>, Vec<u32>) = (0..seq as u32).map(|i| (0, i + 1)).unzip();
    let spans = Spans { lo: &lo, hi: &hi };
    let (mut out, mut lse) = (vec![0.0; seq * d], vec![0.0; seq]);
    let (mut dq, mut dk, mut dv) = (vec![0.0; seq * d], vec![0.0; seq * d], vec![0.0; seq * d]);
    // Fresh threads have no working memory from before.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("a pool");
    let before = NOW.load(Relaxed);
    MOST.store(before, Relaxed);
    pool.install(|| {
        attention_forward(&q, &k, &v, &mut out, &mut lse, &shape, &spans);
        let saved = AttentionSaved { q: &q, k: &k, v: &v, out: &out, lse: &lse };
        let mut grads = AttentionGrads { dq: &mut dq, dk: &mut dk, dv: &mut dv };
        attention_backward(&saved, &d_out, &mut grads, &shape, &spans);
    });
    assert!(out.iter().chain(&dq).chain(&dk).chain(&dv).all(|x| x.is_finite()));
    MOST.load(Relaxed) - before
}

#[test]
fn memory_grows_with_the_length_not_its_square() {
    let d = 64;
    let (half, whole) = (most(4096, d), most(8192, d));
    assert!(whole < 3 * half, "{half} bytes for 4096 keys, {whole} for 8192");
    let tensor = 4 * 8192 * d;
    assert!(whole < 40 * tensor, "{whole} bytes, a tensor has {tensor}, all scores {}", 4 * 8192 * 8192);
}
