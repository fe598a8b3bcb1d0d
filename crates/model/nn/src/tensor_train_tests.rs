#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use burn::tensor::Device;
use cupola_ops::{from_vec, scalar, to_vec};

use super::*;
use crate::rng::Rng;
use crate::source::{Count, Want, WeightSource};

/// Fills every weight with noise.
struct Noise(Rng);

impl WeightSource for Noise {
    fn device(&self) -> Device {
        Device::flex()
    }

    fn take(&mut self, want: &Want<'_>) -> Result<(String, Option<Vec<f32>>)> {
        Ok((want.name.to_string(), Some(self.0.normal(want.shape.iter().product(), 0.7))))
    }
}

fn train(shape: [usize; 2], bond: usize, cores: usize) -> TensorTrain {
    let (mut source, mut angles) = (Noise(Rng::new(5, "train")), vec![]);
    let mut scope = Scope::root(&mut source, &mut angles);
    TensorTrain::build(&mut scope.at("up"), TrainSpec { bond, cores }, shape, Init::Normal).unwrap()
}

fn noise(rows: usize, width: usize) -> Tensor<2> {
    from_vec(Rng::new(9, "x").normal(rows * width, 1.0), [rows, width], &Device::flex())
}

/// An element of the weight by its definition: a product of matrices.
fn element(train: &TensorTrain, mut row: usize, mut column: usize) -> f64 {
    let mut suffix = vec![1.0];
    for (site, core) in train.sites.iter().zip(&train.cores).rev() {
        let numbers = to_vec(&core.value());
        let (o, i) = (row % site.d_out, column % site.d_in);
        (row, column) = (row / site.d_out, column / site.d_in);
        let at = |l: usize, r: usize| f64::from(numbers[((l * site.d_out + o) * site.d_in + i) * site.right + r]);
        suffix = (0..site.left).map(|l| suffix.iter().enumerate().map(|(r, s)| at(l, r) * s).sum()).collect();
    }
    suffix[0]
}

fn close(what: &str, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= 1e-4 * (1.0 + w.abs()), "{what}[{i}]: got {g}, want {w}");
    }
}

const SHAPES: [[usize; 2]; 6] = [[12, 10], [7, 13], [24, 36], [1, 5], [30, 1], [64, 48]];

#[test]
fn cores_multiply_out_to_the_weight_of_their_definition() {
    for shape in SHAPES {
        for (cores, bond) in [(1, 3), (2, 1), (2, 3), (3, 4), (4, 2), (5, 100)] {
            let train = train(shape, bond, cores);
            let [d_out, d_in] = shape;
            assert_eq!(train.dims(), shape);
            assert_eq!(train.name(), "up.weight");
            let want: Vec<f32> = (0..d_out * d_in).map(|at| element(&train, at / d_in, at % d_in) as f32).collect();
            close(&format!("{shape:?}, {cores} cores, bond {bond}"), &to_vec(&train.dense()), &want);
        }
    }
}

#[test]
fn going_from_core_to_core_equals_the_product_with_the_whole_weight() {
    for shape in SHAPES {
        for (cores, bond) in [(1, 3), (2, 1), (2, 5), (3, 4), (4, 2), (5, 100)] {
            let train = train(shape, bond, cores);
            for rows in [1, 3, 70] {
                let x = noise(rows, shape[1]);
                let want = to_vec(&x.clone().matmul(train.dense().transpose()));
                let what = format!("{shape:?}, {cores} cores, bond {bond}, {rows} rows");
                close(&what, &to_vec(&train.contract(x.clone(), Precision::F32)), &want);
                close(&what, &to_vec(&train.product(x, None, Precision::F32)), &want);
            }
        }
    }
}

