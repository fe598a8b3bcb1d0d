//! A probabilistic logic program that texts are read into; its clauses stand with the layer that uses it. It has a form that
//! goes on from the beliefs so far, for generation, which keeps no tape.

use burn::tensor::Tensor;
pub use cupola_kernels::LOGIC_SPAN;
use cupola_kernels::{LogicGrads, LogicScan, logic_backward, logic_forward};

use crate::host::{HostOp, Output, Saved, apply, erase, flex, slice};

/// What neural predicates say of the tokens of B sequences, `[B·T, ·]`, and the rules: S constants, R relations.
#[derive(Clone, Debug)]
pub struct LogicReading {
    /// `[N, LOGIC_SPAN]`: how many tokens before stands the name of the constant that a token speaks of.
    pub back: Tensor<2>,
    /// `[N, S]`: which constant it names.
    pub names: Tensor<2>,
    /// `[N, R]`: which relation of that constant it speaks of: its goal.
    pub relations: Tensor<2>,
    /// `[N, 1]`: how likely it tells that the constant that it names is the value of the goal of the token before.
    pub tells: Tensor<2>,
    /// `[R, R·R]`: how likely each relation is two others in a row, the one that is taken first before the other.
    pub rules: Tensor<2>,
}

#[derive(Debug)]
struct Logic {
    /// `(B, T, S, R)`.
    sizes: (usize, usize, usize, usize),
}

impl LogicReading {
    fn op(&self, batch: usize) -> Logic {
        let ([rows, s], r) = (self.names.dims(), self.relations.dims()[1]);
        assert!(batch > 0 && rows.is_multiple_of(batch), "{rows} rows are no {batch} sequences of equal length");
        Logic { sizes: (batch, rows / batch, s, r) }
    }

    fn erased(self) -> [Tensor<1>; 5] {
        [self.back, self.names, self.relations, self.tells, self.rules].map(erase)
    }
}

impl Logic {
    fn scan<'a>(&self, [back, names, relations, tells, rules]: [&'a [f32]; 5]) -> LogicScan<'a> {
        LogicScan { sizes: self.sizes, back, names, relations, tells, rules }
    }
}

impl HostOp<5> for Logic {
    fn forward(&self, inputs: [&[f32]; 5], track: bool) -> Output {
        let (scan, (batch, seq, s, _)) = (self.scan(inputs), self.sizes);
        let len = scan.beliefs_len();
        let mut kept = vec![0.0; if track { batch * seq * len } else { 0 }];
        let mut y = vec![0.0; batch * seq * s];
        logic_forward(&scan, &mut vec![0.0; batch * len], &mut y, &mut kept);
        Output { shape: vec![batch * seq, s], data: y, saved: vec![kept] }
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 5] {
        let inputs = [0, 1, 2, 3, 4].map(|i| saved.inputs[i]);
        let mut grads = inputs.map(|x| vec![0.0; x.len()]);
        let [back, names, relations, tells, rules] = &mut grads;
        let mut into = LogicGrads { back, names, relations, tells, rules };
        logic_backward(&self.scan(inputs), &saved.saved[0], grad, &mut into);
        let mut needs = saved.needs.iter();
        grads.map(|g| needs.next().is_some_and(|n| *n).then_some(g))
    }
}

/// Floats of what is believed of a sequence: what is told `[S, R, S]` (the value, the relation, and the constant that it is
/// for), the goal `[R, S]`, and whom the tokens before named, the latest first, `[LOGIC_SPAN - 1, S]`.
pub fn beliefs_len(constants: usize, relations: usize) -> usize {
    (constants + 1) * relations * constants + (LOGIC_SPAN - 1) * constants
}

/// How likely each constant is the value of each token's goal, by what is told up to it, `[B·T, S]`.
pub fn logic(reading: LogicReading, batch: usize) -> Tensor<2> {
    let op = reading.op(batch);
    if !crate::is_host(&reading.names.device()) {
        let (_, _, s, r) = op.sizes;
        let start = Tensor::zeros([batch, beliefs_len(s, r)], &reading.names.device());
        return composed(reading, start).0;
    }
    apply(op, reading.erased())
}

