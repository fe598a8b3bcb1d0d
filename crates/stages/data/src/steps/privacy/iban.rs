//! International bank account numbers.

use super::fake::Chance;
use super::rule::{Anchor, Rule, Span, rule};
use super::text::{Groups, Text};

/// The rule.
pub const IBAN: Rule = rule!(
    "iban",
    "IBAN",
    "bank account numbers by ISO 13616: country, length, remainder by 97",
    Anchor::Number(find),
    fake
);

/// Countries and the length of their numbers in characters, from SWIFT's registry.
#[rustfmt::skip]
const LENGTHS: &[(&[u8; 2], usize)] = &[
    (b"AD", 24), (b"AE", 23), (b"AL", 28), (b"AT", 20), (b"AZ", 28), (b"BA", 20), (b"BE", 16), (b"BG", 22), (b"BH",
    22), (b"BI", 27), (b"BR", 29), (b"BY", 28), (b"CH", 21), (b"CR", 22), (b"CY", 28), (b"CZ", 24), (b"DE", 22),
    (b"DJ", 27), (b"DK", 18), (b"DO", 28), (b"EE", 20), (b"EG", 29), (b"ES", 24), (b"FI", 18), (b"FK", 18), (b"FO",
    18), (b"FR", 27), (b"GB", 22), (b"GE", 22), (b"GI", 23), (b"GL", 18), (b"GR", 27), (b"GT", 28), (b"HN", 28),
    (b"HR", 21), (b"HU", 28), (b"IE", 22), (b"IL", 23), (b"IQ", 23), (b"IS", 26), (b"IT", 27), (b"JO", 30), (b"KW",
    30), (b"KZ", 20), (b"LB", 28), (b"LC", 32), (b"LI", 21), (b"LT", 20), (b"LU", 20), (b"LV", 21), (b"LY", 25),
    (b"MC", 27), (b"MD", 24), (b"ME", 22), (b"MK", 19), (b"MN", 20), (b"MR", 27), (b"MT", 31), (b"MU", 30), (b"NI",
    28), (b"NL", 18), (b"NO", 15), (b"OM", 23), (b"PK", 24), (b"PL", 28), (b"PS", 29), (b"PT", 25), (b"QA", 29),
    (b"RO", 24), (b"RS", 22), (b"RU", 33), (b"SA", 24), (b"SC", 31), (b"SD", 18), (b"SE", 24), (b"SI", 19), (b"SK",
    24), (b"SM", 27), (b"SO", 23), (b"ST", 25), (b"SV", 28), (b"TL", 23), (b"TN", 24), (b"TR", 26), (b"UA", 29),
    (b"VA", 22), (b"VG", 24), (b"XK", 20),
];

/// Called at the two check digits.
fn find(text: &Text<'_>, groups: &Groups) -> Option<Span> {
    let digits = groups.bounds()[..].first()?.0;
    let start = digits.checked_sub(2)?;
    let country = text.bytes.get(start..digits)?;
    if text.joined_before(start) || !text.at(digits + 1).is_ascii_digit() {
        return None;
    }
    let length = LENGTHS.iter().find(|(code, _)| *code == country)?.1;
    let end = end(text, start, length)?;
    (remainder(&text.bytes[start..end]) == 1).then(|| Span::new(start, end))
}

/// Where so many characters end, either without spaces or with one after each four.
fn end(text: &Text<'_>, start: usize, length: usize) -> Option<usize> {
    let grouped = text.at(start + 4) == b' ';
    let mut at = start;
    for n in 0..length {
        if grouped && n > 0 && n % 4 == 0 {
            if text.at(at) != b' ' {
                return None;
            }
            at += 1;
        }
        if !matches!(text.at(at), b'0'..=b'9' | b'A'..=b'Z') {
            return None;
        }
        at += 1;
    }
    (!text.joined_after(at)).then_some(at)
}

/// Of the number with its first four characters at the end and letters as 10 to 35, by 97 (ISO/IEC 7064).
fn remainder(number: &[u8]) -> u32 {
    let known = number.iter().filter(|b| **b != b' ');
    known.clone().skip(4).chain(known.take(4)).fold(0, |rest, byte| match byte {
        b'0'..=b'9' => (rest * 10 + u32::from(byte - b'0')) % 97,
        _ => (rest * 100 + u32::from(byte - b'A') + 10) % 97,
    })
}

/// Same country, length and spaces; letters are `X`, the bank's digits 0: no bank has that code.
fn fake(value: &str, chance: &mut Chance) -> String {
    let mut kept = value.bytes().filter(|b| *b != b' ').count();
    let mut fake: Vec<u8> = value.bytes().collect();
    let half = kept / 2;
    let mut n = 0;
    for byte in &mut fake {
        match *byte {
            b' ' => continue,
            b'0'..=b'9' if n < 4 => *byte = b'0',
            b'0'..=b'9' if n >= half => *byte = b'0' + chance.digit(),
            b'0'..=b'9' => *byte = b'0',
            b'A'..=b'Z' if n >= 4 => *byte = b'X',
            _ => {}
        }
        n += 1;
        kept = kept.max(n);
    }
    let check = 98 - remainder(&fake);
    fake[2] = b'0' + (check / 10) as u8;
    fake[3] = b'0' + (check % 10) as u8;
    String::from_utf8(fake).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use crate::steps::privacy::tests::found;

    #[test]
    fn numbers_are_found_with_and_without_spaces() {
        for iban in [
            "GB29NWBK60161331926819",
            "GB29 NWBK 6016 1331 9268 19",
            "NO93 8601 1117 947",
            "DE89370400440532013000",
            "FR14 2004 1010 0505 0001 3M02 606",
            "MT84MALT011000012345MTLCAST001S",
        ] {
            for text in [format!("IBAN: {iban}, rent"), format!("账户：{iban}"), format!("to {iban}. 12")] {
                assert_eq!(found("iban", &text), [iban], "{text}");
            }
        }
    }

    #[test]
    fn wrong_sums_lengths_and_countries_are_none() {
        for text in [
            "DE88370400440532013000",
            "DE8937040044053201300",
            "DE893704004405320130001",
            "XX89370400440532013000",
            "ADE89370400440532013000",
            "DE89 3704 00440532013000",
        ] {
            assert!(found("iban", text).is_empty(), "{text}");
        }
    }
}
