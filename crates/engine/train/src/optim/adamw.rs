//! AdamW (Loshchilov and Hutter 2019, algorithm 2).

use super::{OptimizerConfig, Rule, Update};

/// Adam with decoupled weight decay, equal to `torch.optim.AdamW`.
pub struct AdamWRule;

impl Rule for AdamWRule {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn slots(&self) -> &'static [&'static str] {
        &["exp_avg", "exp_avg_sq"]
    }

    fn apply(
        &self,
        config: &OptimizerConfig,
        update: &Update,
        param: &mut [f32],
        grad: &[f32],
        state: &mut [Vec<f32>],
    ) {
        let [m, v] = state else { unreachable!("AdamW keeps two moments") };
        let settings = cupola_kernels::AdamW {
            lr: update.lr,
            beta1: config.beta1,
            beta2: config.beta2,
            eps: config.eps,
            weight_decay: update.weight_decay,
            step: update.step,
            grad_scale: update.grad_scale,
        };
        cupola_kernels::adamw(param, grad, m, v, &settings);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use burn::tensor::Device;
    use cupola_nn::{Param, ParamMut};
    use cupola_testkit::{Golden, assert_close};

    use crate::optim::{Optimizer, OptimizerConfig};

    #[test]
    fn adamw_follows_torch_over_twenty_steps() {
        let golden = Golden::load("optimizers");
        let (shape, start) = golden.f32("in.start");
        let (path_shape, path) = golden.f32("adamw.path");
        let (_, grads) = golden.f32("in.grads");
        let n = start.len();
        assert_eq!(path_shape[0], 20);
        let (atol, rtol) = golden.tolerance("adamw.path");
        let config = OptimizerConfig { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, ..Default::default() };
        let mut optimizer = Optimizer::new(&config).unwrap();
        let value = cupola_ops::from_vec(start, [shape[0], shape[1]], &Device::flex());
        let mut param = Param::<2>::new("weight", value);
        for step in 0..20 {
            let gradient = vec![Some(grads[step * n..][..n].to_vec())];
            assert!(optimizer.step(vec![ParamMut::Matrix(&mut param)], &gradient, 0.02, step as u64 + 1, 1.0));
            assert_close(
                &format!("step {step}"),
                &cupola_ops::to_vec(&param.value()),
                &path[step * n..][..n],
                atol,
                rtol,
            );
        }
    }
}
