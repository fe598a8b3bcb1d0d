//! Models: Hugging Face's `config.json` and weight names as llama.cpp's metadata and tensors, and back.
//!
//! Nothing is computed here: settings are renamed, rows put into another order, experts stacked. An architecture is a
//! description in a file of its own and a line in [`ARCHITECTURES`].

mod bert;
mod bloom;
mod change;
mod deepseek;
mod falcon;
mod gemma;
mod gpt2;
mod jamba;
mod llama;
mod mamba;
mod modernbert;
mod neox;
mod phi;
mod qwen;
mod read;
mod rope;
mod rows;
mod settings;
mod t5;
mod write;

pub use read::{FromGguf, read_model};
pub use write::ToGguf;

use cupola_artifact::{Error, Result, nearest};

use change::Change;
use rows::Rows;
use settings::{Described, Export, Fixed, Setting};

/// What llama.cpp calls an architecture, in Hugging Face's words.
pub struct Architecture {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// The class that transformers uses.
    pub class: &'static str,
    /// `general.architecture`.
    pub name: &'static str,
    /// Settings that have a key of their own.
    settings: &'static [&'static [Setting]],
    /// Settings that llama.cpp takes for granted.
    fixed: &'static [Fixed],
    /// What tensors are called.
    tensors: &'static [&'static [Tensor]],
    /// Settings beyond the tables.
    write: fn(&mut Export<'_>) -> Result<()>,
    /// The same the other way.
    read: fn(&mut Described<'_>) -> Result<()>,
    /// Tensors without which a file of its name is another's.
    marks: &'static [&'static str],
    /// Beginnings of the names of tensors that llama.cpp has no place for and does without: heads.
    left_out: &'static [&'static str],
    /// What may stand before names.
    prefix: &'static str,
}

impl Architecture {
    fn all_tensors(&self) -> impl Iterator<Item = &'static Tensor> {
        self.tensors.iter().copied().flatten()
    }

    fn all_settings(&self) -> impl Iterator<Item = &'static Setting> {
        self.settings.iter().copied().flatten()
    }
}

/// An architecture that lacks what few have.
const PLAIN: Architecture = Architecture {
    model_type: "",
    class: "",
    name: "",
    settings: &[],
    fixed: &[],
    tensors: &[],
    write: |_| Ok(()),
    read: |_| Ok(()),
    marks: &[],
    left_out: &[],
    prefix: "",
};

/// Every architecture; of those with one name, the first whose settings a file has is read.
pub const ARCHITECTURES: &[Architecture] = &[
    llama::MIXTRAL,
    llama::LLAMA,
    llama::MISTRAL,
    qwen::QWEN2,
    qwen::QWEN3,
    qwen::QWEN3_MOE,
    phi::PHI3,
    gemma::GEMMA2,
    gemma::GEMMA3,
    gpt2::GPT2,
    neox::GPT_NEOX,
    bloom::BLOOM,
    falcon::FALCON,
    mamba::MAMBA,
    mamba::MAMBA2,
    jamba::JAMBA,
    deepseek::DEEPSEEK_V3,
    t5::T5,
    t5::MT5,
    bert::BERT,
    bert::ROBERTA,
    bert::XLM_ROBERTA,
    bert::DISTILBERT,
    modernbert::MODERN_BERT,
];

/// What the names of families begin with that have no namesake elsewhere.
const OURS: &str = "cupola_";

/// Families that llama.cpp does not compute, and why.
const UNKNOWN: &[(&str, &str)] = &[
    (OURS, "llama.cpp has nothing like it"),
    ("opt", "llama.cpp has no OPT"),
    ("rwkv", "llama.cpp has RWKV 6 and 7, but not RWKV 4"),
    ("recurrent_gemma", "llama.cpp has no RecurrentGemma"),
    ("zamba2", "llama.cpp has no Zamba 2"),
    ("switch_transformers", "llama.cpp's T5 has no experts"),
    ("bart", "llama.cpp has no BART; its encoder-decoders are T5"),
    ("led", "llama.cpp has no LED; its encoder-decoders are T5"),
    ("pegasus", "llama.cpp has no Pegasus; its encoder-decoders are T5"),
    ("albert", "llama.cpp has no ALBERT; of its kind it has BERT, RoBERTa, DistilBERT and ModernBERT"),
    ("electra", "llama.cpp has no ELECTRA; of its kind it has BERT, RoBERTa, DistilBERT and ModernBERT"),
    ("longformer", "llama.cpp has no Longformer; of its kind it has BERT, RoBERTa, DistilBERT and ModernBERT"),
];

/// The architecture of a `model_type`.
///
/// # Errors
/// One that llama.cpp lacks, or that is not described here.
pub fn architecture(model_type: &str) -> Result<&'static Architecture> {
    ARCHITECTURES.iter().find(|a| a.model_type == model_type).ok_or_else(|| {
        let unknown =
            UNKNOWN.iter().find(|(name, _)| *name == model_type || (*name == OURS && model_type.starts_with(OURS)));
        if let Some((_, why)) = unknown {
            return Error::failed(format!("a model of the type `{model_type}` cannot be a GGUF file: {why}"))
                .with_hint("`--to hf` writes a folder that transformers loads");
        }
        let known: Vec<_> = ARCHITECTURES.iter().map(|a| a.model_type).collect();
        let near = nearest(model_type, known.iter().copied()).map(|near| format!("did you mean {near}? "));
        Error::failed(format!("a model of the type `{model_type}` cannot be a GGUF file")).with_hint(format!(
            "{}those that can: {}",
            near.unwrap_or_default(),
            known.join(", ")
        ))
    })
}

