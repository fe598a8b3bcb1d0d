//! Spain's identity numbers of citizens (DNI) and foreigners (NIE).

use crate::steps::privacy::fake::{Chance, with_digits};
use crate::steps::privacy::rule::{Anchor, Rule, Span, rule};
use crate::steps::privacy::text::{Groups, Text, digits, number};

/// The rule.
pub const SPAIN: Rule =
    rule!("es_dni", "ES_DNI", "Spain's DNI and NIE (the letter of the remainder by 23)", Anchor::Number(find), fake);

/// The last letter by the remainder.
const LETTERS: &[u8; 23] = b"TRWAGMYFPDXBNJZSQVHLCKE";
/// 12345678Z has the form of many an article's number too.
const CONTEXT: [&str; 10] =
    ["dni", "d.n.i", "nie", "n.i.e", "nif", "n.i.f", "documento", "identidad", "spanish id", "identity"];

fn find(text: &Text<'_>, groups: &Groups) -> Option<Span> {
    let (first, mut end) = groups.bounds()[0];
    let start = first - usize::from(matches!(text.before(first), b'X'..=b'Z'));
    let foreign = start < first;
    end += usize::from(text.at(end) == b'-');
    let fits = groups.lengths().next() == Some(if foreign { 7 } else { 8 });
    if !fits || text.joined_before(start) || text.joined_after(end + 1) {
        return None;
    }
    let valid = text.at(end).to_ascii_uppercase() == letter(&text.whole[start..end]);
    (valid && (foreign || text.context(start).has(&CONTEXT))).then(|| Span::new(start, end + 1))
}

/// X, Y and Z in front count as 0, 1 and 2.
fn letter(value: &str) -> u8 {
    let first = match value.bytes().next() {
        Some(letter @ b'X'..=b'Z') => u64::from(letter - b'X') * 10_000_000,
        _ => 0,
    };
    LETTERS[((first + number(&digits(value))) % 23) as usize]
}

/// Of the lowest hundred thousand, which are kept.
fn fake(value: &str, chance: &mut Chance) -> String {
    let length = digits(value).len();
    let drawn: Vec<u8> = (0..length).map(|at| if at + 5 < length { 0 } else { chance.digit() }).collect();
    let mut fake = with_digits(value, &drawn);
    fake.pop();
    let last = char::from(letter(&fake));
    fake.push(last);
    fake
}

#[cfg(test)]
mod tests {
    use crate::steps::privacy::tests::found;

    #[test]
    fn the_letter_has_to_fit() {
        assert_eq!(found("es_dni", "con DNI 12345678Z y"), ["12345678Z"]);
        assert_eq!(found("es_dni", "DNI: 12345678-Z."), ["12345678-Z"]);
        assert_eq!(found("es_dni", "la señora X1234567L"), ["X1234567L"]);
        for text in ["DNI 12345678A", "X1234567A", "pieza 12345678Z", "DNI 112345678Z", "AX1234567L"] {
            assert!(found("es_dni", text).is_empty(), "{text}");
        }
    }
}
