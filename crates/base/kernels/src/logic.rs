//! A probabilistic logic program that a text is read into, token by token: facts are told, and looked up as they are told or by
//! rules of two relations in a row. The program stands with the layer that uses it (`nn/src/logic.rs`).
//!
//! A sequence's beliefs lie one after another: what is told `[S, R·S]` (the value, the relation, and the constant that it is
//! for), the goal `[R·S]`, and whom the last tokens named, the latest first, `[SPAN - 1, S]`. A task goes through the time of one sequence.

use crate::simd::{self, Kernel, Simd, each_vector};
use rayon::prelude::*;

/// Tokens among which the one that names a goal's constant is looked for, the present one first.
pub const LOGIC_SPAN: usize = 4;

/// The program, and what neural predicates say of each token.
#[derive(Clone, Copy)]
pub struct LogicScan<'a> {
    /// `(B, T, S, R)`: sequences, tokens of each, constants, relations.
    pub sizes: (usize, usize, usize, usize),
    /// `[B, T, SPAN]`: how many tokens before stands the name of the constant that a token speaks of.
    pub back: &'a [f32],
    /// `[B, T, S]`: which constant it names.
    pub names: &'a [f32],
    /// `[B, T, R]`: which relation of that constant it speaks of: its goal.
    pub relations: &'a [f32],
    /// `[B, T]`: how likely it tells that the constant that it names is the value of the goal of the token before.
    pub tells: &'a [f32],
    /// `[R, R, R]`: how likely each relation is two others in a row, the one that is taken first before the other.
    pub rules: &'a [f32],
}

/// Where the gradients go, shaped as the numbers of [`LogicScan`]; overwritten.
pub struct LogicGrads<'a> {
    pub back: &'a mut [f32],
    pub names: &'a mut [f32],
    pub relations: &'a mut [f32],
    pub tells: &'a mut [f32],
    pub rules: &'a mut [f32],
}

impl LogicScan<'_> {
    /// Floats of a sequence's beliefs.
    pub fn beliefs_len(&self) -> usize {
        let (_, _, s, r) = self.sizes;
        (s + 1) * r * s + (LOGIC_SPAN - 1) * s
    }

    fn check(&self, what: &str, more: &[(&str, usize, usize)]) {
        let (b, t, s, r) = self.sizes;
        let n = b * t;
        let own = [
            ("back", self.back.len(), n * LOGIC_SPAN),
            ("names", self.names.len(), n * s),
            ("relations", self.relations.len(), n * r),
            ("tells", self.tells.len(), n),
            ("rules", self.rules.len(), r * r * r),
        ];
        assert!(s > 0 && r > 0, "{what}: {s} constants, {r} relations");
        for (name, len, want) in own.iter().chain(more) {
            assert_eq!(len, want, "{what}: {name} has {len} floats, [{b}, {t}], S = {s}, R = {r} implies {want}");
        }
    }
}

/// Goes on from `beliefs` `[B, beliefs_len]` (zeros before the first token), which become those after the last token. The
/// answers after each token go to y `[B, T, S]`, and all beliefs after each token to `kept` `[B, T, beliefs_len]` unless it is
/// empty.
pub fn logic_forward(scan: &LogicScan, beliefs: &mut [f32], y: &mut [f32], kept: &mut [f32]) {
    let ((b, t, s, _), len) = (scan.sizes, scan.beliefs_len());
    let all = if kept.is_empty() { 0 } else { b * t * len };
    let more = [("beliefs", beliefs.len(), b * len), ("y", y.len(), b * t * s), ("kept", kept.len(), all)];
    scan.check("logic_forward", &more);
    if t == 0 {
        return;
    }
    let level = simd::level();
    let keep: Vec<&mut [f32]> =
        if all == 0 { (0..b).map(|_| &mut [][..]).collect() } else { kept.chunks_mut(t * len).collect() };
    let tasks = beliefs.par_chunks_mut(len).zip(y.par_chunks_mut(t * s)).zip(keep).enumerate();
    tasks.for_each(|(row, ((beliefs, y), kept))| simd::run(level, Forward { scan, row, beliefs, y, kept }));
}

