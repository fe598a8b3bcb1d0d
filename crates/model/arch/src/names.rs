//! What a model's weights are called in files.

use cupola_artifact::{Error, Result};

/// Pairs of names: what the model calls a module or a weight, and what files call it. `{}` stands for a number, and the
/// numbers keep their order: `("layers.{}.attention.q", "model.layers.{}.self_attn.q_proj")`.
pub type NameTable = &'static [(&'static str, &'static str)];

/// The names of a family.
#[derive(Clone, Copy)]
pub struct Names(pub NameTable);

/// The names that Llama and most that came after it share.
pub const LLAMA: NameTable = &[
    ("embed.tokens", "model.embed_tokens"),
    ("norm", "model.norm"),
    ("head", "lm_head"),
    ("layers.{}.attention_norm", "model.layers.{}.input_layernorm"),
    ("layers.{}.attention.q", "model.layers.{}.self_attn.q_proj"),
    ("layers.{}.attention.k", "model.layers.{}.self_attn.k_proj"),
    ("layers.{}.attention.v", "model.layers.{}.self_attn.v_proj"),
    ("layers.{}.attention.o", "model.layers.{}.self_attn.o_proj"),
    ("layers.{}.attention.q_norm", "model.layers.{}.self_attn.q_norm"),
    ("layers.{}.attention.k_norm", "model.layers.{}.self_attn.k_norm"),
    ("layers.{}.ffn_norm", "model.layers.{}.post_attention_layernorm"),
    ("layers.{}.ffn.gate", "model.layers.{}.mlp.gate_proj"),
    ("layers.{}.ffn.up", "model.layers.{}.mlp.up_proj"),
    ("layers.{}.ffn.down", "model.layers.{}.mlp.down_proj"),
];

/// What all families of decoders call a head on the last hidden states.
const HEADS: NameTable = &[("text.out", "score"), ("token.out", "score")];

impl Names {
    /// What files call a weight, or a module.
    ///
    /// # Errors
    /// A name that the table lacks: the family's description and its layers disagree.
    pub fn in_file(&self, name: &str) -> Result<String> {
        if let Some(whole) = self.find(name) {
            return Ok(whole);
        }
        let found = name.rsplit_once('.').and_then(|(module, last)| Some(format!("{}.{last}", self.find(module)?)));
        found.ok_or_else(|| Error::failed(format!("the family has no name for the weight `{name}`")))
    }

    /// Whether a weight in a file belongs to a module, named as the model calls it, or to one inside it.
    pub fn is_within(&self, weight: &str, module: &str) -> bool {
        self.0.iter().any(|(ours, file)| {
            ours.strip_prefix(module).is_some_and(|rest| rest.starts_with('.'))
                && weight.strip_prefix(file).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }

    fn find(&self, name: &str) -> Option<String> {
        let is_number = |part: &&str| part.bytes().all(|b| b.is_ascii_digit());
        let pattern: Vec<&str> = name.split('.').map(|part| if is_number(&part) { "{}" } else { part }).collect();
        let pattern = pattern.join(".");
        let (_, file) = self.0.iter().chain(HEADS).find(|(ours, _)| *ours == pattern)?;
        Some(name.split('.').filter(is_number).fold((*file).to_string(), |file, n| file.replacen("{}", n, 1)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numbers_go_where_the_files_have_them() {
        let names = Names(&[("layers.{}.ffn.experts.{}.up", "h.{}.moe.{}.w3"), ("layers.{}.mixer.A", "h.{}.A_log")]);
        assert_eq!(names.in_file("layers.3.ffn.experts.12.up.weight").unwrap(), "h.3.moe.12.w3.weight");
        assert_eq!(names.in_file("layers.3.ffn.experts.12.up").unwrap(), "h.3.moe.12.w3");
        assert_eq!(names.in_file("layers.0.mixer.A").unwrap(), "h.0.A_log");
        assert_eq!(Names(LLAMA).in_file("norm.weight").unwrap(), "model.norm.weight");
        assert!(names.in_file("layers.3.ffn.gate.weight").is_err());
    }
}