#[test]
fn gradients_are_slopes_on_both_ways() {
    let plain = train([6, 8], 3, 3);
    let x = noise(5, 8);
    let weights = noise(5, 6);
    let ways: [fn(&TensorTrain, Tensor<2>) -> Tensor<2>; 2] =
        [|t, x| t.contract(x, Precision::F32), |t, x| x.matmul(t.dense().transpose())];
    for way in ways {
        let mut taped = plain.clone();
        taped.cores.iter_mut().for_each(|core| core.set_trainable(true));
        let on_tape = |x: &Tensor<2>| Tensor::from_inner(x.clone());
        let mut tape = (way(&taped, on_tape(&x)) * on_tape(&weights)).sum().backward();
        for (k, core) in taped.cores.iter().enumerate() {
            let gradient = to_vec(&core.take_gradient(&mut tape).unwrap());
            let numbers = to_vec(&plain.cores[k].value());
            for at in 0..numbers.len() {
                let loss = |step: f32| {
                    let mut moved = numbers.clone();
                    moved[at] += step;
                    let mut train = plain.clone();
                    train.cores[k].set(from_vec(moved, core.value().dims(), &Device::flex()));
                    f64::from(scalar(&(way(&train, x.clone()) * weights.clone()).sum()))
                };
                // The loss is linear in each number.
                let slope = (loss(0.5) - loss(-0.5)) as f32;
                assert!((slope - gradient[at]).abs() < 1e-3 * (1.0 + slope.abs()), "core {k}[{at}]: {slope}");
            }
        }
    }
}

#[test]
fn counts_are_those_of_the_shorter_way() {
    let count = |bond: usize| {
        let (mut count, mut angles) = (Count::default(), vec![]);
        let mut scope = Scope::root(&mut count, &mut angles);
        TensorTrain::build(&mut scope, TrainSpec { bond, cores: 2 }, [32, 12], Init::Normal).unwrap();
        (count.parameters, count.products)
    };
    // Inputs 3 · 4, outputs 8 · 4. The last core takes 4 numbers to 4 · r for each of 3, the first 3 · r to 8 for each of 4.
    assert_eq!(count(1), (3 * 8 + 4 * 4, (4 * 4 * 3 + 3 * 8 * 4) as f64));
    assert_eq!(count(2), (2 * (3 * 8 + 4 * 4), (2 * (4 * 4 * 3 + 3 * 8 * 4)) as f64));
    // A bond of 4 would take 576 products, the weight itself takes 384.
    assert_eq!(count(4).0, 4 * (3 * 8 + 4 * 4));
    assert!((count(4).1 - 384.0).abs() < 1e-6);
    // A bond of 16 fills every matrix that there is.
    assert_eq!(count(1000).0, 16 * (3 * 8 + 4 * 4));
}

#[test]
fn factors_multiply_to_the_number_and_stand_near_each_other() {
    assert_eq!(factors(192, 2), [12, 16]);
    assert_eq!(factors(512, 3), [8, 8, 8]);
    assert_eq!(factors(13, 2), [1, 13]);
    assert_eq!(factors(1, 3), [1, 1, 1]);
    for n in 1..200 {
        for count in 1..6 {
            let found = factors(n, count);
            assert_eq!((found.len(), found.iter().product::<usize>()), (count, n));
        }
    }
}

#[test]
fn a_factored_layer_computes_what_its_dense_twin_does() {
    use crate::feed_forward::{FeedForward, FeedForwardSpec, FfnKind};
    use crate::linear::{Linear, Weight};
    use crate::module::Module;
    use cupola_ops::Activation;

    let spec = FeedForwardSpec { d_ff: 40, kind: FfnKind::Gated(Activation::Silu), bias: false };
    for bond in [2, 64] {
        let (mut source, mut angles) = (Noise(Rng::new(6, "ffn")), vec![]);
        let mut scope = Scope::root(&mut source, &mut angles);
        let layer = FeedForward::build(&spec, &mut scope.factored(TrainSpec { bond, cores: 2 }), 12).unwrap();
        let mut twin = layer.clone();
        let linears = twin.linears_mut();
        assert_eq!(linears.len(), 3);
        for Linear { weight, .. } in linears {
            assert!(matches!(weight, Weight::Train(_)));
            *weight = Weight::Dense(Param::new(weight.name().to_string(), weight.dense()));
        }
        for rows in [2, 200] {
            let x = noise(rows, 12);
            close(&format!("bond {bond}, {rows} rows"), &to_vec(&layer.of(x.clone())), &to_vec(&twin.of(x)));
        }
    }
}
