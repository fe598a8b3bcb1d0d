//! A probabilistic logic program that a network reads facts into, and whose answers it reads back (the idea of DeepProbLog,
//! Manhaeve et al. 2018).
//!
//! There are constants and relations; a relation has at most one value for a constant ("Cid's father is Bob"). Neural
//! predicates say of each token, as annotated disjunctions, which constant it names (`named`), which relation (`rel`) of the
//! constant that was named how many tokens before (`back`) it speaks of; and whether it tells a fact (`tells`) and whether its
//! answer is wanted (`asks`):
//!
//! ```prolog
//! goal(T,R,Y)    :- rel(T,R), back(T,J), named(T-J,Y).
//! told(T,R,Y,X)  :- tells(T), goal(T-1,R,Y), named(T,X).
//! told(T,R,Y,X)  :- told(T-1,R,Y,X), \+ (tells(T), goal(T-1,R,Y)).
//! value(T,R,Z,X) :- told(T,R,Z,X).
//! value(T,R,Z,X) :- \+ told(T,R,Z,_), rule(R,R1,R2), told(T,R1,Z,Y), told(T,R2,Y,X).
//! answer(T,X)    :- asks(T), goal(T,R,Y), value(T,R,Y,X).
//! ```
//!
//! So after "Ann mother" a token speaks of Ann's mother, and "Eve" behind it tells who that is; where nothing did, the answer
//! is looked up by the rules. What is told is a memory of fast weights that values replace (Schlag, Munkhdalai and
//! Schmidhuber 2021, *Learning Associative Inference Using Fast Weight Memory*, arXiv:2011.07831), here of probabilities.
//!
//! `rule(R,_,_)` is an annotated disjunction for each relation, learned: which two relations in a row stand for it, or none.
//! All proofs of a value exclude each other, so that their probabilities add up: one value of a constant is inferred
//! exactly. From token to token the beliefs about what is told go on as if they were independent (Boyen and Koller 1998). That
//! is exact where the neural predicates are sure of who is spoken of and no rule uses a fact twice, and an approximation
//! elsewhere.

use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;
use cupola_artifact::Result;
use cupola_ops::{LOGIC_SPAN, LogicReading, Precision, from_vec, into_vec, softmax};

use crate::layer::{Layer, LayerKind, Pass};
use crate::linear::Linear;
use crate::module::{Module, Piece};
use crate::param::{Param, ParamMut};
use crate::sequences::{Run, Scan, scanned};
use crate::source::{Init, Scope, Use};

/// A rule's score is this times its parameter, so that it can become sure within some hundred steps.
const SHARPNESS: f32 = 10.0;

/// The score of a body that no rule may have.
const NEVER: f32 = -1e9;

/// The numbers that make a logic layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogicSpec {
    /// Constants, S.
    pub constants: usize,
    /// Relations, R.
    pub relations: usize,
}

impl LogicSpec {
    /// Bodies of two relations, and none.
    fn bodies(&self) -> usize {
        self.relations * self.relations + 1
    }

    /// Numbers that are believed of a sequence.
    fn beliefs(&self) -> usize {
        cupola_ops::beliefs_len(self.constants, self.relations)
    }
}

impl LayerKind for LogicSpec {
    fn about(&self) -> String {
        "probabilistic logic".into()
    }

    fn remembers(&self) -> Option<&'static str> {
        Some("probabilities of facts")
    }

    fn build(&self, scope: &mut Scope<'_>, d_model: usize) -> Result<Box<dyn Layer>> {
        let (s, r) = (self.constants, self.relations);
        // Scores deviate by 3 from the start, so that tokens name different constants and relations.
        let different = Init::Uniform(3.0 * (3.0 / d_model as f32).sqrt());
        Ok(Box::new(Logic {
            spec: *self,
            names: scope.linear_of("names", [s, d_model], true, different)?,
            relations: scope.linear_of("relations", [r, d_model], true, different)?,
            back: scope.linear("back", [LOGIC_SPAN, d_model], true)?,
            tells: scope.linear("tells", [1, d_model], true)?,
            asks: scope.linear("asks", [1, d_model], true)?,
            rules: scope.param("rules", [r, self.bodies()], Init::Fill(0.0))?,
            // Behind the product of answers and names.
            gain: scope.param_for("gain", [d_model], Init::Fill(1.0), Use::Share(s as f64))?,
        }))
    }

    /// What is told, changed; values by what is told and by rules; rules weighed.
    fn mixing_flops(&self, _: usize) -> f64 {
        let [s, r] = [self.constants, self.relations].map(|n| n as f64);
        4.0 * r * s * s + 2.0 * (r + 2.0) * r * s * s + 2.0 * r.powi(3) * s
    }

    /// The input, all predicates with their scores, the beliefs after each token, and answers.
    fn kept(&self, d_model: usize, _: Precision) -> usize {
        d_model + 2 * (LOGIC_SPAN + self.constants + self.relations + 2) + self.beliefs() + 2 * self.constants
    }

    fn remembered(&self, _: usize, _: usize) -> usize {
        self.beliefs()
    }
}

