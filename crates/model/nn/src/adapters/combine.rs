//! Several low-rank adapters as one, with a weight for each: sums of their matrices (Ilharco et al. 2023), of what is left when
//! small numbers (TIES, Yadav et al. 2023) or random ones (DARE, Yu et al. 2024) are dropped, or the best of a lower rank.

use cupola_artifact::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::rng::Rng;

/// How adapters become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Combination {
    /// `A = Σ ±sqrt(w)·A`, `B = Σ sqrt(w)·B`: cheap and rough.
    Linear,
    /// Side by side: exact, and as wide as all together.
    Cat,
    /// The best of a given rank.
    Svd,
    /// As `linear` of the largest numbers, those left out whose sign the others outvote; a mean instead of a sum.
    Ties,
    /// As `linear` of numbers drawn at random, which grow by as much as is lost.
    DareLinear,
    /// As `ties` of numbers drawn at random.
    DareTies,
    /// As `linear` of the largest numbers.
    MagnitudePrune,
}

/// A low-rank adapter of one layer: `delta = scale · b · a`.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// `[r, d_in]`.
    pub a: Vec<f32>,
    /// `[d_out, r]`.
    pub b: Vec<f32>,
    /// The rank.
    pub r: usize,
    /// The scale.
    pub scale: f32,
}

impl LowRank {
    fn d_in(&self) -> usize {
        self.a.len() / self.r
    }

    fn d_out(&self) -> usize {
        self.b.len() / self.r
    }

    /// `[d_out, d_in]`.
    pub fn delta(&self) -> Vec<f32> {
        let (d_in, r) = (self.d_in(), self.r);
        let row = |row: usize| {
            (0..d_in)
                .map(move |col| (0..r).map(|k| self.b[row * r + k] * self.a[k * d_in + col]).sum::<f32>() * self.scale)
        };
        (0..self.d_out()).flat_map(row).collect()
    }
}

/// One layer's adapters as one whose scale is 1. `density` is the share of numbers that stay where some are dropped, `rank` that of
/// [`Combination::Svd`]; the random numbers are `rng`'s.
///
/// # Errors
/// Adapters that do not fit together.
pub fn combine(
    parts: &[(&LowRank, f32)],
    how: Combination,
    density: f32,
    rank: usize,
    rng: &mut Rng,
) -> Result<LowRank> {
    let Some((first, _)) = parts.first() else { return Err(Error::usage("there are no adapters to combine")) };
    if parts.iter().any(|(part, _)| part.d_in() != first.d_in() || part.d_out() != first.d_out()) {
        return Err(Error::failed("the adapters belong to layers of different sizes"));
    }
    match how {
        Combination::Cat => Ok(side_by_side(parts)),
        Combination::Svd => Ok(best(&side_by_side(parts), rank)),
        _ if parts.iter().any(|(part, _)| part.r != first.r) => {
            let ranks: Vec<String> = parts.iter().map(|(part, _)| part.r.to_string()).collect();
            Err(Error::usage(format!(
                "the adapters have the ranks {}, which this combination wants equal",
                ranks.join(", ")
            ))
            .with_hint("`cat` and `svd` take any ranks"))
        }
        _ => {
            let whole = |(part, weight): &(&LowRank, f32)| weight * part.scale;
            let root = |part: &(&LowRank, f32)| whole(part).abs().sqrt();
            // The sign is one side's, or it would be lost.
            let a: Vec<(&[f32], f32)> = parts.iter().map(|p| (&p.0.a[..], root(p).copysign(whole(p)))).collect();
            let b: Vec<(&[f32], f32)> = parts.iter().map(|p| (&p.0.b[..], root(p))).collect();
            Ok(LowRank { a: summed(&a, how, density, rng), b: summed(&b, how, density, rng), r: first.r, scale: 1.0 })
        }
    }
}

