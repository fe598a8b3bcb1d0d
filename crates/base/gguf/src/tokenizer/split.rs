//! How BPE on bytes splits texts into words: llama.cpp knows a number of ways by name.

use cupola_artifact::{Error, Result};
use serde_json::{Value, json};

/// A step of splitting.
#[derive(Clone, Debug, PartialEq)]
enum Step<T> {
    /// GPT-2's pattern, which `ByteLevel` brings along.
    Gpt2,
    /// Each digit alone.
    Digits,
    /// Runs of punctuation.
    Punctuation,
    /// A pattern whose matches are words.
    Pattern(T),
}

/// A way of splitting that has a name.
struct Way {
    name: &'static str,
    steps: &'static [Step<&'static str>],
    /// Whether a word that is a token is taken whole, whatever the merges say.
    ignores_merges: bool,
}

const fn way(name: &'static str, steps: &'static [Step<&'static str>], ignores_merges: bool) -> Way {
    Way { name, steps, ignores_merges }
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BLOOM: &str = r" ?[^(\s|[.,!?…。，、।۔،])]+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Every named way whose steps are known; of several with the same steps, the first is written.
const WAYS: &[Way] = &[
    way("gpt-2", &[Step::Gpt2], false),
    way("llama-bpe", &[Step::Pattern(LLAMA3)], true),
    way("dbrx", &[Step::Pattern(LLAMA3)], false),
    way("smaug-bpe", &[Step::Pattern(LLAMA3)], false),
    way("qwen2", &[Step::Pattern(QWEN2)], false),
    way("starcoder", &[Step::Digits, Step::Gpt2], false),
    way("smollm", &[Step::Digits, Step::Gpt2], false),
    way("bloom", &[Step::Pattern(BLOOM)], false),
    way("falcon", &[Step::Punctuation, Step::Gpt2, Step::Pattern("[0-9][0-9][0-9]")], false),
    way("tekken", &[Step::Pattern(TEKKEN)], true),
    way("gpt-4o", &[Step::Pattern(GPT4O)], false),
];

/// The name of a way.
///
/// # Errors
/// When llama.cpp has no name for it: a file with another name would split texts otherwise.
pub fn name_of(pre_tokenizer: &Value, ignores_merges: bool) -> Result<&'static str> {
    let mut steps = Vec::new();
    collect(pre_tokenizer, &mut steps)?;
    let same = |way: &&Way| {
        way.ignores_merges == ignores_merges
            && way.steps.len() == steps.len()
            && way.steps.iter().zip(&steps).all(|(a, b)| equal(a, b))
    };
    WAYS.iter().find(same).map(|way| way.name).ok_or_else(|| {
        let known: Vec<_> = WAYS.iter().map(|way| way.name).collect();
        Error::failed(format!(
            "tokenizer.json splits words by {steps:?} (ignore_merges = {ignores_merges}), for which llama.cpp has no name"
        ))
        .with_hint(format!("ways that can be named: {}", known.join(", ")))
    })
}

fn equal(way: &Step<&str>, step: &Step<String>) -> bool {
    match (way, step) {
        (Step::Pattern(a), Step::Pattern(b)) => a == b,
        (Step::Gpt2, Step::Gpt2) | (Step::Digits, Step::Digits) | (Step::Punctuation, Step::Punctuation) => true,
        _ => false,
    }
}

/// The steps of a pre-tokenizer, one after the other.
fn collect(value: &Value, steps: &mut Vec<Step<String>>) -> Result<()> {
    let cannot = |what: String| {
        let hint = "llama.cpp splits words in a few known ways only; train a tokenizer with cupola, or keep the model as it is";
        Err(Error::failed(format!("tokenizer.json asks for {what}, which llama.cpp cannot do")).with_hint(hint))
    };
    match value["type"].as_str() {
        Some("Sequence") => value["pretokenizers"].as_array().into_iter().flatten().try_for_each(|v| collect(v, steps)),
        Some("ByteLevel") => {
            if value["add_prefix_space"] == true {
                return cannot("a blank before each text (`add_prefix_space`)".into());
            }
            if value["use_regex"] != false {
                steps.push(Step::Gpt2);
            }
            Ok(())
        }
        Some("Digits") if value["individual_digits"] == true => {
            steps.push(Step::Digits);
            Ok(())
        }
        Some("Punctuation") if value["behavior"] == "Contiguous" => {
            steps.push(Step::Punctuation);
            Ok(())
        }
        Some("Split") => {
            let pattern = value["pattern"]["Regex"].as_str();
            let isolated = value["behavior"] == "Isolated" && value["invert"] != true;
            // What matches is kept and what does not is dropped: the same where the pattern matches everything.
            let kept = value["behavior"] == "Removed" && value["invert"] == true;
            match pattern.filter(|_| isolated || kept) {
                Some(pattern) => steps.push(Step::Pattern(pattern.to_owned())),
                None => return cannot(format!("the split {value}")),
            }
            Ok(())
        }
        _ => cannot(format!("the pre-tokenizer {value}")),
    }
}

/// The pre-tokenizer of a way, and whether it ignores merges.
///
/// # Errors
/// A name that is not known here.
pub fn pre_tokenizer(name: &str) -> Result<(Value, bool)> {
    let Some(way) = WAYS.iter().find(|way| way.name == name) else {
        let known: Vec<_> = WAYS.iter().map(|way| way.name).collect();
        return Err(Error::failed(format!(
            "the file's tokenizer splits words the way `{name}`, which is unknown here"
        ))
        .with_hint(format!("known are {}; put the model's own tokenizer.json beside the file", known.join(", "))));
    };
    let split_of = |step: &Step<&str>| match step {
        Step::Gpt2 => byte_level(true),
        Step::Digits => json!({"type": "Digits", "individual_digits": true}),
        Step::Punctuation => json!({"type": "Punctuation", "behavior": "Contiguous"}),
        Step::Pattern(pattern) => {
            json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
        }
    };
    let mut steps: Vec<Value> = way.steps.iter().map(split_of).collect();
    if !way.steps.contains(&Step::Gpt2) {
        steps.push(byte_level(false));
    }
    let whole = match steps.len() {
        1 => steps.remove(0),
        _ => json!({"type": "Sequence", "pretokenizers": steps}),
    };
    Ok((whole, way.ignores_merges))
}

/// Bytes as printable characters, with GPT-2's pattern or without.
pub fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}
