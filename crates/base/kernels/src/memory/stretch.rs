//! One long stretch of addresses for large blocks: each lies at the lowest place that fits. Memory that nobody uses goes
//! back to the system after a second, unless the program keeps it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::system;

/// Blocks begin and end at multiples of this.
pub const GRAIN: usize = 16 << 10;
/// Addresses that are reserved, or where the system refuses, half as many, and again down to [`LEAST`].
const MOST: usize = 1 << 38;
const LEAST: usize = 1 << 30;
/// Addresses that become memory at a time.
const STEP: usize = 64 << 20;
/// From here on memory comes in large pages: the gaps between blocks fill them, too, a tenth of what a small model holds.
const LARGE_FROM: usize = 256 << 20;
/// How long freed memory waits for somebody to take it.
const WAIT: Duration = Duration::from_secs(1);

/// Whether freed memory is kept for as long as the program runs.
pub static KEEP: AtomicBool = AtomicBool::new(false);

/// A block that was taken, and whether it holds zeros.
pub struct Block {
    pub start: *mut u8,
    pub zeros: bool,
}

/// Free addresses: how many, and since when; `None` where they hold zeros and take no memory.
#[derive(Clone, Copy)]
struct Free {
    len: usize,
    since: Option<Instant>,
}

struct Stretch {
    base: usize,
    len: usize,
    /// So many bytes may be written.
    open: usize,
    /// So many bytes have been handed out at some time.
    top: usize,
    /// What is free below `top`, by where it begins; no two of them touch.
    free: BTreeMap<usize, Free>,
}

enum State {
    Fresh,
    Refused,
    There(Stretch),
}

static STATE: Mutex<State> = Mutex::new(State::Fresh);

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A block of `size` bytes; none where the system has no such stretch or it is full.
pub fn take(size: usize) -> Option<Block> {
    let mut state = state();
    if let State::Fresh = *state {
        *state = Stretch::reserve(MOST).map_or(State::Refused, State::There);
    }
    let State::There(stretch) = &mut *state else { return None };
    let (at, zeros) = stretch.take(size)?;
    Some(Block { start: std::ptr::with_exposed_provenance_mut(stretch.base + at), zeros })
}

/// Takes a block back; `false` where it is not of the stretch.
pub fn give(start: *mut u8, size: usize) -> bool {
    let State::There(stretch) = &mut *state() else { return false };
    let Some(at) = start.addr().checked_sub(stretch.base).filter(|at| *at < stretch.len) else { return false };
    let now = Instant::now();
    stretch.give(at, size, now);
    if !KEEP.load(Ordering::Relaxed) {
        stretch.purge(now.checked_sub(WAIT));
    }
    true
}

/// Gives the system all that is free.
pub fn give_back() {
    if let State::There(stretch) = &mut *state() {
        stretch.purge(Some(Instant::now()));
    }
}

impl Stretch {
    fn reserve(most: usize) -> Option<Self> {
        let mut len = most;
        while len >= LEAST.min(most) {
            if let Some(base) = system::reserve(len) {
                return Some(Self { base, len, open: 0, top: 0, free: BTreeMap::new() });
            }
            len /= 2;
        }
        None
    }

    /// Where a block of `size` bytes lies now, and whether it holds zeros.
    fn take(&mut self, size: usize) -> Option<(usize, bool)> {
        let size = size.checked_next_multiple_of(GRAIN)?;
        let fits = self.free.iter().find(|(_, free)| free.len >= size).map(|(at, free)| (*at, *free));
        if let Some((at, free)) = fits {
            self.free.remove(&at);
            if free.len > size {
                self.free.insert(at + size, Free { len: free.len - size, ..free });
            }
            return Some((at, free.since.is_none()));
        }
        // What is free right below the top is the block's beginning.
        let last = self.free.last_key_value().map(|(at, free)| (*at, *free)).filter(|(at, f)| at + f.len == self.top);
        let at = last.map_or(self.top, |(at, _)| at);
        let end = at.checked_add(size).filter(|end| *end <= self.len)?;
        if end > self.open {
            let open = end.next_multiple_of(STEP).min(self.len);
            if !system::open(self.base + self.open, open - self.open, self.open >= LARGE_FROM) {
                return None;
            }
            self.open = open;
        }
        if last.is_some() {
            self.free.remove(&at);
        }
        self.top = end;
        Some((at, last.is_none_or(|(_, free)| free.since.is_none())))
    }

