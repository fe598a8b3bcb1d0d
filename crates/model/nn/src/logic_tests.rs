#![allow(clippy::unwrap_used)]
//! The program against the definition of its semantics: the sum over all possible worlds.

use burn::tensor::Device;

use super::*;
use crate::rng::Rng;

/// A value of each relation for each constant, `[R·S]`, or none.
type World = Vec<Option<usize>>;

/// Which two relations stand for each relation, `[R]`: the one that is taken first, and the other.
type Rules = Vec<Option<[usize; 2]>>;

/// The program by its clauses.
fn value(told: &World, rules: &Rules, s: usize, relation: usize, of: usize) -> Option<usize> {
    told[relation * s + of].or_else(|| {
        let [first, second] = rules[relation]?;
        told[second * s + told[first * s + of]?]
    })
}

/// Numbers that add up to 1.
fn shares(rng: &mut Rng, n: usize) -> Vec<f64> {
    let drawn: Vec<f64> = (0..n).map(|_| 1.0 + rng.below(1000) as f64).collect();
    let sum: f64 = drawn.iter().sum();
    drawn.iter().map(|d| d / sum).collect()
}

/// Calls `f` with every choice of one of `counts[i]` for each `i`.
fn each_choice(counts: &[usize], f: &mut impl FnMut(&[usize])) {
    let mut choice = vec![0; counts.len()];
    loop {
        f(&choice);
        let Some(next) = (0..counts.len()).find(|i| choice[*i] + 1 < counts[*i]) else { return };
        choice[next] += 1;
        choice[..next].fill(0);
    }
}

fn tensor<const D: usize>(numbers: &[f64], shape: [usize; D]) -> Tensor<D> {
    from_vec(numbers.iter().map(|n| *n as f32).collect(), shape, &Device::flex())
}

fn assert_near(what: &str, got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((f64::from(*got) - want).abs() < 1e-5, "{what}: {got}, not {want}");
    }
}

/// The rules that a relation may have, and none.
fn allowed(relations: usize, head: usize) -> Vec<usize> {
    (0..relations * relations + 1).filter(|body| *body == relations * relations || body / relations != head).collect()
}

fn body(relations: usize, body: usize) -> Option<[usize; 2]> {
    (body < relations * relations).then_some([body / relations, body % relations])
}

/// The rules as the program takes them, `[R, R·R]`.
fn weights(r: usize, rules: &[Vec<f64>]) -> Tensor<2> {
    let mut weights = vec![0.0; r * r * r];
    for (head, shares) in rules.iter().enumerate() {
        let bodies = allowed(r, head).into_iter().zip(shares).filter(|(body, _)| *body < r * r);
        bodies.for_each(|(body, p)| weights[head * r * r + body] = *p);
    }
    tensor(&weights, [r, r * r])
}

#[test]
fn answers_are_sums_over_all_possible_worlds() {
    for (s, r) in [(2, 1), (3, 1), (3, 2), (2, 3), (4, 2), (2, 4)] {
        let mut rng = Rng::new(1, &format!("{s}, {r}"));
        // For each relation and constant the others' shares, and that of none.
        let facts: Vec<Vec<f64>> = (0..r * s).map(|_| shares(&mut rng, s)).collect();
        let other = |of: usize, i: usize| (i + 1 < s).then_some(if i < of { i } else { i + 1 });
        let rules: Vec<Vec<f64>> = (0..r).map(|head| shares(&mut rng, allowed(r, head).len())).collect();
        let [term, relation] = [s, r].map(|n| shares(&mut rng, n + 1));
        let mut want = vec![0.0; s];
        for head in 0..r {
            let mut counts = vec![s; r * s];
            counts.push(rules[head].len());
            each_choice(&counts, &mut |choice| {
                let world: World = (0..r * s).map(|cell| other(cell % s, choice[cell])).collect();
                let mut defined: Rules = vec![None; r];
                defined[head] = body(r, allowed(r, head)[choice[r * s]]);
                let likely: f64 = (0..r * s).map(|cell| facts[cell][choice[cell]]).product();
                for of in 0..s {
                    if let Some(found) = value(&world, &defined, s, head, of) {
                        want[found] += likely * rules[head][choice[r * s]] * relation[head] * term[of];
                    }
                }
            });
        }
        let mut beliefs = vec![0.0; cupola_ops::beliefs_len(s, r)];
        for (cell, shares) in facts.iter().enumerate() {
            let places = shares.iter().enumerate().filter_map(|(i, p)| Some((other(cell % s, i)?, *p)));
            places.for_each(|(x, p)| beliefs[x * r * s + cell] = p as f32);
        }
        // The token before names it.
        term[..s].iter().enumerate().for_each(|(x, p)| beliefs[(s + 1) * r * s + x] = *p as f32);
        let reading = LogicReading {
            back: tensor(&[0.0, 1.0, 0.0, 0.0], [1, LOGIC_SPAN]),
            names: tensor(&vec![0.0; s], [1, s]),
            relations: tensor(&relation[..r], [1, r]),
            tells: tensor(&[0.0], [1, 1]),
            rules: weights(r, &rules),
        };
        let got = cupola_ops::logic_from(reading, &mut beliefs, 1);
        assert_near(&format!("{s} constants, {r} relations"), &into_vec(got), &want);
    }
}

