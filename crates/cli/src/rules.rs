//! What models with a logic program have learned, as text: the end of what `cupola inspect` says of them.

use std::fmt::Write;
use std::path::Path;

use cupola_arch::{Model, Spec};
use cupola_artifact::Result;
use cupola_nn::{Batch, LayerSpec, Program};
use cupola_tokenizer::Tokenizer;

/// Rules less likely than this are not told.
const LIKELY: f32 = 0.05;

/// Words less likely than this are no name.
const NAMED: f32 = 0.5;

/// The programs inside a model folder; none in most models.
pub fn told(dir: &Path) -> Result<Option<String>> {
    if !dir.join("config.json").is_file() {
        return Ok(None);
    }
    let Ok(Spec::Decoder(spec)) = Model::read_spec(dir) else { return Ok(None) };
    let has = |layer: &LayerSpec| matches!(layer, LayerSpec::Logic(_));
    if !spec.blocks.iter().flat_map(|block| &block.layers).any(|(_, layer)| has(layer)) {
        return Ok(None);
    }
    let model = Model::load(dir, &cupola_ops::open("cpu")?)?;
    let tokenizer = Tokenizer::load(dir)?;
    // Each token of the vocabulary alone.
    let ids: Vec<u32> = (0..tokenizer.vocab_size().min(spec.vocab_size) as u32).collect();
    let words = ids.iter().map(|id| tokenizer.decode(&[*id]).map(|word| word.trim().to_string()));
    let words = words.collect::<Result<Vec<String>>>()?;
    let programs = model.decoder()?.programs(&Batch::causal(ids, words.len()));
    Ok(Some(programs.iter().map(|program| text(program, &words)).collect::<Vec<String>>().join("\n")))
}

/// A program with the words that name its relations and constants.
fn text(program: &Program, words: &[String]) -> String {
    let name = |i: usize, all: &[Vec<f32>], otherwise: &str| {
        let mut likely: Vec<(f32, &str)> = all.iter().zip(words).map(|(of, word)| (of[i], word.as_str())).collect();
        likely.sort_by(|a, b| b.0.total_cmp(&a.0));
        likely.retain(|(p, word)| *p > NAMED && word.chars().any(char::is_alphanumeric));
        likely.dedup_by_key(|(_, word)| *word);
        let names: Vec<&str> = likely.iter().take(3).map(|(_, word)| *word).collect();
        if names.is_empty() { format!("{otherwise}{i}") } else { names.join("|") }
    };
    let count = |all: &[Vec<f32>]| all.first().map_or(0, Vec::len);
    let relations: Vec<String> =
        (0..count(&program.relations)).map(|i| name(i, &program.relations, "relation_")).collect();
    let constants: Vec<String> = (0..count(&program.names)).map(|i| name(i, &program.names, "constant_")).collect();
    let mut lines =
        format!("{:<12} {}\n{:<12} {}\n", "constants", constants.join(", "), "relations", relations.join(", "));
    for rule in program.rules.iter().filter(|rule| rule.probability > LIKELY) {
        let [first, second] = rule.body.map(|relation| &relations[relation]);
        let head = &relations[rule.head];
        let _ =
            writeln!(lines, "{:<12} {:.2} :: {head}(Z, X) :- {first}(Z, Y), {second}(Y, X).", "rule", rule.probability);
    }
    lines
}
