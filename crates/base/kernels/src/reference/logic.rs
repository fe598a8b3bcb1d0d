//! The logic program, clause by clause in double precision.

use crate::LogicScan;

/// See [`crate::logic_forward`], from nothing told.
pub fn logic(scan: &LogicScan, y: &mut [f32]) {
    let (batch, seq, s, r) = scan.sizes;
    let f = |x: &[f32], i: usize| f64::from(x[i]);
    for b in 0..batch {
        // `told[x][relation][of]`, `goal[relation][of]`.
        let (mut told, mut term) = (vec![vec![vec![0.0; s]; r]; s], vec![0.0; s]);
        let (mut goal, mut answer) = (vec![vec![0.0; s]; r], vec![0.0; s]);
        for at in b * seq..(b + 1) * seq {
            let [name, apply, keep] = [0, 1, 2].map(|i| f(scan.acts, at * 3 + i));
            for (x, relation, of) in each([s, r, s]) {
                let replaced = f(scan.tells, at) * goal[relation][of];
                let value = if x == of { 0.0 } else { f(scan.names, at * s + x) };
                told[x][relation][of] = (1.0 - replaced) * told[x][relation][of] + replaced * value;
            }
            let untold = |relation: usize, of: usize| 1.0 - told.iter().map(|told| told[relation][of]).sum::<f64>();
            let mut value = vec![0.0; s];
            for (x, relation, of) in each([s, r, s]) {
                let asked = apply * f(scan.relations, at * r + relation) * term[of];
                value[x] += asked * told[x][relation][of];
                for (first, second, middle) in each([r, r, s]) {
                    let rule = f(scan.rules, (relation * r + first) * r + second);
                    let proof = told[middle][first][of] * told[x][second][middle];
                    value[x] += asked * untold(relation, of) * rule * proof;
                }
            }
            for (relation, goal) in goal.iter_mut().enumerate() {
                for (goal, term) in goal.iter_mut().zip(&term) {
                    *goal = (1.0 - apply) * *goal + apply * f(scan.relations, at * r + relation) * term;
                }
            }
            for (x, term) in term.iter_mut().enumerate() {
                *term = name * f(scan.names, at * s + x) + keep * *term + value[x];
                answer[x] = (1.0 - apply) * answer[x] + value[x];
                y[at * s + x] = answer[x] as f32;
            }
        }
    }
}

fn each([a, b, c]: [usize; 3]) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a * b * c).map(move |i| (i / c / b, i / c % b, i % c))
}
