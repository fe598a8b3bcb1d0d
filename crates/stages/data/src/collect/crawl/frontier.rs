//! The addresses that wait to be asked for, by site, each once.

use std::collections::{HashMap, HashSet, VecDeque};

use url::Url;
use xxhash_rust::xxh3::xxh3_128;

/// So many addresses are taken up whatever the number of pages wanted.
const FEW: u64 = 10_000;

/// Addresses taken up for each page wanted; the rest could hardly be asked for any more.
const FOR_A_PAGE: u64 = 4;

/// An address that waits.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    /// The address.
    pub url: Url,
    /// How many links it is away from the beginning.
    pub depth: u32,
    /// How many redirects led to it.
    pub hops: u32,
    /// Whether it is one of those to begin with, or where one of them points.
    pub seed: bool,
}

/// The addresses that wait.
pub struct Frontier {
    sites: Vec<VecDeque<Waiting>>,
    by_origin: HashMap<String, usize>,
    seen: HashSet<u128>,
    taken_up: u64,
    limit: u64,
    /// The site whose turn it is.
    turn: usize,
}

impl Frontier {
    /// Nothing waits.
    pub fn new(max_pages: u64) -> Self {
        let limit = FEW.max(max_pages.saturating_mul(FOR_A_PAGE));
        Self { sites: Vec::new(), by_origin: HashMap::new(), seen: HashSet::new(), taken_up: 0, limit, turn: 0 }
    }

    /// Takes an address up, unless it was before or there are too many.
    pub fn add(&mut self, waiting: Waiting) {
        if self.taken_up >= self.limit || !self.seen.insert(xxh3_128(waiting.url.as_str().as_bytes())) {
            return;
        }
        self.taken_up += 1;
        let origin = waiting.url.origin().ascii_serialization();
        let sites = self.sites.len();
        let site = *self.by_origin.entry(origin).or_insert(sites);
        if site == sites {
            self.sites.push(VecDeque::new());
        }
        self.sites[site].push_back(waiting);
    }

    /// An address need not be asked for any more, if it does not wait already.
    pub fn forget(&mut self, url: &str) {
        self.seen.insert(xxh3_128(url.as_bytes()));
    }

    /// The first addresses of the sites, at most so many of each and together, the sites in turn.
    pub fn batch(&mut self, of_a_site: usize, mut together: usize) -> Vec<Vec<Waiting>> {
        let mut batch = Vec::new();
        for _ in 0..self.sites.len() {
            if together == 0 {
                break;
            }
            let site = &mut self.sites[self.turn];
            self.turn = (self.turn + 1) % self.by_origin.len();
            if !site.is_empty() {
                let count = site.len().min(of_a_site).min(together);
                together -= count;
                batch.push(site.drain(..count).collect());
            }
        }
        batch
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test should panic")]
mod tests {
    use super::*;

    fn waiting(url: &str) -> Waiting {
        Waiting { url: Url::parse(url).unwrap(), depth: 0, hops: 0, seed: false }
    }

    #[test]
    fn sites_take_turns_and_no_address_comes_twice() {
        let mut frontier = Frontier::new(10);
        for url in ["https://a/1", "https://b/1", "https://a/2", "https://a/1", "https://a/3", "https://c/1"] {
            frontier.add(waiting(url));
        }
        frontier.forget("https://c/2");
        frontier.add(waiting("https://c/2"));
        let mut urls = |of_a_site, together| -> Vec<String> {
            frontier.batch(of_a_site, together).concat().into_iter().map(|w| w.url.to_string()).collect()
        };
        assert_eq!(urls(2, 4), ["https://a/1", "https://a/2", "https://b/1", "https://c/1"]);
        assert_eq!(urls(2, 4), ["https://a/3"]);
        assert!(urls(2, 4).is_empty());
    }

    #[test]
    fn a_flood_of_addresses_is_not_kept() {
        let mut frontier = Frontier::new(1);
        (0..20_000).for_each(|i| frontier.add(waiting(&format!("https://a/{i}"))));
        assert_eq!(frontier.batch(usize::MAX, usize::MAX).concat().len(), 10_000);
    }
}
