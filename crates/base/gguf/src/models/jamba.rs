//! Jamba: Mamba's mixers with norms inside, attention without positions among them, experts in some layers.

use cupola_artifact::{Error, Result};
use serde_json::{Value, json};

use super::change::Change;
use super::settings::{Constant, Described, Export, SILU, count, fixed};
use super::{Architecture, PLAIN, changed, llama, mamba, same, stacked, whole};

/// Jamba.
pub const JAMBA: Architecture = Architecture {
    model_type: "jamba",
    class: "JambaForCausalLM",
    name: "jamba",
    settings: &[
        llama::SETTINGS,
        &[count(&["mamba_d_conv"], "ssm.conv_kernel"), count(&["mamba_d_state"], "ssm.state_size")],
    ],
    fixed: &[
        SILU,
        fixed("mamba_conv_bias", &[Constant::Flag(true)]),
        fixed("mamba_proj_bias", &[Constant::Flag(false)]),
    ],
    tensors: &[&[
        same("model.embed_tokens", "token_embd"),
        same("model.final_layernorm", "output_norm"),
        same("lm_head", "output"),
        same("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
        same("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"),
        same("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"),
        same("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
        same("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
        same("model.layers.{}.mamba.in_proj", "blk.{}.ssm_in"),
        changed("model.layers.{}.mamba.conv1d", "blk.{}.ssm_conv1d", Change::Squeezed),
        same("model.layers.{}.mamba.x_proj", "blk.{}.ssm_x"),
        same("model.layers.{}.mamba.dt_proj", "blk.{}.ssm_dt"),
        same("model.layers.{}.mamba.dt_layernorm", "blk.{}.ssm_dt_norm"),
        same("model.layers.{}.mamba.b_layernorm", "blk.{}.ssm_b_norm"),
        same("model.layers.{}.mamba.c_layernorm", "blk.{}.ssm_c_norm"),
        whole("model.layers.{}.mamba.A_log", "blk.{}.ssm_a", Change::Decay),
        whole("model.layers.{}.mamba.D", "blk.{}.ssm_d", Change::Same),
        same("model.layers.{}.mamba.out_proj", "blk.{}.ssm_out"),
        same("model.layers.{}.pre_ff_layernorm", "blk.{}.ffn_norm"),
        same("model.layers.{}.feed_forward.gate_proj", "blk.{}.ffn_gate"),
        same("model.layers.{}.feed_forward.up_proj", "blk.{}.ffn_up"),
        same("model.layers.{}.feed_forward.down_proj", "blk.{}.ffn_down"),
        same("model.layers.{}.feed_forward.router", "blk.{}.ffn_gate_inp"),
        stacked("model.layers.{}.feed_forward.experts.{}.gate_proj", "blk.{}.ffn_gate_exps"),
        stacked("model.layers.{}.feed_forward.experts.{}.up_proj", "blk.{}.ffn_up_exps"),
        stacked("model.layers.{}.feed_forward.experts.{}.down_proj", "blk.{}.ffn_down_exps"),
    ]],
    write,
    read,
    ..PLAIN
};

fn write(export: &mut Export<'_>) -> Result<()> {
    let (width, layers) = (export.size(&["hidden_size"])?, export.size(&["num_hidden_layers"])?);
    let heads = export.size(&["num_attention_heads"])?;
    let keys = export.size_or(&["num_key_value_heads"], heads)?;
    let inner = width * export.size_or(&["mamba_expand"], 2)?;
    mamba::twice(width, inner)?;
    export.set_size("ssm.inner_size", inner)?;
    let rank = match export.get(&["mamba_dt_rank"]) {
        Some(Value::Number(_)) => export.size(&["mamba_dt_rank"])?,
        _ => width.div_ceil(16),
    };
    export.set_size("ssm.time_step_rank", rank)?;
    // Layers without attention have no heads.
    let period = export.size_or(&["attn_layer_period"], 8)?;
    let offset = export.get(&["attn_layer_offset"]).and_then(Value::as_u64).unwrap_or(4) as usize;
    let of_layer = |layer: usize| if layer % period == offset { keys as i32 } else { 0 };
    export.set("attention.head_count_kv", (0..layers.min(1 << 16)).map(of_layer).collect::<Vec<i32>>());
    let experts = export.size_or(&["num_experts"], 16)?;
    if experts > 1 {
        export.set_size("expert_count", experts)?;
        let used = export.size_or(&["num_experts_per_tok"], 2)?;
        export.set_size("expert_used_count", used)?;
    }
    Ok(())
}

/// The period and the offset that choose these layers.
fn rhythm(what: &str, chosen: &[usize], layers: usize) -> Result<[usize; 2]> {
    let (Some(&first), second) = (chosen.first(), chosen.get(1)) else { return Ok([layers.max(1) + 1, layers]) };
    let period = second.map_or(layers.max(first + 1), |second| second - first);
    let regular = (0..layers).filter(|layer| layer % period == first).eq(chosen.iter().copied());
    if !regular || first >= period {
        return Err(Error::failed(format!("the layers with {what} have no period")));
    }
    Ok([period, first])
}

fn read(file: &mut Described<'_>) -> Result<()> {
    let key = file.key("attention.head_count_kv");
    let keys = file.metadata.required(&key, file.metadata.integers(&key)?)?;
    let layers = keys.len();
    let attends: Vec<usize> = (0..layers).filter(|layer| keys[*layer] != 0).collect();
    let mixes: Vec<usize> =
        (0..layers).filter(|layer| (file.has)(&format!("blk.{layer}.ffn_gate_inp.weight"))).collect();
    let [attention, mixture] = [rhythm("attention", &attends, layers)?, rhythm("experts", &mixes, layers)?];
    for (name, value) in [
        ("attn_layer_period", attention[0]),
        ("attn_layer_offset", attention[1]),
        ("expert_layer_period", mixture[0]),
        ("expert_layer_offset", mixture[1]),
        ("num_experts", file.size("expert_count")?.unwrap_or(1)),
        ("num_experts_per_tok", file.size("expert_used_count")?.unwrap_or(1)),
        ("num_key_value_heads", super::settings::heads(file.metadata, file.arch)?.keys),
        ("mamba_expand", 2),
        ("mamba_dt_rank", file.size("ssm.time_step_rank")?.unwrap_or(1)),
    ] {
        file.set(name, json!(value));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn layers_give_back_their_period() {
        assert_eq!(rhythm("x", &[2, 6], 8).unwrap(), [4, 2]);
        assert_eq!(rhythm("x", &[1], 4).unwrap(), [4, 1]);
        let [period, offset] = rhythm("x", &[], 4).unwrap();
        assert!((0..4).all(|layer| layer % period != offset) && offset < period);
        assert!(rhythm("x", &[0, 1, 3], 4).is_err());
    }
}
