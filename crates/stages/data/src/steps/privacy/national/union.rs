//! Identity numbers of countries of the European Union that are digits alone.
//!
//! A check digit lets a tenth of all numbers through, so where that is all there is, the words before have to announce the
//! number; where a date of birth and two check digits agree they need not.

use crate::steps::privacy::fake::Chance;
use crate::steps::privacy::fake::{completed, with_digits};
use crate::steps::privacy::rule::{Anchor, Rule, Span, rule};
use crate::steps::privacy::text::{Groups, Text, digits, is_date, luhn, number, weighted};

/// A form of number: how it is written, when it is valid, what announces it.
struct Form {
    /// Lengths of the groups of digits.
    shapes: &'static [&'static [usize]],
    separators: &'static [u8],
    valid: fn(&[u8]) -> bool,
    /// Empty where the checks are enough.
    context: &'static [&'static str],
    /// First digits of a fake: as far as there are such, digits that are never given out.
    unused: &'static [u8],
}

impl Form {
    fn find(&self, text: &Text<'_>, groups: &Groups) -> Option<Span> {
        let start = groups.bounds()[0].0;
        let joined = matches!(text.before(start), b'-' | b'.' | b'/' | b',')
            && start >= 2
            && text.at(start - 2).is_ascii_digit();
        if joined || text.joined_before(start) || text.before(start) == b'+' {
            return None;
        }
        let shape = |shape: &&[usize]| match shape {
            [whole] => groups.alone(text, *whole).map(|(_, end)| end),
            parts => groups.shaped(text, parts, self.separators),
        };
        let end = self.shapes.iter().find_map(shape)?;
        let valid = (self.valid)(&digits(&text.whole[start..end]));
        (valid && (self.context.is_empty() || text.context(start).has(self.context))).then(|| Span::new(start, end))
    }

    fn fake(&self, value: &str, chance: &mut Chance) -> String {
        let length = digits(value).len();
        with_digits(value, &completed(self.unused, length, chance, self.valid))
    }
}

/// A rule of a form.
macro_rules! form {
    ($rule:ident, $form:ident, $name:literal, $label:literal, $about:literal) => {
        #[doc = $about]
        pub const $rule: Rule =
            rule!($name, $label, $about, Anchor::Number(|text, groups| $form.find(text, groups)), |value, chance| {
                $form.fake(value, chance)
            });
    };
}

form!(GERMANY, STEUER_ID, "de_tax_id", "DE_TAX_ID", "Germany's tax identification numbers (ISO 7064, MOD 11,10)");
form!(FRANCE, NIR, "fr_nir", "FR_NIR", "France's social security numbers (remainder by 97)");
form!(NETHERLANDS, BSN, "nl_bsn", "NL_BSN", "the Netherlands' citizen service numbers (remainder by 11)");
form!(BELGIUM, RRN, "be_rrn", "BE_RRN", "Belgium's national numbers (date of birth, remainder by 97)");
form!(POLAND, PESEL, "pl_pesel", "PL_PESEL", "Poland's PESEL (date of birth, weighted sum by 10)");
form!(SWEDEN, PERSONNUMMER, "se_personnummer", "SE_PERSONNUMMER", "Sweden's personal numbers (date of birth, Luhn)");
form!(ROMANIA, CNP, "ro_cnp", "RO_CNP", "Romania's personal codes (date of birth, weighted sum by 11)");
form!(PORTUGAL, NIF, "pt_nif", "PT_NIF", "Portugal's taxpayer numbers (weighted sum by 11)");

const STEUER_ID: Form = Form {
    shapes: &[&[11], &[2, 3, 3, 3]],
    separators: b" /",
    valid: |digits| digits[0] != 0 && repeats_like_a_steuer_id(&digits[..10]) && mod_11_10(digits),
    context: &["steuer", "idnr", "identifikationsnummer", "tax id", "tin ", "tin:"],
    unused: &[],
};

/// Of the first ten digits one comes two or three times, the others once at most.
fn repeats_like_a_steuer_id(digits: &[u8]) -> bool {
    let mut counts = [0_u8; 10];
    digits.iter().for_each(|digit| counts[usize::from(*digit)] += 1);
    counts.iter().filter(|count| **count > 1).count() == 1 && counts.iter().all(|count| *count <= 3)
}

/// ISO 7064, MOD 11,10.
fn mod_11_10(digits: &[u8]) -> bool {
    let Some((last, first)) = digits.split_last() else { return false };
    let product = first.iter().fold(10_u32, |product, digit| match (product + u32::from(*digit)) % 10 {
        0 => 20 % 11,
        sum => sum * 2 % 11,
    });
    (11 - product) % 10 == u32::from(*last)
}

const NIR: Form = Form {
    shapes: &[&[15], &[1, 2, 2, 2, 3, 3, 2], &[13, 2]],
    separators: b" ",
    valid: |digits| {
        matches!(digits[0], 1 | 2)
            && matches!(number(&digits[3..5]), 1..=12 | 20 | 30..=42 | 50..)
            && 97 - number(&digits[..13]) % 97 == number(&digits[13..])
    },
    context: &[],
    unused: &[],
};

