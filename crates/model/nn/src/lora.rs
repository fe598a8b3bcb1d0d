//! Low-rank adaptation (Hu et al. 2021): `y += (alpha / r) · x·Aᵀ·Bᵀ`.

use burn::tensor::{Device, Tensor};
use cupola_ops::Precision;
use serde::{Deserialize, Serialize};

use crate::param::{Param, ParamMut};
use crate::rng::Rng;

/// How adapters are made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// The rank r.
    pub r: usize,
    /// The scale's numerator.
    pub alpha: f32,
    /// The layers that get one, by the last part of their names (`q_proj`).
    pub target_modules: Vec<String>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        let names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
        Self { r: 8, alpha: 16.0, target_modules: names.map(String::from).to_vec() }
    }
}

/// One layer's adapter.
#[derive(Clone, Debug)]
pub struct Lora {
    /// `[r, d_in]`.
    pub a: Param<2>,
    /// `[d_out, r]`.
    pub b: Param<2>,
    /// `alpha / r`.
    pub scale: f32,
}

impl Lora {
    /// A fresh adapter that changes nothing yet: A uniform as PEFT draws it (Kaiming with a = sqrt(5), that is
    /// within 1 / sqrt(d_in)), B zero.
    pub fn new(module: &str, [d_out, d_in]: [usize; 2], config: &LoraConfig, seed: u64, device: &Device) -> Self {
        let mut rng = Rng::new(seed, module);
        let bound = (d_in as f64).powf(-0.5);
        let a = (0..config.r * d_in).map(|_| ((rng.uniform() * 2.0 - 1.0) * bound) as f32).collect();
        Self {
            a: Param::new(format!("{module}.lora_A.weight"), cupola_ops::from_vec(a, [config.r, d_in], device)),
            b: Param::new(
                format!("{module}.lora_B.weight"),
                cupola_ops::from_vec(vec![0.0; d_out * config.r], [d_out, config.r], device),
            ),
            scale: config.alpha / config.r as f32,
        }
    }

    /// x `[N, d_in]`, gives `[N, d_out]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let down = cupola_ops::linear(x, self.a.value(), None, Precision::F32);
        cupola_ops::linear(down, self.b.value(), None, Precision::F32).mul_scalar(self.scale)
    }

    /// What it adds to the weight, `[d_out, d_in]`.
    pub fn delta(&self) -> Tensor<2> {
        self.b.plain().matmul(self.a.plain()).mul_scalar(self.scale)
    }

    /// A and B.
    pub fn params_mut<'a>(&'a mut self, out: &mut Vec<ParamMut<'a>>) {
        out.push(ParamMut::Matrix(&mut self.a));
        out.push(ParamMut::Matrix(&mut self.b));
    }
}
