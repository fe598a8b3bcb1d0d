//! The mixer of Mamba-2 (Dao and Gu 2024): heads with one decay each, and a norm of the gated result.

use burn::tensor::Tensor;
use burn::tensor::activation::{relu, silu};
use cupola_artifact::Result;
use cupola_ops::{Activation, Precision, Selective};

use crate::conv::CausalConv;
use crate::layer::{Layer, LayerKind, Pass};
use crate::linear::Linear;
use crate::module::{Module, Piece};
use crate::param::{Param, ParamMut};
use crate::sequences::{Run, Scan, scanned};
use crate::source::{Init, Scope};
use crate::spread;

/// The numbers that make a Mamba-2 mixer.
#[derive(Clone, Debug, PartialEq)]
pub struct Mamba2Spec {
    /// Heads.
    pub n_heads: usize,
    /// Channels of a head.
    pub d_head: usize,
    /// Groups of heads that share what goes into the state and out of it; they divide the heads.
    pub n_groups: usize,
    /// Numbers that each channel remembers.
    pub d_state: usize,
    /// Steps of the convolution.
    pub d_conv: usize,
    /// Whether the outer projections have biases.
    pub bias: bool,
    /// Whether the convolution has a bias.
    pub conv_bias: bool,
    /// Added to the variance in the gated norm.
    pub eps: f32,
    /// The least and the greatest time step.
    pub limits: Option<[f32; 2]>,
}

impl Mamba2Spec {
    fn d_inner(&self) -> usize {
        self.n_heads * self.d_head
    }

    /// Channels that pass the convolution.
    pub fn convolved(&self) -> usize {
        self.d_inner() + 2 * self.n_groups * self.d_state
    }
}

impl LayerKind for Mamba2Spec {
    fn about(&self) -> String {
        "selective state space with heads".into()
    }

