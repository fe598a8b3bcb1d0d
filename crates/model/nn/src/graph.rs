//! Attention over a graph of a text: its tokens and phrases are nodes, typed edges say how they are related, and a node gathers
//! over the edges that come in (Veličković et al. 2018, Graph Attention Networks; Busbridge et al. 2019, Relational Graph
//! Attention Networks; Dwivedi and Bresson 2020, Graph Transformers). Every edge points forward in time.
//!
//! A phrase is so many tokens in a row. It gathers its tokens, then earlier phrases, and is there for the tokens from its last on.
//! A relation scales and shifts keys and values by vectors of its own, a transformation with a diagonal matrix (Yang et al. 2015,
//! DistMult). A token gathers over each relation by itself ("within-relation" attention of Busbridge et al.), and says for each head
//! how much of each counts.

use std::sync::Arc;

use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;
use cupola_artifact::Result;
use cupola_ops::{Heads, Precision};

use crate::layer::{Layer, LayerKind, Pass, Reach};
use crate::linear::Linear;
use crate::module::{Module, Piece};
use crate::norm::{Norm, NormSpec};
use crate::param::{Param, ParamMut};
use crate::rope::{Angles, RopeSpec};
use crate::source::{Init, Scope, Use};

mod edges;
mod past;

use edges::{Edges, Sources};
use past::Past;

/// The numbers that make a graph attention layer.
#[derive(Clone, Debug, PartialEq)]
pub struct GraphSpec {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub d_head: usize,
    /// Rotary positions; a phrase stands at its last token.
    pub rope: RopeSpec,
    /// The edges.
    pub edges: EdgeSpec,
}

/// Which edges come into a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdgeSpec {
    /// From the tokens before a token, itself included, so many.
    pub previous: usize,
    /// From the last so many earlier occurrences of the same token, and from the tokens after those.
    pub same: usize,
    /// From the last so many phrases.
    pub phrases: usize,
    /// Tokens of a phrase.
    pub phrase: usize,
}

impl EdgeSpec {
    /// Edges into a token far from the beginning, its share of its phrase's included.
    fn per_token(&self) -> f64 {
        (self.previous + 2 * self.same + self.phrases + 1) as f64 + self.phrases as f64 / self.phrase as f64
    }
}

/// How the source of an edge is related to its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relation {
    /// A token a little earlier, or the token itself.
    Previous,
    /// An earlier occurrence of the same token.
    Same,
    /// The token after an earlier occurrence of the same token.
    Follows,
    /// A phrase that has ended.
    Phrase,
    /// A token of the phrase.
    Member,
    /// A phrase before the phrase.
    Earlier,
}

impl Relation {
    const NAMES: [&str; 6] = ["previous", "same", "follows", "phrase", "member", "earlier"];
    /// Relations into tokens besides the first, which always counts.
    const GATED: usize = 3;
}

impl LayerKind for GraphSpec {
    fn about(&self) -> String {
        "attention over a graph (previous, same and following tokens; phrases)".into()
    }

