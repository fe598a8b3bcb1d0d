//! The edges that come into new tokens of texts and into the phrases that end with them.

use std::collections::HashMap;
use std::sync::Arc;

use cupola_ops::KeyLists;

use super::{EdgeSpec, Relation};

/// A text's tokens, of which those before `from` were seen before.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    pub ids: Vec<u32>,
    pub from: usize,
}

/// Where the edges of one relation into some targets come from.
#[derive(Debug)]
pub(crate) struct Sources {
    pub relation: Relation,
    /// Which nodes, in order and each once.
    pub rows: Arc<[u32]>,
    /// Where they stand in their texts.
    pub positions: Arc<[u32]>,
    /// For each target which of `rows`.
    pub lists: Arc<KeyLists>,
}

/// All edges. Tokens are numbered text after text, those seen before included; phrases likewise; new tokens and new phrases as
/// they stand in a pass.
#[derive(Debug)]
pub(crate) struct Edges {
    /// Where each new token stands in its text.
    pub positions: Arc<[u32]>,
    /// Which new token ends each new phrase.
    pub closing: Arc<[u32]>,
    /// Where that token stands.
    pub closing_positions: Arc<[u32]>,
    /// Into new phrases from their tokens.
    pub members: Sources,
    /// Into new phrases from earlier ones.
    pub earlier: Sources,
    /// Into new tokens, by relations.
    pub tokens: [Sources; 4],
}

impl Edges {
    pub fn new(spec: &EdgeSpec, texts: &[Text]) -> Self {
        let [mut members, mut earlier] = [Relation::Member, Relation::Earlier].map(Draft::new);
        let mut tokens = [Relation::Previous, Relation::Same, Relation::Follows, Relation::Phrase].map(Draft::new);
        let (mut positions, mut closing, mut closing_positions) = (vec![], vec![], vec![]);
        let (mut token, mut phrase, mut new) = (0, 0, 0);
        for text in texts {
            let (len, from) = (text.ids.len(), text.from);
            let end_of = |c: usize| (c + 1) * spec.phrase - 1;
            for c in from / spec.phrase..len / spec.phrase {
                let own = c * spec.phrase..=end_of(c);
                closing.push((new + end_of(c) - from) as u32);
                closing_positions.push(end_of(c) as u32);
                members.target(own.map(|t| (token + t, t)));
                let before = c.saturating_sub(spec.phrases)..c;
                earlier.target(before.map(|c| (phrase + c, end_of(c))));
            }
            let before = occurrences(&text.ids);
            for t in from..len {
                let near = (t + 1).saturating_sub(spec.previous)..=t;
                let same = || std::iter::successors(before[t], |t| before[*t]).take(spec.same);
                let ended = (t + 1) / spec.phrase;
                let phrases = ended.saturating_sub(spec.phrases)..ended;
                let [previous, again, follows, phrases_of] = &mut tokens;
                previous.target(near.map(|t| (token + t, t)));
                again.target(same().map(|t| (token + t, t)));
                follows.target(same().map(|t| (token + t + 1, t + 1)));
                phrases_of.target(phrases.map(|c| (phrase + c, end_of(c))));
            }
            positions.extend(from as u32..len as u32);
            (token, phrase, new) = (token + len, phrase + len / spec.phrase, new + len - from);
        }
        Self {
            positions: positions.into(),
            closing: closing.into(),
            closing_positions: closing_positions.into(),
            members: members.finish(),
            earlier: earlier.finish(),
            tokens: tokens.map(Draft::finish),
        }
    }
}

/// For each token the last earlier occurrence of the same.
fn occurrences(ids: &[u32]) -> Vec<Option<usize>> {
    let mut last = HashMap::new();
    ids.iter().enumerate().map(|(t, id)| last.insert(*id, t)).collect()
}

/// Edges whose sources are not yet numbered.
struct Draft {
    relation: Relation,
    /// Per target how many edges come in.
    counts: Vec<usize>,
    /// Per edge which node, and where that stands.
    edges: Vec<(usize, usize)>,
}

impl Draft {
    fn new(relation: Relation) -> Self {
        Self { relation, counts: vec![], edges: vec![] }
    }

    fn target(&mut self, edges: impl Iterator<Item = (usize, usize)>) {
        let before = self.edges.len();
        self.edges.extend(edges);
        self.counts.push(self.edges.len() - before);
    }

