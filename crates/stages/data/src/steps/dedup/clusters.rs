//! From pairs to clusters.

use std::collections::HashMap;

use crate::step::{Decision, Place};

/// Joins pairs to clusters; decides that each document of a cluster but the first repeats the first.
pub fn clusters(pairs: Vec<Decision>) -> Vec<Decision> {
    let mut first: HashMap<Place, Place> = HashMap::new();
    for pair in pairs {
        let (a, b) = (root(&mut first, pair.place), root(&mut first, pair.other));
        // The earlier document stays on top, so that a cluster's root is its first.
        if a != b {
            first.insert(a.max(b), a.min(b));
        }
    }
    let mut places: Vec<Place> = first.keys().copied().collect();
    places.sort_unstable();
    places.into_iter().map(|place| Decision { place, part: 0, length: 0, other: root(&mut first, place) }).collect()
}

/// The top of a document's cluster; shortens the way there.
fn root(first: &mut HashMap<Place, Place>, mut place: Place) -> Place {
    while let Some(&up) = first.get(&place) {
        match first.get(&up) {
            Some(&over) => drop(first.insert(place, over)),
            None => return up,
        }
        place = up;
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_of_pairs_become_one_cluster_under_its_first() {
        let pair = |place, other| Decision { place, part: 0, length: 0, other };
        let decided = clusters(vec![pair(9, 7), pair(4, 3), pair(7, 2), pair(9, 7), pair(8, 4)]);
        assert_eq!(decided, [pair(4, 3), pair(7, 2), pair(8, 3), pair(9, 2)]);
        assert_eq!(clusters(Vec::new()), []);
    }
}
