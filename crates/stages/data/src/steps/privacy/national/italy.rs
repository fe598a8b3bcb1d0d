//! Italy's tax codes.

use crate::steps::privacy::fake::Chance;
use crate::steps::privacy::rule::{Anchor, Rule, Span, rule};
use crate::steps::privacy::text::{Groups, Text};

/// The rule.
pub const ITALY: Rule =
    rule!("it_codice_fiscale", "IT_CODICE_FISCALE", "Italy's tax codes (check letter)", Anchor::Number(find), fake);

const LENGTH: usize = 16;
/// `L` a letter, `D` a digit, `M` a letter of a month.
const FORM: &[u8; LENGTH] = b"LLLLLLDDMDDLDDDL";
const MONTHS: &[u8; 12] = b"ABCDEHLMPRST";
/// What a character at an odd place counts, by its place in the alphabet or its digit.
const ODD: [u32; 26] = [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23];

/// Called at the year's two digits.
fn find(text: &Text<'_>, groups: &Groups) -> Option<Span> {
    let start = groups.bounds()[0].0.checked_sub(6)?;
    let code = text.bytes.get(start..start + LENGTH)?;
    let fits = |(byte, form): (&u8, &u8)| match form {
        b'D' => byte.is_ascii_digit(),
        b'M' => MONTHS.contains(byte),
        _ => byte.is_ascii_uppercase(),
    };
    let formed = code.iter().zip(FORM).all(fits);
    let end = start + LENGTH;
    (formed && code[15] == check(&code[..15]) && !text.joined_before(start) && !text.joined_after(end))
        .then(|| Span::new(start, end))
}

fn check(first: &[u8]) -> u8 {
    let value = |byte: u8| if byte.is_ascii_digit() { byte - b'0' } else { byte - b'A' };
    let counts = |(at, byte): (usize, &u8)| {
        let value = value(*byte);
        if at % 2 == 0 { ODD[usize::from(value)] } else { u32::from(value) }
    };
    b'A' + (first.iter().enumerate().map(counts).sum::<u32>() % 26) as u8
}

/// Of the place Z999, which there is not.
fn fake(_: &str, chance: &mut Chance) -> String {
    let letters = b"BCDFGLMNPRSTV";
    let mut code: String = (0..6).map(|_| chance.one_of(letters)).collect();
    let (year, day) = (chance.below(100), 1 + chance.below(28));
    code.push_str(&format!("{year:02}{}{day:02}Z999", chance.one_of(MONTHS)));
    let check = char::from(check(code.as_bytes()));
    code.push(check);
    code
}

#[cfg(test)]
mod tests {
    use crate::steps::privacy::tests::found;

    #[test]
    fn the_check_letter_has_to_fit() {
        assert_eq!(found("it_codice_fiscale", "C.F. RSSMRA85T10A562S."), ["RSSMRA85T10A562S"]);
        for text in ["RSSMRA85T10A562T", "rssmra85t10a562s", "XRSSMRA85T10A562S", "RSSMRA85Z10A562S"] {
            assert!(found("it_codice_fiscale", text).is_empty(), "{text}");
        }
    }
}