    fn give(&mut self, at: usize, size: usize, now: Instant) {
        let (mut at, mut len) = (at, size.next_multiple_of(GRAIN));
        if let Some(next) = self.free.remove(&(at + len)) {
            len += next.len;
        }
        if let Some((before, free)) = self.free.range(..at).next_back().map(|(at, free)| (*at, *free))
            && before + free.len == at
        {
            (at, len) = (before, len + free.len);
        }
        self.free.insert(at, Free { len, since: Some(now) });
    }

    /// Gives back what has been free since before `then`.
    fn purge(&mut self, then: Option<Instant>) {
        let Some(then) = then else { return };
        for (at, free) in self.free.iter_mut().filter(|(_, free)| free.since.is_some_and(|since| since <= then)) {
            if system::give_back(self.base + at, free.len) {
                free.since = None;
            }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn stretch() -> Stretch {
        Stretch::reserve(1 << 28).unwrap()
    }

    fn bytes(stretch: &Stretch, at: usize, len: usize) -> &'static mut [u8] {
        let start = std::ptr::with_exposed_provenance_mut(stretch.base + at);
        // SAFETY: the test took these bytes and uses them once at a time.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    #[test]
    fn a_block_takes_the_lowest_place_that_fits() {
        let mut s = stretch();
        let now = Instant::now();
        let at: Vec<usize> = [5, 2, 3, 1].iter().map(|n| s.take(n * GRAIN - 7).unwrap().0 / GRAIN).collect();
        assert_eq!(at, [0, 5, 7, 10]);
        s.give(0, 5 * GRAIN, now);
        s.give(7 * GRAIN, 3 * GRAIN, now);
        assert_eq!(s.take(3 * GRAIN).unwrap().0 / GRAIN, 0);
        assert_eq!(s.take(3 * GRAIN).unwrap().0 / GRAIN, 7);
        assert_eq!(s.take(3 * GRAIN).unwrap().0 / GRAIN, 11);
        assert_eq!(s.take(2 * GRAIN).unwrap().0 / GRAIN, 3);
        assert!(s.free.is_empty() && s.top == 14 * GRAIN);
    }

    #[test]
    fn neighbours_that_are_free_join_and_the_top_grows_from_them() {
        let mut s = stretch();
        let now = Instant::now();
        (0..4).for_each(|_| assert!(s.take(GRAIN).is_some()));
        for i in [1, 3, 2] {
            s.give(i * GRAIN, GRAIN, now);
        }
        assert_eq!(s.free.len(), 1);
        assert_eq!(s.take(5 * GRAIN).unwrap().0, GRAIN);
        assert!(s.free.is_empty() && s.top == 6 * GRAIN);
    }

    #[test]
    fn what_was_written_is_not_called_zeros_until_it_was_given_back() {
        let mut s = stretch();
        let size = 8 * GRAIN;
        assert_eq!(s.take(size), Some((0, true)));
        bytes(&s, 0, size).fill(7);
        s.give(0, size, Instant::now());
        assert_eq!(s.take(size), Some((0, false)));
        let early = Instant::now();
        s.give(0, size, Instant::now());
        s.purge(early.checked_sub(WAIT));
        assert_eq!(s.take(size), Some((0, false)), "nothing had waited for long");
        s.give(0, size, Instant::now());
        s.purge(Some(Instant::now()));
        assert_eq!(s.take(size), Some((0, true)));
        assert!(bytes(&s, 0, size).iter().all(|b| *b == 0));
    }

    #[test]
    fn a_stretch_that_is_full_gives_nothing_and_goes_on() {
        let mut s = stretch();
        assert!(s.take((1 << 28) + 1).is_none() && s.take(usize::MAX).is_none());
        let at = s.take(1 << 28).unwrap().0;
        assert!(s.take(1).is_none());
        s.give(at, 1 << 28, Instant::now());
        assert_eq!(s.take(GRAIN).unwrap().0, 0);
    }

    #[test]
    fn blocks_never_overlap() {
        let mut s = stretch();
        let mut held: Vec<(usize, usize)> = vec![];
        let mut random = 12345u64;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let pick = (random >> 33) as usize;
            if held.len() > 60 || (pick.is_multiple_of(3) && !held.is_empty()) {
                let (at, size) = held.swap_remove(pick % held.len());
                s.give(at, size, Instant::now());
            } else {
                let size = 1 + pick % (40 * GRAIN);
                let at = s.take(size).unwrap().0;
                assert!(held.iter().all(|(a, n)| at + size <= *a || a + n <= at));
                held.push((at, size));
            }
        }
        held.drain(..).for_each(|(at, size)| s.give(at, size, Instant::now()));
        assert_eq!((s.free.len(), s.free[&0].len), (1, s.top));
    }
}