/// A module's names, without `.weight` and `.bias`. `{}` stands for a layer's number, a second one for an expert's.
#[derive(Clone, Copy)]
struct Tensor {
    hf: &'static str,
    gguf: &'static str,
    change: Change,
    /// The names are whole: nothing follows them.
    whole: bool,
    /// In files that have this tensor, or that lack it, only.
    only: Option<(&'static str, bool)>,
}

impl Tensor {
    /// The name in the file of a tensor of the model, and the numbers in it.
    fn written(&self, name: &str) -> Option<(String, Vec<usize>)> {
        self.renamed(self.hf, self.gguf, name)
    }

    /// The name in the model of a tensor of the file; of stacked ones, with a hole.
    fn read(&self, name: &str, has: &dyn Fn(&str) -> bool) -> Option<String> {
        let there = self.only.is_none_or(|(other, there)| has(other) == there);
        let found = self.renamed(self.gguf, self.hf, name).filter(|_| there && self.change != Change::Scaled);
        found.map(|(name, _)| name)
    }

    fn renamed(&self, from: &str, to: &str, name: &str) -> Option<(String, Vec<usize>)> {
        let (place, last) = match name.rsplit_once('.') {
            _ if self.whole => (name, None),
            Some((place, last @ ("weight" | "bias"))) => (place, Some(last)),
            _ => return None,
        };
        let numbers = holes(from, place)?;
        let place = filled(to, &numbers);
        Some((last.map_or(place.clone(), |last| format!("{place}.{last}")), numbers))
    }

    /// The same of files that have a tensor.
    const fn with(self, other: &'static str) -> Self {
        Self { only: Some((other, true)), ..self }
    }

    /// The same of files that lack a tensor.
    const fn without(self, other: &'static str) -> Self {
        Self { only: Some((other, false)), ..self }
    }
}

const fn changed(hf: &'static str, gguf: &'static str, change: Change) -> Tensor {
    Tensor { hf, gguf, change, whole: false, only: None }
}

const fn whole(hf: &'static str, gguf: &'static str, change: Change) -> Tensor {
    Tensor { whole: true, ..changed(hf, gguf, change) }
}

const fn same(hf: &'static str, gguf: &'static str) -> Tensor {
    changed(hf, gguf, Change::Same)
}

const fn rows(hf: &'static str, gguf: &'static str, order: Rows) -> Tensor {
    changed(hf, gguf, Change::Rows(order))
}

const fn transposed(hf: &'static str, gguf: &'static str) -> Tensor {
    changed(hf, gguf, Change::Transposed)
}

const fn one_more(hf: &'static str, gguf: &'static str) -> Tensor {
    changed(hf, gguf, Change::OneMore)
}

const fn stacked(hf: &'static str, gguf: &'static str) -> Tensor {
    changed(hf, gguf, Change::Stacked)
}

/// The numbers for the holes of a pattern, if a name fits it.
fn holes(pattern: &str, name: &str) -> Option<Vec<usize>> {
    let (mut rest, mut found) = (name, Vec::new());
    let mut parts = pattern.split("{}");
    rest = rest.strip_prefix(parts.next()?)?;
    for part in parts {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        found.push(rest[..digits].parse().ok()?);
        rest = rest[digits..].strip_prefix(part)?;
    }
    rest.is_empty().then_some(found)
}

/// A pattern with its holes filled.
fn filled(pattern: &str, numbers: &[usize]) -> String {
    numbers.iter().fold(pattern.to_owned(), |text, n| text.replacen("{}", &n.to_string(), 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_their_patterns_only() {
        let pattern = "model.layers.{}.mlp.experts.{}.up_proj";
        assert_eq!(holes(pattern, "model.layers.3.mlp.experts.12.up_proj"), Some(vec![3, 12]));
        assert_eq!(holes(pattern, "model.layers.3.mlp.experts.x.up_proj"), None);
        assert_eq!(holes(pattern, "model.layers.3.mlp.experts.12.up_proj.more"), None);
        assert_eq!(holes("norm", "norm"), Some(vec![]));
        assert_eq!(filled(pattern, &[3, 12]), "model.layers.3.mlp.experts.12.up_proj");
    }

    #[test]
    fn every_name_has_one_place() {
        for a in ARCHITECTURES {
            // One in parts, two in one, or one of two by what else the file has.
            let apart = |t: &Tensor| {
                t.only.is_some() || matches!(t.change, Change::LatentKeys | Change::LatentValues | Change::Scaled)
            };
            let tensors: Vec<Tensor> = a.all_tensors().copied().collect();
            for (i, tensor) in tensors.iter().enumerate() {
                let later = &tensors[i + 1..];
                assert!(
                    later.iter().all(|t| (t.hf != tensor.hf || apart(t)) && (t.gguf != tensor.gguf || apart(t))),
                    "{}: {}",
                    a.model_type,
                    tensor.hf
                );
                let holes = |text: &str| text.matches("{}").count();
                let more = usize::from(tensor.change == Change::Stacked);
                assert_eq!(holes(tensor.hf), holes(tensor.gguf) + more, "{}: {}", a.model_type, tensor.hf);
            }
        }
        assert!(architecture("qwen4").is_err_and(|e| e.hint().is_some_and(|h| h.contains("did you mean qwen"))));
    }
}
