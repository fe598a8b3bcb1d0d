//! Adafactor (Shazeer and Stern 2018).

use super::{Moments, OptimizerConfig, Rule, Slot, StateType, Target, Update};

/// The second moment of a matrix as a column times a row, equal to `torch.optim.Adafactor`: the learning rate bounds a
/// step relative to the parameter's size, `min(lr, 1 / sqrt(step))`. No first moment.
pub struct AdafactorRule;

/// How fast the memory of the second moment grows: it decays by `1 - step^-0.8`.
const BETA2_DECAY: f32 = -0.8;
/// The least size that a parameter is taken to have.
const EPS_SCALE: f32 = 1e-3;
/// The largest root mean square of a step before it is scaled down.
const CLIP: f32 = 1.0;

impl Rule for AdafactorRule {
    fn name(&self) -> &'static str {
        "adafactor"
    }

    fn halves(&self) -> bool {
        false
    }

    fn slots(&self, _: &OptimizerConfig, target: &Target) -> Vec<Slot> {
        let slot = |name, len| Slot { name, len, dtype: StateType::F32 };
        match target.matrix() {
            Some((rows, cols)) => vec![slot("row_var", rows), slot("col_var", cols)],
            None => vec![slot("variance", target.numel())],
        }
    }

    fn apply(&self, _: &OptimizerConfig, update: &Update<'_>, param: &mut [f32], grad: &[f32], state: &mut [Moments]) {
        let settings = cupola_kernels::Adafactor {
            lr: update.lr,
            beta2_decay: BETA2_DECAY,
            eps: f32::EPSILON,
            eps_scale: EPS_SCALE,
            clip: CLIP,
            weight_decay: update.weight_decay,
            step: update.step,
            grad_scale: update.grad_scale,
        };
        match state {
            [Moments::F32(rows), Moments::F32(cols)] => {
                cupola_kernels::adafactor_matrix(param, grad, rows, cols, &settings);
            }
            [Moments::F32(variance)] => cupola_kernels::adafactor_vector(param, grad, variance, &settings),
            _ => unreachable!("Adafactor keeps rows and columns, or one vector"),
        }
    }
}
