//! The optimizers, one number at a time in double precision.

use crate::optim::dither;
use crate::{Adafactor, AdamW, Lion, MUON_COEFFICIENTS, MUON_EPS, MUON_STEPS, Moment, Muon, Sgd};

fn get<T: Moment>(x: &[T], i: usize) -> f64 {
    f64::from(x[i].to_f32())
}

/// Stores element `i` of moment `slot`.
fn set<T: Moment>(x: &mut [T], i: usize, value: f64, step: u64, slot: usize) {
    x[i] = T::from_f32(value as f32, dither(step, slot, i));
}

/// See [`crate::adamw`].
pub fn adamw<T: Moment>(p: &mut [f32], g: &[f32], m: &mut [T], v: &mut [T], h: &AdamW) {
    let (lr, b1, b2) = (f64::from(h.lr), f64::from(h.beta1), f64::from(h.beta2));
    for i in 0..p.len() {
        let g = f64::from(g[i]) * f64::from(h.grad_scale);
        let mi = b1 * get(m, i) + (1.0 - b1) * g;
        let vi = b2 * get(v, i) + (1.0 - b2) * g * g;
        let m_hat = mi / (1.0 - b1.powf(h.step as f64));
        let v_hat = vi / (1.0 - b2.powf(h.step as f64));
        let decayed = f64::from(p[i]) * (1.0 - lr * f64::from(h.weight_decay));
        p[i] = (decayed - lr * m_hat / (v_hat.sqrt() + f64::from(h.eps))) as f32;
        set(m, i, mi, h.step, 0);
        set(v, i, vi, h.step, 1);
    }
}

/// See [`crate::lion`].
pub fn lion<T: Moment>(p: &mut [f32], g: &[f32], m: &mut [T], h: &Lion) {
    let (lr, b1, b2) = (f64::from(h.lr), f64::from(h.beta1), f64::from(h.beta2));
    for i in 0..p.len() {
        let (g, mi) = (f64::from(g[i]) * f64::from(h.grad_scale), get(m, i));
        let direction = b1 * mi + (1.0 - b1) * g;
        let sign = if direction == 0.0 { 0.0 } else { direction.signum() };
        p[i] = (f64::from(p[i]) * (1.0 - lr * f64::from(h.weight_decay)) - lr * sign) as f32;
        set(m, i, b2 * mi + (1.0 - b2) * g, h.step, 0);
    }
}

/// See [`crate::sgd`].
pub fn sgd<T: Moment>(p: &mut [f32], g: &[f32], m: &mut [T], h: &Sgd) {
    let momentum = f64::from(h.momentum);
    for i in 0..p.len() {
        let g = f64::from(g[i]) * f64::from(h.grad_scale) + f64::from(h.weight_decay) * f64::from(p[i]);
        let mut direction = g;
        if momentum != 0.0 {
            let mi = momentum * get(m, i) + g;
            direction = if h.nesterov { g + momentum * mi } else { mi };
            set(m, i, mi, h.step, 0);
        }
        p[i] = (f64::from(p[i]) - f64::from(h.lr) * direction) as f32;
    }
}

fn mean(x: impl ExactSizeIterator<Item = f64>) -> f64 {
    let len = x.len();
    x.sum::<f64>() / len as f64
}

/// What remains of Adafactor once the second moment `v` is known.
fn adafactor_step(p: &mut [f32], g: &[f32], v: &[f64], h: &Adafactor) {
    let (lr, eps) = (f64::from(h.lr), f64::from(h.eps));
    let size = mean(p.iter().map(|&p| f64::from(p).powi(2))).sqrt().max(f64::from(h.eps_scale));
    let u = g.iter().zip(v).map(|(&g, v)| f64::from(g) * f64::from(h.grad_scale) / v.sqrt().max(eps));
    let u: Vec<f64> = u.collect();
    let excess = (mean(u.iter().map(|u| u * u)).sqrt() / f64::from(h.clip)).max(1.0);
    let rate = lr.min(1.0 / (h.step as f64).sqrt()) * size;
    for i in 0..p.len() {
        p[i] = (f64::from(p[i]) * (1.0 - lr * f64::from(h.weight_decay)) - rate * u[i] / excess) as f32;
    }
}

