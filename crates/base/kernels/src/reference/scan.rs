//! The scans, channel by channel in double precision.

use super::sigmoid;
use crate::{CausalConv, RgLru, SelectiveScan, Wkv};

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// See [`crate::selective_scan_forward`].
pub fn selective_scan(scan: &SelectiveScan, state: &mut [f32], y: &mut [f32]) {
    let (batch, seq, d, n) = scan.sizes;
    for (b, i) in (0..batch * d).map(|t| (t / d, t % d)) {
        let mut h: Vec<f64> = (0..n).map(|j| f64::from(state[(b * n + j) * d + i])).collect();
        for t in 0..seq {
            let (row, at) = (b * seq + t, (b * seq + t) * d + i);
            let (x, dt) = (f64::from(scan.x[at]), f64::from(scan.dt[at]));
            let dt = if scan.softplus { softplus(dt) } else { dt };
            let mut out = scan.skip.get(i).map_or(0.0, |&s| f64::from(s)) * x;
            for (j, h) in h.iter_mut().enumerate() {
                let a = if scan.a.len() == d { scan.a[i] } else { scan.a[i * n + j] };
                *h = (dt * f64::from(a)).exp() * *h + dt * f64::from(scan.b[row * n + j]) * x;
                out += f64::from(scan.c[row * n + j]) * *h;
            }
            let gate = scan.z.get(at).map_or(1.0, |&z| f64::from(z) * sigmoid(f64::from(z)));
            y[at] = (out * gate) as f32;
        }
        (0..n).for_each(|j| state[(b * n + j) * d + i] = h[j] as f32);
    }
}

/// See [`crate::causal_conv_forward`], from a start of zeros.
pub fn causal_conv(conv: &CausalConv, y: &mut [f32]) {
    let (batch, seq, d, k) = conv.sizes;
    for (b, t, i) in (0..batch * seq * d).map(|p| (p / d / seq, p / d % seq, p % d)) {
        let x = |t: usize| f64::from(conv.x[(b * seq + t) * d + i]);
        let past = (0..k).filter(|j| t + j + 1 >= k).map(|j| f64::from(conv.w[i * k + j]) * x(t + j + 1 - k));
        y[(b * seq + t) * d + i] = (conv.bias.get(i).map_or(0.0, |&b| f64::from(b)) + past.sum::<f64>()) as f32;
    }
}

/// See [`crate::wkv_forward`], as the definition's sums over all of the past; without its guard against overflow.
pub fn wkv(wkv: &Wkv, y: &mut [f32]) {
    let (_, seq, d) = wkv.sizes;
    for at in 0..y.len() {
        let (i, t) = (at % d, at / d % seq);
        let (w, u) = (f64::from(wkv.w[i]), f64::from(wkv.u[i]));
        let (mut sum, mut weights) = (0.0, 0.0);
        for past in 0..=t {
            let from = at - past * d;
            let extra = if past == 0 { u } else { -(past as f64 - 1.0) * w };
            let weight = (f64::from(wkv.k[from]) + extra).exp();
            sum += weight * f64::from(wkv.v[from]);
            weights += weight;
        }
        y[at] = (sum / weights) as f32;
    }
}

/// See [`crate::rg_lru_forward`].
pub fn rg_lru(lru: &RgLru, h: &mut [f32]) {
    let (batch, seq, d) = lru.sizes;
    for (b, i) in (0..batch * d).map(|t| (t / d, t % d)) {
        let mut state = f64::from(lru.h0[b * d + i]);
        for at in (0..seq).map(|t| (b * seq + t) * d + i) {
            let log_a = -8.0 * softplus(f64::from(lru.lambda[i])) * sigmoid(f64::from(lru.r[at]));
            let taken = (1.0 - (2.0 * log_a).exp()).sqrt() * sigmoid(f64::from(lru.i[at])) * f64::from(lru.x[at]);
            state = log_a.exp() * state + taken;
            h[at] = state as f32;
        }
    }
}
