//! Simplified and traditional Chinese characters.

#[cfg(feature = "chinese")]
use cupola_artifact::Context;
use cupola_artifact::{Error, Result};
use cupola_records::Document;
use serde::{Deserialize, Serialize};

use super::language::script::script;
use crate::step::{Each, Kind, Notes, Setting, Verdict};

/// The step.
pub const CHINESE: Kind = Kind::each::<Chinese>(
    "chinese",
    "writes Chinese in simplified or traditional characters, by OpenCC's dictionaries (feature `chinese`)",
);

/// How Chinese is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Characters {
    /// As in mainland China.
    #[default]
    Simplified,
    /// OpenCC's standard.
    Traditional,
    /// As in Taiwan.
    Taiwan,
    /// As in Hong Kong.
    HongKong,
}

/// Converts the lines that are Chinese: those with Chinese characters and without kana.
#[derive(Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Chinese {
    /// `simplified`, `traditional`, `taiwan` or `hong_kong`.
    pub to: Characters,
    #[serde(skip)]
    #[cfg(feature = "chinese")]
    converter: Option<ferrous_opencc::OpenCC>,
}

/// Characters of a line by which its script is told.
const LOOKED_AT: usize = 500;

impl Each for Chinese {
    fn validate(&self) -> Result<()> {
        if cfg!(feature = "chinese") {
            return Ok(());
        }
        Err(Error::usage("this program was built without the dictionaries of the step `chinese`")
            .with_hint("build it with `--features chinese`"))
    }

    #[cfg(feature = "chinese")]
    fn prepare(&mut self, _: &Setting<'_>) -> Result<()> {
        use ferrous_opencc::config::BuiltinConfig;
        let direction = match self.to {
            Characters::Simplified => BuiltinConfig::T2s,
            Characters::Traditional => BuiltinConfig::S2t,
            Characters::Taiwan => BuiltinConfig::S2tw,
            Characters::HongKong => BuiltinConfig::S2hk,
        };
        let converter = ferrous_opencc::OpenCC::from_config(direction).map_err(std::io::Error::other);
        self.converter = Some(converter.context(|| "cannot read the dictionaries of the step `chinese`".to_owned())?);
        Ok(())
    }

    #[cfg(not(feature = "chinese"))]
    fn prepare(&mut self, _: &Setting<'_>) -> Result<()> {
        self.validate()
    }

    fn apply(&self, document: &mut Document, notes: &mut Notes) -> Verdict {
        let mut changed = false;
        let convert = |line: &str| -> String {
            if !matches!(script(line, LOOKED_AT), Some("Hani")) {
                return line.to_owned();
            }
            let converted = self.convert(line);
            changed |= converted != line;
            converted
        };
        let lines: Vec<String> = document.text.split('\n').map(convert).collect();
        if changed {
            document.text = lines.join("\n");
            notes.count("chinese.converted_documents", 1);
        }
        Verdict::Keep
    }
}

impl Chinese {
    #[cfg(feature = "chinese")]
    fn convert(&self, line: &str) -> String {
        self.converter.as_ref().map_or_else(|| line.to_owned(), |converter| converter.convert(line))
    }

    #[cfg(not(feature = "chinese"))]
    fn convert(&self, line: &str) -> String {
        line.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(not(feature = "chinese"))]
    #[test]
    fn without_the_feature_the_step_says_so() {
        let error = Chinese::default().validate().map_err(|error| error.to_string());
        assert!(error.is_err_and(|error| error.contains("without the dictionaries")));
    }

    #[cfg(feature = "chinese")]
    mod with_dictionaries {
        use std::path::Path;

        use super::*;

        fn converted(to: Characters, text: &str) -> String {
            let mut step = Chinese { to, ..Chinese::default() };
            assert!(step.prepare(&Setting { recipe_dir: Path::new("."), seed: 0 }).is_ok());
            let mut document = Document::new("d", text, "s");
            assert_eq!(step.apply(&mut document, &mut Notes::default()), Verdict::Keep);
            document.text
        }

        #[test]
        fn characters_are_chosen_by_words() {
            for (traditional, simplified) in [
                ("得志重寸陰，忘懷輕尺璧。", "得志重寸阴，忘怀轻尺璧。"),
                ("塞外悲風切，交河冰已結。", "塞外悲风切，交河冰已结。"),
                ("頭髮和發現", "头发和发现"),
                ("皇后在後面", "皇后在后面"),
            ] {
                assert_eq!(converted(Characters::Simplified, traditional), simplified);
                assert_eq!(converted(Characters::Traditional, simplified), traditional);
                assert_eq!(converted(Characters::Simplified, simplified), simplified);
            }
        }

        #[test]
        fn japanese_and_other_lines_stay_as_they_are() {
            let text = "東京の學校です。\nThe 學 sign\n\n學校";
            assert_eq!(converted(Characters::Simplified, text), "東京の學校です。\nThe 學 sign\n\n学校");
        }

        #[test]
        fn poems_come_back_from_simplified_characters_nearly_whole() {
            let Some(folder) = std::env::var_os("CUPOLA_DATA") else { return };
            let poems =
                std::fs::read_to_string(Path::new(&folder).join("pretrain/zh_tang_poems.txt")).unwrap_or_default();
            let poems: String = poems.lines().take(2000).map(|line| format!("{line}\n")).collect();
            let simplified = converted(Characters::Simplified, &poems);
            let again = converted(Characters::Traditional, &simplified);
            let equal = poems.chars().zip(again.chars()).filter(|(a, b)| a == b).count();
            let changed = poems.chars().zip(simplified.chars()).filter(|(a, b)| a != b).count();
            let all = poems.chars().count();
            assert!(all > 10_000 && changed * 5 > all, "{changed} of {all}");
            assert!(equal as f64 > 0.97 * all as f64, "{equal} of {all}");
        }
    }
}
