//! Recurrent layers, unit by unit in double precision.

use super::sigmoid;
use crate::{Recurrence, RecurrentKind};

/// See [`crate::recurrent_forward`]: `h [B, T, H]` and the final memory `[B, H]` (empty without).
pub fn recurrent(r: &Recurrence) -> (Vec<f32>, Vec<f32>) {
    let (batch, seq, d) = r.sizes;
    let gates = r.kind.gates() * d;
    let (mut out, mut memory) = (vec![0.0; batch * seq * d], r.c0.to_vec());
    for b in 0..batch {
        let mut h: Vec<f64> = r.h0[b * d..][..d].iter().map(|&h| f64::from(h)).collect();
        let mut c: Vec<f64> = r.c0.iter().skip(b * d).take(d).map(|&c| f64::from(c)).collect();
        for t in 0..seq {
            if r.lengths.is_none_or(|l| t < l[b] as usize) {
                let x = &r.x[(b * seq + t) * gates..][..gates];
                let u: Vec<f64> = (0..gates).map(|j| hidden(r, &h, j)).collect();
                let sum = |j: usize, i: usize| f64::from(x[j * d + i]) + u[j * d + i];
                for i in 0..d {
                    h[i] = match r.kind {
                        RecurrentKind::Tanh => sum(0, i).tanh(),
                        RecurrentKind::Lstm => {
                            c[i] = sigmoid(sum(1, i)) * c[i] + sigmoid(sum(0, i)) * sum(2, i).tanh();
                            sigmoid(sum(3, i)) * c[i].tanh()
                        }
                        RecurrentKind::Gru => {
                            let (r, z) = (sigmoid(sum(0, i)), sigmoid(sum(1, i)));
                            let n = (f64::from(x[2 * d + i]) + r * u[2 * d + i]).tanh();
                            (1.0 - z) * n + z * h[i]
                        }
                    };
                }
            }
            out[(b * seq + t) * d..][..d].iter_mut().zip(&h).for_each(|(to, h)| *to = *h as f32);
        }
        memory.iter_mut().skip(b * d).zip(&c).for_each(|(to, c)| *to = *c as f32);
    }
    (out, memory)
}

/// Element `j` of `w · h + bias`.
fn hidden(r: &Recurrence, h: &[f64], j: usize) -> f64 {
    let d = h.len();
    f64::from(r.bias[j]) + r.w[j * d..][..d].iter().zip(h).map(|(w, h)| f64::from(*w) * h).sum::<f64>()
}
