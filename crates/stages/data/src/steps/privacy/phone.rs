//! Telephone numbers.

use super::fake::Chance;
use super::rule::{Anchor, Rule, Span, rule};
use super::text::{Groups, Text, continues};

/// The rule.
pub const PHONE: Rule = rule!(
    "phone",
    "PHONE",
    "telephone numbers: international (+), North American, Chinese mobile, others where the words before say so",
    Anchor::Number(find),
    fake
);

/// Words before a telephone number.
#[rustfmt::skip]
const CONTEXT: &[&str] = &[
    "tel:", "tel.", "tel ", "tel：", "telephone", "phone", "call", "mobile", "cell", "dial", "fax", "whatsapp",
    "hotline", "text me", "sms", "ring me", "ring us", "reach me at", "contact number", "telefon", "ruf", "anruf",
    "handy", "mobil", "durchwahl", "tél", "téléphone", "appel", "portable", "joindre", "telefono", "teléfono",
    "telefone", "llám", "llame", "llama", "móvil", "celular", "cellulare", "chiama", "телефон", "тел.", "звон",
    "tlf", "puh.", "telefoon", "bel ", "dzwoń",
];
/// Words before any number, which count where none of the others stands.
const WEAK_CONTEXT: &[&str] = &["number is", "numéro est", "nummer ist", "número es", "numero è"];
/// The same in scripts without spaces.
const WIDE_CONTEXT: [&str; 14] =
    ["电话", "電話", "手机", "手機", "拨打", "撥打", "致电", "致電", "联系", "热线", "携帯", "전화", "연락처", "传真"];
/// Words before other numbers, which win where they stand nearer.
#[rustfmt::skip]
const OTHERS: &[&str] = &[
    "order", "parcel", "invoice", "isbn", "issn", "reference", "tracking", "ticket", "serial", "account", "card",
    "id ", "passport", "case", "article", "section", "version", "build", "port ", "row", "room", "page", "uuid",
    "commit", "bestell", "rechnung", "konto", "karte", "commande", "facture", "compte", "carte", "pedido", "cuenta",
    "tarjeta", "流水号", "订单", "单号", "证", "卡号",
];

/// ITU-T E.164, with the country's code.
const MIN_DIGITS: usize = 8;
const MAX_DIGITS: usize = 15;

fn find(text: &Text<'_>, groups: &Groups) -> Option<Span> {
    let at = groups.bounds().first()?.0;
    if text.joined_before(at) {
        return None;
    }
    if text.before(at) == b'+' {
        return international(text, at);
    }
    american(text, groups).or_else(|| chinese(text, groups)).or_else(|| national(text, groups))
}

/// Where digits in groups, with brackets around one of them, end; and how many digits and groups they are.
struct Written {
    end: usize,
    digits: usize,
    groups: usize,
    /// Of the longest group.
    longest: usize,
    /// Of the shortest group but the first.
    shortest: usize,
}

/// Reads on while there are digits, one separator at a time; a bracket has to be closed.
fn written(text: &Text<'_>, start: usize) -> Written {
    let mut written = Written { end: start, digits: 0, groups: 0, longest: 0, shortest: usize::MAX };
    let mut at = start;
    loop {
        let bracket = text.at(at) == b'(';
        let length = text.run(at + usize::from(bracket), MAX_DIGITS + 1, |b| b.is_ascii_digit());
        let end = at + length + 2 * usize::from(bracket);
        let closed = !bracket || text.at(end - 1) == b')';
        if length == 0 || !closed || written.digits + length > MAX_DIGITS && written.groups > 0 {
            return written;
        }
        written.shortest = if written.groups == 0 { usize::MAX } else { written.shortest.min(length) };
        written.longest = written.longest.max(length);
        written.digits += length;
        written.groups += 1;
        written.end = end;
        at = end + usize::from(matches!(text.at(end), b' ' | b'-' | b'.' | b'/'));
        // Straight on only before or behind a bracket.
        if at == end && text.at(end) != b'(' && !bracket {
            return written;
        }
    }
}

