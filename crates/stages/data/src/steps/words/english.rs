//! Where spaCy's rules for English divide what stands between white space.
//!
//! `spacy.blank("en")` is what datatrove counts words with. It takes punctuation off both ends until an exception or nothing is
//! left to take, leaves addresses whole, divides the rest at hyphens and the like, and last looks for exceptions that its
//! rules took apart. The functions here follow those rules on byte positions; `classes` says what is a letter.

use super::classes::{
    in_dot_context, is_currency, is_icon, is_letter, is_lower, is_prefix_mark, is_quote, is_suffix_mark, is_upper,
};
use super::exceptions::{self, LONGEST_EXCEPTION};

/// Units that are a word of their own after a digit, longest of a kind first.
const UNITS: &str = "km² km³ km m² m³ dm² dm³ dm cm² cm³ cm mm² mm³ mm ha µm nm yd in ft kg mg µg lb oz m/s km/h kmh mph hPa Pa \
    mbar mb MB kb KB gb GB tb TB g t T G M K m % км² км³ км м² м³ дм² дм³ дм см² см³ см мм² мм³ мм нм кг мг м/с км/ч кПа Па мбар \
    Кб КБ кб Мб МБ мб Гб ГБ гб Тб ТБ тбكم г м كم² كم³ كم م² م³ سم² سم³ سم مم² مم³ مم غرام جرام جم كغ ملغ كوب اكواب م";

/// Bytes of the longest unit.
const LONGEST_UNIT: usize = 12;

/// Calls `word` with the words of `chunk`, which has no white space in it, in order.
pub fn divide<'a>(chunk: &'a str, scratch: &mut Vec<&'a str>, word: &mut impl FnMut(&'a str)) {
    if chunk.bytes().all(|b| b.is_ascii_alphabetic()) && !exceptions::contains(chunk) {
        return word(chunk);
    }
    scratch.clear();
    divide_by_rules(chunk, true, scratch);
    join_exceptions(chunk, scratch, word);
}

/// What the rules make of a chunk, without the last look for exceptions.
fn divide_by_rules<'a>(chunk: &'a str, with_exceptions: bool, words: &mut Vec<&'a str>) {
    let exception = |text: &str| with_exceptions && exceptions::contains(text);
    let (mut core, mut suffixes) = (chunk, Vec::new());
    while !core.is_empty() && !exception(core) {
        let before = core.len();
        let prefix = prefix_len(core);
        let (first, rest) = core.split_at(prefix);
        if prefix > 0 && exception(rest) {
            words.push(first);
            core = rest;
            break;
        }
        let suffix = suffix_len(rest);
        let (most, last) = core.split_at(core.len() - suffix);
        if suffix > 0 && exception(most) {
            suffixes.push(last);
            core = most;
            break;
        }
        if prefix > 0 {
            words.push(first);
        }
        if suffix > 0 {
            suffixes.push(last);
        }
        core = &core[prefix..core.len() - suffix];
        if core.len() == before {
            break;
        }
    }
    if !core.is_empty() {
        match with_exceptions.then(|| exceptions::parts(core)).flatten() {
            Some(parts) => push_parts(core, parts, words),
            None => divide_core(core, words),
        }
    }
    words.extend(suffixes.into_iter().rev());
}

/// The words of an exception; `parts` are their lengths in bytes.
fn push_parts<'a>(text: &'a str, parts: &[u8], words: &mut Vec<&'a str>) {
    let mut at = 0;
    for part in parts {
        words.push(&text[at..at + usize::from(*part)]);
        at += usize::from(*part);
    }
}

/// Bytes of what is taken off the front.
fn prefix_len(text: &str) -> usize {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return 0 };
    match first {
        '.' => dots(text).filter(|n| *n >= 2).unwrap_or(0),
        '+' => usize::from(!chars.next().is_some_and(|c| c.is_ascii_digit())),
        'U' if text.starts_with("US$") => 3,
        'C' | 'A' if text[1..].starts_with('$') => 2,
        c if is_prefix_mark(c) || is_icon(c) => c.len_utf8(),
        _ => 0,
    }
}

/// How many dots a text starts with, if any.
fn dots(text: &str) -> Option<usize> {
    let n = text.bytes().take_while(|b| *b == b'.').count();
    (n > 0).then_some(n)
}