    fn remembers(&self) -> Option<&'static str> {
        Some("states and the last inputs of the convolution")
    }

    fn build(&self, scope: &mut Scope<'_>, d_model: usize) -> Result<Box<dyn Layer>> {
        Ok(Box::new(Mamba2::build(self, scope, d_model)?))
    }

    /// The convolution, and six operations for each number of the state.
    fn mixing_flops(&self, _: usize) -> f64 {
        (2 * self.convolved() * self.d_conv + 6 * self.d_inner() * self.d_state) as f64
    }

    /// The projection and its parts, what passes the convolution, each group's share of that, the steps of each channel,
    /// results before and after gate and norm.
    fn kept(&self, _: usize, _: Precision) -> usize {
        12 * self.d_inner() + 4 * self.convolved()
    }

    fn remembered(&self, _: usize, _: usize) -> usize {
        CausalConv::remembered(self.convolved(), self.d_conv) + self.d_inner() * self.d_state
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Mamba2 {
    spec: Mamba2Spec,
    input: Linear,
    conv: CausalConv,
    dt_bias: Param<1>,
    a_log: Param<1>,
    skip: Param<1>,
    norm: Param<1>,
    output: Linear,
}

impl Mamba2 {
    /// A mixer out of a source.
    pub(crate) fn build(spec: &Mamba2Spec, scope: &mut Scope<'_>, d_model: usize) -> Result<Self> {
        let (d_inner, n_heads, convolved) = (spec.d_inner(), spec.n_heads, spec.convolved());
        Ok(Self {
            input: scope.linear("in", [d_inner + convolved + n_heads, d_model], spec.bias)?,
            conv: CausalConv::build(&mut scope.at("conv"), convolved, spec.d_conv, spec.conv_bias)?,
            dt_bias: scope.param("dt_bias", [n_heads], Init::Each(&spread::time_step))?,
            a_log: scope.param("a_log", [n_heads], Init::Each(&|i| ((i + 1) as f32).ln()))?,
            skip: scope.param("skip", [n_heads], Init::Fill(1.0))?,
            norm: scope.at("norm").param("weight", [d_inner], Init::Fill(1.0))?,
            output: scope.linear_out("out", [d_model, d_inner], spec.bias)?,
            spec: spec.clone(),
        })
    }

    /// Numbers of heads `[N, H]` for each of their channels, `[N, H·dh]`.
    fn of_channels(&self, heads: Tensor<2>) -> Tensor<2> {
        let ([rows, n_heads], d_head) = (heads.dims(), self.spec.d_head);
        heads.reshape([rows, n_heads, 1]).expand([rows, n_heads, d_head]).reshape([rows, n_heads * d_head])
    }

    /// `log(1 + e^dt)` within the limits, if there are any.
    fn limited(&self, dt: Tensor<2>) -> Tensor<2> {
        let Some([least, greatest]) = self.spec.limits else { return dt };
        (relu(dt.clone()) + dt.abs().neg().exp().log1p()).clamp(least, greatest)
    }

    /// The norm of `y · silu(z)`, of each group for itself.
    fn gated_norm(&self, y: Tensor<2>, z: Tensor<2>) -> Tensor<2> {
        let ([rows, d_inner], groups) = (y.dims(), self.spec.n_groups);
        let (weight, eps, gated) = (self.norm.value(), self.spec.eps, y * silu(z));
        if groups == 1 {
            return cupola_ops::rms_norm(gated, weight, eps);
        }
        let width = d_inner / groups;
        let ones = Tensor::ones([width], &gated.device());
        let normed = cupola_ops::rms_norm(gated.reshape([rows * groups, width]), ones, eps);
        normed.reshape([rows, d_inner]) * weight.unsqueeze::<2>()
    }
}

impl Scan for Mamba2 {
    fn scan(&self, x: Tensor<2>, mut run: Run<'_>) -> Tensor<2> {
        let Mamba2Spec { n_groups, d_state, n_heads, .. } = self.spec;
        let (d_inner, convolved) = (self.spec.d_inner(), self.spec.convolved());
        let padded = |x: Tensor<2>, real: &Option<Tensor<2>>| match real {
            Some(real) => x * real.clone(),
            None => x,
        };
        let all = self.input.forward(padded(x, &run.real)); // [N, D_inner + convolved + H]
        let z = all.clone().narrow(1, 0, d_inner);
        let xbc = self.conv.forward(all.clone().narrow(1, d_inner, convolved), &mut run, 0);
        let xbc = padded(cupola_ops::activation(Activation::Silu, xbc), &run.real);
        let dt = all.narrow(1, d_inner + convolved, n_heads) + self.dt_bias.value().unsqueeze::<2>();
        let dt = self.of_channels(self.limited(dt));
        let a = self.of_channels(self.a_log.value().exp().neg().unsqueeze::<2>()).reshape([d_inner, 1]);
        let skip = self.of_channels(self.skip.value().unsqueeze::<2>()).reshape([d_inner]);
        let width = d_inner / n_groups;
        let outputs = (0..n_groups).map(|g| {
            let shared = |from: usize| xbc.clone().narrow(1, d_inner + (from + g) * d_state, d_state);
            let part = Selective {
                x: xbc.clone().narrow(1, g * width, width),
                dt: dt.clone().narrow(1, g * width, width),
                a: a.clone().narrow(0, g * width, width),
                b: shared(0),
                c: shared(n_groups),
                skip: skip.clone().narrow(0, g * width, width),
                z: None,
            };
            let soft = self.spec.limits.is_none();
            match &mut run.states {
                None => cupola_ops::selective_scan(part, run.batch, soft),
                Some(states) => cupola_ops::selective_scan_from(part, &mut states[1 + g], run.batch, soft),
            }
        });
        let y = Tensor::cat(outputs.collect(), 1);
        self.output.forward(self.gated_norm(y, z))
    }

    /// What the input projection adds to the zeros of padding passes the convolution.
    fn sees_padding(&self) -> bool {
        self.input.bias.is_some()
    }

    fn start(&self, padding: usize) -> Vec<Vec<f32>> {
        let (d_inner, groups) = (self.spec.d_inner(), self.spec.n_groups);
        let bias = self.input.bias.as_ref().filter(|_| padding > 0).map(|bias| cupola_ops::to_vec(&bias.value()));
        let before = bias.as_ref().map(|bias| &bias[d_inner..d_inner + self.spec.convolved()]);
        let scans = (0..groups).map(|_| vec![0.0; d_inner / groups * self.spec.d_state]);
        std::iter::once(self.conv.start(padding, before)).chain(scans).collect()
    }
}

impl Module for Mamba2 {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        self.input.pieces(out);
        self.conv.pieces(out);
        let vectors = [&mut self.dt_bias, &mut self.a_log, &mut self.skip, &mut self.norm];
        out.extend(vectors.map(|p| Piece::Param(ParamMut::Vector(p))));
        self.output.pieces(out);
    }
}

impl Layer for Mamba2 {
    fn forward(&self, x: Tensor<2>, pass: &mut Pass<'_, '_>) -> Tensor<2> {
        scanned(self, x, pass)
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}