/// `+` and the code of a country.
fn international(text: &Text<'_>, at: usize) -> Option<Span> {
    let start = at - 1;
    let written = written(text, at);
    let fits = (MIN_DIGITS..=MAX_DIGITS).contains(&written.digits) && written.groups <= 7;
    let sum = matches!(text.before(start), b'=' | b'^' | b')');
    let decimal = text.at(written.end) == b',' && text.at(written.end + 1).is_ascii_digit();
    let known = has_country_code(text, at);
    (fits && known && !sum && !decimal && !text.joined_before(start) && !text.joined_after(written.end))
        .then(|| Span::new(start, written.end))
}

/// Whether the number begins with the code of a country or a service, as ITU-T E.164 has given them out: by its first two
/// digits, since those of three digits share them. Free are 0 and parts of 2, 3, 8 and 9.
fn has_country_code(text: &Text<'_>, at: usize) -> bool {
    const FREE: &[&[u8]] = &[b"28", b"83", b"89"];
    let two = text.bytes.get(at..at + 2);
    text.at(at) != b'0' && two.is_some_and(|two| !FREE.contains(&two))
}

/// `(212) 555-0100`, `212-555-0100`, `1-212-555-0100`: area and exchange begin with 2 to 9.
fn american(text: &Text<'_>, groups: &Groups) -> Option<Span> {
    let (first, end) = groups.bounds()[0];
    let begins = |at: usize| matches!(text.at(at), b'2'..=b'9');
    if text.before(first) == b'(' && text.at(end) == b')' && end - first == 3 {
        let start = first - 1;
        let next = end + 1 + usize::from(text.at(end + 1) == b' ');
        let rest = text.at(next).is_ascii_digit().then(|| Groups::read(text, next))?;
        let end = rest.shaped(text, &[3, 4], b"-. ")?;
        return (begins(first) && begins(next) && !text.joined_before(start)).then(|| Span::new(start, end));
    }
    let (shape, skip): (&[usize], usize) = if end - first == 1 { (&[1, 3, 3, 4], 1) } else { (&[3, 3, 4], 0) };
    let end = groups.shaped(text, shape, b"-.")?;
    let (area, exchange) = (groups.bounds()[skip].0, groups.bounds()[skip + 1].0);
    let country = skip == 0 || text.at(first) == b'1';
    let before =
        first >= 2 && matches!(text.before(first), b'-' | b'.' | b'/') && text.at(first - 2).is_ascii_alphanumeric();
    (country && begins(area) && begins(exchange) && !before).then(|| Span::new(first, end))
}

/// `139-1234-5678`: the second digit is 3 to 9. Without separators it needs the words before it.
fn chinese(text: &Text<'_>, groups: &Groups) -> Option<Span> {
    let (start, first_end) = groups.bounds()[0];
    let mobile = text.at(start) == b'1' && matches!(text.at(start + 1), b'3'..=b'9');
    let joined = matches!(text.before(start), b'-' | b'.' | b'/') && start >= 2 && text.at(start - 2).is_ascii_digit();
    if !mobile || joined || first_end - start != 3 {
        return None;
    }
    let end = groups.shaped(text, &[3, 4, 4], b"- ")?;
    let context = || text.context(start);
    (text.at(first_end) == b'-' || is_announced(&context())).then(|| Span::new(start, end))
}

/// Any other way to write one, if the words before say that it is one.
fn national(text: &Text<'_>, groups: &Groups) -> Option<Span> {
    let first = groups.bounds()[0].0;
    let open = text.before(first) == b'(';
    let start = first - usize::from(open);
    let written = written(text, start);
    let (from, to) = if text.at(first) == b'0' { (MIN_DIGITS, MAX_DIGITS) } else { (7, 12) };
    let fits = (from..=to).contains(&written.digits)
        && written.groups <= 6
        && written.shortest >= 2
        && (written.groups > 1 || written.digits >= MIN_DIGITS);
    if !fits || text.joined_before(start) || text.joined_after(written.end) || continues(text, start, written.end) {
        return None;
    }
    let looks_otherwise = is_day(text, groups) || written.longest > 12;
    let decimal = text.at(written.end) == b',' && text.at(written.end + 1).is_ascii_digit();
    (!looks_otherwise && !decimal && is_announced(&text.context(start))).then(|| Span::new(start, written.end))
}

