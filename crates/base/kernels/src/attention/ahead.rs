//! Asking for memory before it is needed. The rows of one head lie far apart, which defeats the hardware's own
//! foresight; so a task touches, while it computes, what it and the next task will read and write.

use crate::gemm::{Mat, Out};
use crate::simd::Simd;

/// Rows to be touched, evenly spread over a number of calls.
#[derive(Default)]
pub struct Ahead {
    lists: Vec<Rows>,
    /// The next row: which list, which row of it.
    next: (usize, usize),
    per_call: f32,
    due: f32,
}

struct Rows {
    ptr: *const f32,
    count: usize,
    width: usize,
    stride: usize,
}

impl Ahead {
    pub fn read(&mut self, rows: Mat) {
        self.lists.push(Rows { ptr: rows.data.as_ptr(), count: rows.rows, width: rows.cols, stride: rows.row_stride });
    }

    pub fn write(&mut self, to: Out, (count, width): (usize, usize)) {
        self.lists.push(Rows { ptr: to.ptr, count, width, stride: to.stride });
    }

    /// Spreads all rows over `calls` of [`Ahead::advance`].
    pub fn spread(&mut self, calls: usize) {
        let rows: usize = self.lists.iter().map(|list| list.count).sum();
        self.per_call = rows as f32 / calls.max(1) as f32;
    }

    #[inline(always)]
    pub fn advance<S: Simd>(&mut self, s: S) {
        self.due += self.per_call;
        while self.due >= 1.0 {
            self.due -= 1.0;
            let Some(list) = self.lists.get(self.next.0) else { return };
            let row = list.ptr.wrapping_add(self.next.1 * list.stride);
            for i in (0..list.width).step_by(16) {
                s.prefetch(row.wrapping_add(i));
            }
            s.prefetch(row.wrapping_add(list.width - 1));
            self.next.1 += 1;
            if self.next.1 >= list.count {
                self.next = (self.next.0 + 1, 0);
            }
        }
    }
}