    fn finish(self) -> Sources {
        let nodes = self.edges.iter().map(|edge| edge.0 + 1).max().unwrap_or(0);
        // Where each node stands in its text, and then as which row it is picked.
        let mut places = vec![u32::MAX; nodes];
        self.edges.iter().for_each(|(node, position)| places[*node] = *position as u32);
        let used = places.iter().enumerate().filter(|(_, position)| **position != u32::MAX);
        let (rows, positions): (Vec<u32>, Vec<u32>) = used.map(|(node, position)| (node as u32, *position)).unzip();
        rows.iter().zip(0..).for_each(|(node, row)| places[*node as usize] = row);
        let (mut lists, mut rest) = (KeyLists::default(), &self.edges[..]);
        for count in self.counts {
            let (own, next) = rest.split_at(count);
            lists.push_one(own.iter().map(|(node, _)| places[*node]));
            rest = next;
        }
        Sources { relation: self.relation, rows: rows.into(), positions: positions.into(), lists: Arc::new(lists) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: EdgeSpec = EdgeSpec { previous: 2, same: 2, phrases: 1, phrase: 3 };

    fn rows(edges: &Edges, relation: Relation) -> Vec<u32> {
        let all = edges.tokens.iter().chain([&edges.members, &edges.earlier]);
        all.filter(|sources| sources.relation == relation).flat_map(|sources| sources.rows.to_vec()).collect()
    }

    fn pairs(edges: &Edges) -> [usize; 3] {
        let tokens = edges.tokens.iter().map(|sources| sources.lists.pairs()).sum();
        [edges.members.lists.pairs(), edges.earlier.lists.pairs(), tokens]
    }

    #[test]
    fn edges_come_from_what_the_relations_say() {
        let text = Text { ids: vec![5, 6, 5, 7, 5, 6, 5], from: 0 };
        let edges = Edges::new(&SPEC, &[text]);
        assert_eq!((&*edges.closing, &*edges.closing_positions), (&[2, 5][..], &[2, 5][..]));
        assert_eq!(rows(&edges, Relation::Member), [0, 1, 2, 3, 4, 5]);
        assert_eq!(rows(&edges, Relation::Earlier), [0]);
        assert_eq!(rows(&edges, Relation::Previous), [0, 1, 2, 3, 4, 5, 6]);
        // 5 stands at 0, 2, 4 and 6, 6 at 1 and 5.
        assert_eq!(rows(&edges, Relation::Same), [0, 1, 2, 4]);
        assert_eq!(rows(&edges, Relation::Follows), [1, 2, 3, 5]);
        assert_eq!(rows(&edges, Relation::Phrase), [0, 1]);
        // 1 + 6 · 2 previous, 0 + 0 + 1 + 0 + 2 + 1 + 2 the same and as many that follow, 5 · 1 phrases.
        assert_eq!(pairs(&edges), [6, 1, 13 + 12 + 5]);
    }

    #[test]
    fn new_tokens_have_the_edges_that_they_have_in_the_whole_text() {
        let ids: Vec<u32> = (0..40).map(|i| i * i % 7).collect();
        let whole = Edges::new(&SPEC, &[Text { ids: ids.clone(), from: 0 }]);
        let mut sums = [0; 3];
        for (from, to) in [(0, 1), (1, 6), (6, 7), (7, 9), (9, 25), (25, 40)] {
            let part = Edges::new(&SPEC, &[Text { ids: ids[..to].to_vec(), from }]);
            sums.iter_mut().zip(pairs(&part)).for_each(|(sum, n)| *sum += n);
            assert!(part.positions.iter().all(|p| (from..to).contains(&(*p as usize))));
        }
        assert_eq!(sums, pairs(&whole));
    }

    #[test]
    fn texts_do_not_reach_each_other() {
        let texts = [Text { ids: vec![1, 2, 3, 1], from: 0 }, Text { ids: vec![1, 1, 2, 3, 1, 1, 2], from: 5 }];
        let edges = Edges::new(&SPEC, &texts);
        assert_eq!(*edges.positions, [0, 1, 2, 3, 5, 6]);
        // The second text's second phrase ends with the pass's fifth token.
        assert_eq!(*edges.closing, [2, 4]);
        assert_eq!(rows(&edges, Relation::Member), [0, 1, 2, 7, 8, 9]);
        assert_eq!(rows(&edges, Relation::Earlier), [1]);
        assert_eq!(rows(&edges, Relation::Same), [0, 5, 6, 8]);
        assert_eq!(rows(&edges, Relation::Phrase), [0, 2]);
    }
}
