//! Training a linear classifier.

use std::collections::BTreeMap;

use cupola_artifact::Result;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::features::{Features, Vector};
use super::model::{Model, Row, check_size};

/// How a classifier learns.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Learning {
    /// Passes over the samples; 10.
    pub epochs: usize,
    /// How far a step goes at first, in `AdaGrad`'s scale; 0.5.
    pub rate: f32,
    /// How much large weights cost, for each sample; 1e-6.
    pub l2: f32,
}

impl Default for Learning {
    fn default() -> Self {
        Self { epochs: 10, rate: 0.5, l2: 1e-6 }
    }
}

/// Samples whose scores are computed at once, by all threads, before the weights change. A constant: the model does not
/// depend on the number of threads.
const BATCH: usize = 64;

/// Logistic regression over all labels by stochastic gradients with `AdaGrad` (Duchi et al. 2011). The same samples and seed give
/// the same model.
pub fn train(samples: &[(String, String)], features: Features, learning: &Learning, seed: u64) -> Result<Model> {
    let numbers: BTreeMap<&str, usize> = samples.iter().map(|(_, label)| (label.as_str(), 0)).collect();
    let labels: Vec<String> = numbers.keys().map(|&label| label.to_owned()).collect();
    check_size(labels.len(), &features)?;
    let label = |name: &String| labels.binary_search(name).unwrap_or_default();
    let examples: Vec<(Vector, usize)> =
        samples.par_iter().map(|(text, name)| (features.of(text), label(name))).collect();
    let rows = labels.len() - 1;
    let row = Row { bias: 0.0, weights: vec![0.0; 1 << features.bits] };
    let mut model = Model { features, labels: labels.clone(), rows: vec![row; rows] };
    // The sums of squared gradients; the bias' comes last.
    let mut squares = vec![vec![0.0_f32; (1 << features.bits) + 1]; rows];
    let mut order: Vec<usize> = (0..examples.len()).collect();
    let mut state = seed;
    for _ in 0..learning.epochs {
        shuffle(&mut order, &mut state);
        for batch in order.chunks(BATCH) {
            let probabilities: Vec<Vec<f32>> =
                batch.par_iter().with_min_len(8).map(|i| model.probabilities_of(&examples[*i].0)).collect();
            for (i, probabilities) in batch.iter().zip(probabilities) {
                let (vector, label) = &examples[*i];
                for (r, (row, squares)) in model.rows.iter_mut().zip(&mut squares).enumerate() {
                    let error = probabilities[r] - f32::from(u8::from(r == *label));
                    step(row, squares, vector, error, learning);
                }
            }
        }
    }
    Ok(model)
}

/// Moves a row's weights against the gradient of a sample.
fn step(row: &mut Row, squares: &mut [f32], vector: &Vector, error: f32, learning: &Learning) {
    let change = |weight: &mut f32, square: &mut f32, gradient: f32| {
        *square += gradient * gradient;
        *weight -= learning.rate * gradient / (square.sqrt() + 1e-6);
    };
    for (number, x) in &vector.features {
        let at = *number as usize;
        let weight = &mut row.weights[at];
        let gradient = error * x + learning.l2 * *weight;
        change(weight, &mut squares[at], gradient);
    }
    let last = squares.len() - 1;
    change(&mut row.bias, &mut squares[last], error);
}

/// Fisher and Yates' shuffle, with numbers by `SplitMix64` (Steele et al. 2014).
fn shuffle(order: &mut [usize], state: &mut u64) {
    for i in (1..order.len()).rev() {
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        order.swap(i, ((z ^ (z >> 31)) % (i as u64 + 1)) as usize);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    /// Texts of three kinds that share most words.
    pub fn samples() -> Vec<(String, String)> {
        let kinds = [
            ("sea", ["waves", "sails", "salt"]),
            ("town", ["streets", "shops", "trams"]),
            ("wood", ["oaks", "moss", "deer"]),
        ];
        let common = ["the", "old", "and", "many", "by", "seen", "was", "there"];
        (0..240)
            .map(|i: usize| {
                let (label, own) = kinds[i % 3];
                let word =
                    |j: usize| if j == i / 3 % 7 { own[(i / 3 + j) % 3] } else { common[(i * 7 + j * j * 5) % 8] };
                ((0..9).map(word).collect::<Vec<_>>().join(" "), label.to_owned())
            })
            .collect()
    }

    fn small() -> Features {
        Features { bits: 14, ..Features::default() }
    }

    #[test]
    fn labels_are_learnt_from_a_word_in_nine() {
        let (samples, held_out) = (&samples()[..180], &samples()[180..]);
        let model = train(samples, small(), &Learning::default(), 1).unwrap();
        let best = |text: &str| {
            let probabilities = model.probabilities(text);
            (0..3).max_by(|a, b| probabilities[*a].total_cmp(&probabilities[*b])).unwrap()
        };
        let right = held_out.iter().filter(|(text, label)| model.labels[best(text)] == *label).count();
        assert!(right * 100 >= held_out.len() * 95, "{right} of {}", held_out.len());
    }

    #[test]
    fn a_seed_decides_the_model_and_threads_do_not() {
        let learn = |seed| train(&samples(), small(), &Learning { epochs: 2, ..Learning::default() }, seed).unwrap();
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(learn(1), one.install(|| learn(1)));
        assert_ne!(learn(1), learn(2));
    }

    #[test]
    fn one_label_is_an_error() {
        let samples = [("text".to_owned(), "only".to_owned())];
        assert!(train(&samples, small(), &Learning::default(), 0).is_err_and(|e| e.chain().contains("two labels")));
    }
}
