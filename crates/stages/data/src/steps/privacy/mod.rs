//! Personal data: found by rules, then masked, removed, replaced by fakes, or a reason to drop the document.
//!
//! A rule is a file here and a line in [`RULES`]. One pass over the bytes finds the few places where rules look at all (digits,
//! `@`, `:`, `=`), a second one the beginnings of known keys; what a rule looks at from there is bounded, so the time is
//! linear in the length of any text. Nothing is learned: dates, versions, books' numbers and failed check digits are told
//! apart by rules too.

mod assignment;
mod card;
mod email;
mod fake;
mod iban;
mod ipv4;
mod ipv6;
mod keys;
mod national;
mod phone;
mod rule;
mod scan;
mod text;

#[cfg(test)]
mod tests;

use std::collections::HashSet;

use cupola_artifact::{Error, Result, unknown_name};
use cupola_records::Document;
use serde::{Deserialize, Serialize};

use crate::step::{Each, Kind, Notes, Setting, Verdict};
use fake::Chance;
use rule::Rule;
use scan::{Found, Scanner};

/// The kinds of personal data that can be found, each with what it is in a line.
pub fn kinds() -> impl Iterator<Item = (&'static str, &'static str)> {
    RULES.iter().map(|rule| (rule.name, rule.about))
}

/// All rules. Where two find the same place, the earlier one in this list wins.
const RULES: &[Rule] = &[
    keys::KEY,
    assignment::ASSIGNMENT,
    email::EMAIL,
    iban::IBAN,
    national::china::CHINA,
    card::CARD,
    ipv4::IPV4,
    ipv6::IPV6,
    national::usa::USA,
    national::italy::ITALY,
    national::spain::SPAIN,
    national::finland::FINLAND,
    national::union::GERMANY,
    national::union::FRANCE,
    national::union::NETHERLANDS,
    national::union::BELGIUM,
    national::union::POLAND,
    national::union::SWEDEN,
    national::union::ROMANIA,
    national::union::PORTUGAL,
    phone::PHONE,
];

/// The step.
pub const PRIVACY: Kind = Kind::each::<Privacy>(
    "privacy",
    "masks, removes or replaces e-mail, IP, telephone, card, account and identity numbers, keys and tokens",
);

/// What happens to what is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The kind stands in its place: `[EMAIL]`.
    #[default]
    Mask,
    /// It goes, with one of two spaces around it.
    Remove,
    /// A value of the same form that is nobody's, by the stage's seed: the same value has the same fake everywhere.
    Replace,
    /// The document goes, as `privacy_email` and so on.
    Drop,
}

/// Which personal data is looked for and what happens to it. Counts are `privacy.email` and so on.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Privacy {
    /// The kinds that are looked for; all of them by default.
    pub kinds: Vec<String>,
    /// `mask`, `remove`, `replace` or `drop`.
    pub action: Action,
    /// Values that stay, in any case; `@example.org` lets all addresses there stay.
    pub allow: Vec<String>,
    #[serde(skip)]
    scanner: Option<Scanner>,
    #[serde(skip)]
    allowed: HashSet<String>,
    #[serde(skip)]
    seed: u64,
}

impl Default for Privacy {
    fn default() -> Self {
        let kinds = RULES.iter().map(|rule| rule.name.to_owned()).collect();
        Self { kinds, action: Action::Mask, allow: Vec::new(), scanner: None, allowed: HashSet::new(), seed: 0 }
    }
}

impl Each for Privacy {
    fn validate(&self) -> Result<()> {
        if self.kinds.is_empty() {
            return Err(Error::usage("`kinds` of the step `privacy` is empty: it would find nothing")
                .with_hint("name at least one kind, or leave the setting out for all"));
        }
        self.rules().map(drop)
    }

    fn prepare(&mut self, setting: &Setting<'_>) -> Result<()> {
        self.scanner = Some(Scanner::new(self.rules()?)?);
        self.allowed = self.allow.iter().map(|value| value.to_lowercase()).collect();
        self.seed = setting.seed;
        Ok(())
    }

    fn apply(&self, document: &mut Document, notes: &mut Notes) -> Verdict {
        let Some(scanner) = &self.scanner else {
            return Verdict::SetAside("the step `privacy` has not been prepared".to_owned());
        };
        let mut found = scanner.find(&document.text);
        found.retain(|found| !self.is_allowed(&document.text[found.span.start..found.span.end]));
        let Some(first) = found.first() else { return Verdict::Keep };
        for found in &found {
            notes.count(&format!("privacy.{}", found.rule.name), 1);
        }
        if self.action == Action::Drop {
            return Verdict::Drop(first.rule.reason);
        }
        document.text = self.rewritten(&document.text, &found);
        Verdict::Keep
    }
}

impl Privacy {
    fn rules(&self) -> Result<Vec<&'static Rule>> {
        if let Some(unknown) = self.kinds.iter().find(|name| RULES.iter().all(|rule| rule.name != **name)) {
            let known: Vec<&str> = RULES.iter().map(|rule| rule.name).collect();
            let place = format!("unknown kind `{unknown}` in `kinds` of the step `privacy`");
            return Err(unknown_name(&place, unknown, "kind", &known));
        }
        Ok(RULES.iter().filter(|rule| self.kinds.iter().any(|name| name == rule.name)).collect())
    }

    fn is_allowed(&self, value: &str) -> bool {
        let value = || value.to_lowercase();
        let domain = |value: String| value.find('@').is_some_and(|at| self.allowed.contains(&value[at..]));
        !self.allowed.is_empty() && (self.allowed.contains(&value()) || domain(value()))
    }

    /// The text with everything that was found treated.
    fn rewritten(&self, text: &str, found: &[Found]) -> String {
        let mut out = String::with_capacity(text.len());
        let mut done = 0;
        for Found { span, rule } in found {
            out.push_str(&text[done..span.start]);
            done = span.end;
            match self.action {
                Action::Mask => out.push_str(rule.label),
                Action::Replace => {
                    let value = &text[span.start..span.end];
                    let mut chance = Chance::new(rule.name, value, self.seed);
                    out.push_str(&(rule.fake)(value, &mut chance));
                }
                Action::Remove | Action::Drop => {
                    let spaced = (out.is_empty() || out.ends_with([' ', '\n'])) && text[done..].starts_with(' ');
                    done += usize::from(spaced);
                }
            }
        }
        out.push_str(&text[done..]);
        out
    }
}
