//! What turns tokens into the residual stream: their vectors, their positions, and what comes between.

use std::sync::Arc;

use burn::tensor::{Bool, Tensor, TensorData};
use cupola_artifact::Result;

use crate::adapters::EmbeddingLora;
use crate::linear::Linear;
use crate::module::{Module, Piece, Place};
use crate::norm::{Norm, NormSpec};
use crate::param::{Param, ParamMut};
use crate::relative::{Relative, RelativeSpec};
use crate::source::Scope;

/// Learned vectors of positions, added to those of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnedPositions {
    /// Rows of the table.
    pub rows: usize,
    /// The row of the first position (OPT, RoBERTa).
    pub offset: usize,
    /// Whether padding on the left counts as positions where the caller gives none.
    pub count_padding: bool,
}

/// The table of positions.
fn positions(scope: &mut Scope<'_>, sinusoids: bool, shape: [usize; 2]) -> Result<Param<2>> {
    match sinusoids {
        true => scope.at("positions").fixed("weight", shape, |i| sinusoid(i / shape[1], i % shape[1], shape[1])),
        false => scope.table("positions", shape),
    }
}

/// Vaswani et al. (2017)'s positions, all sines before all cosines (Pegasus).
fn sinusoid(position: usize, column: usize, width: usize) -> f32 {
    let sines = width.div_ceil(2);
    let angle = |i: usize| position as f64 / 10_000_f64.powf(2.0 * i as f64 / width as f64);
    if column < sines { angle(column).sin() as f32 } else { angle(column - sines).cos() as f32 }
}

/// The numbers that make an embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingSpec {
    /// Width of the tokens' vectors; where it is not the model's, a linear layer widens them.
    pub width: usize,
    /// Whether that layer has a bias and stands after positions and norm (ALBERT, ELECTRA), or has none and stands before them (OPT).
    pub widen_last: bool,
    /// What tokens' vectors are multiplied by.
    pub scale: Option<f32>,
    /// Learned positions.
    pub positions: Option<LearnedPositions>,
    /// Rows of the table of types of texts; 0 is none.
    pub types: usize,
    /// A norm over the sum.
    pub norm: Option<NormSpec>,
    /// Whether the positions' vectors are sinusoids that are never trained.
    pub sinusoids: bool,
    /// Relative positions for the attention of all blocks.
    pub relative: Option<RelativeSpec>,
    /// Whether the tokens' vectors are another stack's.
    pub shared: bool,
    /// The padding token, whose vector is not learned where it is looked up; where positions have an offset, it stands
    /// at the one before the first, unless padding counts.
    pub padding: Option<u32>,
}

impl EmbeddingSpec {
    /// Tokens' vectors as they are.
    pub fn plain(width: usize) -> Self {
        Self {
            width,
            widen_last: false,
            scale: None,
            positions: None,
            types: 0,
            norm: None,
            sinusoids: false,
            relative: None,
            shared: false,
            padding: None,
        }
    }
}

/// An embedding.
#[derive(Clone, Debug)]
pub(crate) struct Embedding {
    spec: EmbeddingSpec,
    /// Empty where another stack's are shared.
    pub tokens: Param<2>,
    /// Beside the tokens' vectors.
    lora: Option<EmbeddingLora>,
    pub relative: Option<Relative>,
    positions: Option<Param<2>>,
    types: Option<Param<2>>,
    norm: Option<Norm>,
    widen: Option<Linear>,
}

impl Embedding {
    pub(crate) fn build(
        scope: &mut Scope<'_>,
        spec: &EmbeddingSpec,
        vocab_size: usize,
        d_model: usize,
    ) -> Result<Self> {
        let widens = spec.width != d_model;
        let tokens = match spec.shared {
            true => Param::new("", Tensor::zeros([0, 0], &scope.device())),
            false => scope.table("tokens", [vocab_size, spec.width])?,
        };
        // Positions and types are as wide as what they are added to.
        let width = if widens && !spec.widen_last { d_model } else { spec.width };
        Ok(Self {
            tokens,
            lora: None,
            relative: spec.relative.map(|relative| relative.build(scope)).transpose()?,
            positions: spec.positions.map(|p| positions(scope, spec.sinusoids, [p.rows, width])).transpose()?,
            types: (spec.types > 0).then(|| scope.table("types", [spec.types, width])).transpose()?,
            norm: spec.norm.map(|norm| scope.norm("norm", norm, width)).transpose()?,
            widen: widens.then(|| scope.linear("widen", [d_model, spec.width], spec.widen_last)).transpose()?,
            spec: spec.clone(),
        })
    }

