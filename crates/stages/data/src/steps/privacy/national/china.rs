//! China's resident identity numbers.

use crate::steps::privacy::fake::Chance;
use crate::steps::privacy::rule::{Anchor, Rule, Span, rule};
use crate::steps::privacy::text::{Groups, Text, digits, is_date, number, weighted};

/// The rule.
pub const CHINA: Rule = rule!(
    "china_id",
    "CN_ID",
    "China's identity numbers by GB 11643: province, date of birth, check character",
    Anchor::Number(find),
    fake
);

const WEIGHTS: [u32; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
/// The last character by the weighted sum's remainder by 11.
const CHECKS: &[u8; 11] = b"10X98765432";
/// The first two digits of places.
#[rustfmt::skip]
const PROVINCES: &[u64] = &[
    11, 12, 13, 14, 15, 21, 22, 23, 31, 32, 33, 34, 35, 36, 37, 41, 42, 43, 44, 45, 46, 50, 51, 52, 53, 54, 61, 62,
    63, 64, 65, 71, 81, 82, 83,
];

fn find(text: &Text<'_>, groups: &Groups) -> Option<Span> {
    let (start, digits_end) = groups.bounds()[0];
    let end = start + 18;
    let whole = digits_end == end || digits_end + 1 == end && matches!(text.at(digits_end), b'X' | b'x');
    if !whole || text.joined_before(start) || text.joined_after(end) {
        return None;
    }
    let first = digits(&text.whole[start..start + 17]);
    let (place, year) = (number(&first[..2]), number(&first[6..10]));
    let born = (1900..2100).contains(&year) && is_date(year, number(&first[10..12]), number(&first[12..14]));
    (PROVINCES.contains(&place) && born && check(&first) == text.at(end - 1).to_ascii_uppercase())
        .then(|| Span::new(start, end))
}

/// ISO 7064, MOD 11-2.
fn check(first: &[u8]) -> u8 {
    CHECKS[(weighted(first, &WEIGHTS) % 11) as usize]
}

/// Of place 999999, which there is not.
fn fake(_: &str, chance: &mut Chance) -> String {
    let (year, month, day) = (1900 + chance.below(100), 1 + chance.below(12), 1 + chance.below(28));
    let first = format!("999999{year}{month:02}{day:02}{:03}", chance.below(1000));
    let check = char::from(check(&digits(&first)));
    format!("{first}{check}")
}

#[cfg(test)]
mod tests {
    use crate::steps::privacy::tests::found;

    #[test]
    fn place_date_and_check_character_decide() {
        for id in ["11010519491231002X", "440524188001010014".replace("1880", "1980").as_str()] {
            let text = format!("身份证号码{id}，请核对");
            let expected: &[&str] = if id.ends_with('X') { &[id] } else { &[] };
            assert_eq!(found("china_id", &text), expected, "{text}");
        }
        for text in ["流水号110105194912310021", "99010519491231002X", "11010519491331002X", "111010519491231002X"] {
            assert!(found("china_id", text).is_empty(), "{text}");
        }
    }
}
