//! Social security numbers of the United States.

use crate::steps::privacy::fake::Chance;
use crate::steps::privacy::rule::{Anchor, Rule, Span, rule};
use crate::steps::privacy::text::{Groups, Text, digits, number};

/// The rule.
pub const USA: Rule = rule!(
    "us_ssn",
    "US_SSN",
    "social security numbers of the United States: valid areas, with the words that announce them",
    Anchor::Number(find),
    fake
);

const CONTEXT: [&str; 6] = ["ssn", "social security", "social-security", "soc. sec", "taxpayer", "tax id"];

fn find(text: &Text<'_>, groups: &Groups) -> Option<Span> {
    let (start, end) = match groups.alone(text, 9) {
        Some(bounds) => bounds,
        None => (groups.bounds()[0].0, groups.shaped(text, &[3, 2, 4], b"- ")?),
    };
    let before = matches!(text.before(start), b'-' | b'.') || text.joined_before(start);
    (!before && is_valid(&text.whole[start..end]) && text.context(start).has(&CONTEXT)).then(|| Span::new(start, end))
}

/// What the Social Security Administration gives out: no area 000, 666 or 900 and more, no group 00, no number 0000.
fn is_valid(value: &str) -> bool {
    let digits = digits(value);
    let (area, group, serial) = (number(&digits[..3]), number(&digits[3..5]), number(&digits[5..]));
    !matches!(area, 0 | 666 | 900..) && group != 0 && serial != 0
}

/// Of an area that is never given out.
fn fake(value: &str, chance: &mut Chance) -> String {
    let (area, group, serial) = (900 + chance.below(100), 1 + chance.below(49), 1 + chance.below(9999));
    if value.contains(|c: char| !c.is_ascii_digit()) {
        format!("{area}-{group:02}-{serial:04}")
    } else {
        format!("{area}{group:02}{serial:04}")
    }
}

#[cfg(test)]
mod tests {
    use crate::steps::privacy::tests::found;

    #[test]
    fn valid_areas_are_found_where_the_words_say_so() {
        assert_eq!(found("us_ssn", "His SSN is 219-09-9999."), ["219-09-9999"]);
        assert_eq!(found("us_ssn", "Social Security number: 219099999"), ["219099999"]);
        for text in [
            "SSN 666-09-9999",
            "SSN 912-09-9999",
            "SSN 219-00-9999",
            "SSN 219-09-0000",
            "part 219-09-9999",
            "SSN 219-09-99991",
        ] {
            assert!(found("us_ssn", text).is_empty(), "{text}");
        }
    }
}
