//! Addresses and memory from the operating system.

/// A large page, as x86-64 and aarch64 have them.
#[cfg(all(target_os = "linux", not(miri)))]
const LARGE_PAGE: usize = 2 << 20;

/// Reserves `len` addresses, from the beginning of a large page, that take no memory and may not be touched yet.
#[cfg(all(target_os = "linux", not(miri)))]
pub fn reserve(len: usize) -> Option<usize> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the system's choice.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), len + LARGE_PAGE, libc::PROT_NONE, flags, -1, 0) };
    (base != libc::MAP_FAILED).then(|| base.expose_provenance().next_multiple_of(LARGE_PAGE))
}

/// Makes reserved addresses memory that holds zeros; with `large` in large pages where the system has them to give: each
/// pass over large blocks needs the addresses of 512 times fewer pages.
#[cfg(all(target_os = "linux", not(miri)))]
pub fn open(at: usize, len: usize, large: bool) -> bool {
    let start = std::ptr::with_exposed_provenance_mut(at);
    // SAFETY: the addresses are reserved and nobody uses them yet. Large pages are a wish, whose refusal changes nothing.
    unsafe {
        let opened = libc::mprotect(start, len, libc::PROT_READ | libc::PROT_WRITE) == 0;
        if opened && large {
            libc::madvise(start, len, libc::MADV_HUGEPAGE);
        }
        opened
    }
}

/// Gives memory back; it holds zeros from then on.
#[cfg(all(target_os = "linux", not(miri)))]
pub fn give_back(at: usize, len: usize) -> bool {
    // SAFETY: nobody uses these addresses.
    unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(at), len, libc::MADV_DONTNEED) == 0 }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
pub fn reserve(_: usize) -> Option<usize> {
    None
}

#[cfg(not(all(target_os = "linux", not(miri))))]
pub fn open(_: usize, _: usize, _: bool) -> bool {
    false
}

#[cfg(not(all(target_os = "linux", not(miri))))]
pub fn give_back(_: usize, _: usize) -> bool {
    false
}
