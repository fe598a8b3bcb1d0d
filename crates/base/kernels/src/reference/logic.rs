//! The logic program, clause by clause in double precision.

use crate::{LOGIC_SPAN, LogicScan};

/// See [`crate::logic_forward`], from nothing told.
pub fn logic(scan: &LogicScan, y: &mut [f32]) {
    let (batch, seq, s, r) = scan.sizes;
    let f = |x: &[f32], i: usize| f64::from(x[i]);
    for b in 0..batch {
        // `told[x][relation][of]`, `goal[relation][of]`.
        let (mut told, mut goal) = (vec![vec![vec![0.0; s]; r]; s], vec![vec![0.0; s]; r]);
        for t in 0..seq {
            let at = b * seq + t;
            for (x, relation, of) in each([s, r, s]) {
                let replaced = f(scan.tells, at) * goal[relation][of];
                let value = f(scan.names, at * s + x);
                told[x][relation][of] = (1.0 - replaced) * told[x][relation][of] + replaced * value;
            }
            for (relation, of) in (0..r * s).map(|i| (i / s, i % s)) {
                let named = |j: usize| f(scan.back, at * LOGIC_SPAN + j) * f(scan.names, (at - j) * s + of);
                let subject: f64 = (0..LOGIC_SPAN.min(t + 1)).map(named).sum();
                goal[relation][of] = f(scan.relations, at * r + relation) * subject;
            }
            let untold = |relation: usize, of: usize| 1.0 - told.iter().map(|told| told[relation][of]).sum::<f64>();
            let mut value = vec![0.0; s];
            for (x, relation, of) in each([s, r, s]) {
                let asked = goal[relation][of];
                value[x] += asked * told[x][relation][of];
                for (first, second, middle) in each([r, r, s]) {
                    let rule = f(scan.rules, (relation * r + first) * r + second);
                    let proof = told[middle][first][of] * told[x][second][middle];
                    value[x] += asked * untold(relation, of) * rule * proof;
                }
            }
            value.iter().enumerate().for_each(|(x, value)| y[at * s + x] = *value as f32);
        }
    }
}

fn each([a, b, c]: [usize; 3]) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a * b * c).map(move |i| (i / c / b, i / c % b, i % c))
}