/// See [`crate::adafactor_vector`].
pub fn adafactor_vector(p: &mut [f32], g: &[f32], v: &mut [f32], h: &Adafactor) {
    let weight = (h.step as f64).powf(f64::from(h.beta2_decay));
    for i in 0..v.len() {
        let g = f64::from(g[i]) * f64::from(h.grad_scale);
        v[i] = ((1.0 - weight) * f64::from(v[i]) + weight * g * g) as f32;
    }
    adafactor_step(p, g, &v.iter().map(|&v| f64::from(v)).collect::<Vec<_>>(), h);
}

/// See [`crate::adafactor_matrix`].
pub fn adafactor_matrix(p: &mut [f32], g: &[f32], row_var: &mut [f32], col_var: &mut [f32], h: &Adafactor) {
    let (rows, cols) = (row_var.len(), col_var.len());
    let weight = (h.step as f64).powf(f64::from(h.beta2_decay));
    let square = |i: usize, j: usize| (f64::from(g[i * cols + j]) * f64::from(h.grad_scale)).powi(2);
    for i in 0..rows {
        let newest = mean((0..cols).map(|j| square(i, j)));
        row_var[i] = ((1.0 - weight) * f64::from(row_var[i]) + weight * newest) as f32;
    }
    for j in 0..cols {
        let newest = mean((0..rows).map(|i| square(i, j)));
        col_var[j] = ((1.0 - weight) * f64::from(col_var[j]) + weight * newest) as f32;
    }
    let row_mean = mean(row_var.iter().map(|&v| f64::from(v))).max(f64::from(h.eps));
    let v: Vec<f64> =
        (0..p.len()).map(|i| f64::from(row_var[i / cols]) * f64::from(col_var[i % cols]) / row_mean).collect();
    adafactor_step(p, g, &v, h);
}

/// `a[m, k] · b[k, n]`, or with `a`'s transpose, `a[k, m]`.
fn product(a: &[f64], b: &[f64], (m, k, n): (usize, usize, usize), transposed: bool) -> Vec<f64> {
    let at = |i: usize, p: usize| if transposed { a[p * m + i] } else { a[i * k + p] };
    (0..m * n).map(|t| (0..k).map(|p| at(t / n, p) * b[p * n + t % n]).sum()).collect()
}

/// See [`crate::muon`]; always takes the Gram matrix of the columns.
pub fn muon<T: Moment>(p: &mut [f32], g: &[f32], m: &mut [T], (rows, cols): (usize, usize), h: &Muon) {
    let momentum = f64::from(h.momentum);
    let mut x = vec![0.0; p.len()];
    for i in 0..p.len() {
        let g = f64::from(g[i]) * f64::from(h.grad_scale);
        let mi = momentum * get(m, i) + (1.0 - momentum) * g;
        x[i] = if h.nesterov { momentum * mi + (1.0 - momentum) * g } else { mi };
        set(m, i, mi, h.step, 0);
    }
    let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt().max(MUON_EPS);
    x.iter_mut().for_each(|x| *x /= norm);
    let [a, b, c] = MUON_COEFFICIENTS.map(f64::from);
    for _ in 0..MUON_STEPS {
        let gram = product(&x, &x, (cols, rows, cols), true);
        let once = product(&x, &gram, (rows, cols, cols), false);
        let twice = product(&once, &gram, (rows, cols, cols), false);
        for i in 0..x.len() {
            x[i] = a * x[i] + b * once[i] + c * twice[i];
        }
    }
    let lr = f64::from(h.lr);
    for i in 0..p.len() {
        let decayed = f64::from(p[i]) * (1.0 - lr * f64::from(h.weight_decay));
        p[i] = (decayed - lr * f64::from(h.lr_ratio) * x[i]) as f32;
    }
}

/// See [`crate::sum_of_squares`].
pub fn sum_of_squares(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
}

/// See [`crate::add_with_squares`].
pub fn add_with_squares(sum: &mut [f32], x: &[f32]) -> f64 {
    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
    sum_of_squares(sum)
}