const BSN: Form = Form {
    shapes: &[&[9], &[4, 2, 3], &[3, 3, 3]],
    separators: b". -",
    valid: |digits| {
        let sum = weighted(&digits[..8], &[9, 8, 7, 6, 5, 4, 3, 2]);
        sum != 0 && sum % 11 == u32::from(digits[8])
    },
    context: &["bsn", "burgerservice", "sofinummer", "sofi-nummer"],
    unused: &[0, 0],
};

const RRN: Form = Form {
    shapes: &[&[11]],
    separators: b"",
    valid: |digits| {
        let first = number(&digits[..9]);
        let check = number(&digits[9..]);
        let born = |century: u64| is_date(century + number(&digits[..2]), number(&digits[2..4]), number(&digits[4..6]));
        (97 - first % 97 == check && born(1900)) || (97 - (2_000_000_000 + first) % 97 == check && born(2000))
    },
    context: &[
        "rijksregister",
        "registre national",
        "nationalregister",
        "national number",
        "niss",
        "insz",
        "numéro national",
    ],
    unused: &[],
};

const PESEL: Form = Form {
    shapes: &[&[11]],
    separators: b"",
    valid: |digits| {
        let month = number(&digits[2..4]);
        let century = match month / 20 {
            4 => 1800,
            n => 1900 + 100 * n,
        };
        let born = is_date(century + number(&digits[..2]), month % 20, number(&digits[4..6]));
        born && (weighted(digits, &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1])).is_multiple_of(10)
    },
    context: &["pesel"],
    unused: &[],
};

const PERSONNUMMER: Form = Form {
    shapes: &[&[6, 4], &[8, 4], &[10], &[12]],
    separators: b"-",
    valid: |digits| {
        let ten = &digits[digits.len() - 10..];
        let century = if digits.len() == 12 { number(&digits[..2]) * 100 } else { 1900 };
        (1800..=2000).contains(&century)
            && is_date(century + number(&ten[..2]), number(&ten[2..4]), number(&ten[4..6]))
            && luhn(ten)
    },
    context: &["personn", "pers.nr", "persnr", "personal identity number", "samordningsn"],
    unused: &[],
};

const CNP: Form = Form {
    shapes: &[&[13]],
    separators: b"",
    valid: |digits| {
        let century = match digits[0] {
            3 | 4 => 1800,
            5 | 6 => 2000,
            _ => 1900,
        };
        let place = number(&digits[7..9]);
        let check = match weighted(&digits[..12], &[2, 7, 9, 1, 4, 6, 3, 5, 8, 2, 7, 9]) % 11 {
            10 => 1,
            rest => rest,
        };
        digits[0] != 0
            && is_date(century + number(&digits[1..3]), number(&digits[3..5]), number(&digits[5..7]))
            && matches!(place, 1..=48 | 51 | 52 | 70)
            && check == u32::from(digits[12])
    },
    context: &["cnp", "cod numeric", "codul numeric"],
    unused: &[],
};

const NIF: Form = Form {
    shapes: &[&[9], &[3, 3, 3]],
    separators: b" ",
    valid: |digits| {
        let check = match weighted(&digits[..8], &[9, 8, 7, 6, 5, 4, 3, 2]) % 11 {
            0 | 1 => 0,
            rest => 11 - rest,
        };
        digits[0] != 0 && digits[0] != 4 && check == u32::from(digits[8])
    },
    context: &["nif", "contribuinte", "nipc"],
    unused: &[],
};

#[cfg(test)]
mod tests {
    use crate::steps::privacy::tests::found;

    /// Published examples and made-up numbers with valid checks.
    const VALID: [(&str, &str, &str); 12] = [
        ("de_tax_id", "Steuer-ID: ", "86095742719"),
        ("de_tax_id", "Steuerliche Identifikationsnummer ", "86 095 742 719"),
        ("fr_nir", "n° ", "255081416802538"),
        ("fr_nir", "n° ", "2 55 08 14 168 025 38"),
        ("nl_bsn", "BSN ", "111222333"),
        ("be_rrn", "Registre national: ", "85073003328"),
        ("pl_pesel", "PESEL ", "44051401359"),
        ("se_personnummer", "Personnummer: ", "811228-9874"),
        ("se_personnummer", "personnr ", "198112289874"),
        ("ro_cnp", "CNP ", "1800101221144"),
        ("pt_nif", "NIF ", "123456789"),
        ("pt_nif", "Contribuinte n.º ", "123 456 789"),
    ];

    #[test]
    fn valid_numbers_are_found_and_changed_ones_are_not() {
        for (rule, before, number) in VALID {
            assert_eq!(found(rule, &format!("{before}{number}, please")), [number], "{rule} {number}");
            let (first, last) = number.split_at(number.len() - 1);
            let changed = format!("{first}{}", if last == "0" { 1 } else { 0 });
            for other in [changed, format!("{number}0"), format!("{number}x")] {
                assert!(found(rule, &format!("{before}{other}, please")).is_empty(), "{rule} {other}");
            }
        }
    }

    #[test]
    fn a_check_digit_alone_needs_the_words_before() {
        for (rule, _, number) in VALID {
            assert_eq!(found(rule, &format!("Item {number}.")).is_empty(), rule != "fr_nir", "{rule} {number}");
        }
    }
}
