//! Work that waits for something else than this machine's cores, on more threads than there are cores.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::Builder;

use cupola_artifact::{Context, Result};

/// Bytes of stack of a waiting thread.
const STACK_BYTES: usize = 1 << 20;

/// How many documents of a pass may wait at a time, over all its parts; and whether an error ended all waiting.
pub struct Waiting {
    free: Mutex<usize>,
    freed: Condvar,
    at_a_time: usize,
    stopped: AtomicBool,
}

impl Waiting {
    /// So many at a time.
    pub fn new(at_a_time: usize) -> Self {
        let at_a_time = at_a_time.max(1);
        Self { free: Mutex::new(at_a_time), freed: Condvar::new(), at_a_time, stopped: AtomicBool::new(false) }
    }

    /// Does `work` with each item; the results in the items' order. The first error ends it, here and in all other parts.
    pub fn each<T: Send, R: Send>(&self, items: &mut [T], work: impl Fn(&mut T) -> Result<R> + Sync) -> Result<Vec<R>> {
        let (count, next) = (items.len(), AtomicUsize::new(0));
        let items: Vec<Mutex<&mut T>> = items.iter_mut().map(Mutex::new).collect();
        let results: Mutex<Vec<Option<R>>> = Mutex::new((0..count).map(|_| None).collect());
        let error = Mutex::new(None);
        let one_after_the_other = || {
            while !self.stopped.load(Ordering::Relaxed) {
                let i = next.fetch_add(1, Ordering::Relaxed);
                let Some(item) = items.get(i) else { return };
                let result = self.one(|| work(&mut item.lock().unwrap_or_else(PoisonError::into_inner)));
                match result {
                    None => return,
                    Some(Ok(result)) => results.lock().unwrap_or_else(PoisonError::into_inner)[i] = Some(result),
                    Some(Err(e)) => {
                        self.stopped.store(true, Ordering::Relaxed);
                        self.freed.notify_all();
                        error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                    }
                }
            }
        };
        std::thread::scope(|scope| -> Result<()> {
            for _ in 0..self.at_a_time.min(count) {
                Builder::new()
                    .stack_size(STACK_BYTES)
                    .spawn_scoped(scope, one_after_the_other)
                    .context(|| "cannot start a thread that waits for a server".to_owned())
                    .inspect_err(|_| self.stopped.store(true, Ordering::Relaxed))?;
            }
            Ok(())
        })?;
        match error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(e) => Err(e),
            // What another part's error ended stays undone: fewer results than items.
            None => Ok(results.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect()),
        }
    }

    /// Does something when it is its turn; nothing after an error.
    fn one<R>(&self, work: impl FnOnce() -> R) -> Option<R> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 && !self.stopped.load(Ordering::Relaxed) {
            free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        if self.stopped.load(Ordering::Relaxed) {
            return None;
        }
        *free -= 1;
        drop(free);
        let result = work();
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.freed.notify_one();
        Some(result)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use std::time::Duration;

    use cupola_artifact::Error;

    use super::*;

    #[test]
    fn results_come_in_order_and_no_more_than_allowed_wait_at_a_time() {
        let waiting = Waiting::new(5);
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let part = || {
            let mut items: Vec<u64> = (0..20).collect();
            let doubled = waiting.each(&mut items, |i| {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(1 + 7 * *i % 5));
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(2 * *i)
            });
            assert_eq!(doubled.unwrap(), (0..20).map(|i| 2 * i).collect::<Vec<u64>>());
        };
        std::thread::scope(|scope| {
            scope.spawn(part);
            part();
        });
        assert_eq!(most.load(Ordering::SeqCst), 5);
    }

    #[test]
    fn an_error_ends_all_waiting() {
        let waiting = Waiting::new(2);
        let done = AtomicUsize::new(0);
        let error = waiting.each(&mut (0..1000).collect::<Vec<u64>>(), |i| {
            done.fetch_add(1, Ordering::SeqCst);
            if *i == 3 { Err(Error::failed("three")) } else { Ok(()) }
        });
        assert_eq!(error.unwrap_err().chain(), "three");
        assert!(done.load(Ordering::SeqCst) < 10);
        assert_eq!(waiting.each(&mut [1, 2], |_| Ok(())).unwrap().len(), 0);
    }
}