/// The weighted sum of what a combination leaves of some matrices of one shape.
fn summed(parts: &[(&[f32], f32)], how: Combination, density: f32, rng: &mut Rng) -> Vec<f32> {
    let kept: Vec<Vec<f32>> = parts
        .iter()
        .map(|(numbers, _)| match how {
            Combination::Ties | Combination::MagnitudePrune => largest(numbers, density),
            Combination::DareLinear | Combination::DareTies => drawn(numbers, density, rng),
            _ => numbers.to_vec(),
        })
        .collect();
    let elects = matches!(how, Combination::Ties | Combination::DareTies);
    let len = parts.first().map_or(0, |(numbers, _)| numbers.len());
    (0..len)
        .map(|i| {
            let sum: f32 = kept.iter().map(|numbers| numbers[i]).sum();
            let sign = |x: f32| if x > 0.0 { 1 } else { -i32::from(x < 0.0) };
            let elected = if sum >= 0.0 { 1 } else { -1 };
            let voters = kept.iter().zip(parts).filter(|(numbers, _)| !elects || sign(numbers[i]) == elected);
            let (mut total, mut count) = (0.0, 0);
            for (numbers, (_, weight)) in voters {
                (total, count) = (total + weight * numbers[i], count + 1);
            }
            if elects { total / count.max(1) as f32 } else { total }
        })
        .collect()
}

/// The share of numbers that is largest; zeros in the place of others.
fn largest(numbers: &[f32], density: f32) -> Vec<f32> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by(|a, b| numbers[*b].abs().total_cmp(&numbers[*a].abs()));
    let mut out = vec![0.0; numbers.len()];
    let keep = (f64::from(density) * numbers.len() as f64) as usize;
    order.into_iter().take(keep).for_each(|i| out[i] = numbers[i]);
    out
}

/// Each number with a chance of `density`, grown so that the mean stays.
fn drawn(numbers: &[f32], density: f32, rng: &mut Rng) -> Vec<f32> {
    numbers.iter().map(|x| if rng.uniform() < f64::from(density) { x / density } else { 0.0 }).collect()
}

/// All of them, exactly.
fn side_by_side(parts: &[(&LowRank, f32)]) -> LowRank {
    let r: usize = parts.iter().map(|(part, _)| part.r).sum();
    let scaled = |(part, weight): &(&LowRank, f32)| {
        let factor = weight * part.scale;
        part.a.iter().map(|x| x * factor).collect::<Vec<f32>>()
    };
    let rows = parts.first().map_or(0, |(part, _)| part.d_out());
    let row = |i: usize| parts.iter().flat_map(move |(part, _)| part.b[i * part.r..(i + 1) * part.r].iter().copied());
    LowRank { a: parts.iter().flat_map(scaled).collect(), b: (0..rows).flat_map(row).collect(), r, scale: 1.0 }
}

/// The nearest of a lower rank: the singular value decomposition of a product of two narrow matrices is that of the product of
/// their triangular factors.
fn best(whole: &LowRank, rank: usize) -> LowRank {
    let (r, d_in, d_out) = (whole.r, whole.d_in(), whole.d_out());
    let columns = |f: &dyn Fn(usize, usize) -> f32, len: usize| -> Vec<Vec<f64>> {
        (0..r).map(|k| (0..len).map(|i| f64::from(f(i, k))).collect()).collect()
    };
    let (qb, rb) = triangular(columns(&|i, k| whole.b[i * r + k], d_out));
    let (qa, ra) = triangular(columns(&|i, k| whole.a[k * d_in + i], d_in));
    // The core `rb · raᵀ`, its columns.
    let mut core: Vec<Vec<f64>> =
        (0..r).map(|j| (0..r).map(|i| (0..r).map(|k| rb[k][i] * ra[k][j]).sum()).collect()).collect();
    let mut right: Vec<Vec<f64>> = (0..r).map(|j| (0..r).map(|i| f64::from(u8::from(i == j))).collect()).collect();
    orthogonal(&mut core, &mut right);
    let norm = |column: &Vec<f64>| column.iter().map(|x| x * x).sum::<f64>();
    let mut order: Vec<usize> = (0..r).collect();
    order.sort_by(|i, j| norm(&core[*j]).total_cmp(&norm(&core[*i])));
    let rank = rank.clamp(1, r);
    order.truncate(rank);
    let onto = |basis: &[Vec<f64>], coordinates: &[f64], i: usize| -> f32 {
        basis.iter().zip(coordinates).map(|(q, c)| q[i] * c).sum::<f64>() as f32
    };
    LowRank {
        a: order.iter().flat_map(|k| (0..d_in).map(|i| onto(&qa, &right[*k], i)).collect::<Vec<_>>()).collect(),
        b: (0..d_out).flat_map(|i| order.iter().map(|k| onto(&qb, &core[*k], i)).collect::<Vec<_>>()).collect(),
        r: rank,
        scale: 1.0,
    }
}

