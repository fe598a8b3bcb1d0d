#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a failing test should panic, and say what it measured")]

use std::io::Read;
use std::path::Path;

use super::*;

fn prepared(settings: &str) -> Language {
    let mut step: Language = toml::from_str(settings).unwrap();
    step.validate().unwrap();
    step.prepare(&Setting { recipe_dir: Path::new("."), seed: 0 }).unwrap();
    step
}

fn applied(settings: &str, text: &str) -> (Document, Verdict) {
    let mut document = Document::new("d", text, "s");
    let verdict = prepared(settings).apply(&mut document, &mut Notes::default());
    (document, verdict)
}

const ENGLISH: &str = "The ship left the harbour in the morning and nobody saw it again.";
const GERMAN: &str = "Am nächsten Morgen war das Schiff verschwunden, und niemand hat es wieder gesehen.";

#[test]
fn language_and_script_of_a_sentence_are_found() {
    for (text, language, script) in [
        (ENGLISH, "en", "Latn"),
        (GERMAN, "de", "Latn"),
        ("Le bateau a quitté le port hier matin et personne ne l'a revu depuis.", "fr", "Latn"),
        ("Barco salió del puerto por la mañana y nadie lo volvió a ver nunca más.", "es", "Latn"),
        ("O navio saiu do porto de manhã e ninguém mais o viu desde então.", "pt", "Latn"),
        ("Корабль вышел из гавани утром, и больше его никто не видел.", "ru", "Cyrl"),
        ("Корабель вийшов із гавані вранці, і більше його ніхто не бачив.", "uk", "Cyrl"),
        ("جہاز صبح بندرگاہ سے روانہ ہوا اور پھر کسی نے اسے نہیں دیکھا۔", "ur", "Arab"),
        ("کشتی صبح بندر را ترک کرد و دیگر هیچ کس آن را ندید.", "fa", "Arab"),
        ("船は朝に港を出て、二度と見られなかった。", "ja", "Jpan"),
        ("那艘船早上离开了港口，再也没有人见过它。", "zh", "Hani"),
        ("Kapal itu meninggalkan pelabuhan pada pagi hari dan tidak pernah terlihat lagi.", "id", "Latn"),
        ("12 + 30 = 42", "und", "Zyyy"),
    ] {
        let (document, verdict) = applied("", text);
        assert_eq!((document.field("language"), document.field("script")), (Some(language), Some(script)), "{text}");
        assert_eq!(verdict, Verdict::Keep);
    }
}

#[test]
fn only_languages_that_were_asked_for_stay() {
    assert_eq!(applied("keep = [\"en\"]", ENGLISH).1, Verdict::Keep);
    assert_eq!(applied("keep = [\"en\"]", GERMAN).1, Verdict::Drop("language_other"));
    assert_eq!(applied("min_score = 1.0", "of of").1, Verdict::Drop("language_unsure"));
    for wrong in ["keep = [\"english\"]", "min_score = 2.0", "trim = true"] {
        assert!(toml::from_str::<Language>(wrong).unwrap().validate().is_err(), "{wrong}");
    }
    let mut unknown: Language = toml::from_str("keep = [\"eng\"]").unwrap();
    assert!(unknown.prepare(&Setting { recipe_dir: Path::new("."), seed: 0 }).is_err());
}

#[test]
fn paragraphs_in_other_languages_are_told_and_trimmed() {
    let text = format!("{ENGLISH}\n{ENGLISH}\n\n{GERMAN}\n{GERMAN}\n\n12\n\n{ENGLISH}");
    let (document, _) = applied("", &text);
    assert_eq!(document.field("language"), Some("en"));
    assert!(document.fields["languages"]["de"].as_f64().unwrap() > 0.2);
    assert_eq!(document.text, text);
    let (document, _) = applied("keep = [\"en\"]\ntrim = true", &text);
    assert_eq!(document.text, format!("{ENGLISH}\n{ENGLISH}\n\n12\n\n{ENGLISH}"));
    let (document, _) = applied("keep = [\"de\"]\ntrim = true", &format!("{GERMAN}\n{ENGLISH}\n{GERMAN}"));
    assert_eq!(document.text, format!("{GERMAN}\n{GERMAN}"));
}

