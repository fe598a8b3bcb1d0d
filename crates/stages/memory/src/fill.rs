//! Documents through a model: what it has in mind at each token, and which token follows.

use cupola_artifact::Result;
use cupola_neighbours::Memory;
use cupola_nn::{Batch, Decoder};
use cupola_ops::to_vec;

/// Tokens of one forward pass.
const TOKENS_PER_PASS: usize = 2048;

/// Windows of a document: what the model reads, and how much of it only leads up to what is stored. A window begins half
/// a context before the last one's end, so that every token but the first has at least half a context before it.
fn windows(ids: &[u32], context: usize) -> Vec<(&[u32], usize)> {
    let (context, mut out, mut known) = (context.max(2), vec![], 0);
    // The last token has no successor and is only predicted.
    while known + 1 < ids.len() {
        let from = if known == 0 { 0 } else { known - context / 2 };
        let to = (from + context).min(ids.len() - 1);
        out.push((&ids[from..=to], known - from));
        known = to;
    }
    out
}

/// Adds every token of documents but the first: the hidden state before it and itself. Each document begins with `start`.
/// `progress` hears how many have been added.
///
/// # Errors
/// When states cannot be stored.
pub fn fill(
    memory: &mut Memory,
    decoder: &Decoder,
    documents: &[Vec<u32>],
    most: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<usize> {
    let all: Vec<(&[u32], usize)> = documents.iter().flat_map(|ids| windows(ids, decoder.spec().max_seq_len)).collect();
    let (mut added, mut rest) = (0, all.as_slice());
    while !rest.is_empty() && added < most {
        let mut tokens = 0;
        let count = rest.iter().take_while(|(ids, _)| {
            tokens += ids.len() - 1;
            tokens <= TOKENS_PER_PASS
        });
        let (now, later) = rest.split_at(count.count().max(1));
        rest = later;
        added += one_pass(memory, decoder, now, most - added)?;
        progress(added);
    }
    Ok(added)
}

/// Adds at most so many pairs of a few windows, which share one row and do not see each other.
fn one_pass(memory: &mut Memory, decoder: &Decoder, windows: &[(&[u32], usize)], most: usize) -> Result<usize> {
    let ids: Vec<u32> = windows.iter().flat_map(|(ids, _)| &ids[..ids.len() - 1]).copied().collect();
    let segments: Vec<u32> =
        windows.iter().enumerate().flat_map(|(i, (ids, _))| vec![i as u32; ids.len() - 1]).collect();
    let hidden = to_vec(&decoder.hidden(&Batch::segmented(ids, 1, &segments)));
    let (width, mut at, mut added) = (memory.width(), 0, 0);
    for (ids, lead) in windows {
        let rows = ids.len() - 1;
        let end = rows.min(lead + most - added);
        memory.add(&hidden[(at + lead) * width..(at + end) * width], &ids[lead + 1..=end])?;
        added += end - lead;
        at += rows;
    }
    Ok(added)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_hold_every_token_but_the_first_once() {
        for (len, context) in [(1, 8), (2, 8), (9, 8), (10, 8), (100, 8), (37, 5), (12, 2), (7, 1)] {
            let ids: Vec<u32> = (0..len).collect();
            let windows = windows(&ids, context);
            let stored: Vec<u32> = windows.iter().flat_map(|(ids, lead)| &ids[lead + 1..]).copied().collect();
            assert_eq!(stored, ids[1..], "{len} in {context}");
            for (ids, lead) in &windows {
                assert!(ids.len() - 1 <= context.max(2) && (ids[0] == 0 || *lead >= context.max(2) / 2));
            }
        }
    }
}