/// The gradients for `dy` `[B, T, S]`, for sequences that began with their first token; `kept` is what the forward pass kept.
pub fn logic_backward(scan: &LogicScan, kept: &[f32], dy: &[f32], grads: &mut LogicGrads) {
    let ((b, t, s, r), len) = (scan.sizes, scan.beliefs_len());
    let more = [
        ("kept", kept.len(), b * t * len),
        ("dy", dy.len(), b * t * s),
        ("d_back", grads.back.len(), b * t * LOGIC_SPAN),
        ("d_names", grads.names.len(), b * t * s),
        ("d_relations", grads.relations.len(), b * t * r),
        ("d_tells", grads.tells.len(), b * t),
        ("d_rules", grads.rules.len(), r * r * r),
    ];
    scan.check("logic_backward", &more);
    grads.rules.fill(0.0);
    if t == 0 {
        return;
    }
    let level = simd::level();
    let tokens = grads.back.par_chunks_mut(t * LOGIC_SPAN).zip(grads.names.par_chunks_mut(t * s));
    let tokens = tokens.zip(grads.relations.par_chunks_mut(t * r)).zip(grads.tells.par_chunks_mut(t)).enumerate();
    let of_rules: Vec<Vec<f32>> = tokens
        .map(|(row, (((back, names), relations), tells))| {
            let mut rules = vec![0.0; r * r * r];
            let grads = LogicGrads { back, names, relations, tells, rules: &mut rules };
            let (kept, dy) = (&kept[row * t * len..][..t * len], &dy[row * t * s..][..t * s]);
            simd::run(level, Backward { scan, row, kept, dy, grads });
            rules
        })
        .collect();
    for rules in of_rules {
        grads.rules.iter_mut().zip(rules).for_each(|(sum, x)| *sum += x);
    }
}

/// `y += a·x`
#[inline(always)]
fn add<S: Simd>(s: S, a: f32, x: &[f32], y: &mut [f32]) {
    let a = s.splat(a);
    each_vector!(x.len(), W, j => {
        s.set::<W>(y, j, s.fma(a, s.get::<W>(x, j, 0.0), s.get::<W>(y, j, 0.0)));
    });
}

#[inline(always)]
fn dot<S: Simd>(s: S, x: &[f32], y: &[f32]) -> f32 {
    let mut sum = s.zero();
    each_vector!(x.len(), W, j => {
        sum = s.fma(s.get::<W>(x, j, 0.0), s.get::<W>(y, j, 0.0), sum);
    });
    s.reduce_sum(sum)
}

/// `y = x·z`
#[inline(always)]
fn times<S: Simd>(s: S, x: &[f32], z: &[f32], y: &mut [f32]) {
    each_vector!(x.len(), W, j => {
        s.set::<W>(y, j, s.mul(s.get::<W>(x, j, 0.0), s.get::<W>(z, j, 0.0)));
    });
}

/// What is closer to 0 becomes 0: products of many small probabilities get so small that the processor takes a hundred times
/// as long for them, and matter to nobody.
const SMALL: f32 = 1e-15;

#[inline(always)]
fn clean<S: Simd>(s: S, x: &mut [f32]) {
    let small = s.splat(SMALL);
    each_vector!(x.len(), W, j => {
        let old = s.get::<W>(x, j, 0.0);
        let size = s.max(old, s.sub(s.zero(), old));
        s.set::<W>(x, j, s.select_less(size, small, s.zero(), old));
    });
}

/// Beliefs as their parts: what is told, the goal, and the last names.
fn parts(beliefs: &[f32], s: usize, rs: usize) -> [&[f32]; 3] {
    let (told, rest) = beliefs.split_at(s * rs);
    let (goal, recent) = rest.split_at(rs);
    [told, goal, recent]
}

fn parts_mut(beliefs: &mut [f32], s: usize, rs: usize) -> [&mut [f32]; 3] {
    let (told, rest) = beliefs.split_at_mut(s * rs);
    let (goal, recent) = rest.split_at_mut(rs);
    [told, goal, recent]
}

/// What a token asks of the program, and on the way to its answer.
struct Question {
    /// `[S]`: the constant that it speaks of.
    subject: Vec<f32>,
    /// `[R·S]`: which relation of which constant.
    asked: Vec<f32>,
    /// `[R·S]`: how likely nothing is told of it.
    untold: Vec<f32>,
    /// `[R·S]`: how likely it is left to the rules.
    open: Vec<f32>,
    /// `[R, R·S]`: for the relation of a rule that is taken last, which first relation of which constant.
    goals: Vec<f32>,
    /// `[R·S]`: that relation, of the value of the first.
    middle: Vec<f32>,
}

