//! What the rules find together, and what is done with it.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a failing test should panic, and say what it measured")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use super::*;

fn prepared(settings: &str, seed: u64) -> Privacy {
    let mut privacy: Privacy = toml::from_str(settings).unwrap();
    privacy.validate().unwrap();
    privacy.prepare(&Setting { recipe_dir: Path::new("."), seed }).unwrap();
    privacy
}

/// What one rule finds in a text.
pub fn found(rule: &str, text: &str) -> Vec<String> {
    let privacy = prepared(&format!("kinds = [\"{rule}\"]"), 0);
    let found = privacy.scanner.as_ref().unwrap().find(text);
    found.iter().map(|found| text[found.span.start..found.span.end].to_owned()).collect()
}

fn treated(settings: &str, text: &str) -> (String, Verdict, Notes) {
    let (privacy, mut notes) = (prepared(settings, 7), Notes::default());
    let mut document = Document::new("d", text, "s");
    let verdict = privacy.apply(&mut document, &mut notes);
    (document.text, verdict, notes)
}

const LETTER: &str = "Write to ann@example.org or bob@example.net from 192.0.2.9. Card 4111 1111 1111 1111!";

#[test]
fn each_action_does_what_it_says_and_counts() {
    let (text, verdict, notes) = treated("", LETTER);
    assert_eq!(text, "Write to [EMAIL] or [EMAIL] from [IPV4]. Card [CREDIT_CARD]!");
    assert_eq!(verdict, Verdict::Keep);
    let counts: Vec<(&str, u64)> = notes.counts().iter().map(|(name, n)| (name.as_str(), *n)).collect();
    assert_eq!(counts, [("privacy.card", 1), ("privacy.email", 2), ("privacy.ipv4", 1)]);
    assert_eq!(treated("action = \"remove\"", LETTER).0, "Write to or from . Card !");
    let (text, verdict, _) = treated("action = \"drop\"", LETTER);
    assert_eq!((text.as_str(), verdict), (LETTER, Verdict::Drop("privacy_email")));
    assert_eq!(treated("", "Nothing of 3 kinds.").0, "Nothing of 3 kinds.");
}

#[test]
fn only_the_kinds_that_were_named_are_found_and_what_is_allowed_stays() {
    let (text, ..) = treated("kinds = [\"ipv4\"]", LETTER);
    assert_eq!(text, LETTER.replace("192.0.2.9", "[IPV4]"));
    let (text, ..) = treated("allow = [\"@Example.org\", \"192.0.2.9\"]", LETTER);
    assert_eq!(text, "Write to ann@example.org or [EMAIL] from 192.0.2.9. Card [CREDIT_CARD]!");
    let error = toml::from_str::<Privacy>("kinds = [\"emial\"]").unwrap().validate().unwrap_err().to_string();
    assert!(error.contains("emial"), "{error}");
    assert!(toml::from_str::<Privacy>("kinds = []").unwrap().validate().is_err());
}

/// A value of each kind, with the words that announce it.
const EXAMPLES: [(&str, &str, &str); 21] = [
    ("key", "", "ghp_aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xYz123"),
    ("secret", "api_key=", "wJ4lrXUtnF7EMIK7MDENG0bPxRfiCY"),
    ("email", "to ", "ann@example.org"),
    ("iban", "", "GB29 NWBK 6016 1331 9268 19"),
    ("china_id", "", "11010519491231002X"),
    ("card", "", "4111-1111-1111-1111"),
    ("ipv4", "", "192.0.2.9"),
    ("ipv6", "", "2001:db8::9"),
    ("us_ssn", "SSN ", "219-09-9999"),
    ("it_codice_fiscale", "", "RSSMRA85T10A562S"),
    ("es_dni", "DNI ", "12345678Z"),
    ("fi_hetu", "", "131052-308T"),
    ("de_tax_id", "Steuer-ID ", "86095742719"),
    ("fr_nir", "", "2 55 08 14 168 025 38"),
    ("nl_bsn", "BSN ", "111222333"),
    ("be_rrn", "NISS ", "85073003328"),
    ("pl_pesel", "PESEL ", "44051401359"),
    ("se_personnummer", "personnummer ", "811228-9874"),
    ("ro_cnp", "CNP ", "1800101221144"),
    ("pt_nif", "NIF ", "123456789"),
    ("phone", "Tel: ", "020 7946 0136"),
];