    fn positions(&self) -> Option<&'static str> {
        Some("rotary")
    }

    fn remembers(&self) -> Option<&'static str> {
        Some("keys and values of tokens and phrases, token ids")
    }

    fn build(&self, scope: &mut Scope<'_>, d_model: usize) -> Result<Box<dyn Layer>> {
        let (q, kv) = (self.n_heads * self.d_head, self.n_kv_heads * self.d_head);
        // A phrase asks once; its key and value are made once for phrases and once for tokens.
        let once = Use::Share(1.0 / self.edges.phrase as f64);
        let twice = Use::Share(2.0 / self.edges.phrase as f64);
        let relations = Relation::NAMES.map(|name| Mapping::build(&mut scope.at(name), kv));
        Ok(Box::new(Graph {
            q: scope.linear("q", [q, d_model], false)?,
            k: scope.linear("k", [kv, d_model], false)?,
            v: scope.linear("v", [kv, d_model], false)?,
            o: scope.linear_out("o", [d_model, q], false)?,
            gate: scope.linear("gate", [Relation::GATED * self.n_heads, d_model], false)?,
            phrase_norm: scope.norm("phrase_norm", NormSpec::rms(1e-6), q)?,
            phrase_q: scope.linear_for("phrase_q", [q, q], once)?,
            phrase_k: scope.linear_for("phrase_k", [kv, q], twice)?,
            phrase_v: scope.linear_for("phrase_v", [kv, q], twice)?,
            relations: relations.into_iter().collect::<Result<_>>()?,
            angles: scope.angles(&self.rope),
            spec: self.clone(),
        }))
    }

    /// Two products with what comes in, and the relations' vectors.
    fn mixing_flops(&self, seq: usize) -> f64 {
        let (q, kv) = ((self.n_heads * self.d_head) as f64, (self.n_kv_heads * self.d_head) as f64);
        let of_tokens = 4.0 + 3.0 / self.edges.phrase as f64;
        4.0 * q * self.edges.per_token().min(2.0 * seq as f64) + 4.0 * kv * of_tokens
    }

    /// Queries, keys, values, the mix and its log-sum-exp; keys and values of each relation before and after their positions;
    /// of phrases their share.
    fn kept(&self, _: usize, _: Precision) -> usize {
        let (q, kv) = (self.n_heads * self.d_head, self.n_kv_heads * self.d_head);
        6 * q + self.n_heads * 10 + 6 * kv * 4 + (8 * q + 12 * kv).div_ceil(self.edges.phrase)
    }

    /// The gradients of keys and values that wait to be added up.
    fn passing(&self, rows: usize) -> usize {
        let listed = self.edges.per_token() * rows as f64;
        2 * self.n_kv_heads * self.d_head * (listed as usize).min(1 << 15)
    }

    /// Keys and values of tokens; of phrases as other phrases and as tokens see them; ids.
    fn remembered(&self, _: usize, len: usize) -> usize {
        let kv = self.n_kv_heads * self.d_head;
        2 * kv * len + 4 * kv * (len / self.edges.phrase) + len
    }
}

/// What a relation makes of keys and values.
#[derive(Clone, Debug)]
struct Mapping {
    key_scale: Param<1>,
    key_shift: Param<1>,
    value_scale: Param<1>,
    value_shift: Param<1>,
}

impl Mapping {
    fn build(scope: &mut Scope<'_>, width: usize) -> Result<Self> {
        Ok(Self {
            key_scale: scope.param("key_scale", [width], Init::Fill(1.0))?,
            key_shift: scope.param("key_shift", [width], Init::Fill(0.0))?,
            value_scale: scope.param("value_scale", [width], Init::Fill(1.0))?,
            value_shift: scope.param("value_shift", [width], Init::Fill(0.0))?,
        })
    }

    fn apply(&self, [k, v]: [Tensor<2>; 2]) -> [Tensor<2>; 2] {
        let map = |x: Tensor<2>, scale: &Param<1>, shift: &Param<1>| {
            x * scale.value().unsqueeze::<2>() + shift.value().unsqueeze::<2>()
        };
        [map(k, &self.key_scale, &self.key_shift), map(v, &self.value_scale, &self.value_shift)]
    }
}

#[derive(Clone, Debug)]
struct Graph {
    spec: GraphSpec,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    /// How much of each relation counts for each head.
    gate: Linear,
    phrase_norm: Norm,
    phrase_q: Linear,
    phrase_k: Linear,
    phrase_v: Linear,
    relations: Vec<Mapping>,
    angles: Arc<Angles>,
}

/// Keys and values of nodes, without what relations make of them, `[nodes, Hkv·dh]` each.
type Nodes = [Tensor<2>; 2];

impl Graph {
    fn heads(&self) -> Heads {
        let GraphSpec { n_heads, n_kv_heads, d_head, .. } = self.spec;
        Heads { batch: 1, n_heads, n_kv_heads, d_head }
    }

    fn placed(&self, x: Tensor<2>, positions: &Arc<[u32]>, n_heads: usize) -> Tensor<2> {
        let end = positions.iter().max().map_or(0, |p| *p as usize + 1);
        cupola_ops::rope(x, &self.angles.upto(end), positions, n_heads)
    }

    /// What comes in over the edges of a relation, `[targets, H·dh]`: q `[targets, H·dh]`, placed already, and the nodes that edges
    /// may come from; zero where none does.
    fn gather(&self, q: Tensor<2>, sources: &Sources, of: impl Fn() -> Nodes, precision: Precision) -> Tensor<2> {
        if sources.rows.is_empty() {
            return q.zeros_like();
        }
        let [k, v] = self.relations[sources.relation as usize].apply(of().map(|x| pick(x, &sources.rows)));
        let k = self.placed(k, &sources.positions, self.spec.n_kv_heads);
        cupola_ops::attention_listed([q, k, v], self.heads(), &sources.lists, precision)
    }

