//! The weighted key-value recurrence of RWKV-4 (Peng et al. 2023, equations 16 and 19), in its stable form: sums are
//! kept as multiples of `e^p` with `p` the largest exponent so far (appendix D).

use super::{BLOCK, CHUNK, Part, Shared, Task, cell, run_parts, save, sum_parts};
use crate::simd::Simd;

/// `y_t = (sum over i < t of e^{k_i - (t - 1 - i) w} v_i + e^{u + k_t} v_t) / (the same without v)`, for each channel.
#[derive(Clone, Copy)]
pub struct Wkv<'a> {
    /// `(B, T, D)`.
    pub sizes: (usize, usize, usize),
    /// `[D]`: how fast the past fades, `w >= 0`.
    pub w: &'a [f32],
    /// `[D]`: what is added to the present's key.
    pub u: &'a [f32],
    /// `[B, T, D]`.
    pub k: &'a [f32],
    /// `[B, T, D]`.
    pub v: &'a [f32],
}

/// Where the gradients go, shaped as the numbers of [`Wkv`]; overwritten.
pub struct WkvGrads<'a> {
    pub w: &'a mut [f32],
    pub u: &'a mut [f32],
    pub k: &'a mut [f32],
    pub v: &'a mut [f32],
}

/// An exponent below all others.
const NOTHING: f32 = -1e38;

impl Wkv<'_> {
    /// Floats of the states that the forward pass keeps for the backward pass, `[B, ceil(T / 32), 3, D]`.
    pub fn starts_len(&self) -> usize {
        let (batch, seq, d) = self.sizes;
        batch * seq.div_ceil(CHUNK) * 3 * d
    }

    /// The state of a batch that has seen nothing, `[B, 3, D]`: sums with and without v, and their common exponent.
    pub fn empty_state(&self) -> Vec<f32> {
        let (batch, _, d) = self.sizes;
        let row = [0.0, 0.0, NOTHING].into_iter().flat_map(|x| std::iter::repeat_n(x, d));
        std::iter::repeat_n(row, batch).flatten().collect()
    }

    fn check(&self, what: &str, more: &[(&str, usize, usize)]) {
        let (batch, seq, d) = self.sizes;
        let all = batch * seq * d;
        let own = [("w", self.w.len(), d), ("u", self.u.len(), d), ("k", self.k.len(), all), ("v", self.v.len(), all)];
        for (name, len, want) in own.iter().chain(more) {
            assert_eq!(len, want, "{what}: {name} has {len} floats, [{batch}, {seq}, {d}] implies {want}");
        }
    }
}

/// Sums `a e^p` with and `b e^p` without v.
#[derive(Clone, Copy)]
struct State<V> {
    a: V,
    b: V,
    p: V,
}

impl<V: Copy> State<V> {
    #[inline(always)]
    fn load<S: Simd<V = V>>(s: S, x: &[f32], i: usize) -> Self {
        State { a: s.at(x, i), b: s.at(x, BLOCK + i), p: s.at(x, 2 * BLOCK + i) }
    }

    #[inline(always)]
    fn store<S: Simd<V = V>>(self, s: S, x: &mut [f32], i: usize) {
        s.put(x, i, self.a);
        s.put(x, BLOCK + i, self.b);
        s.put(x, 2 * BLOCK + i, self.p);
    }

    /// With `e^k (v, 1)` added.
    #[inline(always)]
    fn plus<S: Simd<V = V>>(self, s: S, k: V, v: V) -> Self {
        let p = s.max(self.p, k);
        let (old, new) = (s.exp(s.sub(self.p, p)), s.exp(s.sub(k, p)));
        State { a: s.fma(old, self.a, s.mul(new, v)), b: s.fma(old, self.b, new), p }
    }

    /// A step later.
    #[inline(always)]
    fn faded<S: Simd<V = V>>(self, s: S, w: V) -> Self {
        State { p: s.sub(self.p, w), ..self }
    }
}

