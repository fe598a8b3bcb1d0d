//! A probabilistic logic program that a network reads facts into, and whose answers it reads back (the idea of DeepProbLog,
//! Manhaeve et al. 2018).
//!
//! There are constants and relations; a relation has at most one value for a constant ("Cid's father is Bob"). Neural
//! predicates say of each token, as annotated disjunctions, what it does (`act`), which constant it names (`named`), which
//! relation (`rel`), and whether it tells a fact (`tells`):
//!
//! ```prolog
//! told(T,R,Y,X)  :- tells(T), goal(T-1,R,Y), named(T,X), X \= Y.
//! told(T,R,Y,X)  :- told(T-1,R,Y,X), \+ (tells(T), goal(T-1,R,Y)).
//! value(T,R,Z,X) :- told(T,R,Z,X).
//! value(T,R,Z,X) :- \+ told(T,R,Z,_), rule(R,R1,R2), told(T,R2,Z,Y), told(T,R1,Y,X).
//! term(T,X)      :- act(T,name), named(T,X).
//! term(T,X)      :- act(T,keep), term(T-1,X).
//! term(T,X)      :- act(T,apply), rel(T,R), term(T-1,Y), value(T,R,Y,X).
//! goal(T,R,Y)    :- act(T,apply), rel(T,R), term(T-1,Y).
//! goal(T,R,Y)    :- \+ act(T,apply), goal(T-1,R,Y).
//! ```
//!
//! `rule(R,_,_)` is an annotated disjunction for each relation, learned: which two relations in a row stand for it, or none.
//! All proofs of a value exclude each other, so that their probabilities add up: one value of a constant is inferred
//! exactly. From token to token the beliefs about `told`, `term` and `goal` go on as if they were independent (Boyen and
//! Koller 1998). That is exact where the neural predicates are sure of who is spoken of and a row of relations uses no fact
//! and no rule twice, and an approximation elsewhere.

use burn::tensor::Tensor;
use burn::tensor::activation::{sigmoid, softmax};
use cupola_artifact::Result;
use cupola_ops::{Precision, from_vec, into_vec};

use crate::layer::{Layer, LayerKind, Pass};
use crate::linear::Linear;
use crate::module::{Module, Piece};
use crate::param::{Param, ParamMut};
use crate::sequences::{Run, Scan, scanned};
use crate::source::{Init, Scope};

/// What a token can do to the term: name a constant, apply a relation, or keep it.
const ACTS: usize = 3;

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

    /// Facts that can be told.
    fn facts(&self) -> usize {
        self.relations * self.constants * self.constants
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
        // Constants and relations are different things from the start: fresh scores deviate by 2 and by 1.
        let deviation = |score: f32| Init::Uniform(score * (3.0 / d_model as f32).sqrt());
        Ok(Box::new(Logic {
            spec: *self,
            acts: scope.linear("acts", [ACTS, d_model], true)?,
            names: scope.linear_of("names", [s, d_model], true, deviation(2.0))?,
            relations: scope.linear_of("relations", [r, d_model], true, deviation(1.0))?,
            tells: scope.linear("tells", [1, d_model], true)?,
            rules: scope.param("rules", [r, self.bodies()], Init::Fill(0.0))?,
            output: scope.linear_out("output", [d_model, s], false)?,
        }))
    }

    /// What is told, changed; the values of terms by what is told and by rules; rules weighed.
    fn mixing_flops(&self, _: usize) -> f64 {
        let [s, r] = [self.constants, self.relations].map(|n| n as f64);
        4.0 * r * s * s + 2.0 * (r + 2.0) * r * s * s + 2.0 * r.powi(3) * s
    }

    /// What each token does to all facts, and what the queries are asked with.
    fn kept(&self, d_model: usize, _: Precision) -> usize {
        let (s, r) = (self.constants, self.relations);
        d_model + 5 * self.facts() + s * s + 3 * r * r * s + 6 * (s + r)
    }

    fn remembered(&self, _: usize, _: usize) -> usize {
        self.facts() + self.constants * (self.relations + 1)
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
    /// How likely each token of what was read sets the term to each constant, `[S]` each.
    pub names: Vec<Vec<f32>>,
    /// How likely each token applies each relation, `[R]` each.
    pub applies: Vec<Vec<f32>>,
}

