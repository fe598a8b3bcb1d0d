//! The recurrent layer of Griffin (De et al. 2024): a gated linear recurrence beside a branch of activations.

use burn::tensor::Tensor;
use burn::tensor::activation::{relu, sigmoid};
use cupola_artifact::Result;
use cupola_ops::{Activation, GatedRecurrence, Precision};

use crate::conv::CausalConv;
use crate::layer::{Layer, LayerKind, Pass};
use crate::linear::Linear;
use crate::module::{Module, Piece};
use crate::param::{Param, ParamMut};
use crate::sequences::{Run, Scan, scanned};
use crate::source::{Init, Scope, Use};
use crate::spread;

/// The numbers that make a recurrent layer.
#[derive(Clone, Debug, PartialEq)]
pub struct GriffinSpec {
    /// Channels.
    pub d_inner: usize,
    /// Blocks of channels whose gates are mixed; they divide the channels.
    pub n_blocks: usize,
    /// Steps of the convolution.
    pub d_conv: usize,
    /// The other branch's activation.
    pub activation: Activation,
}

impl LayerKind for GriffinSpec {
    fn about(&self) -> String {
        "gated linear recurrence".into()
    }

    fn remembers(&self) -> Option<&'static str> {
        Some("states and the last inputs of the convolution")
    }

    fn build(&self, scope: &mut Scope<'_>, d_model: usize) -> Result<Box<dyn Layer>> {
        let (d_inner, n_blocks, wide) = (self.d_inner, self.n_blocks, [self.d_inner, d_model]);
        let width = d_inner / n_blocks;
        let mut gate = |part: &str| -> Result<Gate> {
            // The mean of a uniform distribution's square is a third of its bound's.
            let init = Init::Uniform((0.01 * 3.0 / width as f32).sqrt());
            let weight = scope.param_for(&format!("{part}_weight"), [n_blocks, width, width], init, Use::Product)?;
            Ok(Gate { weight, bias: scope.param(&format!("{part}_bias"), [d_inner], Init::Fill(0.0))? })
        };
        Ok(Box::new(Griffin {
            input_gate: gate("input_gate")?,
            recurrence_gate: gate("recurrence_gate")?,
            lambda: scope.param("lambda", [d_inner], Init::Each(&spread::decay))?,
            x: scope.linear("x", wide, true)?,
            y: scope.linear("y", wide, true)?,
            conv: CausalConv::build(&mut scope.at("conv"), d_inner, self.d_conv, true)?,
            output: scope.linear_out("out", [d_model, d_inner], true)?,
            spec: self.clone(),
        }))
    }

    /// The convolution, and the recurrence with its square root and exponential.
    fn mixing_flops(&self, _: usize) -> f64 {
        (self.d_inner * (2 * self.d_conv + 8)) as f64
    }

    /// Both branches before and after what is done to them, both gates twice, the states and the product.
    fn kept(&self, _: usize, _: Precision) -> usize {
        11 * self.d_inner
    }

    fn remembered(&self, _: usize, _: usize) -> usize {
        CausalConv::remembered(self.d_inner, self.d_conv) + self.d_inner
    }
}

/// A gate before its logistic function: block by block a matrix.
#[derive(Clone, Debug)]
struct Gate {
    /// `[blocks, D/blocks, D/blocks]`: in, out.
    weight: Param<3>,
    /// `[D]`.
    bias: Param<1>,
}

impl Gate {
    /// x `[N, D]`.
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let ([rows, d], weight) = (x.dims(), self.weight.value());
        let [blocks, width, _] = weight.dims();
        let x: Tensor<3> = x.reshape([rows, blocks, width]).swap_dims(0, 1);
        x.matmul(weight).swap_dims(0, 1).reshape([rows, d]) + self.bias.value().unsqueeze::<2>()
    }
}

#[derive(Clone, Debug)]
struct Griffin {
    spec: GriffinSpec,
    x: Linear,
    y: Linear,
    conv: CausalConv,
    input_gate: Gate,
    recurrence_gate: Gate,
    /// `[D_inner]`: minus the paper's Λ.
    lambda: Param<1>,
    output: Linear,
}

impl Griffin {
    /// The states before the first steps that make those what the gated inputs are: `sqrt(1 - a²)` does not count there.
    fn begin(&self, [x, r, i]: [&Tensor<2>; 3], batch: usize) -> Tensor<2> {
        let ([rows, d], lambda) = (x.dims(), self.lambda.value());
        let first = |t: &Tensor<2>| -> Tensor<2> {
            t.clone().reshape([batch, rows / batch, d]).narrow(1, 0, 1).reshape([batch, d])
        };
        let rate = (relu(lambda.clone()) + lambda.abs().neg().exp().log1p()).mul_scalar(-8.0);
        let a = (sigmoid(first(r)) * rate.unsqueeze::<2>()).exp();
        let root = a.clone().powi_scalar(2).neg().add_scalar(1.0).clamp_min(1e-12).sqrt();
        a * sigmoid(first(i)) * first(x) / root.add_scalar(1.0)
    }
}

impl Scan for Griffin {
    fn scan(&self, input: Tensor<2>, mut run: Run<'_>) -> Tensor<2> {
        let (d, batch) = (self.spec.d_inner, run.batch);
        let y = cupola_ops::activation(self.spec.activation, self.y.forward(input.clone()));
        let x = self.conv.forward(self.x.forward(input), &mut run, 0);
        let (r, i) = (self.recurrence_gate.forward(x.clone()), self.input_gate.forward(x.clone()));
        let start = match &run.states {
            Some(states) if !run.fresh => cupola_ops::from_vec(states[1].clone(), [batch, d], &x.device()),
            _ => self.begin([&x, &r, &i], batch),
        };
        let steps = x.dims()[0] / batch;
        let h = cupola_ops::rg_lru(GatedRecurrence { x, r, i, lambda: self.lambda.value(), start });
        if let Some(states) = run.states {
            let last: Tensor<3> = h.clone().reshape([batch, steps, d]).narrow(1, steps - 1, 1);
            states[1] = cupola_ops::into_vec(last);
        }
        self.output.forward(h * y)
    }

    fn start(&self, _: usize) -> Vec<Vec<f32>> {
        vec![self.conv.start(0, None), vec![0.0; self.spec.d_inner]]
    }
}

impl Module for Griffin {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        out.extend([&mut self.x, &mut self.y].map(Piece::Linear));
        self.conv.pieces(out);
        for gate in [&mut self.input_gate, &mut self.recurrence_gate] {
            out.push(Piece::Param(ParamMut::Stack(&mut gate.weight)));
            out.push(Piece::Param(ParamMut::Vector(&mut gate.bias)));
        }
        out.push(Piece::Param(ParamMut::Vector(&mut self.lambda)));
        self.output.pieces(out);
    }
}

impl Layer for Griffin {
    fn forward(&self, x: Tensor<2>, pass: &mut Pass<'_, '_>) -> Tensor<2> {
        scanned(self, x, pass)
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}
