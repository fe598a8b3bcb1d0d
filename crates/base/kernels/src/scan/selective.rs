//! Selective state spaces: Mamba (Gu and Dao 2023, algorithm 2), and with one decay per channel the recurrence of
//! Mamba-2 (Dao and Gu 2024, equation 1 with A a multiple of the identity).

use super::{BLOCK, CHUNK, Part, Shared, Task, cell, load, run_parts, save, softplus, sum_parts};
use crate::simd::Simd;

/// `h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t`, `y_t = (C_t · h_t + skip x_t) silu(z_t)`, for each channel of `D` with a
/// state of `N` numbers.
#[derive(Clone, Copy)]
pub struct SelectiveScan<'a> {
    /// `(B, T, D, N)`.
    pub sizes: (usize, usize, usize, usize),
    /// `[B, T, D]`.
    pub x: &'a [f32],
    /// `[B, T, D]`.
    pub dt: &'a [f32],
    /// Whether the step is `log(1 + e^dt)` instead of `dt`.
    pub softplus: bool,
    /// `[D, N]`, or `[D]` where a channel has one decay.
    pub a: &'a [f32],
    /// `[B, T, N]`.
    pub b: &'a [f32],
    /// `[B, T, N]`.
    pub c: &'a [f32],
    /// `[D]`; empty for 0.
    pub skip: &'a [f32],
    /// `[B, T, D]`; empty for no gate.
    pub z: &'a [f32],
}

/// Where the gradients go, shaped as the numbers of [`SelectiveScan`]; overwritten.
pub struct SelectiveGrads<'a> {
    pub x: &'a mut [f32],
    pub dt: &'a mut [f32],
    pub a: &'a mut [f32],
    pub b: &'a mut [f32],
    pub c: &'a mut [f32],
    pub skip: &'a mut [f32],
    pub z: &'a mut [f32],
}

impl SelectiveScan<'_> {
    /// Floats of the states that the forward pass keeps for the backward pass, `[B, ceil(T / 32), N, D]`.
    pub fn starts_len(&self) -> usize {
        let (batch, seq, d, n) = self.sizes;
        batch * seq.div_ceil(CHUNK) * n * d
    }

    /// Decays per channel: `N` or 1.
    fn decays(&self) -> usize {
        if self.a.len() == self.sizes.2 { 1 } else { self.sizes.3 }
    }

    fn check(&self, what: &str, more: &[(&str, usize, usize)]) {
        let (batch, seq, d, n) = self.sizes;
        let (all, states) = (batch * seq * d, batch * seq * n);
        assert!(n > 0, "{what}: a state of no numbers");
        let a = d * self.decays();
        let (skip, z) = (if self.skip.is_empty() { 0 } else { d }, if self.z.is_empty() { 0 } else { all });
        let own = [
            ("x", self.x.len(), all),
            ("dt", self.dt.len(), all),
            ("a", self.a.len(), a),
            ("b", self.b.len(), states),
            ("c", self.c.len(), states),
            ("skip", self.skip.len(), skip),
            ("z", self.z.len(), z),
        ];
        for (name, len, want) in own.iter().chain(more) {
            assert_eq!(len, want, "{what}: {name} has {len} floats, [{batch}, {seq}, {d}] x {n} implies {want}");
        }
    }

    /// The decays of a task's channels, `[decays, BLOCK]`, 0 beyond its end.
    #[inline(always)]
    fn put_decays(&self, p: Part, to: &mut [f32]) {
        let decays = self.decays();
        to.fill(0.0);
        for i in 0..p.len {
            for j in 0..decays {
                to[j * BLOCK + i] = self.a[(p.from + i) * decays + j];
            }
        }
    }

    #[inline(always)]
    fn step<S: Simd>(&self, s: S, dt: S::V) -> S::V {
        if self.softplus { softplus(s, dt) } else { dt }
    }
}

/// Runs the scan from `state [B, N, D]`, which becomes the state after the last step, so that one step at a time gives
/// the same. The states at the start of each chunk go to `starts` ([`SelectiveScan::starts_len`]) unless it is empty.
pub fn selective_scan_forward(scan: &SelectiveScan, state: &mut [f32], y: &mut [f32], starts: &mut [f32]) {
    let (batch, _, d, n) = scan.sizes;
    let kept = if starts.is_empty() { 0 } else { scan.starts_len() };
    let more = [("state", state.len(), batch * n * d), ("y", y.len(), scan.x.len()), ("starts", starts.len(), kept)];
    scan.check("selective_scan_forward", &more);
    let task = Forward { scan, state: Shared::new(state, d), y: Shared::new(y, d), starts: Shared::new(starts, d) };
    run_parts(&task, batch, d);
}

struct Forward<'a> {
    scan: &'a SelectiveScan<'a>,
    state: Shared,
    y: Shared,
    starts: Shared,
}

