//! Recurrent layers as language models had them before attention: Elman's, LSTM and GRU.

use burn::tensor::Tensor;
use cupola_artifact::Result;
use cupola_ops::{Precision, RecurrentKind, RecurrentState, RecurrentWeights};

use crate::layer::{Layer, LayerKind, Pass};
use crate::module::{Module, Piece};
use crate::param::{Param, ParamMut};
use crate::sequences::{Run, Scan, scanned};
use crate::source::{Init, Scope, Use};

/// The numbers that make a recurrent layer.
#[derive(Clone, Debug, PartialEq)]
pub struct CellSpec {
    /// Which; its state is as wide as the model.
    pub kind: RecurrentKind,
}

impl LayerKind for CellSpec {
    fn about(&self) -> String {
        match self.kind {
            RecurrentKind::Lstm => "LSTM".into(),
            RecurrentKind::Gru => "GRU".into(),
            _ => "Elman network".into(),
        }
    }

    fn remembers(&self) -> Option<&'static str> {
        Some("states")
    }

    fn build(&self, scope: &mut Scope<'_>, d_model: usize) -> Result<Box<dyn Layer>> {
        let wide = self.kind.gates() * d_model;
        let bound = Init::Uniform((d_model as f32).powf(-0.5));
        // An LSTM that does not forget at first learns sooner (Jozefowicz et al. 2015).
        let lstm = self.kind.has_memory();
        let open = |i: usize| f32::from(lstm && i / d_model == 1);
        Ok(Box::new(Cell {
            kind: self.kind,
            w_ih: scope.param_for("w_ih", [wide, d_model], bound, Use::Product)?,
            w_hh: scope.param_for("w_hh", [wide, d_model], bound, Use::Product)?,
            b_ih: scope.param("b_ih", [wide], Init::Each(&open))?,
            b_hh: scope.param("b_hh", [wide], Init::Fill(0.0))?,
        }))
    }

    /// The gates from the input and from the state, before and after their functions, and states.
    fn kept(&self, d_model: usize, _: Precision) -> usize {
        (4 * self.kind.gates() + 2) * d_model
    }

    fn remembered(&self, d_model: usize, _: usize) -> usize {
        if self.kind.has_memory() { 2 * d_model } else { d_model }
    }
}

#[derive(Clone, Debug)]
struct Cell {
    kind: RecurrentKind,
    w_ih: Param<2>,
    w_hh: Param<2>,
    b_ih: Param<1>,
    b_hh: Param<1>,
}

impl Cell {
    fn width(&self) -> usize {
        self.w_ih.value().dims()[1]
    }
}

impl Scan for Cell {
    fn scan(&self, x: Tensor<2>, run: Run<'_>) -> Tensor<2> {
        let (shape, device) = ([run.batch, self.width()], x.device());
        let kind = |i: usize| -> Tensor<2> {
            match &run.states {
                Some(states) => cupola_ops::from_vec(states[i].clone(), shape, &device),
                None => Tensor::zeros(shape, &device),
            }
        };
        let start = RecurrentState { h: kind(0), c: self.kind.has_memory().then(|| kind(1)) };
        let weights = RecurrentWeights {
            w_ih: self.w_ih.value(),
            w_hh: self.w_hh.value(),
            b_ih: self.b_ih.value(),
            b_hh: self.b_hh.value(),
        };
        let (y, last) = cupola_ops::recurrent(self.kind, x, weights, start, None);
        if let Some(states) = run.states {
            let kinds = std::iter::once(last.h).chain(last.c);
            states.iter_mut().zip(kinds).for_each(|(state, last)| *state = cupola_ops::into_vec(last));
        }
        y
    }

    fn start(&self, _: usize) -> Vec<Vec<f32>> {
        vec![vec![0.0; self.width()]; if self.kind.has_memory() { 2 } else { 1 }]
    }
}

impl Module for Cell {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        out.extend([&mut self.w_ih, &mut self.w_hh].map(|p| Piece::Param(ParamMut::Matrix(p))));
        out.extend([&mut self.b_ih, &mut self.b_hh].map(|p| Piece::Param(ParamMut::Vector(p))));
    }
}

impl Layer for Cell {
    fn forward(&self, x: Tensor<2>, pass: &mut Pass<'_, '_>) -> Tensor<2> {
        scanned(self, x, pass)
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}
