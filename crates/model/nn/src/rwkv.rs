//! The layers of RWKV-4 (Peng et al. 2023): time mixing with a weighted mean of all values so far, and channel mixing.

use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;
use cupola_artifact::Result;
use cupola_ops::{Activation, Precision};

use crate::layer::{Layer, LayerKind, Pass};
use crate::linear::Linear;
use crate::module::{Module, Piece};
use crate::param::{Param, ParamMut};
use crate::sequences::{Run, Scan, scanned};
use crate::source::{Init, Scope};

/// The numbers that make a time-mixing layer.
#[derive(Clone, Debug, PartialEq)]
pub struct TimeMixSpec {
    /// Channels.
    pub d_inner: usize,
    /// Which block it stands in, and of how many; fresh decays and mixtures go by it.
    pub depth: (usize, usize),
}

/// The numbers that make a channel-mixing layer.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelMixSpec {
    /// Its width.
    pub d_ff: usize,
    /// Which block it stands in, and of how many.
    pub depth: (usize, usize),
}

/// From 0 in the first block to 1 in the last.
fn up((block, blocks): (usize, usize)) -> f64 {
    block as f64 / blocks.saturating_sub(1).max(1) as f64
}

/// From 1 in the first block to almost 0 in the last.
fn down((block, blocks): (usize, usize)) -> f64 {
    1.0 - block as f64 / blocks.max(1) as f64
}

impl LayerKind for TimeMixSpec {
    fn about(&self) -> String {
        "weighted mean of the past".into()
    }

    fn remembers(&self) -> Option<&'static str> {
        Some("weighted sums")
    }

    fn build(&self, scope: &mut Scope<'_>, d_model: usize) -> Result<Box<dyn Layer>> {
        let (d_inner, up, down) = (self.d_inner, up(self.depth), down(self.depth));
        let share = |i: usize| i as f64 / d_model as f64;
        let decay = |i: usize| {
            let place = i as f64 / d_inner.saturating_sub(1).max(1) as f64;
            (-5.0 + 8.0 * place.powf(0.7 + 1.3 * up)) as f32
        };
        let bonus = |i: usize| 0.3_f32.ln() + 0.5 * (((i + 1) % 3) as f32 - 1.0);
        let mut mix = |part, init: &dyn Fn(usize) -> f32| scope.param(part, [d_model], Init::Each(init));
        let mixes = [
            mix("mix_k", &|i| share(i).powf(down) as f32)?,
            mix("mix_v", &|i| (share(i).powf(down) + 0.3 * up) as f32)?,
            mix("mix_r", &|i| share(i).powf(0.5 * down) as f32)?,
        ];
        let wide = [d_inner, d_model];
        Ok(Box::new(TimeMix {
            mixes,
            decay: scope.param("decay", [d_inner], Init::Each(&decay))?,
            bonus: scope.param("bonus", [d_inner], Init::Each(&bonus))?,
            key: scope.linear("k", wide, false)?,
            value: scope.linear("v", wide, false)?,
            receptance: scope.linear("r", wide, false)?,
            output: scope.linear_out("o", [d_model, d_inner], false)?,
        }))
    }

    /// Two exponentials with a sum and a product of two sums, twice.
    fn mixing_flops(&self, _: usize) -> f64 {
        16.0 * self.d_inner as f64
    }

    /// Three mixtures and what they mix; keys, values, receptance before and after its function, means and what is put out.
    fn kept(&self, d_model: usize, _: Precision) -> usize {
        6 * d_model + 8 * self.d_inner
    }

    fn remembered(&self, d_model: usize, _: usize) -> usize {
        d_model + 3 * self.d_inner
    }
}

impl LayerKind for ChannelMixSpec {
    fn about(&self) -> String {
        "gated squared ReLU of mixed vectors".into()
    }

    fn remembers(&self) -> Option<&'static str> {
        Some("the last vectors")
    }

    fn build(&self, scope: &mut Scope<'_>, d_model: usize) -> Result<Box<dyn Layer>> {
        let share = |i: usize| (i as f64 / d_model as f64).powf(down(self.depth)) as f32;
        Ok(Box::new(ChannelMix {
            mixes: [
                scope.param("mix_k", [d_model], Init::Each(&share))?,
                scope.param("mix_r", [d_model], Init::Each(&share))?,
            ],
            key: scope.linear("k", [self.d_ff, d_model], false)?,
            receptance: scope.linear("r", [d_model, d_model], false)?,
            value: scope.linear_out("v", [d_model, self.d_ff], false)?,
        }))
    }

    /// Two mixtures, receptance before and after its function, the value; the width twice.
    fn kept(&self, d_model: usize, _: Precision) -> usize {
        5 * d_model + 2 * self.d_ff
    }

    fn remembered(&self, d_model: usize, _: usize) -> usize {
        d_model
    }
}