impl Task for Forward<'_> {
    fn room(&self) -> usize {
        (self.scan.decays() + self.scan.sizes.3) * BLOCK
    }

    #[inline(always)]
    fn run<S: Simd>(&self, s: S, p: Part, room: &mut [f32]) {
        let scan = self.scan;
        let (_, seq, d, n) = scan.sizes;
        let decays = scan.decays();
        let (a, h) = room.split_at_mut(decays * BLOCK);
        scan.put_decays(p, a);
        h.fill(0.0);
        for j in 0..n {
            // SAFETY: the parts of all tasks are disjoint, and this one lives to the end of the line.
            h[j * BLOCK..][..p.len].copy_from_slice(unsafe { self.state.part(p, p.b * n + j) });
        }
        for t in 0..seq {
            let row = p.b * seq + t;
            if t % CHUNK == 0 {
                let chunk = p.b * seq.div_ceil(CHUNK) + t / CHUNK;
                for j in 0..n {
                    // SAFETY: as above.
                    let to = unsafe { self.starts.part(p, chunk * n + j) };
                    let len = to.len();
                    to.copy_from_slice(&h[j * BLOCK..][..len]);
                }
            }
            let (b, c) = (&scan.b[row * n..][..n], &scan.c[row * n..][..n]);
            // SAFETY: as above.
            let y = unsafe { self.y.part(p, row) };
            for i in (0..p.len).step_by(S::LANES) {
                let x = cell(s, p, scan.x, (row, d), i);
                let dt = scan.step(s, cell(s, p, scan.dt, (row, d), i));
                let mut out = s.zero();
                if !scan.skip.is_empty() {
                    out = s.mul(cell(s, p, scan.skip, (0, d), i), x);
                }
                let dtx = s.mul(dt, x);
                let mut decay = s.exp(s.mul(dt, s.at(a, i)));
                for j in 0..n {
                    if j > 0 && decays > 1 {
                        decay = s.exp(s.mul(dt, s.at(a, j * BLOCK + i)));
                    }
                    let new = s.fma(decay, s.at(h, j * BLOCK + i), s.mul(dtx, s.splat(b[j])));
                    s.put(h, j * BLOCK + i, new);
                    out = s.fma(s.splat(c[j]), new, out);
                }
                if !scan.z.is_empty() {
                    let z = cell(s, p, scan.z, (row, d), i);
                    out = s.mul(out, s.mul(z, s.sigmoid(z)));
                }
                save(s, y, i, out);
            }
        }
        for j in 0..n {
            // SAFETY: as above.
            unsafe { self.state.part(p, p.b * n + j) }.copy_from_slice(&h[j * BLOCK..][..p.len]);
        }
    }
}

/// The gradients of [`selective_scan_forward`] for the gradient `dy [B, T, D]` of its result; `d_state [B, N, D]` is
/// the gradient of the last state and becomes that of the first.
pub fn selective_scan_backward(
    scan: &SelectiveScan,
    starts: &[f32],
    dy: &[f32],
    d_state: &mut [f32],
    grads: &mut SelectiveGrads,
) {
    let (batch, _, d, n) = scan.sizes;
    let more = [
        ("starts", starts.len(), scan.starts_len()),
        ("dy", dy.len(), scan.x.len()),
        ("d_state", d_state.len(), batch * n * d),
        ("the gradient of x", grads.x.len(), scan.x.len()),
        ("the gradient of dt", grads.dt.len(), scan.dt.len()),
        ("the gradient of a", grads.a.len(), scan.a.len()),
        ("the gradient of b", grads.b.len(), scan.b.len()),
        ("the gradient of c", grads.c.len(), scan.c.len()),
        ("the gradient of skip", grads.skip.len(), scan.skip.len()),
        ("the gradient of z", grads.z.len(), scan.z.len()),
    ];
    scan.check("selective_scan_backward", &more);
    let (decays, blocks) = (scan.decays(), d.div_ceil(BLOCK));
    // Sums over channels by block, sums over the batch by row.
    let mut db = vec![0.0; blocks * scan.b.len()];
    let mut dc = vec![0.0; blocks * scan.c.len()];
    let mut da = vec![0.0; batch * decays * d];
    let mut d_skip = vec![0.0; batch * scan.skip.len()];
    let task = Backward {
        scan,
        starts,
        dy,
        d_state: Shared::new(d_state, d),
        dx: Shared::new(grads.x, d),
        ddt: Shared::new(grads.dt, d),
        dz: Shared::new(grads.z, d),
        da: Shared::new(&mut da, d),
        d_skip: Shared::new(&mut d_skip, d),
        db: Shared::new(&mut db, n),
        dc: Shared::new(&mut dc, n),
    };
    run_parts(&task, batch, d);
    sum_parts(&db, grads.b);
    sum_parts(&dc, grads.c);
    if !scan.skip.is_empty() {
        sum_parts(&d_skip, grads.skip);
    }
    let mut by_decay = vec![0.0; decays * d];
    sum_parts(&da, &mut by_decay);
    for (i, grad) in grads.a.iter_mut().enumerate() {
        *grad = by_decay[i % decays * d + i / decays];
    }
}