/// The thirty languages with the most speakers, first and later ones together (Ethnologue's list of 2025), of those that the
/// Declaration's texts are there for: code there, code here.
const LARGEST: [(&str, &str); 31] = [
    ("eng", "en"),
    ("cmn_hans", "zh"),
    ("cmn_hant", "zh"),
    ("hin", "hi"),
    ("spa", "es"),
    ("arb", "ar"),
    ("fra", "fr"),
    ("ben", "bn"),
    ("por_BR", "pt"),
    ("rus", "ru"),
    ("ind", "id"),
    ("urd", "ur"),
    ("deu", "de"),
    ("jpn", "ja"),
    ("pcm", "pcm"),
    ("mar", "mr"),
    ("vie", "vi"),
    ("hau_NG", "ha"),
    ("tur", "tr"),
    ("pnb", "pnb"),
    ("swh", "sw"),
    ("tgl", "tl"),
    ("tam", "ta"),
    ("pes_1", "fa"),
    ("kor", "ko"),
    ("tha", "th"),
    ("jav", "jv"),
    ("ita", "it"),
    ("guj", "gu"),
    ("amh", "am"),
    ("kan", "kn"),
];
/// Further ones that are measured: by first language, by what the Declaration's texts have, and neighbours of the above.
const FURTHER: [(&str, &str); 26] = [
    ("bho", "bho"),
    ("pol", "pl"),
    ("ukr", "uk"),
    ("yor", "yo"),
    ("mal", "ml"),
    ("pan", "pa"),
    ("mya", "my"),
    ("por_PT", "pt"),
    ("deu_1901", "de"),
    ("hau_NE", "ha"),
    ("pes_2", "fa"),
    ("uzn_latn", "uz"),
    ("nld", "nl"),
    ("ron_1993", "ro"),
    ("zul", "zu"),
    ("xho", "xh"),
    ("ces", "cs"),
    ("hun", "hu"),
    ("swe", "sv"),
    ("dan", "da"),
    ("fin", "fi"),
    ("mly_latn", "ms"),
    ("cat", "ca"),
    ("bul", "bg"),
    ("nep", "ne"),
    ("ibo", "ig"),
];

#[test]
fn paragraphs_of_the_largest_languages_are_identified() {
    let Some(folder) = std::env::var_os("CUPOLA_DATA") else {
        eprintln!("skipped: CUPOLA_DATA does not name the folder of test data");
        return;
    };
    let file = std::fs::File::open(Path::new(&folder).join("langid/udhr.jsonl.gz")).unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    let model = Model::load().unwrap();
    let mut right: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    let mut wrong: BTreeMap<&str, BTreeMap<String, usize>> = BTreeMap::new();
    for line in text.lines() {
        let sample: Value = serde_json::from_str(line).unwrap();
        let language = sample["lang"].as_str().unwrap();
        let Some((language, expected)) = LARGEST.iter().chain(&FURTHER).find(|(code, _)| *code == language) else {
            continue;
        };
        let found = identify(&model, sample["text"].as_str().unwrap()).language;
        let counts = right.entry(language).or_default();
        counts[0] += usize::from(found == *expected);
        counts[1] += 1;
        if found != *expected {
            *wrong.entry(language).or_default().entry(found).or_default() += 1;
        }
    }
    for (language, [right, all]) in &right {
        eprintln!("{language} {right}/{all} {:?}", wrong.get(language).unwrap_or(&BTreeMap::new()));
    }
    let mean = |list: &[(&str, &str)]| {
        let counts = list.iter().map(|(code, _)| right[code]);
        let [right, all] = counts.fold([0, 0], |sum, n| [sum[0] + n[0], sum[1] + n[1]]);
        right as f64 / all as f64
    };
    eprintln!("the largest: {:.4}; further ones: {:.4}", mean(&LARGEST), mean(&FURTHER));
    assert!(mean(&LARGEST) >= 0.97);
}