/// Each token's vector mixed with that of the token before: a convolution of two steps. The first of the states is the
/// last vector; `last` says whether this is the last mixture that needs it as it was.
fn mixed(x: &Tensor<2>, mix: &Param<1>, run: &mut Run<'_>, last: bool) -> Tensor<2> {
    let (mix, d) = (mix.value(), x.dims()[1]);
    let weight: Tensor<2> = Tensor::stack(vec![mix.clone().neg().add_scalar(1.0), mix], 1);
    let bias = Tensor::zeros([d], &x.device());
    match &mut run.states {
        None => cupola_ops::causal_conv(x.clone(), weight, bias, run.batch),
        Some(states) if last => cupola_ops::causal_conv_from(x.clone(), weight, bias, &mut states[0], run.batch),
        Some(states) => cupola_ops::causal_conv_from(x.clone(), weight, bias, &mut states[0].clone(), run.batch),
    }
}

#[derive(Clone, Debug)]
struct TimeMix {
    /// Of keys, values and receptance, `[D]`.
    mixes: [Param<1>; 3],
    /// `[D_inner]`: the logarithm of how fast what was fades.
    decay: Param<1>,
    /// `[D_inner]`: how much more the present counts.
    bonus: Param<1>,
    key: Linear,
    value: Linear,
    receptance: Linear,
    output: Linear,
}

impl Scan for TimeMix {
    fn scan(&self, x: Tensor<2>, mut run: Run<'_>) -> Tensor<2> {
        let [k, v, r] = &self.mixes;
        let k = self.key.forward(mixed(&x, k, &mut run, false));
        let v = self.value.forward(mixed(&x, v, &mut run, false));
        let r = sigmoid(self.receptance.forward(mixed(&x, r, &mut run, true)));
        let rates = [self.decay.value().exp(), self.bonus.value()];
        let mean = match run.states {
            None => {
                let [decay, bonus] = rates;
                cupola_ops::wkv(decay, bonus, k, v, run.batch)
            }
            Some(states) => cupola_ops::wkv_from(rates, k, v, &mut states[1], run.batch),
        };
        self.output.forward(r * mean)
    }

    fn start(&self, _: usize) -> Vec<Vec<f32>> {
        let [d_inner, d_model] = self.key.weight.dims();
        vec![vec![0.0; d_model], cupola_ops::wkv_start(1, d_inner)]
    }
}

impl Module for TimeMix {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        let vectors = self.mixes.iter_mut().chain([&mut self.decay, &mut self.bonus]);
        out.extend(vectors.map(|p| Piece::Param(ParamMut::Vector(p))));
        let linears = [&mut self.key, &mut self.value, &mut self.receptance, &mut self.output];
        out.extend(linears.map(Piece::Linear));
    }
}

impl Layer for TimeMix {
    fn forward(&self, x: Tensor<2>, pass: &mut Pass<'_, '_>) -> Tensor<2> {
        scanned(self, x, pass)
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}

#[derive(Clone, Debug)]
struct ChannelMix {
    /// Of keys and receptance, `[D]`.
    mixes: [Param<1>; 2],
    key: Linear,
    receptance: Linear,
    value: Linear,
}

impl Scan for ChannelMix {
    fn scan(&self, x: Tensor<2>, mut run: Run<'_>) -> Tensor<2> {
        let [k, r] = &self.mixes;
        let k = cupola_ops::activation(Activation::ReluSquared, self.key.forward(mixed(&x, k, &mut run, false)));
        let r = sigmoid(self.receptance.forward(mixed(&x, r, &mut run, true)));
        r * self.value.forward(k)
    }

    fn start(&self, _: usize) -> Vec<Vec<f32>> {
        vec![vec![0.0; self.receptance.weight.dims()[1]]]
    }
}

impl Module for ChannelMix {
    fn pieces<'a>(&'a mut self, out: &mut Vec<Piece<'a>>) {
        out.extend(self.mixes.iter_mut().map(|p| Piece::Param(ParamMut::Vector(p))));
        out.extend([&mut self.key, &mut self.receptance, &mut self.value].map(Piece::Linear));
    }
}

impl Layer for ChannelMix {
    fn forward(&self, x: Tensor<2>, pass: &mut Pass<'_, '_>) -> Tensor<2> {
        scanned(self, x, pass)
    }

    fn boxed(&self) -> Box<dyn Layer> {
        Box::new(self.clone())
    }
}