struct Backward<'a> {
    scan: &'a SelectiveScan<'a>,
    starts: &'a [f32],
    dy: &'a [f32],
    d_state: Shared,
    dx: Shared,
    ddt: Shared,
    dz: Shared,
    da: Shared,
    d_skip: Shared,
    db: Shared,
    dc: Shared,
}

/// A chunk's states and decays, and what is summed up on the way back.
struct Room<'a> {
    /// `[decays, BLOCK]`.
    a: &'a mut [f32],
    /// `[CHUNK + 1, N, BLOCK]`: the state before each step, and after the last.
    h: &'a mut [f32],
    /// `[CHUNK, decays, BLOCK]`: `exp(dt A)`.
    decay: &'a mut [f32],
    /// `[CHUNK, BLOCK]`: the result before the gate.
    y: &'a mut [f32],
    /// `[N, BLOCK]`: the gradient of the state.
    carry: &'a mut [f32],
    /// `[decays, BLOCK]`.
    da: &'a mut [f32],
    /// `[BLOCK]`.
    d_skip: &'a mut [f32],
    /// `[2, N, 16]`: this step's sums for B and C, one per lane.
    sums: &'a mut [f32],
}

const LANES: usize = crate::simd::MAX_LANES;

impl<'a> Room<'a> {
    fn sizes(n: usize, decays: usize) -> [usize; 8] {
        let b = BLOCK;
        [decays * b, (CHUNK + 1) * n * b, CHUNK * decays * b, CHUNK * b, n * b, decays * b, b, 2 * n * LANES]
    }

    fn new(room: &'a mut [f32], n: usize, decays: usize) -> Self {
        let mut rest = room;
        let [a, h, decay, y, carry, da, d_skip, sums] =
            Self::sizes(n, decays).map(|len| rest.split_off_mut(..len).unwrap_or_default());
        Room { a, h, decay, y, carry, da, d_skip, sums }
    }
}

impl Task for Backward<'_> {
    fn room(&self) -> usize {
        Room::sizes(self.scan.sizes.3, self.scan.decays()).iter().sum()
    }

    #[inline(always)]
    fn run<S: Simd>(&self, s: S, p: Part, room: &mut [f32]) {
        let (_, seq, _, n) = self.scan.sizes;
        let decays = self.scan.decays();
        let mut r = Room::new(room, n, decays);
        self.scan.put_decays(p, r.a);
        for zeroed in [&mut *r.carry, r.da, r.d_skip, r.h] {
            zeroed.fill(0.0);
        }
        for j in 0..n {
            // SAFETY: the parts of all tasks are disjoint, and this one lives to the end of the line.
            r.carry[j * BLOCK..][..p.len].copy_from_slice(unsafe { self.d_state.part(p, p.b * n + j) });
        }
        for chunk in (0..seq.div_ceil(CHUNK)).rev() {
            let steps = chunk * CHUNK..seq.min((chunk + 1) * CHUNK);
            self.again(s, p, &mut r, steps.clone());
            for t in steps.rev() {
                self.back(s, p, &mut r, t);
            }
        }
        for j in 0..n {
            // SAFETY: as above.
            unsafe { self.d_state.part(p, p.b * n + j) }.copy_from_slice(&r.carry[j * BLOCK..][..p.len]);
        }
        for j in 0..decays {
            // SAFETY: as above.
            unsafe { self.da.part(p, p.b * decays + j) }.copy_from_slice(&r.da[j * BLOCK..][..p.len]);
        }
        // SAFETY: as above.
        let d_skip = unsafe { self.d_skip.part(p, p.b) };
        let len = d_skip.len();
        d_skip.copy_from_slice(&r.d_skip[..len]);
    }
}

