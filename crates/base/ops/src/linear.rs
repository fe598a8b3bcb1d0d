//! The linear layer's product.

use burn::tensor::Tensor;
use cupola_kernels::{
    Affine, How, Mat, Precision, column_sums, linear_each, linear_each_input_grad, linear_each_weight_grads,
    matmul_with, room,
};

use crate::ffn::LinearTensors;
use crate::host::{Gradient, HostOp, HostOps, Output, Outputs, Saved, apply, apply_several, erase};

#[derive(Clone, Copy, Debug)]
struct Linear {
    rows: usize,
    d_in: usize,
    d_out: usize,
    precision: Precision,
}

impl Linear {
    fn forward(&self, [x, w]: [&[f32]; 2], bias: Option<&[f32]>) -> Output {
        let mut y = room(self.rows * self.d_out);
        let how = How { bias, precision: self.precision, ..How::default() };
        matmul_with(&mut y, Mat::new(x, self.rows, self.d_in), Mat::new(w, self.d_out, self.d_in).t(), how);
        Output { shape: vec![self.rows, self.d_out], data: y, saved: vec![] }
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 2] {
        let dy = Mat::new(grad, self.rows, self.d_out);
        let how = How { precision: self.precision, ..How::default() };
        let dx = saved.needs[0].then(|| {
            let mut dx = room(self.rows * self.d_in);
            matmul_with(&mut dx, dy, Mat::new(saved.inputs[1], self.d_out, self.d_in), how);
            dx
        });
        let dw = saved.needs[1].then(|| {
            let mut dw = room(self.d_out * self.d_in);
            matmul_with(&mut dw, dy.t(), Mat::new(saved.inputs[0], self.rows, self.d_in), how);
            dw
        });
        [dx, dw]
    }
}

impl HostOp<2> for Linear {
    fn forward(&self, inputs: [&[f32]; 2], _: bool) -> Output {
        self.forward(inputs, None)
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 2] {
        self.backward(saved, grad)
    }
}

impl HostOp<3> for Linear {
    fn forward(&self, [x, w, bias]: [&[f32]; 3], _: bool) -> Output {
        self.forward([x, w], Some(bias))
    }

    fn backward(&self, saved: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 3] {
        let [dx, dw] = self.backward(saved, grad);
        let db = saved.needs[2].then(|| {
            let mut db = room(self.d_out);
            column_sums(grad, &mut db);
            db
        });
        [dx, dw, db]
    }
}

/// `y = x·wᵀ + bias`: x `[N, d_in]`, w `[d_out, d_in]`, bias `[d_out]`, y `[N, d_out]`. On the CPU the products of more
/// than 64 rows, and those of the backward pass, multiply in `precision`.
pub fn linear(x: Tensor<2>, w: Tensor<2>, bias: Option<Tensor<1>>, precision: Precision) -> Tensor<2> {
    if !crate::is_host(&x.device()) {
        return composed(x, w, bias);
    }
    let [rows, d_in] = x.dims();
    let [d_out, inner] = w.dims();
    assert_eq!(d_in, inner, "x is [{rows}, {d_in}], but the weight is [{d_out}, {inner}]");
    let op = Linear { rows, d_in, d_out, precision };
    match bias {
        None => apply::<2, 2>(op, [erase(x), erase(w)]),
        Some(bias) => apply::<3, 2>(op, [erase(x), erase(w), erase(bias)]),
    }
}

/// Three layers of one input: x, the weights, and possibly the biases.
#[derive(Debug)]
struct LinearThree {
    rows: usize,
    d_in: usize,
    d_out: [usize; 3],
    precision: Precision,
}

impl<const N: usize> HostOps<N, 3> for LinearThree {
    const IN_PLACE: Option<usize> = None;

    fn keep_inputs(&self) -> [bool; N] {
        std::array::from_fn(|i| i < 4)
    }

    fn keep_results(&self) -> [bool; 3] {
        [false; 3]
    }

