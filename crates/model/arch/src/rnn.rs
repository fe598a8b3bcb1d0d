//! Recurrent language models as before Transformers (Mikolov et al. 2010; Sundermeyer et al. 2012): an embedding, layers of
//! one kind of cell, an output layer. The names are those of `torch.nn` modules called `embedding`, `rnn` and `head`.

use cupola_artifact::Result;
use cupola_nn::{BlockSpec, CellSpec, EmbeddingSpec, Layout, NormSpec, StackSpec};
use cupola_ops::RecurrentKind;
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{Family, Form, Sizes};
use crate::names::NameTable;
use crate::network::Spec;
use crate::recurrent::decoder;

/// Language models of one kind of cell.
pub struct Rnn {
    kind: RecurrentKind,
    model_type: &'static str,
    architecture: &'static str,
    paper: &'static str,
}

/// Elman's.
pub const ELMAN: Rnn = Rnn {
    kind: RecurrentKind::Tanh,
    model_type: "cupola_rnn",
    architecture: "CupolaRnnForCausalLM",
    paper: "Elman 1990, Finding Structure in Time",
};

/// With long short-term memory.
pub const LSTM: Rnn = Rnn {
    kind: RecurrentKind::Lstm,
    model_type: "cupola_lstm",
    architecture: "CupolaLstmForCausalLM",
    paper: "Hochreiter and Schmidhuber 1997, Long Short-Term Memory",
};

/// With gated units.
pub const GRU: Rnn = Rnn {
    kind: RecurrentKind::Gru,
    model_type: "cupola_gru",
    architecture: "CupolaGruForCausalLM",
    paper: "Cho et al. 2014, Learning Phrase Representations using RNN Encoder-Decoder, arXiv:1406.1078",
};

impl Family for Rnn {
    fn model_type(&self) -> &'static str {
        self.model_type
    }

    fn architecture(&self) -> &'static str {
        self.architecture
    }

    fn paper(&self) -> &'static str {
        self.paper
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        let d_model = config.required_size("hidden_size")?;
        let layers = vec![("cell", CellSpec { kind: self.kind }.into())];
        let block = BlockSpec { layout: Layout::Bare, norm: NormSpec::layer(1e-5), layers };
        let stack = StackSpec {
            vocab_size: config.required_size("vocab_size")?,
            d_model,
            max_seq_len: config.size("max_position_embeddings")?.unwrap_or(2048),
            embedding: EmbeddingSpec::plain(d_model),
            blocks: vec![block; config.blocks("num_hidden_layers")?],
            norm: None,
        };
        decoder(config, stack, false)
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let config = json!({
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
