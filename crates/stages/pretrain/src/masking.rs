//! Which tokens a masked language model is asked for, and what it sees instead of them (Devlin et al. 2019).

use std::sync::Arc;

use cupola_artifact::{Error, Result};
use cupola_nn::Rng;
use cupola_ops::IGNORE;
use cupola_tokenizer::Tokenizer;

/// What tokenizers call the mask.
const MASKS: &[&str] = &["[MASK]", "<mask>", "<|mask|>"];

/// How tokens are hidden.
#[derive(Clone, Debug)]
pub struct Masking {
    /// The token that hides others.
    pub mask: u32,
    /// How many of a row's tokens are asked for.
    pub share: f64,
    /// How many of those are hidden by the mask, and by a random token; the others are shown.
    pub hidden: [f64; 2],
    /// Which ids are never asked for: special tokens.
    pub special: Vec<bool>,
    /// Which ids begin a word, where words are hidden whole.
    pub begins: Option<Vec<bool>>,
}

/// Rows with hidden tokens.
pub struct Hidden {
    /// What the model sees.
    pub ids: Vec<u32>,
    /// What it is asked for, [`IGNORE`] where nothing is.
    pub targets: Arc<[i32]>,
    /// Where something is.
    pub places: Arc<[u32]>,
}

/// Which ids begin a word: in WordPiece those without `##`, elsewhere those after a blank and signs.
fn begins(tokens: &[String]) -> Vec<bool> {
    let continues = |token: &String| token.starts_with("##");
    let wordpiece = tokens.iter().any(continues);
    let begins = |token: &String| match wordpiece {
        true => !continues(token),
        false => !token.chars().next().is_some_and(|c| c.is_alphanumeric() && !"ĠĊ▁".contains(c)),
    };
    tokens.iter().map(begins).collect()
}

impl Masking {
    /// The masking for a tokenizer.
    ///
    /// # Errors
    /// A tokenizer that has no mask.
    pub fn new(tokenizer: &Tokenizer, share: f64, hidden: [f64; 2], whole_words: bool) -> Result<Self> {
        let mask = MASKS.iter().find_map(|name| tokenizer.token_to_id(name)).ok_or_else(|| {
            Error::failed("the tokenizer has no token that hides others")
                .with_hint("an encoder learns with one: `special = { more = [\"<mask>\"] }` in [tokenizer] makes it")
        })?;
        let tokens: Vec<String> =
            (0..tokenizer.vocab_size() as u32).map(|id| tokenizer.id_to_token(id).unwrap_or_default()).collect();
        let known = [tokenizer.bos(), tokenizer.eos(), tokenizer.pad(), Some(mask)];
        let mut special: Vec<bool> =
            tokens.iter().map(|token| (token.starts_with("<|") && token.ends_with("|>")) || token.is_empty()).collect();
        known.into_iter().flatten().filter_map(|id| special.get_mut(id as usize).map(|s| *s = true)).for_each(drop);
        let begins = whole_words.then(|| begins(&tokens));
        Ok(Self { mask, share, hidden, special, begins })
    }

    /// Hides tokens of rows of `seq`; at least one of each row that has any that may be.
    pub fn hide(&self, ids: &[u32], seq: usize, rng: &mut Rng) -> Hidden {
        let (mut seen, mut targets, mut places) = (ids.to_vec(), vec![IGNORE; ids.len()], vec![]);
        for (row, tokens) in ids.chunks(seq.max(1)).enumerate() {
            for at in self.chosen(tokens, rng) {
                let at = row * seq + at;
                targets[at] = ids[at] as i32;
                places.push(at as u32);
                let draw = rng.uniform();
                if draw < self.hidden[0] {
                    seen[at] = self.mask;
                } else if draw < self.hidden[0] + self.hidden[1] {
                    seen[at] = rng.below(self.special.len()) as u32;
                }
            }
        }
        Hidden { ids: seen, targets: targets.into(), places: places.into() }
    }

    /// The places of a row that are asked for, in order.
    fn chosen(&self, tokens: &[u32], rng: &mut Rng) -> Vec<usize> {
        let is_special = |at: usize| self.special.get(tokens[at] as usize).copied().unwrap_or(true);
        let goes_on = |at: usize| {
            let begins = self.begins.as_ref().is_none_or(|begins| begins[tokens[at] as usize]);
            at > 0 && !begins && !is_special(at - 1)
        };
        let mut words: Vec<Vec<usize>> = vec![];
        for at in (0..tokens.len()).filter(|at| !is_special(*at)) {
            match words.last_mut() {
                Some(word) if goes_on(at) => word.push(at),
                _ => words.push(vec![at]),
            }
        }
        let all: usize = words.iter().map(Vec::len).sum();
        let wanted = ((all as f64 * self.share).round() as usize).max(1);
        let mut chosen = vec![];
        for word in rng.permutation(words.len()) {
            if chosen.len() >= wanted {
                break;
            }
            chosen.extend(&words[word as usize]);
        }
        chosen.sort_unstable();
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masking(begins: Option<Vec<bool>>) -> Masking {
        let special = (0..100).map(|id| id < 3).collect();
        Masking { mask: 2, share: 0.15, hidden: [0.8, 0.1], special, begins }
    }

    #[test]
    fn fifteen_of_a_hundred_are_asked_for_and_eight_of_ten_of_those_are_hidden() {
        let ids: Vec<u32> = (0..200 * 100).map(|i| if i % 100 < 20 { i % 3 } else { 3 + i % 97 }).collect();
        let hidden = masking(None).hide(&ids, 100, &mut Rng::new(1, "test"));
        assert_eq!(hidden.places.len(), 200 * 12, "15% of the 80 tokens of each row that are not special");
        let (mut masks, mut same) = (0, 0);
        for (at, target) in hidden.targets.iter().enumerate() {
            if *target == IGNORE {
                assert_eq!(hidden.ids[at], ids[at], "what is not asked for stays");
            } else {
                assert_eq!(*target, ids[at] as i32);
                assert!(ids[at] > 2, "special tokens are not asked for");
                masks += usize::from(hidden.ids[at] == 2);
                same += usize::from(hidden.ids[at] == ids[at]);
            }
        }
        assert!((1850..1990).contains(&masks), "{masks} of 2400 masked");
        assert!((190..330).contains(&same), "{same} of 2400 shown");
    }

    #[test]
    fn words_are_hidden_whole() {
        // Words of three tokens of which the first begins one.
        let ids: Vec<u32> = (0..90 * 30).map(|i| 3 + i % 3).collect();
        let masking = masking(Some((0..100).map(|id| id == 3).collect()));
        let hidden = masking.hide(&ids, 90, &mut Rng::new(1, "test"));
        assert!(hidden.targets.chunks(3).all(|word| word.iter().all(|t| *t == IGNORE) || !word.contains(&IGNORE)));
        assert_eq!(hidden.places.len(), 30 * 15);
    }

    #[test]
    fn tokens_that_begin_words_are_told_by_their_marks() {
        let told = |tokens: &[&str]| begins(&tokens.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(told(&["the", "##re", "!"]), [true, false, true]);
        assert_eq!(told(&["Ġthe", "re", "!", "▁to", "ok"]), [true, false, true, true, false]);
    }
}