/// Bytes of what is taken off the end: of all that fits the longest.
fn suffix_len(text: &str) -> usize {
    let mut chars = text.chars().rev();
    let Some(last) = chars.next() else { return 0 };
    if last.is_ascii_alphanumeric() {
        let before = chars.next();
        return match last {
            's' | 'S' if matches!(before, Some('\'' | '’')) => 1 + before.map_or(0, char::len_utf8),
            c if c.is_ascii_digit() => 0,
            _ => after_digit(text, UNITS.split(' ')),
        };
    }
    let one = match last {
        '.' => return dot_suffix(text),
        '+' => usize::from(chars.next().is_some_and(|c| c.is_ascii_digit())),
        '…' if text.ends_with("……") => '…'.len_utf8() * 2,
        c if is_suffix_mark(c) || is_icon(c) => c.len_utf8(),
        _ => 0,
    };
    let currency = if is_currency(last) { currency_suffix(text, last) } else { 0 };
    one.max(currency).max(after_digit(text, UNITS.split(' ')))
}

/// A currency's sign, with the country's letters before a dollar's, right after a digit.
fn currency_suffix(text: &str, last: char) -> usize {
    let mut own = [0; 4];
    after_digit(text, ["US$", "C$", "A$", &*last.encode_utf8(&mut own)].into_iter())
}

/// A run of dots, or the last dot after what a sentence ends in.
fn dot_suffix(text: &str) -> usize {
    let n = text.bytes().rev().take_while(|b| *b == b'.').count();
    if n >= 2 {
        return n;
    }
    let mut before = text[..text.len() - 1].chars().rev();
    let (one, two) = (before.next(), before.next());
    let ends = one.is_some_and(|c| in_dot_context(c) || is_lower(c))
        || (matches!(one, Some('F' | 'f' | 'C' | 'c' | 'K' | 'k')) && two == Some('°'))
        || (one.is_some_and(is_upper) && two.is_some_and(is_upper));
    usize::from(ends)
}

/// The length of what follows the last digit, where that is one of `endings`, which have no digits.
fn after_digit<'u>(text: &str, mut endings: impl Iterator<Item = &'u str>) -> usize {
    let Some(digit) = text.bytes().rposition(|b| b.is_ascii_digit()) else { return 0 };
    let end = &text[digit + 1..];
    if end.len() <= LONGEST_UNIT && endings.any(|ending| ending == end) { end.len() } else { 0 }
}

/// Divides what has nothing left to take off, unless it is an address.
fn divide_core<'a>(core: &'a str, words: &mut Vec<&'a str>) {
    let (mut start, mut at, mut address) = (0, 0, None);
    let mut previous = None;
    while let Some(c) = core[at..].chars().next() {
        let length = infix_len(&core[at..], c, previous);
        if length == 0 || at == 0 {
            // What starts the core does not divide it, but is passed over as a whole.
            at += length.max(c.len_utf8());
            previous = core[..at].chars().next_back();
            continue;
        }
        if *address.get_or_insert_with(|| is_address(core)) {
            break;
        }
        if at > start {
            words.push(&core[start..at]);
        }
        words.push(&core[at..at + length]);
        at += length;
        start = at;
        previous = core[..at].chars().next_back();
    }
    if start < core.len() {
        words.push(&core[start..]);
    }
}

/// Bytes of what divides the core at the start of `rest`, whose first character is `c`.
fn infix_len(rest: &str, c: char, previous: Option<char>) -> usize {
    let after = |n: usize| rest[n..].chars().next();
    let before = |class: fn(char) -> bool| previous.is_some_and(class);
    let letter_or_digit = |c: char| c.is_ascii_digit() || is_letter(c);
    match c {
        '.' => match dots(rest) {
            Some(n) if n >= 2 => n,
            _ if before(|c| is_lower(c) || is_quote(c)) && after(1).is_some_and(|c| is_upper(c) || is_quote(c)) => 1,
            _ => 0,
        },
        ',' => usize::from(before(is_letter) && after(1).is_some_and(is_letter)),
        '+' | '*' | '^' => usize::from(between_digits(previous, after(1))),
        '-' if between_digits(previous, after(1)) => 1,
        '-' | '–' | '—' | '~' if previous.is_some_and(letter_or_digit) => hyphens(rest, c),
        ':' | '<' | '>' | '=' | '/' => {
            usize::from(previous.is_some_and(letter_or_digit) && after(1).is_some_and(is_letter))
        }
        '…' => c.len_utf8(),
        c if is_icon(c) => c.len_utf8(),
        _ => 0,
    }
}

fn between_digits(previous: Option<char>, next: Option<char>) -> bool {
    previous.is_some_and(|c| c.is_ascii_digit()) && next.is_some_and(|c| c.is_ascii_digit() || c == '-')
}

/// Bytes of a hyphen, of up to three, or of two dashes, with a letter after it.
fn hyphens(rest: &str, c: char) -> usize {
    let most = match c {
        '-' => 3,
        '—' => 2,
        _ => 1,
    };
    let run = rest.chars().take_while(|other| *other == c).take(most + 1).count();
    let end = run * c.len_utf8();
    let fits = run <= most && rest[end..].chars().next().is_some_and(is_letter);
    if fits { end } else { 0 }
}

