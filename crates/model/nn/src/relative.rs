//! Relative positions as T5 has them (Raffel et al. 2020): a learned number for each head and each range of distances
//! between a query and a key, added to the scores; one table serves all layers of a stack.

use burn::tensor::{Device, Int, Tensor, TensorData};
use cupola_artifact::Result;

use crate::param::Param;
use crate::source::{Init, Scope, Use};

/// The numbers that make relative positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelativeSpec {
    /// Ranges of distances.
    pub buckets: usize,
    /// From this distance on all are one range.
    pub max_distance: usize,
    /// Whether keys behind the query have ranges of their own, as in an encoder.
    pub both_sides: bool,
    /// Query heads.
    pub n_heads: usize,
}

impl RelativeSpec {
    /// The table out of a source.
    pub(crate) fn build(self, scope: &mut Scope<'_>) -> Result<Relative> {
        let shape = [self.buckets, self.n_heads];
        Ok(Relative { spec: self, table: scope.at("relative").param_for("weight", shape, Init::Normal, Use::Table)? })
    }

    /// The range of a key that stands `distance` behind its query: half of the ranges hold one distance each, the others
    /// grow with its logarithm.
    fn bucket(self, distance: i64) -> usize {
        let (of_side, first) = match self.both_sides {
            true => (self.buckets / 2, if distance > 0 { self.buckets / 2 } else { 0 }),
            false => (self.buckets, 0),
        };
        let far = if self.both_sides { distance.unsigned_abs() } else { (-distance).max(0) as u64 } as usize;
        let exact = of_side / 2;
        if far < exact {
            return first + far;
        }
        let whole = (self.max_distance as f32 / exact as f32).ln();
        let share = (far as f32 / exact as f32).ln() / whole * (of_side - exact) as f32;
        first + (exact + share as usize).min(of_side - 1)
    }
}

/// Relative positions of a stack.
#[derive(Clone, Debug)]
pub(crate) struct Relative {
    spec: RelativeSpec,
    /// `[buckets, H]`.
    pub table: Param<2>,
}

impl Relative {
    /// What is added to the scores of the last `rows` of `total` tokens, `[1, H, rows, total]`.
    pub fn bias(&self, rows: usize, total: usize) -> Tensor<4> {
        let at = |i: usize| (total - rows + i) as i64;
        let places = (0..rows).flat_map(|i| (0..total as i64).map(move |j| j - at(i)));
        let buckets: Vec<i32> = places.map(|distance| self.spec.bucket(distance) as i32).collect();
        let table = self.table.value();
        let device: Device = table.device();
        let index = Tensor::<1, Int>::from_data(TensorData::new(buckets, [rows * total]), &device);
        let bias: Tensor<3> = table.select(0, index).reshape([rows, total, self.spec.n_heads]);
        bias.permute([2, 0, 1]).unsqueeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_single_distances_first_and_grow_then() {
        let causal = RelativeSpec { buckets: 8, max_distance: 32, both_sides: false, n_heads: 1 };
        let behind: Vec<usize> = (0..=40).map(|d| causal.bucket(-d)).collect();
        // 4 · 8^(1/4) = 6.7, 4 · 8^(2/4) = 11.3, 4 · 8^(3/4) = 19.03.
        let want = |d: usize| match d {
            0..4 => d,
            4..7 => 4,
            7..12 => 5,
            12..20 => 6,
            _ => 7,
        };
        assert_eq!(behind, (0..=40).map(want).collect::<Vec<_>>());
        assert!((1..40).all(|d| causal.bucket(d) == 0), "the future is one range");
        let both = RelativeSpec { buckets: 16, both_sides: true, ..causal };
        assert!((1..40).all(|d| both.bucket(d) == 8 + both.bucket(-d)), "each side has its ranges");
    }
}
