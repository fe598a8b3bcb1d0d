//! docs/architectures.md is made from the list of families.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use cupola_arch::{Family, Model, Sizes, Spec};
use cupola_nn::{BlockSpec, Layout, NormKind, Task};
use cupola_testkit::fixture;
use serde_json::Value;

const INTRODUCTION: &str = "\
# Architectures

Every family that a recipe can name (`family = \"…\"`) and every `model_type` of a Hugging Face folder that loads. The table is made
from the list in `crates/model/arch/src/lib.rs` and describes the model that a recipe makes; files bring other sizes and options.
*Checked* names the reference fixtures whose logits, hidden states, loss, gradients and greedy generation the family equals within
their tolerances (`crates/model/arch/tests/parity`).

";

/// The sizes of the model that is described.
fn sizes(family: &dyn Family) -> Sizes {
    Sizes {
        vocab_size: 1000,
        d_model: 128,
        n_layers: 6,
        n_heads: 4,
        n_kv_heads: 2,
        d_head: 32,
        d_ff: 256,
        max_seq_len: 64,
        tie_embeddings: false,
        bos: None,
        eos: vec![],
        pad: None,
        settings: Default::default(),
        experts: family.experts().unwrap_or_default(),
    }
}

/// Different texts once each, in order of appearance.
fn once(texts: impl Iterator<Item = String>) -> String {
    let mut seen: Vec<String> = vec![];
    texts.filter(|t| !t.is_empty()).for_each(|t| {
        if !seen.contains(&t) {
            seen.push(t)
        }
    });
    if seen.is_empty() { "–".into() } else { seen.join("; ") }
}

fn norm(block: &BlockSpec) -> String {
    let kind = match block.norm.kind {
        NormKind::Rms => "RMSNorm",
        NormKind::Layer => "LayerNorm",
    };
    let place = match block.layout {
        Layout::PreNorm => "before each layer",
        Layout::PreNormButFirst => "before each layer but the first",
        Layout::PostNorm => "after each layer",
        Layout::NormedResidual => "before each layer, on the residual",
        Layout::Sandwich => "before and after each layer",
        Layout::Residual => "inside each layer",
        Layout::Bare => return String::new(),
        Layout::Parallel => "one each, layers side by side",
        Layout::ParallelShared => "one for both, layers side by side",
    };
    format!("{kind} {place}")
}

/// The fixtures of a family.
fn checked(family: &dyn Family) -> String {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(fixture("llama").parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        let Ok(text) = std::fs::read(path.join("config.json")) else { continue };
        let config: Value = serde_json::from_slice(&text).unwrap();
        if config["model_type"] == family.model_type() {
            names.insert(path.file_name().unwrap().to_str().unwrap().to_string());
        }
    }
    if names.is_empty() { "as its next of kin".into() } else { names.into_iter().collect::<Vec<_>>().join(", ") }
}

fn row(family: &'static dyn Family) -> String {
    let spec = Model::fresh_spec(family, &sizes(family)).unwrap();
    let (kind, objectives) = match &spec {
        Spec::Decoder(_) => ("decoder", "causal"),
        Spec::Encoder(spec) if spec.head.is_some_and(|head| head.task == Task::Replaced) => ("encoder", "replaced"),
        Spec::Encoder(_) => ("encoder", "masked"),
        Spec::EncoderDecoder(_) => ("encoder-decoder", "span corruption; denoising"),
    };
    let stack = spec.stack();
    let writer = spec.encoder_decoder().ok().map(|spec| &spec.decoder);
    let layers = || [stack].into_iter().chain(writer).flat_map(|s| &s.blocks).flat_map(|b| &b.layers);
    let of = |ffn: bool| layers().filter(move |(name, _)| (*name == "ffn") == ffn).map(|(_, layer)| layer.kind());
    let table = if stack.embedding.sinusoids { "sinusoids" } else { "learned" };
    let learned = stack.embedding.positions.map(|_| table.to_string());
    let positions = learned.into_iter().chain(of(false).filter_map(|l| l.positions().map(String::from)));
    let columns = [
        format!("`{}`", family.model_type()),
        kind.into(),
        once(of(false).map(|l| l.about())),
        once(positions),
        once(stack.blocks.iter().map(norm)),
        once(of(true).map(|l| l.about())),
        once(layers().filter_map(|(_, l)| l.kind().remembers().map(String::from))),
        objectives.into(),
        family.paper().into(),
        checked(family),
    ];
    format!("| {} |", columns.join(" | "))
}

/// With `CUPOLA_WRITE_DOCS` set the file is written instead of compared.
#[test]
fn the_table_of_architectures_is_that_of_the_list() {
    let mut text = INTRODUCTION.to_string();
    let head = "family | kind | mixing | positions | norm | feed-forward | remembers | objectives | paper | checked";
    writeln!(text, "| {head} |\n|{}", "---|".repeat(10)).unwrap();
    cupola_arch::ALL.iter().for_each(|family| writeln!(text, "{}", row(*family)).unwrap());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs/architectures.md");
    if std::env::var_os("CUPOLA_WRITE_DOCS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == text, "docs/architectures.md is not that of the list: run the test with CUPOLA_WRITE_DOCS=1");
}
