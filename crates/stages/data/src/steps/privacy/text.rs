//! What the rules look at: a text, the groups of digits in it, and the words before a place.

/// Bytes before a candidate in which its context is looked for.
const CONTEXT_BYTES: usize = 48;
/// More groups, or digits, than any number has that a rule knows.
const MAX_GROUPS: usize = 9;
const MAX_DIGITS: usize = 20;

/// A text with what its bytes tell.
#[derive(Clone, Copy)]
pub struct Text<'a> {
    /// The whole.
    pub whole: &'a str,
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl<'a> Text<'a> {
    /// Of a document.
    pub fn new(whole: &'a str) -> Self {
        Self { whole, bytes: whole.as_bytes() }
    }

    /// The byte at a place, 0 outside.
    pub fn at(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0)
    }

    /// The byte before a place, 0 at the start.
    pub fn before(&self, at: usize) -> u8 {
        at.checked_sub(1).map_or(0, |at| self.at(at))
    }

    /// Whether an ASCII letter, digit or underscore stands before a place: it would be part of the same word.
    pub fn joined_before(&self, at: usize) -> bool {
        is_word(self.before(at))
    }

    /// Whether an ASCII letter, digit or underscore stands at a place.
    pub fn joined_after(&self, end: usize) -> bool {
        is_word(self.at(end))
    }

    /// How many bytes from `at` on, at most `most`, are of a class.
    pub fn run(&self, at: usize, most: usize, class: impl Fn(u8) -> bool) -> usize {
        self.bytes[at..].iter().take(most).take_while(|byte| class(**byte)).count()
    }

    /// How many bytes before `at`, at most `most`, are of a class.
    pub fn run_back(&self, at: usize, most: usize, class: impl Fn(u8) -> bool) -> usize {
        self.bytes[..at].iter().rev().take(most).take_while(|byte| class(**byte)).count()
    }

    /// What was said right before a place.
    pub fn context(&self, at: usize) -> Context {
        let start = self.whole.ceil_char_boundary(at.saturating_sub(CONTEXT_BYTES));
        let before = &self.whole[start..at];
        Context { words: before[sentence_start(before)..].to_lowercase() }
    }
}

/// An ASCII letter, digit or underscore.
pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Where the last sentence of a text begins: after a line end, a full stop in full width, or a full stop, a space and a capital
/// letter where the word before is no abbreviation.
fn sentence_start(text: &str) -> usize {
    let mut start = 0;
    for (at, c) in text.char_indices() {
        let after = at + c.len_utf8();
        let ends = match c {
            '\n' | '。' | '！' | '？' => true,
            '.' | '!' | '?' => {
                let mut rest = text[after..].chars();
                rest.next() == Some(' ') && rest.next().is_some_and(char::is_uppercase) && !is_abbreviated(&text[..at])
            }
            _ => false,
        };
        if ends {
            start = after;
        }
    }
    start
}

/// Whether a text ends in a word that is written with a full stop.
fn is_abbreviated(text: &str) -> bool {
    let word = text.rsplit([' ', '\n', '(']).next().unwrap_or("").to_lowercase();
    ["tel", "tél", "teléf", "telef", "тел", "no", "nr", "mob"].contains(&word.as_str())
}

/// The words before a place, in the same sentence, in lower case.
pub struct Context {
    words: String,
}

impl Context {
    /// Whether one of these is there. A phrase in Latin letters has to begin where a word does, and may be its beginning only.
    pub fn has(&self, phrases: &[&str]) -> bool {
        self.last(phrases).is_some()
    }

    /// Where the last of these begins.
    pub fn last(&self, phrases: &[&str]) -> Option<usize> {
        let begins = |at: &usize, phrase: &str| {
            !phrase.starts_with(|c: char| c.is_alphabetic() && !is_wide(c))
                || !self.words[..*at].ends_with(|c: char| c.is_alphanumeric() && !is_wide(c))
        };
        phrases
            .iter()
            .filter_map(|phrase| {
                self.words.match_indices(phrase).map(|(at, _)| at).filter(|at| begins(at, phrase)).last()
            })
            .max()
    }
}

/// Of a script that is written without spaces.
fn is_wide(c: char) -> bool {
    ('\u{2E80}'..='\u{FFDC}').contains(&c)
}

/// Groups of digits with single separators between them.
#[derive(Clone, Copy)]
pub struct Groups {
    /// Where each group begins and ends.
    bounds: [(usize, usize); MAX_GROUPS],
    count: usize,
}

