//! Llama (Touvron et al. 2023): RMSNorm before each layer, rotary positions, grouped queries, SwiGLU.

use cupola_artifact::{Error, Result};
use cupola_nn::{Activation, DecoderSpec, FfnKind, NormKind, Positions, Role, RopeScaling, RopeSpec};
use serde_json::{Map, Value, json};

use crate::family::{ConfigJson, Family, token_list};

/// Llama 1, 2, 3 and what shares their form.
pub struct Llama;

impl Family for Llama {
    fn model_type(&self) -> &'static str {
        "llama"
    }

    fn architecture(&self) -> &'static str {
        "LlamaForCausalLM"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<DecoderSpec> {
        if let Some(act) = config.get("hidden_act")
            && act != "silu"
        {
            return Err(Error::failed(format!(
                "config.json asks for the activation {act}; Llama here has `silu` only"
            )));
        }
        let (d_model, n_heads) = (config.required_size("hidden_size")?, config.required_size("num_attention_heads")?);
        let n_kv_heads = config.size("num_key_value_heads")?.unwrap_or(n_heads);
        if !n_heads.is_multiple_of(n_kv_heads) {
            return Err(Error::failed(format!(
                "config.json has {n_heads} query heads, which {n_kv_heads} key-value heads do not divide"
            )));
        }
        let d_head = match config.size("head_dim")? {
            Some(d_head) => d_head,
            None => d_model / n_heads,
        };
        if !d_head.is_multiple_of(2) {
            return Err(Error::failed(format!("a head of {d_head} numbers cannot be rotated in pairs")));
        }
        Ok(DecoderSpec {
            vocab_size: config.required_size("vocab_size")?,
            d_model,
            n_layers: config.required_size("num_hidden_layers")?,
            n_heads,
            n_kv_heads,
            d_head,
            d_ff: config.required_size("intermediate_size")?,
            max_seq_len: config.size("max_position_embeddings")?.unwrap_or(2048),
            norm_eps: config.number("rms_norm_eps", 1e-6)? as f32,
            norm: NormKind::Rms,
            ffn: FfnKind::Gated(Activation::Silu),
            positions: Positions::Rotary(rope(config, d_head)?),
            tie_embeddings: config.flag("tie_word_embeddings", false)?,
            attention_bias: config.flag("attention_bias", false)?,
            mlp_bias: config.flag("mlp_bias", false)?,
            bos: config.token("bos_token_id")?,
            eos: config.tokens("eos_token_id")?,
            pad: config.token("pad_token_id")?,
        })
    }

    fn write(&self, spec: &DecoderSpec) -> Map<String, Value> {
        let plain = RopeSpec { theta: 10_000.0, rotary_dim: spec.d_head, scaling: RopeScaling::None };
        let rope = match &spec.positions {
            Positions::Rotary(rope) => rope,
            Positions::Learned => &plain,
        };
        let mut rope_parameters = json!({"rope_type": "default", "rope_theta": rope.theta});
        let mut scaling = Value::Null;
        match rope.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => scaling = json!({"rope_type": "linear", "factor": factor}),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_seq_len } => {
                scaling = json!({
                    "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
                    "high_freq_factor": high_freq_factor,
                    "original_max_position_embeddings": original_max_seq_len as u64,
                });
            }
        }
        if let (Some(all), Some(more)) = (rope_parameters.as_object_mut(), scaling.as_object()) {
            all.extend(more.clone());
        }
        // Both spellings of the rotary settings: transformers 4 reads the first two, transformers 5 the third.
        let config = json!({
            "architectures": [self.architecture()],
            "model_type": self.model_type(),
            "vocab_size": spec.vocab_size,
            "hidden_size": spec.d_model,
            "intermediate_size": spec.d_ff,
            "num_hidden_layers": spec.n_layers,
            "num_attention_heads": spec.n_heads,
            "num_key_value_heads": spec.n_kv_heads,
            "head_dim": spec.d_head,
            "hidden_act": "silu",
            "max_position_embeddings": spec.max_seq_len,
            "rms_norm_eps": spec.norm_eps,
            "rope_theta": rope.theta,
            "rope_scaling": scaling,
            "rope_parameters": rope_parameters,
            "attention_bias": spec.attention_bias,
            "attention_dropout": 0.0,
            "mlp_bias": spec.mlp_bias,
            "tie_word_embeddings": spec.tie_embeddings,
            "bos_token_id": spec.bos,
            "eos_token_id": token_list(&spec.eos),
            "pad_token_id": spec.pad,
            "initializer_range": 0.02,
            "pretraining_tp": 1,
            "torch_dtype": "float32",
            "use_cache": true,
        });
        config.as_object().cloned().unwrap_or_default()
    }

    fn module(&self, role: Role, layer: usize) -> String {
        let part = match role {
            Role::Embed => return "model.embed_tokens".into(),
            Role::Positions => return "model.embed_positions".into(),
            Role::FinalNorm => return "model.norm".into(),
            Role::Head => return "lm_head".into(),
            Role::AttentionNorm => "input_layernorm",
            Role::Q => "self_attn.q_proj",
            Role::K => "self_attn.k_proj",
            Role::V => "self_attn.v_proj",
            Role::O => "self_attn.o_proj",
            Role::FfnNorm => "post_attention_layernorm",
            Role::Gate => "mlp.gate_proj",
            Role::Up => "mlp.up_proj",
            Role::Down => "mlp.down_proj",
        };
        format!("model.layers.{layer}.{part}")
    }
}

/// The rotary settings as transformers 5 (`rope_parameters`) or 4 (`rope_theta`, `rope_scaling`) writes them.
fn rope(config: &ConfigJson<'_>, rotary_dim: usize) -> Result<RopeSpec> {
    let empty = Map::new();
    let settings = ["rope_parameters", "rope_scaling"]
        .iter()
        .find_map(|key| config.get(key).and_then(Value::as_object))
        .unwrap_or(&empty);
    let settings = ConfigJson { values: settings };
    let theta = settings.number("rope_theta", config.number("rope_theta", 10_000.0)?)?;
    let kind = settings.get("rope_type").or_else(|| settings.get("type")).and_then(Value::as_str).unwrap_or("default");
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: settings.number("factor", 1.0)? },
        "llama3" => RopeScaling::Llama3 {
            factor: settings.number("factor", 8.0)?,
            low_freq_factor: settings.number("low_freq_factor", 1.0)?,
            high_freq_factor: settings.number("high_freq_factor", 4.0)?,
            original_max_seq_len: settings.number("original_max_position_embeddings", 8192.0)?,
        },
        other => {
            return Err(Error::failed(format!("config.json asks for rotary scaling `{other}`"))
                .with_hint("this build knows default, linear and llama3"));
        }
    };
    Ok(RopeSpec { theta, rotary_dim, scaling })
}
