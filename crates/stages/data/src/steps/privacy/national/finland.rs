//! Finland's personal identity codes.

use crate::steps::privacy::fake::Chance;
use crate::steps::privacy::rule::{Anchor, Rule, Span, rule};
use crate::steps::privacy::text::{Groups, Text, digits, is_date, number};

/// The rule.
pub const FINLAND: Rule = rule!(
    "fi_hetu",
    "FI_HETU",
    "Finland's personal identity codes (date of birth, remainder by 31)",
    Anchor::Number(find),
    fake
);

/// The last character by the remainder.
const CHECKS: &[u8; 31] = b"0123456789ABCDEFHJKLMNPRSTUVWXY";

fn find(text: &Text<'_>, groups: &Groups) -> Option<Span> {
    let (start, six) = groups.bounds()[0];
    let century = match text.at(six) {
        b'+' => 1800,
        b'-' | b'U'..=b'Y' => 1900,
        b'A'..=b'F' => 2000,
        _ => return None,
    };
    let end = start + 11;
    let digits = digits(text.whole.get(start..end - 1)?);
    if six - start != 6 || digits.len() != 9 || text.joined_before(start) || text.joined_after(end) {
        return None;
    }
    let born = is_date(century + number(&digits[4..6]), number(&digits[2..4]), number(&digits[..2]));
    let check = CHECKS[(number(&digits) % 31) as usize];
    (born && text.at(end - 1) == check).then(|| Span::new(start, end))
}

/// With a number from 900 on, which only tests use.
fn fake(_: &str, chance: &mut Chance) -> String {
    let born = format!("{:02}{:02}{:02}", 1 + chance.below(28), 1 + chance.below(12), chance.below(100));
    let serial = 900 + chance.below(100);
    let check = CHECKS[(number(&digits(&format!("{born}{serial}"))) % 31) as usize];
    format!("{born}-{serial}{}", char::from(check))
}

#[cfg(test)]
mod tests {
    use crate::steps::privacy::tests::found;

    #[test]
    fn the_last_character_has_to_fit() {
        assert_eq!(found("fi_hetu", "hetu 131052-308T."), ["131052-308T"]);
        for text in ["131052-308U", "321052-308T", "1131052-308T", "131052-308TT"] {
            assert!(found("fi_hetu", text).is_empty(), "{text}");
        }
    }
}
