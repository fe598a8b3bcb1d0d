//! Recurrent language models as before Transformers (Mikolov et al. 2010; Sundermeyer et al. 2012): an embedding, layers of
//! one kind of cell, an output layer. The names are those of `torch.nn` modules called `embedding`, `rnn` and `head`.

use cupola_artifact::{Error, Result};
use cupola_nn::{BlockSpec, CellSpec, EmbeddingSpec, Layout, NormSpec, StackSpec};
use cupola_ops::RecurrentKind;
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{Family, Form, Sizes};
use crate::names::NameTable;
use crate::network::Spec;
use crate::recurrent::decoder;

/// Elman networks, LSTM and GRU, by the setting `cell`.
pub struct Rnn;

/// The names of cells.
const CELLS: &[(&str, RecurrentKind)] =
    &[("rnn", RecurrentKind::Tanh), ("lstm", RecurrentKind::Lstm), ("gru", RecurrentKind::Gru)];

impl Family for Rnn {
    fn model_type(&self) -> &'static str {
        "cupola_rnn"
    }

    fn architecture(&self) -> &'static str {
        "CupolaRnnForCausalLM"
    }

    fn paper(&self) -> &'static str {
        "Elman 1990, Finding Structure in Time; Hochreiter and Schmidhuber 1997, Long Short-Term Memory; Cho et al. 2014, \
         arXiv:1406.1078"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        let (d_model, name) = (config.required_size("hidden_size")?, config.text("cell", "lstm")?);
        let Some((_, kind)) = CELLS.iter().find(|cell| cell.0 == name) else {
            let known: Vec<_> = CELLS.iter().map(|cell| cell.0).collect();
            return Err(Error::failed(format!("`cell` in config.json is \"{name}\""))
                .with_hint(format!("this build knows: {}", known.join(", "))));
        };
        let layers = vec![("cell", CellSpec { kind: *kind }.into())];
        let block = BlockSpec { layout: Layout::Bare, norm: NormSpec::layer(1e-5), layers };
        let stack = StackSpec {
            vocab_size: config.required_size("vocab_size")?,
            d_model,
            max_seq_len: config.size("max_position_embeddings")?.unwrap_or(2048),
            embedding: EmbeddingSpec::plain(d_model),
            blocks: vec![block; config.required_size("num_hidden_layers")?],
            norm: None,
        };
        decoder(config, stack, false)
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let config = json!({
            "cell": "lstm",
            "hidden_size": sizes.d_model,
            "num_hidden_layers": sizes.n_layers,
            "max_position_embeddings": sizes.max_seq_len,
        });
        config.as_object().cloned().unwrap_or_default()
    }

    fn names(&self) -> NameTable {
        &[
            ("embed.tokens", "embedding"),
            ("head", "head"),
            ("layers.{}.cell.w_ih", "rnn.weight_ih_l{}"),
            ("layers.{}.cell.w_hh", "rnn.weight_hh_l{}"),
            ("layers.{}.cell.b_ih", "rnn.bias_ih_l{}"),
            ("layers.{}.cell.b_hh", "rnn.bias_hh_l{}"),
        ]
    }

    fn form(&self) -> Form {
        Form { gated: false, grouped_queries: false }
    }
}
