//! The clusters of duplicates that a step found, for the report.

use std::collections::HashMap;
use std::path::Path;

use cupola_artifact::{Context, Result, write_atomic};

use super::groups::{Decisions, ELSEWHERE};
use super::part::{PartId, read_documents};
use crate::report::{Cluster, Clusters};
use crate::step::Place;

/// Clusters that are shown.
const SHOWN: usize = 20;

/// Copies that are shown of each, beside the first document.
const COPIES: usize = 2;

/// Characters that are shown of each text.
const CHARACTERS: usize = 300;

/// Counts the clusters, once: what was found is kept in the pass's folder.
pub fn of_pass(decisions: &Decisions, dir: &Path) -> Result<Clusters> {
    let path = dir.join("clusters.json");
    if let Ok(bytes) = std::fs::read(&path)
        && let Ok(clusters) = serde_json::from_slice(&bytes)
    {
        return Ok(clusters);
    }
    let clusters = largest(decisions, dir)?;
    let json = serde_json::to_vec(&clusters).context(|| "cannot write the clusters".to_owned())?;
    write_atomic(&path, &json)?;
    Ok(clusters)
}

/// Counts the clusters, and reads the beginnings of some documents of the largest ones from the pass in `dir`.
fn largest(decisions: &Decisions, dir: &Path) -> Result<Clusters> {
    let mut members: HashMap<Place, (u64, Vec<Place>)> = HashMap::new();
    for some in decisions.all() {
        for decision in some?.into_iter().filter(|decision| decision.other != ELSEWHERE) {
            let (count, copies) = members.entry(decision.other).or_default();
            *count += 1;
            if copies.len() < COPIES {
                copies.push(decision.place);
            }
        }
    }
    let count = members.len() as u64;
    let mut largest: Vec<(Place, (u64, Vec<Place>))> = members.into_iter().collect();
    largest.sort_by(|a, b| b.1.0.cmp(&a.1.0).then(a.0.cmp(&b.0)));
    largest.truncate(SHOWN);
    let mut wanted: Vec<Place> =
        largest.iter().flat_map(|(first, (_, copies))| [*first].into_iter().chain(copies.clone())).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let mut found: HashMap<Place, (String, String)> = HashMap::new();
    for places in wanted.chunk_by(|a, b| PartId::of(*a).0 == PartId::of(*b).0) {
        let id = PartId::of(places[0]).0;
        let last = places.last().map_or(0, |place| PartId::of(*place).1);
        for (index, travelling) in read_documents(dir, id)?.enumerate().take(last + 1) {
            let document = travelling?.document;
            if places.contains(&id.place(index)) {
                found.insert(id.place(index), (document.id, document.text.chars().take(CHARACTERS).collect()));
            }
        }
    }
    let cluster = |(first, (count, copies)): (Place, (u64, Vec<Place>))| Cluster {
        documents: count + 1,
        examples: [first].into_iter().chain(copies).filter_map(|place| found.get(&place).cloned()).collect(),
    };
    Ok(Clusters { count, largest: largest.into_iter().map(cluster).collect() })
}