/// Runs the recurrence from `state` ([`Wkv::empty_state`], or that of the sequence so far), which becomes the state
/// after the last step. The states at the start of each chunk go to `starts` ([`Wkv::starts_len`]) unless it is empty.
pub fn wkv_forward(wkv: &Wkv, state: &mut [f32], y: &mut [f32], starts: &mut [f32]) {
    let (batch, _, d) = wkv.sizes;
    let kept = if starts.is_empty() { 0 } else { wkv.starts_len() };
    let more = [("state", state.len(), batch * 3 * d), ("y", y.len(), wkv.k.len()), ("starts", starts.len(), kept)];
    wkv.check("wkv_forward", &more);
    let task = Forward { wkv, state: Shared::new(state, d), y: Shared::new(y, d), starts: Shared::new(starts, d) };
    run_parts(&task, batch, d);
}

struct Forward<'a> {
    wkv: &'a Wkv<'a>,
    state: Shared,
    y: Shared,
    starts: Shared,
}

impl Task for Forward<'_> {
    fn room(&self) -> usize {
        3 * BLOCK
    }

    #[inline(always)]
    fn run<S: Simd>(&self, s: S, p: Part, room: &mut [f32]) {
        let (wkv, (_, seq, d)) = (self.wkv, self.wkv.sizes);
        room.fill(0.0);
        for j in 0..3 {
            // SAFETY: the parts of all tasks are disjoint, and this one lives to the end of the line.
            room[j * BLOCK..][..p.len].copy_from_slice(unsafe { self.state.part(p, p.b * 3 + j) });
        }
        for t in 0..seq {
            let row = p.b * seq + t;
            if t % CHUNK == 0 {
                let chunk = p.b * seq.div_ceil(CHUNK) + t / CHUNK;
                for j in 0..3 {
                    // SAFETY: as above.
                    let to = unsafe { self.starts.part(p, chunk * 3 + j) };
                    let len = to.len();
                    to.copy_from_slice(&room[j * BLOCK..][..len]);
                }
            }
            // SAFETY: as above, until the step ends.
            let y = unsafe { self.y.part(p, row) };
            for i in (0..p.len).step_by(S::LANES) {
                let (k, v) = (cell(s, p, wkv.k, (row, d), i), cell(s, p, wkv.v, (row, d), i));
                let (w, u) = (cell(s, p, wkv.w, (0, d), i), cell(s, p, wkv.u, (0, d), i));
                let state = State::load(s, room, i);
                let now = state.plus(s, s.add(u, k), v);
                save(s, y, i, s.div(now.a, now.b));
                state.faded(s, w).plus(s, k, v).store(s, room, i);
            }
        }
        for j in 0..3 {
            // SAFETY: as above.
            unsafe { self.state.part(p, p.b * 3 + j) }.copy_from_slice(&room[j * BLOCK..][..p.len]);
        }
    }
}

/// The gradients of [`wkv_forward`] from the states that it kept, for the gradient `dy [B, T, D]` of its result.
pub fn wkv_backward(wkv: &Wkv, starts: &[f32], dy: &[f32], grads: &mut WkvGrads) {
    let ((batch, _, d), all) = (wkv.sizes, wkv.k.len());
    let more = [
        ("starts", starts.len(), wkv.starts_len()),
        ("dy", dy.len(), all),
        ("the gradient of w", grads.w.len(), d),
        ("the gradient of u", grads.u.len(), d),
        ("the gradient of k", grads.k.len(), all),
        ("the gradient of v", grads.v.len(), all),
    ];
    wkv.check("wkv_backward", &more);
    let (mut dw, mut du) = (vec![0.0; batch * d], vec![0.0; batch * d]);
    let task = Backward {
        wkv,
        starts,
        dy,
        dk: Shared::new(grads.k, d),
        dv: Shared::new(grads.v, d),
        dw: Shared::new(&mut dw, d),
        du: Shared::new(&mut du, d),
    };
    run_parts(&task, batch, d);
    sum_parts(&dw, grads.w);
    sum_parts(&du, grads.u);
}

struct Backward<'a> {
    wkv: &'a Wkv<'a>,
    starts: &'a [f32],
    dy: &'a [f32],
    dk: Shared,
    dv: Shared,
    dw: Shared,
    du: Shared,
}