/// A rule: a constant's value of one relation is that of a second for its value of a first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// The relation that it is about.
    pub head: usize,
    /// The relations in a row, the one that is taken first before the other.
    pub body: [usize; 2],
    /// How likely it is the one.
    pub probability: f32,
}

/// What a logic layer has learned, for people to read.
#[derive(Clone, Debug)]
pub struct Program {
    /// The rules, head by head, the likeliest first.
    pub rules: Vec<Rule>,
    /// How likely each token of what was read names each constant, `[S]` each.
    pub names: Vec<Vec<f32>>,
    /// How likely each token speaks of each relation, `[R]` each.
    pub relations: Vec<Vec<f32>>,
}

#[derive(Clone, Debug)]
struct Logic {
    spec: LogicSpec,
    names: Linear,
    relations: Linear,
    back: Linear,
    tells: Linear,
    asks: Linear,
    /// `[R, R·R + 1]`: for each relation the scores of the bodies, first by the step that is taken first, then by the other;
    /// the last is for none.
    rules: Param<2>,
    /// `[D]`: how much of what an answer is named by is put out.
    gain: Param<1>,
}

impl Logic {
    /// The probabilities of rules, `[R, R·R + 1]`. No rule begins with its own head, which is not told where it is asked.
    fn rules(&self) -> Tensor<2> {
        let (r, bodies) = (self.spec.relations, self.spec.bodies());
        let barred: Vec<f32> = (0..r * bodies)
            .map(|i| if i % bodies / r == i / bodies && i % bodies < r * r { NEVER } else { 0.0 })
            .collect();
        let scores = self.rules.value().mul_scalar(SHARPNESS);
        let barred = from_vec(barred, [r, bodies], &scores.device());
        softmax(scores + barred)
    }

    /// What the neural predicates say of x `[N, D]`.
    fn read(&self, x: &Tensor<2>) -> LogicReading {
        LogicReading {
            back: softmax(self.back.forward(x.clone())),
            tells: sigmoid(self.tells.forward(x.clone())),
            names: softmax(self.names.forward(x.clone())),
            relations: softmax(self.relations.forward(x.clone())),
            rules: self.rules().narrow(1, 0, self.spec.relations * self.spec.relations),
        }
    }

    /// What it has learned, and how it reads x `[N, D]`.
    fn program(&self, x: &Tensor<2>) -> Program {
        let r = self.spec.relations;
        let reading = self.read(x);
        let rows = |y: Tensor<2>| {
            let width = y.dims()[1];
            into_vec(y).chunks(width).map(<[f32]>::to_vec).collect()
        };
        let (names, relations) = (rows(reading.names), rows(reading.relations));
        let rules = into_vec(self.rules());
        let of_head = |head: usize| {
            let rule = |body: usize| Rule {
                head,
                body: [body / r, body % r],
                probability: rules[head * self.spec.bodies() + body],
            };
            let mut found: Vec<Rule> = (0..r * r).map(rule).collect();
            found.sort_by(|a, b| b.probability.total_cmp(&a.probability));
            found
        };
        Program { rules: (0..r).flat_map(of_head).collect(), names, relations }
    }
}

impl Scan for Logic {
    fn scan(&self, x: Tensor<2>, run: Run<'_>) -> Tensor<2> {
        let reading = self.read(&x);
        let asks = sigmoid(self.asks.forward(x));
        let values = match run.states {
            None => cupola_ops::logic(reading, run.batch),
            Some(states) => cupola_ops::logic_from(reading, &mut states[0], run.batch),
        };
        // An answer is put out as what names it: tokens that name it become likely where the output layer is the embedding.
        (values * asks).matmul(self.names.weight.dense()) * self.gain.value().unsqueeze()
    }

    fn start(&self, _: usize) -> Vec<Vec<f32>> {
        vec![vec![0.0; self.spec.beliefs()]]
    }
}

impl Module for Logic {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        out.extend(
            [&mut self.names, &mut self.relations, &mut self.back, &mut self.tells, &mut self.asks].map(Piece::Linear),
        );
        out.push(Piece::Param(ParamMut::Table(&mut self.rules)));
        out.push(Piece::Param(ParamMut::Vector(&mut self.gain)));
    }
}

impl Layer for Logic {
    fn forward(&self, x: Tensor<2>, pass: &mut Pass<'_, '_>) -> Tensor<2> {
        if let Some(programs) = &mut pass.programs {
            programs.push(self.program(&x));
        }
        scanned(self, x, pass)
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
#[path = "logic_tests.rs"]
mod tests;
