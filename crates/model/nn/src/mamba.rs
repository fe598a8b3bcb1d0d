//! The mixer of Mamba (Gu and Dao 2023): a selective state space between two projections.

use burn::tensor::Tensor;
use cupola_artifact::Result;
use cupola_ops::{Activation, Precision, Selective};

use crate::conv::CausalConv;
use crate::layer::{Layer, LayerKind, Pass};
use crate::linear::Linear;
use crate::module::{Module, Piece};
use crate::norm::{Norm, NormSpec};
use crate::param::{Param, ParamMut};
use crate::sequences::{Run, Scan, scanned};
use crate::source::{Init, Scope};
use crate::spread;

/// The numbers that make a Mamba mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct MambaSpec {
    /// Channels.
    pub d_inner: usize,
    /// Numbers that each channel remembers.
    pub d_state: usize,
    /// Steps of the convolution.
    pub d_conv: usize,
    /// Width of the projection that the time steps are made of.
    pub dt_rank: usize,
    /// Whether the outer projections have biases.
    pub bias: bool,
    /// Whether the convolution has a bias.
    pub conv_bias: bool,
    /// Norms of the time steps and of the state's inputs and outputs (Jamba).
    pub norms: Option<NormSpec>,
}

impl LayerKind for MambaSpec {
    fn about(&self) -> String {
        "selective state space".into()
    }

    fn remembers(&self) -> Option<&'static str> {
        Some("states and the last inputs of the convolution")
    }

    fn build(&self, scope: &mut Scope<'_>, d_model: usize) -> Result<Box<dyn Layer>> {
        let Self { d_inner, d_state, dt_rank, .. } = *self;
        let (input, widths) = ([2 * d_inner, d_model], [dt_rank + 2 * d_state, d_inner]);
        let mut dt = scope.linear_of("dt", [d_inner, dt_rank], false, Init::Uniform((dt_rank as f32).powf(-0.5)))?;
        dt.bias = Some(scope.at("dt").param("bias", [d_inner], Init::Each(&spread::time_step))?);
        let mut norm = |part, width| self.norms.map(|norm| scope.norm(part, norm, width)).transpose();
        let norms = [norm("dt_norm", dt_rank)?, norm("b_norm", d_state)?, norm("c_norm", d_state)?];
        let rate = |i: usize| ((i % d_state + 1) as f32).ln();
        Ok(Box::new(Mamba {
            input: scope.linear("in", input, self.bias)?,
            conv: CausalConv::build(&mut scope.at("conv"), d_inner, self.d_conv, self.conv_bias)?,
            select: scope.linear("select", widths, false)?,
            dt,
            norms,
            a_log: scope.param("a_log", [d_inner * d_state], Init::Each(&rate))?,
            skip: scope.param("skip", [d_inner], Init::Fill(1.0))?,
            output: scope.linear_out("out", [d_model, d_inner], self.bias)?,
            spec: self.clone(),
        }))
    }

    /// The convolution, and seven operations for each number of the state.
    fn mixing_flops(&self, _: usize) -> f64 {
        (self.d_inner * (2 * self.d_conv + 7 * self.d_state)) as f64
    }

    /// Both halves of the projection and both together, what passes the convolution, steps, results; the state's inputs and outputs twice.
    fn kept(&self, _: usize, _: Precision) -> usize {
        10 * self.d_inner + 2 * (self.dt_rank + 2 * self.d_state)
    }

    fn remembered(&self, _: usize, _: usize) -> usize {
        CausalConv::remembered(self.d_inner, self.d_conv) + self.d_inner * self.d_state
    }
}

#[derive(Clone, Debug)]
struct Mamba {
    spec: MambaSpec,
    input: Linear,
    conv: CausalConv,
    select: Linear,
    dt: Linear,
    norms: [Option<Norm>; 3],
    /// `[D_inner · N]`: the logarithms of the paper's -A, in one row.
    a_log: Param<1>,
    skip: Param<1>,
    output: Linear,
}

impl Scan for Mamba {
    fn scan(&self, x: Tensor<2>, mut run: Run<'_>) -> Tensor<2> {
        let MambaSpec { d_inner, d_state, dt_rank, .. } = self.spec;
        let padded = |x: Tensor<2>, real: &Option<Tensor<2>>| match real {
            Some(real) => x * real.clone(),
            None => x,
        };
        let both = self.input.forward(padded(x, &run.real)); // [N, 2·D_inner]
        let (x, z) = (both.clone().narrow(1, 0, d_inner), both.narrow(1, d_inner, d_inner));
        let x = cupola_ops::activation(Activation::Silu, self.conv.forward(x, &mut run, 0));
        let x = padded(x, &run.real);
        let selected = self.select.forward(x.clone());
        let mut from = 0;
        let [dt, b, c] = [dt_rank, d_state, d_state].map(|width| {
            from += width;
            selected.clone().narrow(1, from - width, width)
        });
        let [dt_norm, b_norm, c_norm] = &self.norms;
        let normed =
            |x: Tensor<2>, norm: &Option<Norm>| norm.as_ref().map_or_else(|| x.clone(), |n| n.forward(x.clone()));
        let parts = Selective {
            x,
            dt: self.dt.forward(normed(dt, dt_norm)),
            a: self.a_log.value().exp().neg().reshape([d_inner, d_state]),
            b: normed(b, b_norm),
            c: normed(c, c_norm),
            skip: self.skip.value(),
            z: Some(z),
        };
        let y = match run.states {
            None => cupola_ops::selective_scan(parts, run.batch, true),
            Some(states) => cupola_ops::selective_scan_from(parts, &mut states[1], run.batch, true),
        };
        self.output.forward(y)
    }

    /// What the input projection adds to the zeros of padding passes the convolution.
    fn sees_padding(&self) -> bool {
        self.input.bias.is_some()
    }

    fn start(&self, padding: usize) -> Vec<Vec<f32>> {
        let bias = self.input.bias.as_ref().filter(|_| padding > 0).map(|bias| cupola_ops::to_vec(&bias.value()));
        let before = bias.as_ref().map(|bias| &bias[..self.spec.d_inner]);
        vec![self.conv.start(padding, before), vec![0.0; self.spec.d_inner * self.spec.d_state]]
    }
}

impl Module for Mamba {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        self.input.pieces(out);
        self.conv.pieces(out);
        out.extend([&mut self.select, &mut self.dt].map(Piece::Linear));
        self.norms.iter_mut().for_each(|norm| norm.pieces(out));
        out.extend([&mut self.a_log, &mut self.skip].map(|p| Piece::Param(ParamMut::Vector(p))));
        self.output.pieces(out);
    }
}

impl Layer for Mamba {
    fn forward(&self, x: Tensor<2>, pass: &mut Pass<'_, '_>) -> Tensor<2> {
        scanned(self, x, pass)
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}
