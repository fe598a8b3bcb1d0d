//! Linear layers of one input, such as those of queries, keys and values: what they share is packed once.

use crate::ffn::Affine;
use crate::gemm::{Each, FEW_ROWS, How, Mat, PackedB, Precision, matmul_each, matmul_packed, matmul_sum, matmul_with};

/// Rows that the weights' gradients read at a time.
const ROWS: usize = 8192;

/// `ys[i] = x · wᵢᵀ + bᵢ`: x `[rows, d_in]`, each weight `[d_out, d_in]`, each y `[rows, d_out]`, overwritten. Of up to 64
/// rows the factors are not rounded.
pub fn linear_each(x: Mat, layers: &[Affine], ys: &mut [&mut [f32]], precision: Precision) {
    assert_eq!(layers.len(), ys.len(), "linear_each: {} layers, {} results", layers.len(), ys.len());
    if x.rows <= FEW_ROWS {
        for (layer, y) in layers.iter().zip(ys) {
            matmul_with(y, x, weight(layer, x.cols), How { precision, bias: layer.bias, ..How::default() });
        }
        return;
    }
    let packed: Vec<PackedB> = layers.iter().map(|layer| PackedB::new(weight(layer, x.cols), precision)).collect();
    let each = layers.iter().zip(ys).zip(&packed).map(|((layer, y), b)| Each { c: y, b, bias: layer.bias });
    matmul_each(x, &mut each.collect::<Vec<_>>());
}

/// The right factor of a layer of `d_in` inputs.
fn weight<'a>(layer: &Affine<'a>, d_in: usize) -> Mat<'a> {
    let len = layer.weight.len();
    assert!(d_in > 0 && len.is_multiple_of(d_in), "linear_each: a weight of {len} numbers for {d_in} inputs");
    Mat::new(layer.weight, len / d_in, d_in).t()
}

/// The gradient of x for those of the results, `dx = Σ dyᵢ · wᵢ`: each dy `[rows, d_out]` with its weight
/// `[d_out, d_in]`, dx `[rows, d_in]`, overwritten.
pub fn linear_each_input_grad(dx: &mut [f32], slopes: &[(Mat, &[f32])], d_in: usize, precision: Precision) {
    let packed: Vec<PackedB> =
        slopes.iter().map(|(dy, weight)| PackedB::new(Mat::new(weight, dy.cols, d_in), precision)).collect();
    let terms: Vec<(Mat, &PackedB)> = slopes.iter().zip(&packed).map(|((dy, _), weight)| (*dy, weight)).collect();
    matmul_sum(dx, &terms, false);
}

/// The gradients of weights, `dwᵢ = dyᵢᵀ · x`: each dy `[rows, d_out]` with where its gradient `[d_out, d_in]` goes, which is
/// overwritten.
pub fn linear_each_weight_grads(x: Mat, slopes: &mut [(Mat, &mut [f32])], precision: Precision) {
    if x.rows == 0 {
        slopes.iter_mut().for_each(|(_, dw)| dw.fill(0.0));
    }
    for from in (0..x.rows).step_by(ROWS) {
        let count = ROWS.min(x.rows - from);
        let packed = PackedB::new(x.part(from, count), precision);
        for (dy, dw) in &mut *slopes {
            matmul_packed(dw, dy.part(from, count).t(), &packed, from > 0);
        }
    }
}