    /// Each head of x `[N, H·dh]` times its gate; gates `[N, H]`.
    fn gated(&self, x: Tensor<2>, gates: Tensor<2>) -> Tensor<2> {
        let [rows, width] = x.dims();
        let heads = x.reshape([rows * self.spec.n_heads, self.spec.d_head]);
        (heads * gates.reshape([rows * self.spec.n_heads, 1])).reshape([rows, width])
    }

    /// The keys and values of the phrases that end among the new tokens: as other phrases see them, and as tokens do.
    fn phrases(&self, q: &Tensor<2>, tokens: &Nodes, edges: &Edges, past: &Past, precision: Precision) -> [Nodes; 2] {
        let seen = |x: &Tensor<2>| [self.phrase_k.forward(x.clone()), self.phrase_v.forward(x.clone())];
        let asked = pick(q.clone(), &edges.closing);
        let own = self.gather(asked, &edges.members, || tokens.clone(), precision); // [P, H·dh]
        let own = self.phrase_norm.forward(own);
        let plain = seen(&own);
        let all = past.phrases(false, Some(&plain), &q.device());
        let asked = self.placed(self.phrase_q.forward(own.clone()), &edges.closing_positions, self.spec.n_heads);
        let before = self.gather(asked, &edges.earlier, || all.clone(), precision);
        [plain, seen(&self.phrase_norm.forward(own + before))]
    }

    /// All texts at once, `past` telling what precedes them: x `[N, D]`, gives `[N, H·dh]`.
    fn mix(&self, x: Tensor<2>, past: &mut Past, precision: Precision) -> Tensor<2> {
        let edges = Edges::new(&self.spec.edges, &past.texts);
        let q = self.placed(self.q.forward(x.clone()), &edges.positions, self.spec.n_heads);
        let new = [self.k.forward(x.clone()), self.v.forward(x.clone())];
        let tokens = past.tokens(&new);
        let phrases = (!edges.closing.is_empty()).then(|| self.phrases(&q, &tokens, &edges, past, precision));
        let device = q.device();
        let of = |relation| match relation {
            Relation::Phrase => past.phrases(true, phrases.as_ref().map(|[_, seen]| seen), &device),
            _ => tokens.clone(),
        };
        let gates = sigmoid(self.gate.forward(x)); // [N, 3·H]
        let [previous, others @ ..] = &edges.tokens;
        let mut mixed = self.gather(q.clone(), previous, || tokens.clone(), precision);
        for (i, sources) in others.iter().enumerate() {
            let gates = gates.clone().narrow(1, i * self.spec.n_heads, self.spec.n_heads);
            let come_in = self.gather(q.clone(), sources, || of(sources.relation), precision);
            mixed = mixed + self.gated(come_in, gates);
        }
        past.add(&new, phrases.as_ref());
        mixed
    }
}

/// Rows of x; x itself where they are all of its rows.
fn pick(x: Tensor<2>, rows: &Arc<[u32]>) -> Tensor<2> {
    let all = rows.len() == x.dims()[0] && rows.iter().enumerate().all(|(i, row)| i == *row as usize);
    if all { x } else { cupola_ops::embedding(x, rows) }
}

impl Module for Graph {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        let phrases = [&mut self.phrase_q, &mut self.phrase_k, &mut self.phrase_v];
        let linears = [&mut self.q, &mut self.k, &mut self.v, &mut self.o].into_iter().chain(phrases);
        out.extend(linears.chain([&mut self.gate]).map(Piece::Linear));
        self.phrase_norm.pieces(out);
        for Mapping { key_scale, key_shift, value_scale, value_shift } in &mut self.relations {
            let vectors = [key_scale, key_shift, value_scale, value_shift];
            out.extend(vectors.map(|vector| Piece::Param(ParamMut::Vector(vector))));
        }
    }
}

impl Layer for Graph {
    fn forward(&self, x: Tensor<2>, pass: &mut Pass<'_, '_>) -> Tensor<2> {
        let precision = pass.precision;
        let (width, phrase) = (self.spec.n_kv_heads * self.spec.d_head, self.spec.edges.phrase);
        let mut past = match &pass.reach {
            Reach::Batch(batch) => Past::of_batch(batch, width, phrase),
            Reach::Caches(_) => Past::of_states(pass, width, phrase),
        };
        let mixed = self.mix(x, &mut past, precision);
        pass.states().zip(past.into_states()).for_each(|((state, _), numbers)| state.numbers = numbers);
        self.o.forward(mixed)
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}
