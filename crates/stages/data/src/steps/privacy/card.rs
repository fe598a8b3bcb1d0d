//! Numbers of payment cards.

use super::fake::{Chance, completed, with_digits};
use super::rule::{Anchor, Rule, Span, rule};
use super::text::{Groups, Text, continues, digits, luhn, number};

/// The rule.
pub const CARD: Rule =
    rule!("card", "CREDIT_CARD", "numbers of payment cards with Luhn's check", Anchor::Number(find), fake);

/// How cards are written in groups.
const SHAPES: [&[usize]; 5] = [&[4, 4, 4, 4], &[4, 6, 5], &[4, 6, 4], &[4, 4, 4, 4, 3], &[6, 13]];

/// Words beside numbers of cards that are not known by their first digits and length alone.
#[rustfmt::skip]
const CONTEXT: &[&str] = &[
    "card", "credit", "debit", "karte", "kredit", "carte", "tarjeta", "carta", "cartão", "visa", "maestro", "卡",
    "カード", "карт",
];

fn find(text: &Text<'_>, groups: &Groups) -> Option<Span> {
    let (start, first_end) = *groups.bounds().first()?;
    if text.joined_before(start) || matches!(text.before(start), b'.' | b'+') {
        return None;
    }
    let plain = first_end - start;
    let end = if (13..=19).contains(&plain) {
        (!text.joined_after(first_end) && !continues(text, start, first_end)).then_some(first_end)
    } else {
        let before = start >= 2 && text.at(start - 1) == b'-' && text.at(start - 2).is_ascii_digit();
        SHAPES.iter().find_map(|shape| groups.shaped(text, shape, b" -")).filter(|_| !before)
    }?;
    let number = digits(&text.whole[start..end]);
    let sure = match issuer(&number) {
        Issued::Not => false,
        Issued::Surely => true,
        Issued::Perhaps => text.context(start).has(CONTEXT),
    };
    (sure && luhn(&number)).then(|| Span::new(start, end))
}

enum Issued {
    Surely,
    Perhaps,
    Not,
}

/// By the first digits and the number of digits (ISO/IEC 7812 as the networks publish their ranges).
fn issuer(digits: &[u8]) -> Issued {
    let first = |n: usize| number(&digits[..n]);
    let (length, two, three, four) = (digits.len(), first(2), first(3), first(4));
    let sure = match length {
        14 => matches!(three, 300..=305 | 309) || matches!(two, 36 | 38 | 39),
        15 => matches!(two, 34 | 37),
        16 => {
            digits[0] == 4
                || matches!(two, 51..=55 | 62 | 65)
                || matches!(four, 2221..=2720 | 3528..=3589 | 6011 | 6282..=6288)
                || matches!(three, 644..=649)
        }
        _ => false,
    };
    let perhaps = match length {
        13 => digits[0] == 4,
        12..=19 => digits[0] == 4 && length == 19 || matches!(two, 50 | 56..=69),
        _ => false,
    };
    match (sure, perhaps) {
        (true, _) => Issued::Surely,
        (_, true) => Issued::Perhaps,
        _ => Issued::Not,
    }
}

/// In ranges that the networks use for tests, with the length and the grouping of the original.
fn fake(value: &str, chance: &mut Chance) -> String {
    let length = digits(value).len();
    let prefix: &[u8] = match length {
        14 => &[3, 0, 5, 6, 9, 3],
        15 => &[3, 7, 8, 2, 8, 2],
        _ => &[4, 1, 1, 1, 1, 1],
    };
    with_digits(value, &completed(prefix, length, chance, luhn))
}

#[cfg(test)]
mod tests {
    use crate::steps::privacy::tests::found;

    #[test]
    fn cards_are_found_plain_and_in_groups() {
        for card in [
            "4111111111111111",
            "4111 1111 1111 1111",
            "5555-5555-5555-4444",
            "3782 822463 10005",
            "30569309025904",
            "6011111111111117",
            "3530111333300000",
            "2223003122003222",
        ] {
            for text in [format!("Card: {card}, 12/29"), format!("卡号{card}，"), format!("{card} twice.")] {
                assert_eq!(found("card", &text), [card], "{text}");
            }
        }
    }

    #[test]
    fn other_long_numbers_are_none() {
        for text in [
            "Order 4111111111111112",
            "4111-1111 1111-1111",
            "ISBN 978-0-306-40615-7",
            "4006381333931",
            "x4111111111111111",
            "20150624104400",
            "1.4111111111111111",
            "41111111111111110000000",
            "4111 1111 1111 11112",
        ] {
            assert!(found("card", text).is_empty(), "{text}");
        }
    }
}