#[test]
fn a_fake_is_consistent_of_its_kind_and_another_with_another_seed() {
    assert_eq!(EXAMPLES.len(), RULES.len());
    for (rule, before, value) in EXAMPLES {
        let text = format!("{before}{value} , then {before}{value} .");
        let replaced = |seed: u64| {
            let privacy = prepared(&format!("kinds = [\"{rule}\"]\naction = \"replace\""), seed);
            let mut document = Document::new("d", text.as_str(), "s");
            privacy.apply(&mut document, &mut Notes::default());
            document.text
        };
        let (one, other) = (replaced(1), replaced(2));
        let (first, second) = one.split_once(" , then ").unwrap();
        assert_eq!(format!("{first} ."), second, "{rule}");
        assert!(!one.contains(value) && one != other, "{rule}: {one} {other}");
        if !matches!(rule, "china_id" | "us_ssn") {
            // Those are of places that are never given out, which the rules know.
            let again = found(rule, &one);
            assert_eq!(again.len(), 2, "{rule}: {one}");
        }
    }
}

/// The rules' names by those of the samples.
const SAMPLED: [(&str, &str); 8] = [
    ("API_KEY", "key"),
    ("CREDIT_CARD", "card"),
    ("CN_ID", "china_id"),
    ("EMAIL", "email"),
    ("IBAN", "iban"),
    ("IPV4", "ipv4"),
    ("IPV6", "ipv6"),
    ("PHONE", "phone"),
];

#[test]
fn samples_are_found_with_precision_and_recall_of_97_percent() {
    let Some(folder) = std::env::var_os("CUPOLA_DATA") else {
        eprintln!("skipped: CUPOLA_DATA does not name the folder of test data");
        return;
    };
    let samples = std::fs::read_to_string(Path::new(&folder).join("pii/samples.jsonl")).unwrap();
    let privacy = prepared("", 0);
    // Right, found, expected.
    let mut counts: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    for line in samples.lines() {
        let sample: Value = serde_json::from_str(line).unwrap();
        let text = sample["text"].as_str().unwrap();
        let characters: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let place = |value: &Value| characters[value.as_u64().unwrap() as usize];
        let name = |kind: &str| SAMPLED.iter().find(|(sampled, _)| *sampled == kind).unwrap().1;
        let mut expected: Vec<(usize, usize, &str)> = sample["spans"]
            .as_array()
            .unwrap()
            .iter()
            .map(|span| (place(&span["start"]), place(&span["end"]), name(span["type"].as_str().unwrap())))
            .collect();
        let mut found: Vec<(usize, usize, &str)> = privacy
            .scanner
            .as_ref()
            .unwrap()
            .find(text)
            .iter()
            .map(|found| (found.span.start, found.span.end, found.rule.name))
            .collect();
        expected.sort_unstable();
        found.sort_unstable();
        if expected != found {
            eprintln!("{text}\n  expected {expected:?}\n  found    {found:?}");
        }
        expected.iter().for_each(|span| counts.entry(span.2).or_default()[2] += 1);
        for span in &found {
            counts.entry(span.2).or_default()[1] += 1;
            counts.entry(span.2).or_default()[0] += usize::from(expected.contains(span));
        }
    }
    let mut total = [0; 3];
    for (kind, count) in &counts {
        let [right, found, expected] = *count;
        eprintln!("{kind}: precision {right}/{found}, recall {right}/{expected}");
        total.iter_mut().zip(count).for_each(|(total, n)| *total += n);
    }
    let [right, found, expected] = total.map(|n| n as f64);
    eprintln!("all: precision {:.4}, recall {:.4}", right / found, right / expected);
    assert!(right / found >= 0.97 && right / expected >= 0.97);
}

#[test]
fn time_is_linear_on_text_made_to_be_slow() {
    let privacy = prepared("", 0);
    let scanner = privacy.scanner.as_ref().unwrap();
    for part in [
        "1",
        "1 ",
        "1.1",
        "@",
        "a@a",
        "a:",
        "1:",
        "tel 1-",
        "(1",
        "a.",
        "eyJ",
        "sk-a1",
        "key=a1",
        "-----BEGIN RSA PRIVATE KEY-----",
        "+1",
        "電話1",
        "SG.",
        "1/",
        "=:",
        "A1",
    ] {
        // The best of several short runs, since others may use the machine.
        let time = |bytes: usize| {
            let text = part.repeat(bytes / part.len());
            let once = |_| {
                let start = Instant::now();
                std::hint::black_box(scanner.find(&text));
                start.elapsed().as_secs_f64()
            };
            (0..20).map(once).fold(f64::MAX, f64::min)
        };
        let (short, long) = (time(1_000), time(8_000));
        assert!(long < 0.002 + 30.0 * short, "{part}: {short} s, then {long} s");
    }
}