impl Groups {
    /// The groups from a digit on; the first is cut off where it is longer than any number that has a rule.
    pub fn read(text: &Text<'_>, at: usize) -> Self {
        let mut groups = Self { bounds: [(0, 0); MAX_GROUPS], count: 0 };
        let (mut start, mut digits) = (at, 0);
        loop {
            let length = text.run(start, MAX_DIGITS + 1, |b| b.is_ascii_digit());
            digits += length;
            if groups.count == MAX_GROUPS || digits > MAX_DIGITS && groups.count > 0 {
                return groups;
            }
            let end = start + length;
            groups.bounds[groups.count] = (start, end);
            groups.count += 1;
            if !matches!(text.at(end), b' ' | b'-' | b'.' | b'/') || !text.at(end + 1).is_ascii_digit() {
                return groups;
            }
            start = end + 1;
        }
    }

    /// Where each group begins and ends.
    pub fn bounds(&self) -> &[(usize, usize)] {
        &self.bounds[..self.count]
    }

    /// The number of groups.
    pub fn len(&self) -> usize {
        self.count
    }

    /// The digits of each group.
    pub fn lengths(&self) -> impl Iterator<Item = usize> {
        self.bounds().iter().map(|(start, end)| end - start)
    }

    /// The end of the first `n` groups, if they have these lengths, all with that separator between them, and neither digits
    /// nor that separator and another digit follow.
    pub fn shaped(&self, text: &Text<'_>, lengths: &[usize], separators: &[u8]) -> Option<usize> {
        if self.count < lengths.len() || !self.lengths().zip(lengths).all(|(a, b)| a == *b) {
            return None;
        }
        let bounds = &self.bounds[..lengths.len()];
        let between = |pair: &[(usize, usize)]| text.at(pair[0].1);
        let separator = bounds.get(..2).map_or(0, between);
        let uniform = bounds.windows(2).all(|pair| between(pair) == separator);
        let allowed = lengths.len() == 1 || separators.contains(&separator);
        let end = bounds.last()?.1;
        let goes_on = separator != 0 && separator != b' ' && text.at(end) == separator && is_word(text.at(end + 1));
        (uniform && allowed && !goes_on && !text.joined_after(end)).then_some(end)
    }

    /// Start and end, if it is a single group of that many digits that stands for itself: no letter, decimal point or
    /// hyphen joins it to something else.
    pub fn alone(&self, text: &Text<'_>, digits: usize) -> Option<(usize, usize)> {
        let (start, end) = *self.bounds().first()?;
        let alone = end - start == digits && !text.joined_before(start) && !text.joined_after(end);
        (alone && !continues(text, start, end)).then_some((start, end))
    }
}

/// Whether `.`, `,`, `-`, `/` or `:` and a digit come before or after.
pub fn continues(text: &Text<'_>, start: usize, end: usize) -> bool {
    let joins = |byte: u8| matches!(byte, b'.' | b',' | b'-' | b'/' | b':');
    let before = start >= 2 && joins(text.at(start - 1)) && text.at(start - 2).is_ascii_digit();
    before || (joins(text.at(end)) && text.at(end + 1).is_ascii_digit())
}

/// The digits of a text as numbers, everything else left out.
pub fn digits(text: &str) -> Vec<u8> {
    text.bytes().filter(u8::is_ascii_digit).map(|b| b - b'0').collect()
}

/// The number that decimal digits write.
pub fn number(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |n, digit| n * 10 + u64::from(*digit))
}

/// Whether there is such a day; two-digit years are taken as leap years where their number divides by four.
pub fn is_date(year: u64, month: u64, day: u64) -> bool {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    };
    (1..=days).contains(&day)
}

/// The check of ISO/IEC 7812 (H. P. Luhn 1960): every second digit from the right doubled.
pub fn luhn(digits: &[u8]) -> bool {
    let doubled = |(at, digit): (usize, &u8)| match (at % 2, u32::from(*digit) * 2) {
        (0, twice) => twice / 2,
        (_, twice) => twice / 10 + twice % 10,
    };
    digits.iter().rev().enumerate().map(doubled).sum::<u32>().is_multiple_of(10)
}

/// The weighted sum of digits.
pub fn weighted(digits: &[u8], weights: &[u32]) -> u32 {
    digits.iter().zip(weights).map(|(digit, weight)| u32::from(*digit) * weight).sum()
}