/// Columns as orthonormal ones times a triangle, both by columns (Gram and Schmidt, twice for the digits).
fn triangular(mut columns: Vec<Vec<f64>>) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
    let n = columns.len();
    let mut triangle = vec![vec![0.0; n]; n];
    for j in 0..n {
        let (before, rest) = columns.split_at_mut(j);
        let column = &mut rest[0];
        let size = column.iter().map(|x| x * x).sum::<f64>().sqrt();
        for _ in 0..2 {
            for (i, q) in before.iter().enumerate() {
                let dot: f64 = q.iter().zip(column.iter()).map(|(a, b)| a * b).sum();
                column.iter_mut().zip(q).for_each(|(x, q)| *x -= dot * q);
                triangle[j][i] += dot;
            }
        }
        let left = column.iter().map(|x| x * x).sum::<f64>().sqrt();
        // What depends on those before it adds no direction.
        let inverse = if left > 1e-12 * size { 1.0 / left } else { 0.0 };
        column.iter_mut().for_each(|x| *x *= inverse);
        triangle[j][j] = if inverse > 0.0 { left } else { 0.0 };
    }
    (columns, triangle)
}

/// Turns columns until they are orthogonal, and others with them (Jacobi; Hestenes 1958).
fn orthogonal(columns: &mut [Vec<f64>], others: &mut [Vec<f64>]) {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    for _ in 0..60 {
        let mut turned = false;
        for i in 0..columns.len() {
            for j in i + 1..columns.len() {
                let (p, q, pq) =
                    (dot(&columns[i], &columns[i]), dot(&columns[j], &columns[j]), dot(&columns[i], &columns[j]));
                if pq.abs() <= 1e-15 * (p * q).sqrt() || pq == 0.0 {
                    continue;
                }
                turned = true;
                let zeta = (q - p) / (2.0 * pq);
                let t = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
                let c = 1.0 / (1.0 + t * t).sqrt();
                for set in [&mut *columns, &mut *others] {
                    let (left, right) = set.split_at_mut(j);
                    for (x, y) in left[i].iter_mut().zip(&mut right[0]) {
                        (*x, *y) = (c * *x - c * t * *y, c * t * *x + c * *y);
                    }
                }
            }
        }
        if !turned {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use cupola_testkit::assert_close;

    fn part(r: usize, seed: u64) -> LowRank {
        let mut rng = Rng::new(seed, "part");
        LowRank { a: rng.normal(r * 7, 1.0), b: rng.normal(5 * r, 1.0), r, scale: 0.5 }
    }

    fn together(parts: &[(&LowRank, f32)]) -> Vec<f32> {
        let mut sum = vec![0.0; 35];
        for (part, weight) in parts {
            sum.iter_mut().zip(part.delta()).for_each(|(sum, x)| *sum += weight * x);
        }
        sum
    }

    #[test]
    fn side_by_side_and_at_full_rank_the_sum_is_exact() {
        let (one, two) = (part(2, 1), part(3, 2));
        let parts = [(&one, 0.7), (&two, -0.4)];
        for (how, r) in [(Combination::Cat, 5), (Combination::Svd, 5)] {
            let all = combine(&parts, how, 1.0, 5, &mut Rng::new(0, "")).unwrap();
            assert_eq!(all.r, r);
            assert_close(&format!("{how:?}"), &all.delta(), &together(&parts), 1e-5, 1e-5);
        }
    }

    #[test]
    fn the_best_of_a_lower_rank_loses_what_is_orthogonal_to_it() {
        let one = part(4, 3);
        let best = combine(&[(&one, 1.0)], Combination::Svd, 1.0, 2, &mut Rng::new(0, "")).unwrap();
        let (whole, near) = (one.delta(), best.delta());
        let lost: f32 = whole.iter().zip(&near).map(|(w, n)| (w - n) * n).sum();
        assert!(best.r == 2 && lost.abs() < 1e-3, "{lost}");
        let error = |x: &[f32]| whole.iter().zip(x).map(|(w, x)| (w - x).powi(2)).sum::<f32>();
        // No sum of two of its own columns is as near.
        let two = LowRank {
            a: one.a[..14].to_vec(),
            b: one.b.chunks(4).flat_map(|b| b[..2].to_vec()).collect(),
            r: 2,
            scale: 0.5,
        };
        assert!(error(&near) < error(&two.delta()));
    }

    #[test]
    fn equal_adapters_with_weights_of_a_half_are_themselves() {
        let one = part(2, 4);
        for how in [Combination::Linear, Combination::Ties, Combination::MagnitudePrune, Combination::DareTies] {
            let weight = if matches!(how, Combination::Ties | Combination::DareTies) { 1.0 } else { 0.25 };
            // Two halves of each side; a mean of two is the whole.
            let all = combine(&[(&one, weight), (&one, weight)], how, 1.0, 2, &mut Rng::new(0, "")).unwrap();
            assert_close(&format!("{how:?}"), &all.delta(), &one.delta(), 1e-5, 1e-5);
        }
    }

    #[test]
    fn small_numbers_and_outvoted_signs_are_dropped() {
        assert_eq!(largest(&[1.0, -3.0, 0.5, 2.0], 0.5), [0.0, -3.0, 0.0, 2.0]);
        let parts: [(&[f32], f32); 3] = [(&[1.0, 2.0], 1.0), (&[-3.0, 1.0], 2.0), (&[1.5, 0.0], 1.0)];
        let ties = summed(&parts, Combination::Ties, 1.0, &mut Rng::new(0, ""));
        // -0.5 elects minus, which one has; 3 elects plus, which two have.
        assert_eq!(ties, [-6.0, 2.0]);
        assert_eq!(summed(&parts, Combination::Linear, 1.0, &mut Rng::new(0, "")), [-3.5, 4.0]);
    }

    #[test]
    fn what_is_drawn_keeps_its_mean() {
        let kept = drawn(&[1.0; 4000], 0.3, &mut Rng::new(1, "dare"));
        let mean = kept.iter().sum::<f32>() / 4000.0;
        assert!((mean - 1.0).abs() < 0.1 && kept.iter().all(|x| *x == 0.0 || *x == 1.0 / 0.3), "{mean}");
    }

    #[test]
    fn adapters_that_do_not_fit_are_named() {
        let (one, two) = (part(2, 1), part(3, 2));
        let error = combine(&[(&one, 1.0), (&two, 1.0)], Combination::Ties, 0.5, 2, &mut Rng::new(0, "")).unwrap_err();
        assert!(error.to_string().contains("ranks 2, 3") && error.hint().is_some(), "{error}");
        let wide = LowRank { a: vec![0.0; 16], ..part(2, 1) };
        assert!(combine(&[(&one, 1.0), (&wide, 1.0)], Combination::Cat, 1.0, 2, &mut Rng::new(0, "")).is_err());
    }
}
