//! One pass over a text that calls the rules where they may find something.

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use cupola_artifact::{Error, Result};

use super::keys::{self, SERVICES};
use super::rule::{Anchor, Rule, Span};
use super::text::{Groups, Text};

/// Something that was found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Where.
    pub span: Span,
    /// By which rule.
    pub rule: &'static Rule,
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Finds what some rules look for.
#[derive(Debug)]
pub struct Scanner {
    rules: Vec<&'static Rule>,
    /// Whether rules look at a byte.
    is_anchor: Box<[bool; 256]>,
    /// Where known keys begin, if they are looked for, and the rule's place.
    prefixes: Option<(AhoCorasick, usize)>,
}

/// A place with the number of the rule that found it.
type Hit = (Span, usize);

impl Scanner {
    /// For these rules.
    pub fn new(rules: Vec<&'static Rule>) -> Result<Self> {
        let mut is_anchor = Box::new([false; 256]);
        let mut prefixes = None;
        for (at, rule) in rules.iter().enumerate() {
            match rule.anchor {
                Anchor::Byte(bytes, _) => bytes.iter().for_each(|byte| is_anchor[usize::from(*byte)] = true),
                Anchor::Number(_) => (b'0'..=b'9').for_each(|byte| is_anchor[usize::from(byte)] = true),
                Anchor::Prefix => prefixes = Some((automaton()?, at)),
            }
        }
        Ok(Self { rules, is_anchor, prefixes })
    }

    /// What is in a text, in order, without overlaps.
    pub fn find(&self, text: &str) -> Vec<Found> {
        let text = Text::new(text);
        let mut hits = Vec::new();
        self.find_keys(&text, &mut hits);
        let mut at = 0;
        while let Some(skipped) = text.bytes[at..].iter().position(|byte| self.is_anchor[usize::from(*byte)]) {
            at += skipped;
            if text.bytes[at].is_ascii_digit() {
                self.find_number(&text, at, &mut hits);
                at += text.run(at, usize::MAX, |b| b.is_ascii_digit());
            } else {
                self.find_at_byte(&text, at, &mut hits);
                at += 1;
            }
        }
        let found = |(span, rule): Hit| Found { span, rule: self.rules[rule] };
        without_overlaps(hits).into_iter().map(found).collect()
    }

    fn find_keys(&self, text: &Text<'_>, hits: &mut Vec<Hit>) {
        let Some((automaton, rule)) = &self.prefixes else { return };
        let mut done = 0;
        for begin in automaton.find_iter(text.whole) {
            if begin.start() < done {
                continue;
            }
            if let Some(span) = keys::find(text, begin.start(), &SERVICES[begin.pattern().as_usize()]) {
                done = span.end;
                hits.push((span, *rule));
            }
        }
    }

    fn find_number(&self, text: &Text<'_>, at: usize, hits: &mut Vec<Hit>) {
        let groups = Groups::read(text, at);
        for (n, rule) in self.rules.iter().enumerate() {
            if let Anchor::Number(find) = rule.anchor
                && let Some(span) = find(text, &groups)
            {
                hits.push((span, n));
            }
        }
    }

    fn find_at_byte(&self, text: &Text<'_>, at: usize, hits: &mut Vec<Hit>) {
        for (n, rule) in self.rules.iter().enumerate() {
            if let Anchor::Byte(bytes, find) = rule.anchor
                && bytes.contains(&text.bytes[at])
                && let Some(span) = find(text, at)
            {
                hits.push((span, n));
            }
        }
    }
}

fn automaton() -> Result<AhoCorasick> {
    AhoCorasick::builder()
        .match_kind(MatchKind::LeftmostLongest)
        .kind(Some(AhoCorasickKind::DFA))
        .build(SERVICES.iter().map(keys::Service::prefix))
        .map_err(|e| Error::failed(format!("cannot look for the beginnings of keys: {e}")))
}

/// Of those that overlap, the one of the earlier rule stays; of the same rule the first, then the longer.
fn without_overlaps(mut hits: Vec<Hit>) -> Vec<Hit> {
    hits.sort_unstable_by_key(|(span, rule)| (span.start, *rule, usize::MAX - span.end));
    let mut kept: Vec<Hit> = Vec::with_capacity(hits.len());
    for hit in hits {
        match kept.last_mut() {
            Some(last) if hit.0.start < last.0.end => {
                if hit.1 < last.1 {
                    *last = hit;
                }
            }
            _ => kept.push(hit),
        }
    }
    kept
}
