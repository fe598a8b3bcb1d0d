//! A weight as a matrix product operator, also called a tensor train (Novikov et al. 2015, Tensorizing Neural Networks;
//! Stoudenmire and Schwab 2016, Supervised Learning with Tensor Networks).
//!
//! With `d_in = i_1 ⋯ i_K` and `d_out = o_1 ⋯ o_K` an element of the weight is a product of matrices,
//! `W[o_1…o_K, i_1…i_K] = G_1[o_1, i_1] ⋯ G_K[o_K, i_K]`, where `G_k[o, i]` is `[r_(k-1), r_k]` and `r_0 = r_K = 1`. A core
//! holds all of its matrices as `[r_(k-1)·o_k, i_k·r_k]`: what it multiplies a token by.

use burn::tensor::{Device, Tensor};
use cupola_artifact::Result;
use cupola_ops::Precision;

use crate::layer::{Layer, LayerKind};
use crate::layers::LayerSpec;
use crate::param::Param;
use crate::source::{Init, Scope, Use};

/// The numbers that make a tensor train of a weight's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainSpec {
    /// The most numbers that two neighbouring cores share (the bond dimension).
    pub bond: usize,
    /// Cores.
    pub cores: usize,
}

/// A layer whose linear layers have tensor trains for weights.
#[derive(Clone, Debug, PartialEq)]
pub struct FactoredSpec {
    /// The layer.
    pub layer: Box<LayerSpec>,
    /// Its weights.
    pub train: TrainSpec,
}

impl LayerKind for FactoredSpec {
    fn about(&self) -> String {
        format!("{} of tensor trains", self.layer.kind().about())
    }

    fn positions(&self) -> Option<&'static str> {
        self.layer.kind().positions()
    }

    fn remembers(&self) -> Option<&'static str> {
        self.layer.kind().remembers()
    }

    fn build(&self, scope: &mut Scope<'_>, d_model: usize) -> Result<Box<dyn Layer>> {
        self.layer.kind().build(&mut scope.factored(self.train), d_model)
    }

    fn mixing_flops(&self, seq: usize) -> f64 {
        self.layer.kind().mixing_flops(seq)
    }

    /// As the layer, and once more what stands between the cores.
    fn kept(&self, d_model: usize, _: Precision) -> usize {
        2 * self.layer.kind().kept(d_model, Precision::F32)
    }

    fn passing(&self, rows: usize) -> usize {
        self.layer.kind().passing(rows)
    }

    fn remembered(&self, d_model: usize, len: usize) -> usize {
        self.layer.kind().remembered(d_model, len)
    }
}

/// The sizes of a core: `[left · d_out, d_in · right]`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Site {
    left: usize,
    d_out: usize,
    d_in: usize,
    right: usize,
}

impl Site {
    fn shape(&self) -> [usize; 2] {
        [self.left * self.d_out, self.d_in * self.right]
    }
}

/// Factors of `n`, as near to each other as its divisors allow, the smallest first.
fn factors(n: usize, count: usize) -> Vec<usize> {
    let (mut rest, mut found) = (n, Vec::with_capacity(count));
    for left in (2..=count).rev() {
        let root = (rest as f64).powf(1.0 / left as f64).round() as usize;
        // Far enough for every width up to 2^32; a hostile one gets worse factors, in time.
        let factor = (1..=root.max(1)).rev().take(1 << 16).find(|d| rest.is_multiple_of(*d)).unwrap_or(1);
        found.push(factor);
        rest /= factor;
    }
    found.push(rest);
    found.sort_unstable();
    found
}

impl TrainSpec {
    /// The cores of a weight `[d_out, d_in]`. Small inputs stand beside large outputs: fewer operations. A bond is no wider
    /// than what stands on either side of it can fill.
    fn sites(&self, [d_out, d_in]: [usize; 2]) -> Vec<Site> {
        let (d_ins, mut d_outs) = (factors(d_in, self.cores), factors(d_out, self.cores));
        d_outs.reverse();
        let size = |k: usize| d_ins[k].saturating_mul(d_outs[k]);
        let bond = |k: usize| {
            let before = (0..k).fold(1usize, |all, k| all.saturating_mul(size(k)));
            let after = (k..self.cores).fold(1usize, |all, k| all.saturating_mul(size(k)));
            self.bond.min(before).min(after)
        };
        let site = |k: usize| Site { left: bond(k), d_out: d_outs[k], d_in: d_ins[k], right: bond(k + 1) };
        (0..self.cores).map(site).collect()
    }
}

/// How many products each way takes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cost {
    /// For a token to go from core to core.
    contract: f64,
    /// For a token to be multiplied by the whole weight.
    whole: f64,
    /// To multiply out the weight, once.
    form: f64,
}

impl Cost {
    fn of(sites: &[Site]) -> Self {
        let product = |sites: &[Site], size: fn(&Site) -> usize| sites.iter().map(|s| size(s) as f64).product::<f64>();
        let numbers = |site: &Site| site.shape().map(|n| n as f64).iter().product::<f64>();
        let (mut contract, mut form) = (0.0, 0.0);
        for (k, site) in sites.iter().enumerate() {
            let (before, after) = (&sites[..k], &sites[k + 1..]);
            contract += numbers(site) * product(before, |s| s.d_in) * product(after, |s| s.d_out);
            if k > 0 {
                form += numbers(site) * product(before, |s| s.d_in) * product(before, |s| s.d_out);
            }
        }
        Self { contract, whole: product(sites, |s| s.d_in) * product(sites, |s| s.d_out), form }
    }