    /// Takes the tables of another, or none for now; norm and layers stay its own.
    pub(crate) fn take_tables(&mut self, other: Option<&Self>) {
        let empty = |own: &Param<2>| Param::new(own.name(), Tensor::zeros([1, 1], &own.plain().device()));
        self.tokens = other.map_or_else(|| empty(&self.tokens), |other| other.tokens.clone());
        for (own, table) in [
            (&mut self.positions, other.map(|other| &other.positions)),
            (&mut self.types, other.map(|other| &other.types)),
        ] {
            *own = table.map_or_else(|| own.as_ref().map(empty), Clone::clone);
        }
    }

    /// The vectors of tokens, `[N, width]`, out of a table `[V, width]`: its own or another stack's.
    pub(crate) fn vectors(&self, table: Tensor<2>, ids: &Arc<[u32]>) -> Tensor<2> {
        let mut x = self.unlearned(cupola_ops::embedding(table, ids), ids);
        if let Some(lora) = &self.lora {
            x = x + lora.added(ids);
        }
        match self.spec.scale {
            Some(scale) => x.mul_scalar(scale),
            None => x,
        }
    }

    /// What enters the first block, `[N, D]`, of the tokens' vectors `[N, width]`.
    pub(crate) fn forward_of(
        &self,
        vectors: Tensor<2>,
        ids: &Arc<[u32]>,
        positions: &Arc<[u32]>,
        types: Option<&Arc<[u32]>>,
    ) -> Tensor<2> {
        let mut x = vectors;
        if let (Some(widen), false) = (&self.widen, self.spec.widen_last) {
            x = widen.forward(x);
        }
        if let Some(table) = &self.types {
            let types = types.cloned().unwrap_or_else(|| vec![0; ids.len()].into());
            x = x + cupola_ops::embedding(table.value(), &types);
        }
        if let (Some(table), Some(spec)) = (&self.positions, self.spec.positions) {
            let places = || positions.iter().zip(ids.iter());
            let padded = |id: u32| !spec.count_padding && self.spec.padding == Some(id);
            x = x + match spec.offset as u32 {
                0 => cupola_ops::embedding(table.value(), positions),
                offset => {
                    let rows = places().map(|(p, id)| if padded(*id) { offset - 1 } else { p + offset }).collect();
                    let x = cupola_ops::embedding(table.value(), &rows);
                    if spec.count_padding { x } else { self.unlearned(x, ids) }
                }
            };
        }
        if let Some(norm) = &self.norm {
            x = norm.forward(x);
        }
        match &self.widen {
            Some(widen) if self.spec.widen_last => widen.forward(x),
            _ => x,
        }
    }

    /// The same x `[N, D]`, whose rows of padding pass no gradient on.
    fn unlearned(&self, x: Tensor<2>, ids: &[u32]) -> Tensor<2> {
        let Some(padding) = self.spec.padding.filter(|padding| x.is_autodiff() && ids.contains(padding)) else {
            return x;
        };
        let padded: Vec<bool> = ids.iter().map(|id| *id == padding).collect();
        let padded = Tensor::<2, Bool>::from_data(TensorData::new(padded, [ids.len(), 1]), &x.device());
        x.clone().mask_where(padded.expand(x.dims()), x.detach())
    }
}

impl Module for Embedding {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        if !self.spec.shared {
            out.push(Piece::Param(ParamMut::Table(&mut self.tokens)));
            out.push(Piece::Place(Place::Embedding(&mut self.lora)));
        }
        out.extend(self.relative.as_mut().map(|relative| Piece::Param(ParamMut::Table(&mut relative.table))));
        for table in [&mut self.positions, &mut self.types].into_iter().flatten() {
            out.push(Piece::Param(ParamMut::Table(table)));
        }
        self.norm.pieces(out);
        self.widen.pieces(out);
    }
}