impl Question {
    fn new(s: usize, r: usize) -> Self {
        let [asked, untold, open, middle] = [(); 4].map(|()| vec![0.0; r * s]);
        Self { subject: vec![0.0; s], asked, untold, open, goals: vec![0.0; r * r * s], middle }
    }

    /// Of the token `at`, by what is told and by the names of the tokens before it.
    #[inline(always)]
    fn ask<S: Simd>(&mut self, v: S, scan: &LogicScan, at: usize, told: &[f32], recent: &[f32]) {
        let (_, _, s, r) = scan.sizes;
        let rs = r * s;
        self.subject.fill(0.0);
        let names = std::iter::once(&scan.names[at * s..][..s]).chain(recent.chunks(s));
        for (share, name) in scan.back[at * LOGIC_SPAN..].iter().zip(names) {
            add(v, *share, name, &mut self.subject);
        }
        clean(v, &mut self.subject);
        self.untold.fill(1.0);
        told.chunks(rs).for_each(|told| add(v, -1.0, told, &mut self.untold));
        self.asked.fill(0.0);
        for (relation, asked) in scan.relations[at * r..][..r].iter().zip(self.asked.chunks_mut(s)) {
            add(v, *relation, &self.subject, asked);
        }
        clean(v, &mut self.asked);
        times(v, &self.asked, &self.untold, &mut self.open);
        clean(v, &mut self.open);
        self.goals.fill(0.0);
        for (rules, open) in scan.rules.chunks(r * r).zip(self.open.chunks(s)) {
            for (first, rules) in rules.chunks(r).enumerate() {
                for (second, rule) in rules.iter().enumerate() {
                    add(v, *rule, open, &mut self.goals[second * rs + first * s..][..s]);
                }
            }
        }
        clean(v, &mut self.goals);
        for (second, goals) in self.goals.chunks(rs).enumerate() {
            for (x, told) in told.chunks(rs).enumerate() {
                self.middle[second * s + x] = dot(v, told, goals);
            }
        }
        clean(v, &mut self.middle);
    }
}

struct Forward<'a> {
    scan: &'a LogicScan<'a>,
    row: usize,
    beliefs: &'a mut [f32],
    y: &'a mut [f32],
    kept: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, v: S) {
        let (_, seq, s, r) = self.scan.sizes;
        let (rs, len) = (r * s, self.beliefs.len());
        let (mut question, mut replaced) = (Question::new(s, r), vec![0.0; rs]);
        for t in 0..seq {
            let at = self.row * seq + t;
            let [told, goal, recent] = parts_mut(self.beliefs, s, rs);
            let names = &self.scan.names[at * s..][..s];
            replaced.fill(0.0);
            add(v, self.scan.tells[at], goal, &mut replaced);
            clean(v, &mut replaced);
            for (told, name) in told.chunks_mut(rs).zip(names) {
                let name = v.splat(*name);
                each_vector!(rs, W, j => {
                    let old = v.get::<W>(told, j, 0.0);
                    v.set::<W>(told, j, v.fma(v.get::<W>(&replaced, j, 0.0), v.sub(name, old), old));
                });
            }
            clean(v, told);
            question.ask(v, self.scan, at, told, recent);
            for (y, told) in self.y[t * s..].iter_mut().zip(told.chunks(rs)) {
                *y = dot(v, told, &question.asked) + dot(v, told, &question.middle);
            }
            goal.copy_from_slice(&question.asked);
            recent.copy_within(..(LOGIC_SPAN - 2) * s, s);
            recent[..s].copy_from_slice(names);
            if !self.kept.is_empty() {
                self.kept[t * len..][..len].copy_from_slice(self.beliefs);
            }
        }
    }
}

struct Backward<'a> {
    scan: &'a LogicScan<'a>,
    row: usize,
    kept: &'a [f32],
    dy: &'a [f32],
    grads: LogicGrads<'a>,
}