#[derive(Clone, Debug)]
struct Logic {
    spec: LogicSpec,
    acts: Linear,
    names: Linear,
    relations: Linear,
    tells: Linear,
    /// `[R, R·R + 1]`: for each relation the scores of the bodies, first by the step that is taken first, then by the other;
    /// the last is for none.
    rules: Param<2>,
    output: Linear,
}

/// What the neural predicates say of the tokens.
struct Reading {
    /// How likely each names each constant, and does so for the term: `[B, T, S]` both.
    named: Tensor<3>,
    renamed: Tensor<3>,
    /// How likely it keeps the term: `[B, T, 1]`.
    keeps: Tensor<3>,
    /// How likely it applies each relation: `[B, T, R]`.
    applies: Tensor<3>,
    /// How likely it applies none: `[B, T, 1]`.
    stays: Tensor<3>,
    /// How likely it tells a fact: `[B, T, 1]`.
    tells: Tensor<3>,
}

/// What is believed after a token.
struct Beliefs {
    /// `[B, S, R, S]`: that the value (first) of a relation for a constant (last) is told.
    told: Tensor<4>,
    /// `[B, S]`: which constant is spoken of.
    term: Tensor<2>,
    /// `[B, R, S]`: which value is spoken of.
    goal: Tensor<3>,
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
        softmax(scores + barred, 1)
    }

    fn read(&self, x: &Tensor<2>, batch: usize) -> Reading {
        let seq = x.dims()[0] / batch.max(1);
        let per_token = |y: Tensor<2>| -> Tensor<3> {
            let width = y.dims()[1];
            y.reshape([batch, seq, width])
        };
        let acts = softmax(self.acts.forward(x.clone()), 1);
        let act = |i: usize| per_token(acts.clone().narrow(1, i, 1));
        let named = per_token(softmax(self.names.forward(x.clone()), 1));
        let relations = per_token(softmax(self.relations.forward(x.clone()), 1));
        Reading {
            renamed: named.clone() * act(0),
            named,
            applies: relations * act(1),
            stays: act(1).neg().add_scalar(1.0),
            keeps: act(2),
            tells: per_token(sigmoid(self.tells.forward(x.clone()))),
        }
    }

    /// What it has learned, and how it reads x `[N, D]`.
    fn program(&self, x: &Tensor<2>) -> Program {
        let r = self.spec.relations;
        let reading = self.read(x, 1);
        let rows = |y: Tensor<3>| {
            let width = y.dims()[2];
            into_vec(y).chunks(width).map(<[f32]>::to_vec).collect()
        };
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
        Program {
            rules: (0..r).flat_map(of_head).collect(),
            names: rows(reading.renamed),
            applies: rows(reading.applies),
        }
    }

    /// Nothing told, nothing spoken of, or what is remembered.
    fn beliefs(&self, run: &Run<'_>, device: &burn::tensor::Device) -> Beliefs {
        let (b, s, r) = (run.batch, self.spec.constants, self.spec.relations);
        match &run.states {
            Some(states) => Beliefs {
                told: from_vec(states[0].clone(), [b, s, r, s], device),
                term: from_vec(states[1].clone(), [b, s], device),
                goal: from_vec(states[2].clone(), [b, r, s], device),
            },
            None => Beliefs {
                told: Tensor::zeros([b, s, r, s], device),
                term: Tensor::zeros([b, s], device),
                goal: Tensor::zeros([b, r, s], device),
            },
        }
    }
}

