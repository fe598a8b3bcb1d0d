//! `cupola export`: a model for other programs.

use std::path::{Path, PathBuf};

use cupola_arch::Parts;
use cupola_artifact::{Context, Error, Result, human_bytes, write_atomic, write_safetensors};
use cupola_gguf::format_by_name;
use cupola_gguf::models::ToGguf;
use cupola_serve::{model_name, resolve_model};
use cupola_tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::args::{Device, ExportArgs, Layout};
use crate::out::say;

/// How matrices are stored without `--type`.
const DEFAULT_TYPE: &str = "f16";

/// `cupola export`.
pub fn run(args: &ExportArgs) -> Result<()> {
    // An adapter's folder has no config.json of its own.
    let model = match args.model.join("adapter_config.json").is_file() {
        true => args.model.clone(),
        false => resolve_model(&args.model)?.0,
    };
    let name = model_name(&model);
    let name = name.strip_suffix(".gguf").unwrap_or(&name);
    match (args.to, &args.element) {
        (Layout::Gguf, element) => {
            let element = element.as_deref().unwrap_or(DEFAULT_TYPE);
            let out =
                args.out.clone().unwrap_or_else(|| PathBuf::from(format!("{name}-{}.gguf", element.to_lowercase())));
            to_gguf(&model, name, element, &out)
        }
        (Layout::Hf, None) => to_hf(&model, &args.out.clone().unwrap_or_else(|| PathBuf::from(format!("{name}-hf")))),
        (Layout::Hf, Some(_)) => Err(Error::usage("`--type` is for `--to gguf`")
            .with_hint("a Hugging Face folder keeps the model's own element type")),
    }
}

fn parts(model: &Path) -> Result<Parts> {
    let device = cupola_ops::open(Device::Cpu.name())?;
    Parts::read(model, &device)
}

fn to_gguf(model: &Path, name: &str, element: &str, out: &Path) -> Result<()> {
    let format = format_by_name(element)?;
    let Parts { config, mut state } = parts(model)?;
    let shapes: Vec<_> = state.iter().map(|(name, tensor)| (name.clone(), tensor.shape.clone())).collect();
    let mut file = ToGguf::plan(&config, &shapes, format)?;
    file.metadata.set("general.name", name);
    let rows = file.tensors().find(|t| t.name == "token_embd.weight").and_then(|t| t.shape.first().copied());
    Tokenizer::load(model)?.set_gguf(&mut file.metadata, rows.unwrap_or(0))?;
    // Each tensor is asked for once.
    file.write(out, |name| state.remove(name).ok_or_else(|| Error::failed(format!("`{name}` is gone"))))?;
    let others = file.tensors().filter(|t| t.shape.len() > 1 && t.format != format).count();
    let remark = match others {
        0 => String::new(),
        n => format!("; {n} matrices in other formats"),
    };
    let heads = match file.left_out.len() {
        0 => String::new(),
        n => format!("; {n} tensors of heads, which llama.cpp does not compute, left out"),
    };
    written(out, &format!("{} tensors as {}{remark}{heads}", file.tensors().count(), format.name))
}

fn to_hf(model: &Path, out: &Path) -> Result<()> {
    if out.join("config.json").exists() {
        return Err(Error::usage(format!("{} holds a model already", out.display()))
            .with_hint("name another folder with --out, or remove it"));
    }
    let Parts { config, state } = parts(model)?;
    let tokenizer = Tokenizer::load(model)?;
    std::fs::create_dir_all(out).context(|| format!("cannot create {}", out.display()))?;
    let id = |key: &str| config.get(key).cloned().unwrap_or(Value::Null);
    let generation = json!({
        "bos_token_id": id("bos_token_id"), "eos_token_id": id("eos_token_id"), "pad_token_id": id("pad_token_id"),
    });
    tokenizer.save(out)?;
    write_safetensors(&out.join("model.safetensors"), &state, &[("format", "pt")])?;
    for (file, value) in [("generation_config.json", generation), ("config.json", Value::Object(config))] {
        write_atomic(&out.join(file), format!("{value:#}\n").as_bytes())?;
    }
    written(&out.join("model.safetensors"), &format!("{} tensors", state.len()))
}

fn written(path: &Path, what: &str) -> Result<()> {
    let bytes = std::fs::metadata(path).context(|| format!("cannot read {}", path.display()))?.len();
    say(&format!("{}: {what}, {}", path.display(), human_bytes(bytes as f64)));
    Ok(())
}
