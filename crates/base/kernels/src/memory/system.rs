//! Addresses and memory from the operating system.

/// Reserves `len` addresses that take no memory and may not be touched yet.
#[cfg(all(target_os = "linux", not(miri)))]
pub fn reserve(len: usize) -> Option<usize> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the system's choice.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) };
    (base != libc::MAP_FAILED).then(|| base.expose_provenance())
}

/// Makes reserved addresses memory that holds zeros.
#[cfg(all(target_os = "linux", not(miri)))]
pub fn open(at: usize, len: usize) -> bool {
    // SAFETY: the addresses are reserved and nobody uses them yet.
    unsafe { libc::mprotect(std::ptr::with_exposed_provenance_mut(at), len, libc::PROT_READ | libc::PROT_WRITE) == 0 }
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
pub fn open(_: usize, _: usize) -> bool {
    false
}

#[cfg(not(all(target_os = "linux", not(miri))))]
pub fn give_back(_: usize, _: usize) -> bool {
    false
}