    fn forward(&self, inputs: [&[f32]; N], _: &mut [f32]) -> Outputs<3> {
        let mut results = self.d_out.map(|d_out| room(self.rows * d_out));
        let layers = [0, 1, 2].map(|i| Affine { weight: inputs[1 + i], bias: inputs.get(4 + i).copied() });
        let x = Mat::new(inputs[0], self.rows, self.d_in);
        linear_each(x, &layers, &mut results.each_mut().map(|y| &mut y[..]), self.precision);
        let mut d_out = self.d_out.into_iter();
        let results = results.map(|y| Some((vec![self.rows, d_out.next().unwrap_or(0)], y)));
        Outputs { results, saved: vec![] }
    }

    fn backward(&self, saved: &mut Saved<'_>, grads: [Option<&[f32]>; 3]) -> [Gradient; N] {
        let (x, weights) = (Mat::new(saved.inputs[0], self.rows, self.d_in), &saved.inputs[1..]);
        let dy = |i: usize| grads[i].map(|dy| Mat::new(dy, self.rows, self.d_out[i]));
        let mut made: [Gradient; N] = std::array::from_fn(|_| Gradient::Nothing);
        if saved.needs[0] {
            let slopes: Vec<(Mat, &[f32])> = (0..3).filter_map(|i| Some((dy(i)?, weights[i]))).collect();
            let mut dx = room(self.rows * self.d_in);
            linear_each_input_grad(&mut dx, &slopes, self.d_in, self.precision);
            made[0] = Gradient::Own(dx);
        }
        let wanted = [0, 1, 2].map(|i| dy(i).filter(|_| saved.needs[1 + i]));
        let mut dws = wanted.map(|dy| dy.map_or_else(Vec::new, |dy| room(dy.cols * self.d_in)));
        let slopes = wanted.into_iter().zip(&mut dws).filter_map(|(dy, dw)| Some((dy?, &mut dw[..])));
        linear_each_weight_grads(x, &mut slopes.collect::<Vec<_>>(), self.precision);
        // What a result that nobody used comes from has a gradient of zeros: the tape wants one.
        for (i, dw) in dws.into_iter().enumerate().filter(|(i, _)| saved.needs[1 + i]) {
            let dw = if wanted[i].is_some() { dw } else { vec![0.0; self.d_out[i] * self.d_in] };
            made[1 + i] = Gradient::Own(dw);
        }
        for i in (0..3).filter(|i| saved.needs.get(4 + i).is_some_and(|needs| *needs)) {
            let mut db = vec![0.0; self.d_out[i]];
            if let Some(dy) = grads[i] {
                column_sums(dy, &mut db);
            }
            made[4 + i] = Gradient::Own(db);
        }
        made
    }
}

/// [`linear`] of one input with three layers, such as those of queries, keys and values: on the CPU the input is read and
/// packed once for all, and the parts of its gradient add up in the cache.
pub fn linear_three(x: Tensor<2>, layers: [LinearTensors; 3], precision: Precision) -> [Tensor<2>; 3] {
    let biases = layers.iter().filter(|(_, bias)| bias.is_some()).count();
    if !crate::is_host(&x.device()) || !matches!(biases, 0 | 3) {
        return layers.map(|(w, bias)| linear(x.clone(), w, bias, precision));
    }
    let [rows, d_in] = x.dims();
    let d_out = layers.each_ref().map(|(w, _)| {
        let [d_out, inner] = w.dims();
        assert_eq!(d_in, inner, "x is [{rows}, {d_in}], but a weight is [{d_out}, {inner}]");
        d_out
    });
    let op = LinearThree { rows, d_in, d_out, precision };
    let [(q, q_bias), (k, k_bias), (v, v_bias)] = layers;
    match [q_bias, k_bias, v_bias] {
        [Some(q_bias), Some(k_bias), Some(v_bias)] => {
            apply_several::<7, 3, 2>(op, [erase(x), erase(q), erase(k), erase(v), q_bias, k_bias, v_bias])
        }
        _ => apply_several::<4, 3, 2>(op, [erase(x), erase(q), erase(k), erase(v)]),
    }
}

/// The same from the tensor library's operations.
pub(crate) fn composed(x: Tensor<2>, w: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let y = x.matmul(w.transpose());
    match bias {
        Some(bias) => y + bias.unsqueeze::<2>(),
        None => y,
    }
}