/// `2024-05-17`, `17.05.2024`: three groups, one of them a year's.
fn is_day(text: &Text<'_>, groups: &Groups) -> bool {
    let lengths: Vec<usize> = groups.lengths().take(4).collect();
    let year = |n: usize| matches!(text.at(groups.bounds()[n].0), b'1' | b'2');
    match lengths[..] {
        [4, 1 | 2, 1 | 2, ..] => year(0),
        [1 | 2, 1 | 2, 4, ..] => year(2),
        _ => false,
    }
}

/// Whether the words before speak of a telephone, and not of something else after that.
fn is_announced(context: &super::text::Context) -> bool {
    let spoken = context.last(CONTEXT).max(context.last(&WIDE_CONTEXT));
    match context.last(OTHERS) {
        Some(other) => spoken.is_some_and(|spoken| spoken > other),
        None => spoken.is_some() || context.has(WEAK_CONTEXT),
    }
}

/// In the ranges that regulators keep for fiction and documentation: Ofcom's, Arcep's, the Bundesnetzagentur's, and 555-01 of
/// North America for all others.
fn fake(value: &str, chance: &mut Chance) -> String {
    let compact: String = value.chars().filter(|c| c.is_ascii_digit() || *c == '+').collect();
    if compact.starts_with("+44") {
        return format!("+44 7700 900{:03}", chance.below(1000));
    }
    if compact.starts_with("+33") {
        return format!("+33 1 99 00 {:02} {:02}", chance.below(100), chance.below(100));
    }
    if compact.starts_with("+49") {
        return format!("+49 30 23125 {:03}", chance.below(1000));
    }
    let area = [201, 202, 212, 303, 312, 404, 415, 503, 602, 617, 702, 713, 808, 907, 919][chance.below(15) as usize];
    let sign = if compact.starts_with('+') { "+1-" } else { "" };
    format!("{sign}{area}-555-01{:02}", chance.below(100))
}

#[cfg(test)]
mod tests {
    use crate::steps::privacy::tests::found;

    #[test]
    fn numbers_that_show_what_they_are_need_no_words() {
        for phone in [
            "+49 30 23125 166",
            "+44 7700 900353",
            "+33 1 99 00 59 47",
            "+1 (202) 555-0197",
            "+1-202-555-0197",
            "+86 199 0000 2132",
            "(415) 555-0128",
            "212-555-0116",
            "199-0000-8453",
            "+420 601 123 456",
            "+44 (0)7700 900353",
        ] {
            for text in
                [format!("It is {phone}."), format!("是{phone}，"), format!("({phone})"), format!("{phone} or so")]
            {
                assert_eq!(found("phone", &text), [phone], "{text}");
            }
        }
    }

    #[test]
    fn other_numbers_need_the_words_before() {
        for phone in ["01 99 00 70 16", "020 7946 0136", "19900002132", "030/23125166", "5550 1234", "(030) 23125 166"]
        {
            for before in ["Tel: ", "Tél. ", "Call me on ", "Llámame al ", "请拨打电话", "Telefon: ", "手机："]
            {
                let text = format!("{before}{phone} .");
                assert_eq!(found("phone", &text), [phone], "{text}");
            }
            assert!(found("phone", &format!("We counted {phone} of them")).is_empty(), "{phone}");
        }
    }

    #[test]
    fn dates_sums_and_books_are_none() {
        for text in [
            "The meeting of 1971-12-16",
            "Call on 2024-05-17.",
            "978-0-306-40615-7",
            "4,589,412,546",
            "3711 - 5053 = 1645",
            "x +12345678901234567",
            "Her order number is 19900005542",
            "37:20-26",
            "82.243218, -31.700122",
            "Row 997, 348",
            "Am 24.08.1965 um 12:30 Uhr",
            "commit 12-555-0100-22",
            "call 911",
            "+0 123 456 789",
            "phone the order 123456789",
        ] {
            assert!(found("phone", text).is_empty(), "{text}");
        }
    }
}
