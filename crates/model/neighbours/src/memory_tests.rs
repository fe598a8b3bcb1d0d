#![expect(clippy::unwrap_used, reason = "a failing test should panic")]

use burn::tensor::Device;
use cupola_nn::{Readout, Rng};
use cupola_ops::{from_vec, to_vec};

use super::*;

fn settings() -> Settings {
    Settings { k: 4, lambda: 0.5, temperature: 1.0, probes: 3 }
}

fn filled(pairs: usize, cells: usize) -> Memory {
    let mut memory = Memory::empty(6, settings());
    let mut rng = Rng::new(1, "tokens");
    let tokens: Vec<u32> = (0..pairs).map(|_| rng.below(30) as u32).collect();
    memory.add(&Rng::new(2, "states").normal(6 * pairs, 1.0), &tokens).unwrap();
    memory.settle(cells, 3, true);
    memory
}

#[test]
fn a_written_memory_is_read_as_it_was() {
    for cells in [0, 12] {
        let (memory, dir) = (filled(500, cells), tempfile::tempdir().unwrap());
        memory.save(dir.path()).unwrap();
        let again = Memory::load(dir.path(), 30).unwrap().unwrap();
        assert_eq!(again, memory);
        assert_eq!((again.len(), again.cells()), (500, cells));
    }
    assert!(Memory::load(tempfile::tempdir().unwrap().path(), 30).unwrap().is_none());
}

#[test]
fn files_that_disagree_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    filled(50, 4).save(dir.path()).unwrap();
    let error = |vocab: usize| Memory::load(dir.path(), vocab).unwrap_err().chain();
    assert!(error(5).contains("tokens that the model, with its 5, does not know"), "{}", error(5));
    let path = dir.path().join(MEMORY);
    let said = std::fs::read_to_string(&path).unwrap();
    for (old, new, message) in [
        ("\"pairs\": 50", "\"pairs\": 51", "`keys` is [50, 6]"),
        ("\"width\": 6", "\"width\": 0", "the width 0"),
        ("\"cells\": 4", "\"cells\": 5", "`centroids` is [4, 6]"),
        ("\"lambda\": 0.5", "\"lambda\": 1.5", "`lambda` = 1.5"),
        ("\"k\": 4", "\"k\": 0", "at least 1"),
        ("\"scale\"", "\"scales\"", "unknown field"),
    ] {
        assert!(said.contains(old), "{said}");
        std::fs::write(&path, said.replace(old, new)).unwrap();
        assert!(error(30).contains(message), "{}", error(30));
    }
    std::fs::write(&path, &said).unwrap();
    std::fs::write(dir.path().join(PAIRS), b"no tensors").unwrap();
    assert!(Memory::load(dir.path(), 30).is_err());
}

#[test]
fn neighbours_count_by_their_distance_and_equal_tokens_add_up() {
    let mut memory = Memory::empty(1, Settings { k: 3, ..settings() });
    memory.add(&[0.0, 1.0, 2.0, 9.0], &[7, 5, 7, 1]).unwrap();
    memory.scale = 2.0;
    let weights = [0.0, 1.0, 4.0].map(|d: f64| (-d / 2.0).exp());
    let total: f64 = weights.iter().sum();
    let shares = &memory.predict(&[0.0])[0];
    assert_eq!(shares.iter().map(|s| s.0).collect::<Vec<_>>(), [5, 7]);
    assert!((shares[0].1 - weights[1] / total).abs() < 1e-6);
    assert!((shares[1].1 - (weights[0] + weights[2]) / total).abs() < 1e-6);
}

#[test]
fn the_mixture_is_a_distribution_of_both_parts() {
    let memory = filled(200, 0);
    let (hidden, logits) = (Rng::new(5, "hidden").normal(6 * 7, 1.0), Rng::new(6, "logits").normal(30 * 7, 2.0));
    let tensor = |numbers: &[f32], width| from_vec(numbers.to_vec(), [7, width], &Device::flex());
    let mixed = to_vec(&memory.mix(&tensor(&hidden, 6), tensor(&logits, 30)));
    let predicted = memory.predict(&hidden);
    for (row, mixed) in mixed.chunks_exact(30).enumerate() {
        let model: Vec<f64> = logits[row * 30..][..30].iter().map(|l| f64::from(*l).exp()).collect();
        let total: f64 = model.iter().sum();
        for (token, got) in mixed.iter().enumerate() {
            let share: f64 = predicted[row].iter().filter(|s| s.0 as usize == token).map(|s| s.1).sum();
            let want = 0.5 * share + 0.5 * model[token] / total;
            assert!((f64::from(*got).exp() - want).abs() < 1e-5);
        }
        assert!((mixed.iter().map(|l| f64::from(*l).exp()).sum::<f64>() - 1.0).abs() < 1e-5);
    }
    assert_eq!(to_vec(&Memory::empty(6, settings()).mix(&tensor(&hidden, 6), tensor(&logits, 30))), logits);
}

#[test]
fn a_memory_that_grew_keeps_its_centroids_and_knows_old_and_new_pairs() {
    let mut memory = filled(400, 10);
    let (scale, centroids) = (memory.scale, memory.cells.clone().unwrap().centroids);
    let fresh = Rng::new(8, "fresh").normal(6 * 50, 1.0);
    memory.add(&fresh, &[29; 50]).unwrap();
    memory.settle(10, 99, false);
    assert_eq!((memory.len(), memory.scale), (450, scale));
    assert_eq!(memory.cells.as_ref().unwrap().centroids, centroids);
    memory.settings.probes = 10;
    for (query, found) in fresh.chunks_exact(6).zip(memory.nearest(&fresh)) {
        assert_eq!(memory.token(found[0].at), 29);
        // How many queries go at once changes the last bits of distances.
        let places = |found: &[Found]| found.iter().map(|f| f.at).collect::<Vec<_>>();
        assert_eq!(places(&found), places(&memory.nearest_of_all(query)[0]));
    }
}