impl Beliefs {
    /// What is believed after the token at `t`.
    fn after(self, reading: &Reading, rules: &Tensor<3>, t: usize) -> Self {
        let Self { told, term, goal } = self;
        let [b, s, r, _] = told.dims();
        let at = |all: &Tensor<3>| all.clone().narrow(1, t, 1); // [B, 1, ·]
        let replaced = (goal.clone() * at(&reading.tells)).reshape([b, 1, r, s]);
        let value = apart(at(&reading.named).reshape([b, s])).reshape([b, s, 1, s]);
        let told = told.clone() + (value - told) * replaced;
        let asked = at(&reading.applies).reshape([b, r, 1]) * term.clone().reshape([b, 1, s]); // [B, R, S]
        let value = values(&told, &asked, rules);
        let term = at(&reading.renamed).reshape([b, s]) + term * at(&reading.keeps).reshape([b, 1]) + value;
        let goal = goal * at(&reading.stays) + asked;
        Self { told, term, goal }
    }
}

/// For each constant the others' shares of p `[B, S]`, its own being 0: `[B, S, S]`, the constant last.
fn apart(p: Tensor<2>) -> Tensor<3> {
    let [b, s] = p.dims();
    let others = Tensor::<2>::ones([s, s], &p.device()) - Tensor::eye(s, &p.device());
    p.reshape([b, s, 1]) * others.unsqueeze::<3>()
}

/// Which constants are the values of what is asked, `[B, S]`: by what is told `[B, S, R, S]`, or by the rules `[1, R, R·R]`
/// where nothing is. `asked` `[B, R, S]` weighs relations and the constants they are asked for.
fn values(told: &Tensor<4>, asked: &Tensor<3>, rules: &Tensor<3>) -> Tensor<2> {
    let [b, s, r, _] = told.dims();
    let untold = told.clone().sum_dim(1).neg().add_scalar(1.0).reshape([b, r, s]);
    let goals = (asked.clone() * untold).swap_dims(1, 2).matmul(rules.clone()); // [B, S, R2·R1]
    let goals = goals.reshape([b, s, r, r]).swap_dims(1, 2).reshape([b, r * s, r]);
    let told = told.clone().reshape([b, s, r * s]);
    let found = told.clone().matmul(Tensor::cat(vec![goals, asked.clone().reshape([b, r * s, 1])], 2)); // [B, S, R1+1]
    let middle = found.clone().narrow(2, 0, r).swap_dims(1, 2).reshape([b, r * s, 1]);
    (told.matmul(middle) + found.narrow(2, r, 1)).reshape([b, s])
}

impl Scan for Logic {
    fn scan(&self, x: Tensor<2>, run: Run<'_>) -> Tensor<2> {
        let (s, r) = (self.spec.constants, self.spec.relations);
        let reading = self.read(&x, run.batch);
        let rules = self.rules().narrow(1, 0, r * r).unsqueeze::<3>();
        let mut beliefs = self.beliefs(&run, &x.device());
        let seq = x.dims()[0] / run.batch.max(1);
        let mut terms = Vec::with_capacity(seq);
        for t in 0..seq {
            beliefs = beliefs.after(&reading, &rules, t);
            terms.push(beliefs.term.clone());
        }
        if let Some(states) = run.states {
            states[0] = into_vec(beliefs.told);
            states[1] = into_vec(beliefs.term);
            states[2] = into_vec(beliefs.goal);
        }
        let terms: Tensor<3> = Tensor::stack(terms, 1); // [B, T, S]
        self.output.forward(terms.reshape([run.batch * seq, s]))
    }

    fn start(&self, _: usize) -> Vec<Vec<f32>> {
        let (s, r) = (self.spec.constants, self.spec.relations);
        vec![vec![0.0; self.spec.facts()], vec![0.0; s], vec![0.0; r * s]]
    }
}

impl Module for Logic {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        out.extend([&mut self.acts, &mut self.names, &mut self.relations, &mut self.tells].map(Piece::Linear));
        out.push(Piece::Param(ParamMut::Table(&mut self.rules)));
        out.push(Piece::Linear(&mut self.output));
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
