//! Scores instead of merges: SentencePiece joins the two neighbours whose joint piece scores best.

use std::collections::HashMap;

/// Scores under which joining neighbours by score is what joining them by merge is: the first merge that makes a piece
/// decides. Pieces that no merge makes come last.
pub fn scores(tokens: &[String], merges: &[(String, String)]) -> Vec<f32> {
    let mut ranks: HashMap<String, usize> = HashMap::with_capacity(merges.len());
    for (rank, (left, right)) in merges.iter().enumerate() {
        ranks.entry(format!("{left}{right}")).or_insert(rank);
    }
    let rank = |(id, token): (usize, &String)| ranks.get(token).copied().unwrap_or(merges.len() + id);
    tokens.iter().enumerate().map(|at| -(rank(at) as f32)).collect()
}

/// The merges that give each piece: all ways to cut it into two pieces, the best pieces first.
pub fn merges(tokens: &[&str], scores: &[f32], joins: impl Fn(usize) -> bool) -> Vec<(String, String)> {
    let ids: HashMap<&str, usize> = (0..tokens.len()).filter(|id| joins(*id)).map(|id| (tokens[id], id)).collect();
    let mut order: Vec<usize> = (0..tokens.len()).filter(|id| joins(*id)).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let mut found = Vec::new();
    for id in order {
        let token = tokens[id];
        let cut = |(at, _)| {
            let (left, right) = token.split_at(at);
            Some((*ids.get(left)?, *ids.get(right)?))
        };
        let mut cuts: Vec<(usize, usize)> = token.char_indices().skip(1).filter_map(cut).collect();
        cuts.sort_unstable();
        found.extend(cuts.into_iter().map(|(left, right)| (tokens[left].to_owned(), tokens[right].to_owned())));
    }
    found
}
