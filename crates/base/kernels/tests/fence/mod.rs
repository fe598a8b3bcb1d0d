//! An allocator that puts every slice of numbers right beside memory that may not be touched, and under it all tests.
//!
//! A read or write just outside a kernel's operand ends the process, at every instruction set that the tests run. What
//! was never written reads as not-a-number. A kernel's own working memory lies in larger slices; a build with debug
//! assertions checks its ends too.

#![expect(clippy::duplicate_mod, reason = "every file of tests brings what they share")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;

#[path = "../activation.rs"]
mod activation;
#[path = "../attention.rs"]
mod attention;
#[path = "../attention_half.rs"]
mod attention_half;
#[path = "../experts.rs"]
mod experts;
#[path = "../ffn.rs"]
mod ffn;
#[path = "../gemm.rs"]
mod gemm;
#[path = "../linear.rs"]
mod linear;
#[path = "../listed.rs"]
mod listed;
#[path = "../logic.rs"]
mod logic;
#[path = "../losses.rs"]
mod losses;
#[path = "../min_hash.rs"]
mod min_hash;
#[path = "../nf4.rs"]
mod nf4;
#[path = "../norm.rs"]
mod norm;
#[path = "../optim.rs"]
mod optim;
#[path = "../pointwise.rs"]
mod pointwise;
#[path = "../precision.rs"]
mod precision;
#[path = "../quant.rs"]
mod quant;
#[path = "../recurrent.rs"]
mod recurrent;
#[path = "../scan.rs"]
mod scan;
#[path = "../sizes.rs"]
mod sizes;
#[path = "../sizes_layers.rs"]
mod sizes_layers;

/// Which end of a slice touches the fence; there is one at the other end too, up to a page away.
#[expect(dead_code, reason = "each of the two programs has one of them")]
pub enum End {
    First,
    Last,
}

pub struct Fence(pub End);

fn page() -> usize {
    // SAFETY: it only asks.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// In the memory around a slice and at first in it: a not-a-number.
const UNWRITTEN: u8 = 0xFF;

/// Slices of numbers (`f32`, `u32`, `u16`, `i8`) have fences; all else is left to the system.
fn is_fenced(layout: Layout) -> bool {
    layout.align() <= align_of::<f32>() && layout.size() > 0
}

/// Bytes between the two fences.
fn room(layout: Layout) -> usize {
    layout.size().next_multiple_of(page())
}

impl Fence {
    /// Bytes from the first fence to the slice: less than a page, as many as the alignment allows.
    fn before(&self, layout: Layout) -> usize {
        match self.0 {
            End::First => 0,
            End::Last => (room(layout) - layout.size()) / layout.align() * layout.align(),
        }
    }
}

// SAFETY: memory that is fenced is mapped for one slice alone, as large and aligned as was asked (a page is a multiple
// of the alignment), and unmapped as a whole; the rest is passed on to the system's allocator, by a rule of the layout alone.
unsafe impl GlobalAlloc for Fence {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !is_fenced(layout) {
            // SAFETY: passed on.
            return unsafe { System.alloc(layout) };
        }
        let (room, page, flags) = (room(layout), page(), libc::MAP_PRIVATE | libc::MAP_ANON);
        // SAFETY: a new mapping, of which the part between the first and the last page is opened and filled.
        unsafe {
            let all = libc::mmap(ptr::null_mut(), room + 2 * page, libc::PROT_NONE, flags, -1, 0);
            if all == libc::MAP_FAILED {
                return ptr::null_mut();
            }
            let first = all.cast::<u8>().add(page);
            if libc::mprotect(first.cast(), room, libc::PROT_READ | libc::PROT_WRITE) != 0 {
                return ptr::null_mut();
            }
            first.write_bytes(UNWRITTEN, room);
            first.add(self.before(layout))
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: passed on; what was allocated may be written.
        unsafe {
            let slice = self.alloc(layout);
            if !slice.is_null() {
                slice.write_bytes(0, layout.size());
            }
            slice
        }
    }

    unsafe fn dealloc(&self, slice: *mut u8, layout: Layout) {
        if !is_fenced(layout) {
            // SAFETY: passed on.
            return unsafe { System.dealloc(slice, layout) };
        }
        let (room, page, before) = (room(layout), page(), self.before(layout));
        // SAFETY: `alloc` put the slice `before` bytes into its room, which may be read as a whole.
        unsafe {
            let first = slice.sub(before);
            let around = [(first, before), (slice.add(layout.size()), room - before - layout.size())];
            for (part, len) in around {
                if std::slice::from_raw_parts(part, len).iter().any(|byte| *byte != UNWRITTEN) {
                    let text = b"a slice was written outside its ends\n";
                    libc::write(2, text.as_ptr().cast(), text.len());
                    libc::abort();
                }
            }
            libc::munmap(first.sub(page).cast(), room + 2 * page);
        }
    }
}

#[test]
fn every_file_of_tests_is_here() {
    // The programs with an allocator of their own.
    const ALONE: [&str; 3] = ["attention_memory", "fence_first", "fence_last"];
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for entry in std::fs::read_dir(folder).expect("the tests' folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name");
        let here = include_str!("mod.rs").contains(&format!("\nmod {name};\n"));
        assert!(path.is_dir() || here || ALONE.contains(&name), "the tests of {name}.rs run without fences");
    }
}

#[test]
fn a_read_beside_a_slice_ends_the_process() {
    let slice = Box::new([1.0f32; 5]);
    let beside = match crate::ALLOCATOR.0 {
        End::First => slice.as_ptr().wrapping_sub(1),
        End::Last => slice.as_ptr().wrapping_add(5),
    };
    for (at, ends) in [(slice.as_ptr(), false), (beside, true)] {
        let mut status = 0;
        // SAFETY: the child reads a float, which may end it, and nothing else.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::signal(libc::SIGSEGV, libc::SIG_DFL);
                libc::signal(libc::SIGBUS, libc::SIG_DFL);
                libc::_exit(i32::from(at.read_volatile() != 1.0));
            }
            assert_eq!(libc::waitpid(child, &mut status, 0), child);
        }
        assert_eq!(libc::WIFSIGNALED(status), ends, "status {status}");
        assert!(ends || status == 0, "status {status}");
    }
}