/// Whether all of it is an address: a name with dots and a last part of letters, or four numbers; a protocol, a user, a
/// port and a path may be there too.
fn is_address(text: &str) -> bool {
    let in_protocol = |c: char| c.is_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
    let after_protocol = text
        .split_once("://")
        .filter(|(protocol, _)| protocol.chars().nth(1).is_some() && protocol.chars().all(in_protocol));
    let starts = after_protocol.map(|(_, rest)| rest).into_iter().chain([text]);
    starts.into_iter().any(|rest| {
        let users = rest.match_indices('@').filter(|(at, _)| *at > 0).map(|(at, _)| &rest[at + 1..]);
        std::iter::once(rest).chain(users).any(is_host_and_path)
    })
}

fn is_host_and_path(text: &str) -> bool {
    let in_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '\u{A1}'..='\u{FFFF}');
    let end = text.find(|c| !in_host(c)).unwrap_or(text.len());
    let (host, rest) = text.split_at(end);
    (is_name(host) || is_numbers(host)) && is_port_and_path(rest)
}

/// Labels and, last, letters that may be in lower case.
fn is_name(host: &str) -> bool {
    let Some((labels, last)) = host.rsplit_once('.') else { return false };
    let n = last.chars().count();
    (2..=63).contains(&n)
        && last.chars().all(is_lower)
        && labels.split('.').all(|label| {
            let edge = |c: char| c.is_ascii_alphanumeric() || matches!(c, '\u{A1}'..='\u{FFFF}');
            label.starts_with(edge) && label.ends_with(edge) && label.chars().count() <= 64
        })
}

/// Four numbers of a public network.
fn is_numbers(host: &str) -> bool {
    let mut numbers = [0_u16; 4];
    let mut parts = host.split('.');
    for number in &mut numbers {
        let Some(part) = parts.next().filter(|part| (1..=3).contains(&part.len())) else { return false };
        let Ok(parsed) = part.parse() else { return false };
        *number = parsed;
    }
    let private = matches!(numbers, [10 | 127, ..] | [169, 254, ..] | [192, 168, ..] | [172, 16..=31, ..]);
    parts.next().is_none()
        && !private
        && (1..=223).contains(&numbers[0])
        && numbers[1..3].iter().all(|n| *n <= 255)
        && (1..=254).contains(&numbers[3])
}

fn is_port_and_path(rest: &str) -> bool {
    let path = match rest.strip_prefix(':') {
        Some(port) => {
            let digits = port.bytes().take_while(u8::is_ascii_digit).count();
            if !(2..=5).contains(&digits) {
                return false;
            }
            &port[digits..]
        }
        None => rest,
    };
    path.is_empty() || path.starts_with(['/', '?', '#'])
}

/// Puts exceptions together that the rules took apart, e.g. a smiley after a word; the longest first.
fn join_exceptions<'a>(chunk: &'a str, words: &[&'a str], word: &mut impl FnMut(&'a str)) {
    let mut joined: Vec<(usize, usize)> = Vec::new();
    if words.len() > 1 {
        let offset = |i: usize| words[i].as_ptr() as usize - chunk.as_ptr() as usize;
        let mut found = Vec::new();
        for first in 0..words.len() {
            let start = offset(first);
            for last in first + 1..words.len() {
                let end = offset(last) + words[last].len();
                if end - start > LONGEST_EXCEPTION {
                    break;
                }
                if exceptions::taken_apart_alike(&chunk[start..end], &words[first..=last]) {
                    found.push((last - first, first));
                }
            }
        }
        found.sort_unstable();
        let mut taken = vec![false; if found.is_empty() { 0 } else { words.len() }];
        for (more, first) in found.into_iter().rev() {
            if !taken[first] && !taken[first + more] {
                joined.push((first, first + more));
            }
            taken[first..=first + more].fill(true);
        }
        joined.sort_unstable();
    }
    let mut at = 0;
    for (first, last) in joined {
        words[at..first].iter().for_each(|w| word(w));
        let start = words[first].as_ptr() as usize - chunk.as_ptr() as usize;
        let end = words[last].as_ptr() as usize - chunk.as_ptr() as usize + words[last].len();
        let text = &chunk[start..end];
        let mut parts = Vec::new();
        push_parts(text, exceptions::parts(text).unwrap_or_default(), &mut parts);
        parts.into_iter().for_each(&mut *word);
        at = last + 1;
    }
    words[at..].iter().for_each(|w| word(w));
}

/// How the rules alone divide a text.
pub fn by_rules(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    divide_by_rules(text, false, &mut words);
    words
}