impl Task for Backward<'_> {
    fn room(&self) -> usize {
        (3 * CHUNK + 5) * BLOCK
    }

    #[inline(always)]
    fn run<S: Simd>(&self, s: S, p: Part, room: &mut [f32]) {
        let (wkv, (_, seq, d)) = (self.wkv, self.wkv.sizes);
        room.fill(0.0);
        let (states, rest) = room.split_at_mut(3 * CHUNK * BLOCK);
        let (carry, sums) = rest.split_at_mut(3 * BLOCK);
        carry[2 * BLOCK..].fill(NOTHING);
        for chunk in (0..seq.div_ceil(CHUNK)).rev() {
            let steps = chunk * CHUNK..seq.min((chunk + 1) * CHUNK);
            for j in 0..3 {
                let start = p.of(self.starts, (p.b * seq.div_ceil(CHUNK) + chunk) * 3 + j, d);
                states[j * BLOCK..][..p.len].copy_from_slice(start);
            }
            for (at, t) in (1..).zip(steps.start + 1..steps.end) {
                let row = p.b * seq + t - 1;
                let (before, after) = states[(at - 1) * 3 * BLOCK..].split_at_mut(3 * BLOCK);
                for i in (0..p.len).step_by(S::LANES) {
                    let (k, v) = (cell(s, p, wkv.k, (row, d), i), cell(s, p, wkv.v, (row, d), i));
                    let w = cell(s, p, wkv.w, (0, d), i);
                    State::load(s, before, i).faded(s, w).plus(s, k, v).store(s, after, i);
                }
            }
            for t in steps.rev() {
                self.back(s, p, &states[t % CHUNK * 3 * BLOCK..][..3 * BLOCK], (carry, sums), t);
            }
        }
        let (dw, du) = sums.split_at(BLOCK);
        // SAFETY: the parts of all tasks are disjoint, and these live to the end of the task.
        let (to_w, to_u) = unsafe { (self.dw.part(p, p.b), self.du.part(p, p.b)) };
        to_w.copy_from_slice(&dw[..p.len]);
        to_u.copy_from_slice(&du[..p.len]);
    }
}

impl Backward<'_> {
    /// Step `t` from the state before it. `carry` is the gradient of the state after it, a multiple of `e^p` as the
    /// states are, and becomes that of the state before it.
    #[inline(always)]
    fn back<S: Simd>(&self, s: S, p: Part, before: &[f32], (carry, sums): (&mut [f32], &mut [f32]), t: usize) {
        let (wkv, (_, seq, d)) = (self.wkv, self.wkv.sizes);
        let row = p.b * seq + t;
        // SAFETY: the parts of all tasks are disjoint, and these live until the step ends.
        let (to_k, to_v) = unsafe { (self.dk.part(p, row), self.dv.part(p, row)) };
        for i in (0..p.len).step_by(S::LANES) {
            let at = (row, d);
            let (k, v, dy) = (cell(s, p, wkv.k, at, i), cell(s, p, wkv.v, at, i), cell(s, p, self.dy, at, i));
            let (w, u) = (cell(s, p, wkv.w, (0, d), i), cell(s, p, wkv.u, (0, d), i));
            let (state, after) = (State::load(s, before, i), State::load(s, carry, i));
            let bonus = s.add(u, k);
            let now = state.plus(s, bonus, v);
            // The gradient of the sum with v is g e^-q, of that without it -g y e^-q, with q = now.p.
            let (y, g) = (s.div(now.a, now.b), s.div(dy, now.b));
            let share = s.mul(g, s.exp(s.sub(bonus, now.p)));
            let late = s.exp(s.add(k, after.p));
            let for_u = s.mul(share, s.sub(v, y));
            save(s, to_v, i, s.fma(late, after.a, share));
            save(s, to_k, i, s.fma(late, s.fma(after.a, v, after.b), for_u));
            s.put(sums, BLOCK + i, s.add(s.at(sums, BLOCK + i), for_u));
            // The state after is e^-w times the one before, and this step's.
            let later = after.faded(s, w);
            let fade = s.exp(s.add(later.p, state.p));
            let moved = s.mul(fade, s.fma(later.a, state.a, s.mul(later.b, state.b)));
            s.put(sums, i, s.sub(s.at(sums, i), moved));
            let q = s.sub(s.zero(), now.p);
            let top = s.max(later.p, q);
            let (old, new) = (s.exp(s.sub(later.p, top)), s.mul(g, s.exp(s.sub(q, top))));
            let a = s.fma(old, later.a, new);
            let b = s.sub(s.mul(old, later.b), s.mul(new, y));
            State { a, b, p: top }.store(s, carry, i);
        }
    }
}
