//! Smallest values under random orders.

/// See [`crate::min_hash`].
pub fn min_hash(x: &[u32], a: &[u32], b: &[u32], least: &mut [u32]) {
    for i in 0..least.len() {
        for x in x {
            least[i] = least[i].min(a[i].wrapping_mul(*x).wrapping_add(b[i]));
        }
    }
}
