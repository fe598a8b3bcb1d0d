//! Scripts, by the ranges of their letters.

/// First and last character, and the script's code (ISO 15924), in order.
#[rustfmt::skip]
const RANGES: &[(char, char, &str)] = &[
    ('A', 'Z', "Latn"), ('a', 'z', "Latn"), ('\u{AA}', '\u{AA}', "Latn"), ('\u{BA}', '\u{BA}', "Latn"),
    ('\u{C0}', '\u{24F}', "Latn"), ('\u{250}', '\u{2AF}', "Latn"), ('\u{370}', '\u{3FF}', "Grek"),
    ('\u{400}', '\u{52F}', "Cyrl"), ('\u{531}', '\u{58F}', "Armn"), ('\u{5D0}', '\u{5F4}', "Hebr"),
    ('\u{620}', '\u{6FF}', "Arab"), ('\u{700}', '\u{74F}', "Syrc"), ('\u{750}', '\u{77F}', "Arab"),
    ('\u{780}', '\u{7BF}', "Thaa"), ('\u{7C0}', '\u{7FF}', "Nkoo"), ('\u{8A0}', '\u{8FF}', "Arab"),
    ('\u{900}', '\u{97F}', "Deva"), ('\u{980}', '\u{9FF}', "Beng"), ('\u{A00}', '\u{A7F}', "Guru"),
    ('\u{A80}', '\u{AFF}', "Gujr"), ('\u{B00}', '\u{B7F}', "Orya"), ('\u{B80}', '\u{BFF}', "Taml"),
    ('\u{C00}', '\u{C7F}', "Telu"), ('\u{C80}', '\u{CFF}', "Knda"), ('\u{D00}', '\u{D7F}', "Mlym"),
    ('\u{D80}', '\u{DFF}', "Sinh"), ('\u{E00}', '\u{E7F}', "Thai"), ('\u{E80}', '\u{EFF}', "Laoo"),
    ('\u{F00}', '\u{FFF}', "Tibt"), ('\u{1000}', '\u{109F}', "Mymr"), ('\u{10A0}', '\u{10FF}', "Geor"),
    ('\u{1100}', '\u{11FF}', "Hang"), ('\u{1200}', '\u{139F}', "Ethi"), ('\u{13A0}', '\u{13FF}', "Cher"),
    ('\u{1400}', '\u{167F}', "Cans"), ('\u{1780}', '\u{17FF}', "Khmr"), ('\u{1800}', '\u{18AF}', "Mong"),
    ('\u{1C50}', '\u{1C7F}', "Olck"), ('\u{1E00}', '\u{1EFF}', "Latn"), ('\u{1F00}', '\u{1FFF}', "Grek"),
    ('\u{2D30}', '\u{2D7F}', "Tfng"), ('\u{3005}', '\u{3007}', "Hani"), ('\u{3041}', '\u{3096}', "Kana"),
    ('\u{30A1}', '\u{30FA}', "Kana"), ('\u{3105}', '\u{312F}', "Bopo"), ('\u{3400}', '\u{4DBF}', "Hani"),
    ('\u{4E00}', '\u{9FFF}', "Hani"), ('\u{A000}', '\u{A48F}', "Yiii"), ('\u{A500}', '\u{A63F}', "Vaii"),
    ('\u{A640}', '\u{A69F}', "Cyrl"), ('\u{A720}', '\u{A7FF}', "Latn"), ('\u{AC00}', '\u{D7AF}', "Hang"),
    ('\u{F900}', '\u{FAFF}', "Hani"), ('\u{FB50}', '\u{FDFF}', "Arab"), ('\u{FE70}', '\u{FEFC}', "Arab"),
    ('\u{FF21}', '\u{FF3A}', "Latn"), ('\u{FF41}', '\u{FF5A}', "Latn"), ('\u{20000}', '\u{323AF}', "Hani"),
];

/// Scripts in which hardly more than one language is written, and that language (ISO 639).
#[rustfmt::skip]
const ALONE: &[(&str, &str)] = &[
    ("Grek", "el"), ("Armn", "hy"), ("Thaa", "dv"), ("Guru", "pa"), ("Gujr", "gu"), ("Orya", "or"), ("Taml", "ta"),
    ("Telu", "te"), ("Knda", "kn"), ("Mlym", "ml"), ("Sinh", "si"), ("Thai", "th"), ("Laoo", "lo"), ("Tibt", "bo"),
    ("Mymr", "my"), ("Geor", "ka"), ("Hang", "ko"), ("Cher", "chr"), ("Khmr", "km"), ("Mong", "mn"), ("Olck", "sat"),
    ("Yiii", "ii"), ("Vaii", "vai"), ("Nkoo", "nqo"), ("Syrc", "syr"), ("Cans", "iu"), ("Bopo", "zh"), ("Tfng", "zgh"),
    ("Hani", "zh"), ("Jpan", "ja"),
];

/// Of the letters of a Japanese text, at least this share is kana.
const MIN_KANA: f64 = 0.05;

/// The script that most letters of a text's first `most` characters are of, by bytes; `Jpan` where kana stand among them.
/// Nothing for a text without letters.
pub fn script(text: &str, most: usize) -> Option<&'static str> {
    let mut counts: Vec<(&'static str, usize)> = Vec::new();
    for c in text.chars().take(most) {
        if let Some(script) = of(c) {
            match counts.iter_mut().find(|(known, _)| *known == script) {
                Some((_, count)) => *count += c.len_utf8(),
                None => counts.push((script, c.len_utf8())),
            }
        }
    }
    let count = |script: &str| counts.iter().find(|(known, _)| *known == script).map_or(0, |(_, count)| *count);
    let (kana, han) = (count("Kana"), count("Hani"));
    let japanese = kana > 0 && kana as f64 >= MIN_KANA * (kana + han) as f64;
    let most = counts.iter().max_by_key(|(_, count)| *count)?;
    let together = [most.1, kana + han].into_iter().max();
    Some(if japanese && together == Some(kana + han) { "Jpan" } else { most.0 })
}

/// The script of a letter.
fn of(c: char) -> Option<&'static str> {
    if c.is_ascii() {
        return c.is_ascii_alphabetic().then_some("Latn");
    }
    let at = RANGES.partition_point(|(first, ..)| *first <= c).checked_sub(1)?;
    let (_, last, script) = RANGES[at];
    (c <= last && !matches!(c, '×' | '÷' | '।' | '॥')).then_some(script)
}

/// The language of a script that no other one shares.
pub fn language_of(script: &str) -> Option<&'static str> {
    ALONE.iter().find(|(known, _)| *known == script).map(|(_, language)| *language)
}

/// All languages that a script decides.
pub fn languages() -> impl Iterator<Item = &'static str> {
    ALONE.iter().map(|(_, language)| *language)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_in_order() {
        assert!(RANGES.windows(2).all(|pair| pair[0].1 < pair[1].0));
    }

    #[test]
    fn the_script_is_that_of_most_letters() {
        for (text, expected) in [
            ("Hello, 世", Some("Latn")),
            ("他在 GitHub 上发布了新的版本", Some("Hani")),
            ("日本語の文章です", Some("Jpan")),
            ("안녕하세요", Some("Hang")),
            ("Привет", Some("Cyrl")),
            ("1, 2, 3!", None),
        ] {
            assert_eq!(script(text, 100), expected, "{text}");
        }
    }
}
