//! Models: Hugging Face's `config.json` and weight names as llama.cpp's metadata and tensors, and back.
//!
//! Nothing is computed here: settings are renamed, rows put into another order, experts stacked. An architecture is a
//! description in a file of its own and a line in [`ARCHITECTURES`].

mod bloom;
mod falcon;
mod gemma;
mod gpt2;
mod llama;
mod neox;
mod phi;
mod qwen;
mod read;
mod rope;
mod rows;
mod settings;
mod write;

pub use read::{FromGguf, read_model};
pub use write::ToGguf;

use cupola_artifact::{Error, Result, nearest};

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
    settings: &'static [Setting],
    /// Settings that llama.cpp takes for granted.
    fixed: &'static [Fixed],
    /// What tensors are called.
    tensors: &'static [Tensor],
    /// Settings beyond the tables.
    write: fn(&mut Export<'_>) -> Result<()>,
    /// The same the other way.
    read: fn(&mut Described<'_>) -> Result<()>,
}

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
];

/// The architecture of a `model_type`.
///
/// # Errors
/// One that llama.cpp lacks, or that is not described here.
pub fn architecture(model_type: &str) -> Result<&'static Architecture> {
    ARCHITECTURES.iter().find(|a| a.model_type == model_type).ok_or_else(|| {
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
struct Tensor {
    hf: &'static str,
    gguf: &'static str,
    change: Change,
}

/// How a tensor differs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Change {
    /// Not at all.
    Same,
    /// Its rows stand in another order.
    Rows(Rows),
    /// A matrix is on its side; vectors are the same.
    Transposed,
    /// A norm's weight counts from 0 here and from 1 there.
    OneMore,
    /// The experts' matrices lie on each other.
    Stacked,
}

const fn same(hf: &'static str, gguf: &'static str) -> Tensor {
    Tensor { hf, gguf, change: Change::Same }
}

const fn rows(hf: &'static str, gguf: &'static str, order: Rows) -> Tensor {
    Tensor { hf, gguf, change: Change::Rows(order) }
}

const fn transposed(hf: &'static str, gguf: &'static str) -> Tensor {
    Tensor { hf, gguf, change: Change::Transposed }
}

const fn one_more(hf: &'static str, gguf: &'static str) -> Tensor {
    Tensor { hf, gguf, change: Change::OneMore }
}

const fn stacked(hf: &'static str, gguf: &'static str) -> Tensor {
    Tensor { hf, gguf, change: Change::Stacked }
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

/// A tensor's name without its last part, and that part: `weight` or `bias`.
fn module(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or((name, ""))
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
        assert_eq!(module("a.b.weight"), ("a.b", "weight"));
    }

    #[test]
    fn every_name_has_one_place() {
        for a in ARCHITECTURES {
            for (i, tensor) in a.tensors.iter().enumerate() {
                let later = &a.tensors[i + 1..];
                assert!(
                    later.iter().all(|t| t.hf != tensor.hf && t.gguf != tensor.gguf),
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
