//! Mamba and Mamba-2: state spaces without attention.

use cupola_artifact::{Error, Result};
use serde_json::{Value, json};

use super::change::Change;
use super::settings::{Constant, Described, Export, Fixed, Setting, count, fixed, number};
use super::{Architecture, PLAIN, Tensor, changed, same, whole};

/// What llama.cpp's own converter says of sequences that have no end.
const ENDLESS: usize = 1 << 20;

const SETTINGS: &[Setting] = &[
    count(&["hidden_size"], "embedding_length"),
    count(&["num_hidden_layers"], "block_count"),
    number(&["layer_norm_epsilon"], "attention.layer_norm_rms_epsilon"),
    count(&["conv_kernel"], "ssm.conv_kernel"),
    count(&["state_size"], "ssm.state_size"),
];

const FIXED: &[Fixed] = &[
    fixed("hidden_act", &[Constant::Text("silu")]),
    fixed("use_bias", &[Constant::Flag(false)]),
    fixed("use_conv_bias", &[Constant::Flag(true)]),
];

const TENSORS: &[Tensor] = &[
    same("backbone.embeddings", "token_embd"),
    same("backbone.norm_f", "output_norm"),
    same("lm_head", "output"),
    same("backbone.layers.{}.norm", "blk.{}.attn_norm"),
    same("backbone.layers.{}.mixer.in_proj", "blk.{}.ssm_in"),
    changed("backbone.layers.{}.mixer.conv1d", "blk.{}.ssm_conv1d", Change::Squeezed),
    same("backbone.layers.{}.mixer.out_proj", "blk.{}.ssm_out"),
];

/// Mamba.
pub const MAMBA: Architecture = Architecture {
    model_type: "mamba",
    class: "MambaForCausalLM",
    name: "mamba",
    settings: &[SETTINGS],
    fixed: FIXED,
    tensors: &[
        TENSORS,
        &[
            same("backbone.layers.{}.mixer.x_proj", "blk.{}.ssm_x"),
            same("backbone.layers.{}.mixer.dt_proj", "blk.{}.ssm_dt"),
            whole("backbone.layers.{}.mixer.A_log", "blk.{}.ssm_a", Change::Decay),
            whole("backbone.layers.{}.mixer.D", "blk.{}.ssm_d", Change::Same),
        ],
    ],
    write: write1,
    read: read1,
    ..PLAIN
};

/// Mamba-2.
pub const MAMBA2: Architecture = Architecture {
    model_type: "mamba2",
    class: "Mamba2ForCausalLM",
    name: "mamba2",
    tensors: &[
        TENSORS,
        &[
            whole("backbone.layers.{}.mixer.dt_bias", "blk.{}.ssm_dt.bias", Change::Same),
            whole("backbone.layers.{}.mixer.A_log", "blk.{}.ssm_a", Change::DecayColumn),
            whole("backbone.layers.{}.mixer.D", "blk.{}.ssm_d", Change::Column),
            changed("backbone.layers.{}.mixer.norm", "blk.{}.ssm_norm", Change::Grouped),
        ],
    ],
    write: write2,
    read: read2,
    ..MAMBA
};

/// What has no attention says so; the inner width is a multiple of the outer.
fn write(export: &mut Export<'_>) -> Result<usize> {
    let width = export.size(&["hidden_size"])?;
    let times = export.get(&["expand"]).and_then(Value::as_f64).unwrap_or(2.0);
    let inner = (times * width as f64) as usize;
    let context = export.size_or(&["max_position_embeddings"], ENDLESS)?;
    export.set_size("context_length", context)?;
    for key in ["feed_forward_length", "attention.head_count"] {
        export.set(key, 0u32);
    }
    export.set_size("ssm.inner_size", inner)?;
    Ok(inner)
}

fn write1(export: &mut Export<'_>) -> Result<()> {
    let (width, inner) = (export.size(&["hidden_size"])?, write(export)?);
    let inner = export.size_or(&["intermediate_size"], inner)?;
    twice(width, inner)?;
    export.set_size("ssm.inner_size", inner)?;
    let rank = match export.get(&["time_step_rank"]) {
        Some(Value::Number(_)) => export.size(&["time_step_rank"])?,
        _ => width.div_ceil(16),
    };
    export.set_size("ssm.time_step_rank", rank)
}

/// Refuses inner widths that llama.cpp does not have.
pub fn twice(width: usize, inner: usize) -> Result<()> {
    if inner != 2 * width {
        return Err(Error::failed(format!("config.json has an inner width of {inner} for a width of {width}"))
            .with_hint("llama.cpp has twice the width only"));
    }
    Ok(())
}

fn write2(export: &mut Export<'_>) -> Result<()> {
    write(export)?;
    if export.size_or(&["n_groups"], 8)? != 1 {
        return Err(Error::failed("config.json has several groups (`n_groups`)")
            .with_hint("llama.cpp normalizes each by itself, transformers all together"));
    }
    // Without bounds it is [0, infinity], which has several spellings, or absent.
    let bounds = export.get(&["time_step_limit"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let bounded =
        bounds.first().is_some_and(|v| v.as_f64() != Some(0.0)) || bounds.get(1).is_some_and(Value::is_number);
    if bounded {
        return Err(Error::failed("`time_step_limit` in config.json bounds time steps; llama.cpp has no bounds"));
    }
    let heads = export.size(&["num_heads"])?;
    export.set_size("ssm.time_step_rank", heads)?;
    export.set_size("ssm.group_count", 1)
}

fn read(file: &mut Described<'_>) -> Result<()> {
    if let Some(context) = file.size("context_length")?.filter(|context| *context != ENDLESS) {
        file.set("max_position_embeddings", json!(context));
    }
    file.set("expand", json!(2));
    Ok(())
}

fn read1(file: &mut Described<'_>) -> Result<()> {
    read(file)?;
    if file.metadata.flag(&file.key("ssm.dt_b_c_rms"))? == Some(true) {
        return Err(Error::failed("the file is a Falcon-Mamba, which this build does not know"));
    }
    for (name, key) in [("intermediate_size", "ssm.inner_size"), ("time_step_rank", "ssm.time_step_rank")] {
        let value = file.metadata.required(&file.key(key), file.size(key)?)?;
        file.set(name, json!(value));
    }
    Ok(())
}

fn read2(file: &mut Described<'_>) -> Result<()> {
    read(file)?;
    let groups = file.size("ssm.group_count")?.unwrap_or(1);
    if groups != 1 {
        return Err(Error::failed(format!("the file has {groups} groups, each normalized by itself"))
            .with_hint("known are Mamba-2s with one group"));
    }
    let required = |key: &str| file.metadata.required(&file.key(key), file.size(key)?);
    let (inner, heads) = (required("ssm.inner_size")?, required("ssm.time_step_rank")?);
    let width = required("embedding_length")?;
    file.set("n_groups", json!(1));
    file.set("num_heads", json!(heads));
    file.set("head_dim", json!(inner / heads.max(1)));
    file.set(
        "expand",
        if width > 0 && inner.is_multiple_of(width) {
            json!(inner / width)
        } else {
            json!(inner as f64 / width as f64)
        },
    );
    Ok(())
}
