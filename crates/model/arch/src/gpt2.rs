//! GPT-2 (Radford et al. 2019): LayerNorm before each layer, learned positions, a plain feed-forward layer, biases
//! everywhere. Its files keep linear weights as `[d_in, d_out]` and q, k and v side by side.

use cupola_artifact::{Error, Result};
use cupola_nn::{Activation, DecoderSpec, FfnKind, NormKind, Positions, Role};
use serde_json::{Map, Value, json};

use crate::family::{ConfigJson, Family, Form, activation_by_name, activation_name, token_list};
use crate::fused::Fused;

/// GPT-2 and what shares its form (DistilGPT-2, DialoGPT, and many small models).
pub struct Gpt2;

/// Settings that change the mathematics and are not built; any other value than this is an error.
const NEUTRAL: &[(&str, bool)] =
    &[("scale_attn_weights", true), ("scale_attn_by_inverse_layer_idx", false), ("add_cross_attention", false)];

impl Family for Gpt2 {
    fn model_type(&self) -> &'static str {
        "gpt2"
    }

    fn architecture(&self) -> &'static str {
        "GPT2LMHeadModel"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<DecoderSpec> {
        for (key, neutral) in NEUTRAL {
            if config.flag(key, *neutral)? != *neutral {
                return Err(Error::failed(format!("`{key}` = {} in config.json is not supported", !neutral)));
            }
        }
        let (d_model, n_heads) = (config.required_size("n_embd")?, config.required_size("n_head")?);
        if !d_model.is_multiple_of(n_heads) {
            return Err(Error::failed(format!(
                "config.json has n_embd = {d_model}, which n_head = {n_heads} does not divide"
            )));
        }
        Ok(DecoderSpec {
            vocab_size: config.required_size("vocab_size")?,
            d_model,
            n_layers: config.required_size("n_layer")?,
            n_heads,
            n_kv_heads: n_heads,
            d_head: d_model / n_heads,
            d_ff: config.size("n_inner")?.unwrap_or(4 * d_model),
            max_seq_len: config.size("n_positions")?.unwrap_or(1024),
            norm_eps: config.number("layer_norm_epsilon", 1e-5)? as f32,
            norm: NormKind::Layer,
            ffn: FfnKind::Plain(activation_by_name(config, "activation_function", "gelu_new")?),
            positions: Positions::Learned,
            tie_embeddings: config.flag("tie_word_embeddings", true)?,
            attention_bias: true,
            mlp_bias: true,
            bos: config.token("bos_token_id")?,
            eos: config.tokens("eos_token_id")?,
            pad: config.token("pad_token_id")?,
        })
    }

    fn write(&self, spec: &DecoderSpec) -> Map<String, Value> {
        let (FfnKind::Plain(f) | FfnKind::Gated(f)) = spec.ffn;
        let config = json!({
            "architectures": [self.architecture()],
            "model_type": self.model_type(),
            "vocab_size": spec.vocab_size,
            "n_embd": spec.d_model,
            "n_head": spec.n_heads,
            "n_inner": spec.d_ff,
            "n_layer": spec.n_layers,
            "n_positions": spec.max_seq_len,
            "activation_function": activation_name(f),
            "layer_norm_epsilon": spec.norm_eps,
            "tie_word_embeddings": spec.tie_embeddings,
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "scale_attn_weights": true,
            "scale_attn_by_inverse_layer_idx": false,
            "reorder_and_upcast_attn": false,
            "add_cross_attention": false,
            "bos_token_id": spec.bos,
            "eos_token_id": token_list(&spec.eos),
            "pad_token_id": spec.pad,
            "initializer_range": 0.02,
            "torch_dtype": "float32",
            "use_cache": true,
        });
        config.as_object().cloned().unwrap_or_default()
    }

    fn module(&self, role: Role, layer: usize) -> String {
        let part = match role {
            Role::Embed => return "transformer.wte".into(),
            Role::Positions => return "transformer.wpe".into(),
            Role::FinalNorm => return "transformer.ln_f".into(),
            Role::Head => return "lm_head".into(),
            Role::AttentionNorm => "ln_1",
            Role::Q => "attn.q_proj",
            Role::K => "attn.k_proj",
            Role::V => "attn.v_proj",
            Role::O => "attn.c_proj",
            Role::FfnNorm => "ln_2",
            Role::Gate => "mlp.gate_proj",
            Role::Up => "mlp.c_fc",
            Role::Down => "mlp.c_proj",
        };
        format!("transformer.h.{layer}.{part}")
    }

    fn fused(&self, spec: &DecoderSpec) -> Vec<Fused> {
        let width = |role: Role| match role {
            Role::Up => spec.d_ff,
            _ => spec.d_model,
        };
        let layers = (0..spec.n_layers).flat_map(|layer| {
            [
                ("attn.c_attn", &[Role::Q, Role::K, Role::V][..]),
                ("attn.c_proj", &[Role::O]),
                ("mlp.c_fc", &[Role::Up]),
                ("mlp.c_proj", &[Role::Down]),
            ]
            .map(|(module, roles)| (layer, module, roles))
        });
        layers
            .map(|(layer, module, roles)| Fused {
                module: format!("transformer.h.{layer}.{module}"),
                parts: roles.iter().map(|role| (self.module(*role, layer), width(*role))).collect(),
                groups: 1,
                transposed: true,
            })
            .collect()
    }

    /// The first files hold the bare model, and the causal masks as buffers.
    fn rename(&self, name: &str) -> Option<String> {
        let bare = name.strip_prefix("transformer.").unwrap_or(name);
        if bare.ends_with(".attn.bias") || bare.ends_with(".attn.masked_bias") {
            return None;
        }
        Some(if bare.starts_with("lm_head.") { bare.into() } else { format!("transformer.{bare}") })
    }

    fn form(&self) -> Form {
        Form {
            norm: NormKind::Layer,
            ffn: FfnKind::Plain(Activation::GeluTanh),
            rotary: false,
            biases: true,
            grouped_queries: false,
        }
    }
}