/// [`logic`] from `beliefs` `[B, beliefs_len]` (zeros before the first token), which become those after the last token.
pub fn logic_from(reading: LogicReading, beliefs: &mut [f32], batch: usize) -> Tensor<2> {
    let (op, device) = (reading.op(batch), reading.names.device());
    let (_, seq, s, r) = op.sizes;
    if !crate::is_host(&device) {
        let start = crate::from_vec(beliefs.to_vec(), [batch, beliefs_len(s, r)], &device);
        let (y, last) = composed(reading, start);
        beliefs.copy_from_slice(&crate::into_vec(last));
        return y;
    }
    let inputs = reading.erased().map(flex);
    let mut y = vec![0.0; batch * seq * s];
    logic_forward(&op.scan(inputs.each_ref().map(slice)), beliefs, &mut y, &mut []);
    crate::from_vec(y, [batch * seq, s], &device)
}

/// The same from the tensor library's operations, from beliefs `[B, beliefs_len]`; gives the last beliefs too.
pub(crate) fn composed(reading: LogicReading, start: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let (b, seq, s, r) = reading.op(start.dims()[0]).sizes;
    let part = |from: usize, len: usize| start.clone().narrow(1, from, len);
    let mut told = part(0, s * r * s).reshape([b, s, r, s]);
    let mut goal = part(s * r * s, r * s).reshape([b, r, s]);
    let mut recent = part((s + 1) * r * s, (LOGIC_SPAN - 1) * s).reshape([b, LOGIC_SPAN - 1, s]);
    let rules = reading.rules.clone().unsqueeze::<3>();
    let mut answers = Vec::with_capacity(seq);
    for t in 0..seq {
        let at = |x: &Tensor<2>| -> Tensor<2> {
            let width = x.dims()[1];
            x.clone().reshape([b, seq, width]).narrow(1, t, 1).reshape([b, width])
        };
        let names = at(&reading.names);
        let replaced = (goal * at(&reading.tells).reshape([b, 1, 1])).reshape([b, 1, r, s]);
        told = told.clone() + (names.clone().reshape([b, s, 1, 1]) - told) * replaced;
        let named = Tensor::cat(vec![names.reshape([b, 1, s]), recent], 1); // [B, LOGIC_SPAN, S]
        recent = named.clone().narrow(1, 0, LOGIC_SPAN - 1);
        let subject = at(&reading.back).reshape([b, 1, LOGIC_SPAN]).matmul(named);
        goal = at(&reading.relations).reshape([b, r, 1]) * subject;
        answers.push(values(&told, &goal, &rules));
    }
    let last = [told.reshape([b, s * r * s]), goal.reshape([b, r * s]), recent.reshape([b, (LOGIC_SPAN - 1) * s])];
    (Tensor::stack::<3>(answers, 1).reshape([b * seq, s]), Tensor::cat(last.to_vec(), 1))
}

/// Which constants are the values of what is asked `[B, R, S]`: by what is told `[B, S, R, S]`, or by the rules `[1, R, R·R]`
/// where nothing is.
fn values(told: &Tensor<4>, asked: &Tensor<3>, rules: &Tensor<3>) -> Tensor<2> {
    let [b, s, r, _] = told.dims();
    let untold = told.clone().sum_dim(1).neg().add_scalar(1.0).reshape([b, r, s]);
    let goals = (asked.clone() * untold).swap_dims(1, 2).matmul(rules.clone()); // [B, S, R1·R2]
    let goals = goals.reshape([b, s, r, r]).swap_dims(1, 2).reshape([b, r * s, r]);
    let told = told.clone().reshape([b, s, r * s]);
    let found = told.clone().matmul(Tensor::cat(vec![goals, asked.clone().reshape([b, r * s, 1])], 2)); // [B, S, R2+1]
    let middle = found.clone().narrow(2, 0, r).swap_dims(1, 2).reshape([b, r * s, 1]);
    (told.matmul(middle) + found.narrow(2, r, 1)).reshape([b, s])
}
