//! The records a task is made of.

use std::path::Path;

use cupola_artifact::{Error, Result};
use cupola_nn::Rng;
use cupola_records::{Record, read_records};
use serde_json::Value;

/// Which records of a file are used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pick {
    /// Only the last share of the file, e.g. 0.1 where the beginning was trained on.
    pub last: Option<f64>,
    /// At most so many, drawn by `seed`.
    pub limit: Option<usize>,
    /// Which ones are drawn.
    pub seed: u64,
}

impl Pick {
    /// The chosen ones, in the order they had.
    pub fn choose<T>(&self, mut items: Vec<T>) -> Vec<T> {
        if let Some(share) = self.last {
            let first = ((1.0 - share) * items.len() as f64).floor() as usize;
            items.drain(..first.min(items.len()));
        }
        let Some(limit) = self.limit.filter(|limit| *limit < items.len()) else { return items };
        let mut chosen = Rng::new(self.seed, "eval items").permutation(items.len());
        chosen.truncate(limit);
        chosen.sort_unstable();
        let mut wanted = chosen.into_iter().peekable();
        let indexed = items.into_iter().enumerate();
        indexed.filter(|(i, _)| wanted.next_if_eq(&(*i as u32)).is_some()).map(|(_, item)| item).collect()
    }
}

/// The chosen records of a file, each made an item by `read`, and their numbers in the file, from 0.
pub(crate) fn read_items<T>(
    path: &Path,
    pick: &Pick,
    read: impl Fn(&Fields<'_>) -> Result<T>,
) -> Result<(Vec<u64>, Vec<T>)> {
    let records = read_records(path)?.collect::<Result<Vec<Record>>>()?;
    let chosen = pick.choose((0..).zip(records).collect());
    if chosen.is_empty() {
        return Err(Error::failed(format!("{} has no items to evaluate on", path.display())));
    }
    let items = chosen.iter().map(|(_, record)| read(&Fields { record })).collect::<Result<Vec<T>>>()?;
    Ok((chosen.into_iter().map(|(number, _)| number).collect(), items))
}

/// A record's fields, with errors that name file and line.
pub(crate) struct Fields<'a> {
    record: &'a Record,
}

impl<'a> Fields<'a> {
    /// The first of these fields that is there and not null.
    pub fn get(&self, names: &[&str]) -> Option<&'a Value> {
        names.iter().find_map(|name| self.record.value.get(name)).filter(|v| !v.is_null())
    }

    /// The first of these fields, which must be a text.
    pub fn text(&self, names: &[&str]) -> Result<&'a str> {
        match self.get(names) {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(self.wrong(&format!("`{}` is not a text", names.join("` or `")))),
            None => Err(self.wrong(&format!("there is no `{}`", names.join("` or `")))),
        }
    }

    /// What is asked: `prompt` or `question`, or `instruction` with its `input` after an empty line, as conversations are read
    /// for tuning.
    pub fn prompt(&self) -> Result<String> {
        let text = self.text(&["prompt", "question", "instruction"])?;
        match self.get(&["input"]) {
            Some(Value::String(input)) if !input.is_empty() => Ok(format!("{text}\n\n{input}")),
            _ => Ok(text.to_owned()),
        }
    }

    /// An error about this record.
    pub fn wrong(&self, what: &str) -> Error {
        Error::failed(format!("{}, line {}: {what}", self.record.source.display(), self.record.line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pick_keeps_the_order_and_repeats() {
        let all: Vec<u32> = (0..100).collect();
        let pick = Pick { last: None, limit: Some(10), seed: 3 };
        let some = pick.choose(all.clone());
        assert!(some.len() == 10 && some.is_sorted() && some != (0..10).collect::<Vec<_>>());
        assert_eq!(some, pick.choose(all.clone()));
        assert_ne!(some, Pick { seed: 4, ..pick }.choose(all.clone()));
        assert_eq!(Pick { limit: Some(100), ..pick }.choose(all.clone()), all);
    }

    #[test]
    fn the_last_share_leaves_the_beginning_out() {
        let pick = Pick { last: Some(0.1), limit: None, seed: 0 };
        assert_eq!(pick.choose((0..105).collect()), (94..105).collect::<Vec<_>>());
        assert_eq!(Pick { last: Some(1.0), ..pick }.choose(vec![1, 2]), [1, 2]);
    }
}