    /// Whether so many tokens are better multiplied by the whole weight.
    fn prefers_whole(&self, rows: f64) -> bool {
        self.form + rows * self.whole < rows * self.contract
    }
}

/// A weight `[d_out, d_in]` as a product of cores.
#[derive(Clone, Debug)]
pub struct TensorTrain {
    name: String,
    sites: Vec<Site>,
    cost: Cost,
    pub(crate) cores: Vec<Param<2>>,
}

impl TensorTrain {
    /// The cores of a weight. A fresh one's elements deviate as those of a dense weight.
    pub(crate) fn build(scope: &mut Scope<'_>, spec: TrainSpec, shape: [usize; 2], init: Init<'_>) -> Result<Self> {
        let sites = spec.sites(shape);
        let cost = Cost::of(&sites);
        // Where many tokens go through the whole weight, each of its numbers counts once; the cores share in that.
        let share = (cost.whole / cost.contract).min(1.0);
        let terms = sites.iter().map(|s| s.left as f64).product();
        let init = Init::Factor { residual: matches!(init, Init::Residual), factors: sites.len(), terms };
        let core = |(k, site): (usize, &Site)| {
            let before: f64 = sites[..k].iter().map(|s| s.d_in as f64).product();
            let after: f64 = sites[k + 1..].iter().map(|s| s.d_out as f64).product();
            scope.param_for(&format!("core_{k}"), site.shape(), init, Use::Share(before * after * share))
        };
        let cores = sites.iter().enumerate().map(core).collect::<Result<Vec<_>>>()?;
        let first = cores.first().map(Param::name).unwrap_or_default();
        let name = format!("{}weight", first.trim_end_matches("core_0"));
        Ok(Self { name, sites, cost, cores })
    }

    /// The weight's name, if it were one.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `[d_out, d_in]`.
    pub fn dims(&self) -> [usize; 2] {
        [self.sites.iter().map(|s| s.d_out).product(), self.sites.iter().map(|s| s.d_in).product()]
    }

    pub(crate) fn device(&self) -> Device {
        self.cores[0].value().device()
    }

    /// Whether many tokens go through the whole weight.
    pub(crate) fn is_whole_for_many(&self) -> bool {
        self.cost.whole < self.cost.contract
    }

    /// The weight multiplied out, `[d_out, d_in]`.
    pub fn dense(&self) -> Tensor<2> {
        let Site { mut d_out, mut d_in, right, .. } = self.sites[0];
        let mut whole = self.cores[0].value().reshape([d_out * d_in, right]);
        for (site, core) in self.sites.iter().zip(&self.cores).skip(1) {
            let Site { left, d_out: o, d_in: i, right } = *site;
            let product = whole.matmul(core.value().reshape([left, o * i * right])); // [O·I, o·i·r]
            let ordered = product.reshape([d_out, d_in, o, i, right]).swap_dims(1, 2); // [O, o, I, i, r]
            (d_out, d_in) = (d_out * o, d_in * i);
            whole = ordered.reshape([d_out * d_in, right]);
        }
        whole.reshape([d_out, d_in])
    }

    /// x `[N, d_in]` times the transposed weight, core by core from the last: what stands between is
    /// `[N·i_1⋯i_(k-1), i_k·r_k, o_(k+1)⋯o_K]`.
    pub(crate) fn contract(&self, x: Tensor<2>, precision: Precision) -> Tensor<2> {
        let [rows, _] = x.dims();
        let (mut y, mut after) = (x, 1);
        let mut before = rows * self.sites.iter().map(|s| s.d_in).product::<usize>();
        for (site, core) in self.sites.iter().zip(&self.cores).rev() {
            let [wide, narrow] = site.shape();
            before /= site.d_in;
            let turned = turn(y, [before, narrow, after]).reshape([before * after, narrow]);
            let product = cupola_ops::linear(turned, core.value(), None, precision); // [before·after, left·o]
            y = turn(product, [before, after, wide]);
            after *= site.d_out;
        }
        y.reshape([rows, after])
    }

    /// x `[N, d_in]` times the transposed weight, whichever way is shorter.
    pub(crate) fn product(&self, x: Tensor<2>, bias: Option<Tensor<1>>, precision: Precision) -> Tensor<2> {
        if self.cost.prefers_whole(x.dims()[0] as f64) {
            return cupola_ops::linear(x, self.dense(), bias, precision);
        }
        let y = self.contract(x, precision);
        bias.map_or_else(|| y.clone(), |bias| y.clone() + bias.unsqueeze::<2>())
    }
}

/// `[A, B, C]` as `[A, C, B]`, flat in two dimensions.
fn turn(x: Tensor<2>, [a, b, c]: [usize; 3]) -> Tensor<2> {
    match b == 1 || c == 1 {
        true => x.reshape([a, b * c]),
        false => x.reshape([a, b, c]).swap_dims(1, 2).reshape([a, b * c]),
    }
}

#[cfg(test)]
#[path = "tensor_train_tests.rs"]
mod tests;