impl Kernel for Backward<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, v: S) {
        let Self { scan, row, kept, dy, grads } = self;
        let (_, seq, s, r) = scan.sizes;
        let (rs, len) = (r * s, scan.beliefs_len());
        let (start, mut question) = (vec![0.0; len], Question::new(s, r));
        // The gradients of what is told and of the goal, after the token.
        let (mut d_told, mut d_goal) = (vec![0.0; s * rs], vec![0.0; rs]);
        let [mut value, mut first, mut open, mut replaced, mut asked] = [(); 5].map(|()| vec![0.0; rs]);
        let (mut goals, mut subject) = (vec![0.0; r * rs], vec![0.0; s]);
        grads.names.fill(0.0);
        for t in (0..seq).rev() {
            let at = row * seq + t;
            let [told, ..] = parts(&kept[t * len..][..len], s, rs);
            let before = if t == 0 { &start } else { &kept[(t - 1) * len..][..len] };
            let [told_before, goal, recent] = parts(before, s, rs);
            let (relations, tells) = (&scan.relations[at * r..][..r], scan.tells[at]);
            question.ask(v, scan, at, told, recent);
            // What was looked up: `value` is the gradient of each question that was put to what is told.
            value.fill(0.0);
            for ((told, d_told), d) in told.chunks(rs).zip(d_told.chunks_mut(rs)).zip(&dy[t * s..][..s]) {
                add(v, *d, told, &mut value);
                add(v, *d, &question.asked, d_told);
                add(v, *d, &question.middle, d_told);
            }
            clean(v, &mut value);
            goals.fill(0.0);
            for (second, d_goals) in goals.chunks_mut(rs).enumerate() {
                for (x, (told, d_told)) in told.chunks(rs).zip(d_told.chunks_mut(rs)).enumerate() {
                    let d = value[second * s + x];
                    add(v, d, told, d_goals);
                    add(v, d, &question.goals[second * rs..][..rs], d_told);
                }
            }
            clean(v, &mut goals);
            open.fill(0.0);
            for (head, (d_open, left)) in open.chunks_mut(s).zip(question.open.chunks(s)).enumerate() {
                for (body, rule) in scan.rules[head * r * r..][..r * r].iter().enumerate() {
                    let d_goals = &goals[body % r * rs + body / r * s..][..s];
                    add(v, *rule, d_goals, d_open);
                    grads.rules[head * r * r + body] += dot(v, left, d_goals);
                }
            }
            clean(v, &mut open);
            times(v, &open, &question.untold, &mut asked);
            add(v, 1.0, &value, &mut asked);
            add(v, 1.0, &d_goal, &mut asked);
            times(v, &open, &question.asked, &mut first);
            d_told.chunks_mut(rs).for_each(|d_told| add(v, -1.0, &first, d_told));
            clean(v, &mut asked);
            // Which relation of which constant.
            subject.fill(0.0);
            for (i, (relation, d_asked)) in relations.iter().zip(asked.chunks(s)).enumerate() {
                grads.relations[t * r + i] = dot(v, d_asked, &question.subject);
                add(v, *relation, d_asked, &mut subject);
            }
            for j in 0..LOGIC_SPAN {
                let named = t.checked_sub(j).map(|t| &scan.names[(row * seq + t) * s..][..s]);
                grads.back[t * LOGIC_SPAN + j] = named.map_or(0.0, |names| dot(v, &subject, names));
                if j <= t {
                    add(v, scan.back[at * LOGIC_SPAN + j], &subject, &mut grads.names[(t - j) * s..][..s]);
                }
            }
            // What was told.
            first.fill(0.0);
            add(v, tells, goal, &mut first);
            clean(v, &mut first);
            replaced.fill(0.0);
            let (names, d_names) = (&scan.names[at * s..][..s], &mut grads.names[t * s..][..s]);
            for (x, ((d_told, told), name)) in d_told.chunks_mut(rs).zip(told_before.chunks(rs)).zip(names).enumerate()
            {
                d_names[x] += dot(v, d_told, &first);
                let name = v.splat(*name);
                each_vector!(rs, W, j => {
                    let (d, share) = (v.get::<W>(d_told, j, 0.0), v.get::<W>(&first, j, 0.0));
                    let change = v.sub(name, v.get::<W>(told, j, 0.0));
                    let sum = v.fma(d, change, v.get::<W>(&replaced, j, 0.0));
                    v.set::<W>(&mut replaced, j, sum);
                    v.set::<W>(d_told, j, v.sub(d, v.mul(d, share)));
                });
            }
            grads.tells[t] = dot(v, &replaced, goal);
            d_goal.fill(0.0);
            add(v, tells, &replaced, &mut d_goal);
            clean(v, &mut d_told);
            clean(v, &mut d_goal);
        }
    }
}
