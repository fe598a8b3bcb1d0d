//! All tests with memory that may not be touched right before every slice.
#![cfg(all(unix, not(miri)))]
mod fence;

#[global_allocator]
static ALLOCATOR: fence::Fence = fence::Fence(fence::End::First);