impl Backward<'_> {
    /// Computes a chunk's states again.
    #[inline(always)]
    fn again<S: Simd>(&self, s: S, p: Part, r: &mut Room, steps: std::ops::Range<usize>) {
        let scan = self.scan;
        let (_, seq, d, n) = scan.sizes;
        let decays = scan.decays();
        let chunk = p.b * seq.div_ceil(CHUNK) + steps.start / CHUNK;
        for j in 0..n {
            r.h[j * BLOCK..][..p.len].copy_from_slice(p.of(self.starts, chunk * n + j, d));
        }
        for (at, t) in steps.enumerate() {
            let row = p.b * seq + t;
            let (b, c) = (&scan.b[row * n..][..n], &scan.c[row * n..][..n]);
            let (before, after) = r.h[at * n * BLOCK..].split_at_mut(n * BLOCK);
            for i in (0..p.len).step_by(S::LANES) {
                let x = cell(s, p, scan.x, (row, d), i);
                let dt = scan.step(s, cell(s, p, scan.dt, (row, d), i));
                let mut out = s.mul(load(s, if scan.skip.is_empty() { &[] } else { p.of(scan.skip, 0, d) }, i), x);
                let dtx = s.mul(dt, x);
                for j in 0..decays {
                    s.put(r.decay, (at * decays + j) * BLOCK + i, s.exp(s.mul(dt, s.at(r.a, j * BLOCK + i))));
                }
                for j in 0..n {
                    let decay = s.at(r.decay, (at * decays + j.min(decays - 1)) * BLOCK + i);
                    let new = s.fma(decay, s.at(before, j * BLOCK + i), s.mul(dtx, s.splat(b[j])));
                    s.put(after, j * BLOCK + i, new);
                    out = s.fma(s.splat(c[j]), new, out);
                }
                s.put(r.y, at * BLOCK + i, out);
            }
        }
    }

    /// Step `t` on the way back.
    #[inline(always)]
    fn back<S: Simd>(&self, s: S, p: Part, r: &mut Room, t: usize) {
        let scan = self.scan;
        let (batch, seq, d, n) = scan.sizes;
        let (at, row, decays) = (t % CHUNK, p.b * seq + t, scan.decays());
        let (b, c) = (&scan.b[row * n..][..n], &scan.c[row * n..][..n]);
        let (before, after) = r.h[at * n * BLOCK..].split_at(n * BLOCK);
        r.sums.fill(0.0);
        // SAFETY: the parts of all tasks are disjoint; these live until the step ends.
        let (dx, ddt, dz) = unsafe { (self.dx.part(p, row), self.ddt.part(p, row), self.dz.part(p, row)) };
        for i in (0..p.len).step_by(S::LANES) {
            let (x, raw) = (cell(s, p, scan.x, (row, d), i), cell(s, p, scan.dt, (row, d), i));
            let (dt, mut dy) = (scan.step(s, raw), cell(s, p, self.dy, (row, d), i));
            if !scan.z.is_empty() {
                let z = cell(s, p, scan.z, (row, d), i);
                let sig = s.sigmoid(z);
                let slope = s.mul(sig, s.fma(z, s.sub(s.splat(1.0), sig), s.splat(1.0)));
                save(s, dz, i, s.mul(s.mul(dy, s.at(r.y, at * BLOCK + i)), slope));
                dy = s.mul(dy, s.mul(z, sig));
            }
            let dtx = s.mul(dt, x);
            let (mut step, mut d_dtx) = (s.zero(), s.zero());
            for j in 0..n {
                let (one, of) = (j * BLOCK + i, j.min(decays - 1));
                let decay = s.at(r.decay, (at * decays + of) * BLOCK + i);
                let grad = s.fma(s.splat(c[j]), dy, s.at(r.carry, one));
                let faded = s.mul(grad, decay);
                s.put(r.carry, one, faded);
                // The gradient of dt A.
                let power = s.mul(faded, s.at(before, one));
                step = s.fma(power, s.at(r.a, of * BLOCK + i), step);
                s.put(r.da, of * BLOCK + i, s.fma(power, dt, s.at(r.da, of * BLOCK + i)));
                d_dtx = s.fma(grad, s.splat(b[j]), d_dtx);
                let (for_b, for_c) = (j * LANES, (n + j) * LANES);
                s.put(r.sums, for_b, s.fma(grad, dtx, s.at(r.sums, for_b)));
                s.put(r.sums, for_c, s.fma(dy, s.at(after, one), s.at(r.sums, for_c)));
            }
            let mut for_x = s.mul(d_dtx, dt);
            if !scan.skip.is_empty() {
                for_x = s.fma(dy, cell(s, p, scan.skip, (0, d), i), for_x);
            }
            save(s, dx, i, for_x);
            s.put(r.d_skip, i, s.fma(dy, x, s.at(r.d_skip, i)));
            step = s.fma(d_dtx, x, step);
            save(s, ddt, i, if scan.softplus { s.mul(step, s.sigmoid(raw)) } else { step });
        }
        let own = Part { b: 0, from: 0, len: n };
        let block = p.from / BLOCK * batch * seq;
        // SAFETY: this row of this block is this task's alone.
        let (db, dc) = unsafe { (self.db.part(own, block + row), self.dc.part(own, block + row)) };
        for j in 0..n {
            db[j] = s.reduce_sum(s.at(r.sums, j * LANES));
            dc[j] = s.reduce_sum(s.at(r.sums, (n + j) * LANES));
        }
    }
}