/// What a token does where the neural predicates are sure, and how likely it tells.
#[derive(Clone, Copy)]
enum Word {
    Name(usize),
    /// A relation of what was named so many tokens before.
    Of(usize, usize),
    Tell(usize, f64),
}

#[test]
fn a_text_whose_words_are_sure_is_understood_exactly() {
    use Word::{Name, Of, Tell};
    let (s, r) = (4, 3);
    // Told, told again otherwise, asked by a rule or as it is told, with names between, of one who was told.
    let words = [
        [Name(0), Of(0, 1), Tell(1, 0.9)],
        [Name(1), Of(1, 1), Tell(2, 0.6)],
        [Name(1), Of(1, 1), Tell(3, 0.3)],
        [Name(0), Of(2, 1), Tell(3, 0.2)],
        [Name(2), Of(0, 1), Tell(3, 0.5)],
        [Name(0), Of(2, 1), Tell(2, 1.0)],
        [Name(0), Name(3), Of(0, 2)],
        [Of(2, 3), Tell(1, 0.7), Of(0, 1)],
    ];
    let words = words.as_flattened();
    let rules: Vec<Vec<f64>> = (0..r).map(|head| shares(&mut Rng::new(2, "rules"), allowed(r, head).len())).collect();
    let telling: Vec<usize> = (0..words.len()).filter(|t| matches!(words[*t], Tell(..))).collect();
    let named = |t: usize| match words[t] {
        Name(x) | Tell(x, _) => Some(x),
        Of(..) => None,
    };
    // The relation and the constant of a token.
    let goal = |t: usize| match words[t] {
        Of(relation, back) => named(t - back).map(|of| relation * s + of),
        _ => None,
    };
    let mut counts: Vec<usize> = telling.iter().map(|_| 2).collect();
    counts.extend(rules.iter().map(Vec::len));
    let mut want = vec![vec![0.0; s]; words.len()];
    each_choice(&counts, &mut |choice| {
        let (told_now, chosen) = choice.split_at(telling.len());
        let defined: Rules = (0..r).map(|head| body(r, allowed(r, head)[chosen[head]])).collect();
        let mut likely: f64 = (0..r).map(|head| rules[head][chosen[head]]).product();
        let (mut world, mut found): (World, _) = (vec![None; r * s], vec![]);
        for (t, word) in words.iter().enumerate() {
            if let Tell(name, p) = *word {
                let tells = told_now[telling.iter().position(|at| *at == t).unwrap()] == 1;
                likely *= if tells { p } else { 1.0 - p };
                if let (true, Some(cell)) = (tells, goal(t - 1)) {
                    world[cell] = Some(name);
                }
            }
            found.push(goal(t).and_then(|cell| value(&world, &defined, s, cell / s, cell % s)));
        }
        found.iter().zip(&mut want).for_each(|(found, want)| found.iter().for_each(|x| want[*x] += likely));
    });
    let one = |width: usize, at: Option<usize>| (0..width).map(move |i| f64::from(at == Some(i)));
    let count = |width: usize, f: &dyn Fn(usize) -> Option<usize>| {
        let numbers: Vec<f64> = (0..words.len()).flat_map(|t| one(width, f(t))).collect();
        tensor(&numbers, [words.len(), width])
    };
    let of = |t: usize| if let Of(relation, back) = words[t] { Some((relation, back)) } else { None };
    let tells: Vec<f64> = words.iter().map(|word| if let Tell(_, p) = *word { p } else { 0.0 }).collect();
    let reading = LogicReading {
        back: count(LOGIC_SPAN, &|t| of(t).map(|of| of.1)),
        names: count(s, &named),
        relations: count(r, &|t| of(t).map(|of| of.0)),
        tells: tensor(&tells, [words.len(), 1]),
        rules: weights(r, &rules),
    };
    let got = into_vec(cupola_ops::logic(reading, 1));
    for (t, (got, want)) in got.chunks(s).zip(&want).enumerate() {
        assert_near(&format!("after word {t}"), got, want);
    }
}
