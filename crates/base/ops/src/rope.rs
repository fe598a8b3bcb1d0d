//! Rotary positions (Su et al. 2021), in the halves' layout of Hugging Face's Llama.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use cupola_kernels::{RopeTable, room, rope_into};

use crate::host::{HostOp, Output, Saved, apply, erase};

/// Cosines and sines of the angle of each position and frequency.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeAngles {
    /// `[positions, rotary_dim / 2]`.
    pub cos: Vec<f32>,
    /// `[positions, rotary_dim / 2]`.
    pub sin: Vec<f32>,
    /// How many of a head's numbers are rotated.
    pub rotary_dim: usize,
}

#[derive(Debug)]
struct Rope {
    angles: Arc<RopeAngles>,
    positions: Arc<[u32]>,
    n_heads: usize,
    d_head: usize,
}

impl Rope {
    fn rotated(&self, x: &[f32], inverse: bool) -> Vec<f32> {
        let (a, positions) = (&self.angles, &self.positions);
        let table = RopeTable { cos: &a.cos, sin: &a.sin, rotary_dim: a.rotary_dim };
        let mut y = room(x.len());
        rope_into(
            x,
            &mut y,
            &cupola_kernels::Rope { positions, table, n_heads: self.n_heads, d_head: self.d_head, inverse },
        );
        y
    }
}

impl HostOp<1> for Rope {
    const KEEP_INPUTS: bool = false;

    fn forward(&self, [x]: [&[f32]; 1], _: bool) -> Output {
        Output {
            shape: vec![self.positions.len(), self.n_heads * self.d_head],
            data: self.rotated(x, false),
            saved: vec![],
        }
    }

    fn backward(&self, _: &mut Saved<'_>, grad: &[f32]) -> [Option<Vec<f32>>; 1] {
        [Some(self.rotated(grad, true))]
    }
}

/// Rotates each head of x `[N, n_heads · d_head]` by its row's position.
pub fn rope(x: Tensor<2>, angles: &Arc<RopeAngles>, positions: &Arc<[u32]>, n_heads: usize) -> Tensor<2> {
    if !crate::is_host(&x.device()) {
        return composed(x, angles, positions, n_heads);
    }
    let [rows, width] = x.dims();
    assert_eq!(rows, positions.len(), "{rows} rows, but {} positions", positions.len());
    let op = Rope { angles: Arc::clone(angles), positions: Arc::clone(positions), n_heads, d_head: width / n_heads };
    apply(op, [erase(x)])
}

/// The same from the tensor library's operations.
pub(crate) fn composed(x: Tensor<2>, angles: &RopeAngles, positions: &[u32], n_heads: usize) -> Tensor<2> {
    let [rows, width] = x.dims();
    let (d_head, half, device) = (width / n_heads, angles.rotary_dim / 2, x.device());
    let pick = |table: &[f32]| {
        let picked: Vec<f32> =
            positions.iter().flat_map(|p| table[*p as usize * half..][..half].iter().copied()).collect();
        Tensor::<3>::from_data(TensorData::new(picked, [rows, 1, half]), &device)
    };
    let (cos, sin) = (pick(&angles.cos), pick(&angles.sin));
    let x = x.reshape([rows, n_heads, d_head]); // [N, H, dh]
    let first = x.clone().narrow(2, 0, half);
    let second = x.clone().narrow(2, half, half);
    let mut parts = vec![first.clone() * cos.clone() - second.clone() * sin.clone(), second * cos + first * sin];
    if 2 * half < d_head {
        parts.push(x.narrow(2, 2 * half, d_head - 2 * half));
    }
    Tensor::cat(parts, 2).reshape([rows, width])
}
