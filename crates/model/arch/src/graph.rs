//! A language model over a graph of its text: tokens and phrases are nodes, typed edges tell how they are related, and attention
//! gathers over the edges (Busbridge et al. 2019; Dwivedi and Bresson 2020). The rest is a Llama.

use cupola_artifact::Result;
use cupola_nn::{EdgeSpec, GraphSpec};
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{Family, Sizes};
use crate::likeness::LlamaLike;
use crate::names::NameTable;
use crate::network::Spec;

/// Attention over a graph.
pub struct Graph;

/// The names of a relation's vectors.
macro_rules! relations {
    ($($name:literal),*) => {
        &[
            ("embed.tokens", "model.embed_tokens"),
            ("norm", "model.norm"),
            ("head", "lm_head"),
            ("layers.{}.attention_norm", "model.layers.{}.input_layernorm"),
            ("layers.{}.attention.q", "model.layers.{}.graph_attn.q_proj"),
            ("layers.{}.attention.k", "model.layers.{}.graph_attn.k_proj"),
            ("layers.{}.attention.v", "model.layers.{}.graph_attn.v_proj"),
            ("layers.{}.attention.o", "model.layers.{}.graph_attn.o_proj"),
            ("layers.{}.attention.gate", "model.layers.{}.graph_attn.gate_proj"),
            ("layers.{}.attention.phrase_norm", "model.layers.{}.graph_attn.phrase_norm"),
            ("layers.{}.attention.phrase_q", "model.layers.{}.graph_attn.phrase_q_proj"),
            ("layers.{}.attention.phrase_k", "model.layers.{}.graph_attn.phrase_k_proj"),
            ("layers.{}.attention.phrase_v", "model.layers.{}.graph_attn.phrase_v_proj"),
            ("layers.{}.ffn_norm", "model.layers.{}.post_attention_layernorm"),
            ("layers.{}.ffn.gate", "model.layers.{}.mlp.gate_proj"),
            ("layers.{}.ffn.up", "model.layers.{}.mlp.up_proj"),
            ("layers.{}.ffn.down", "model.layers.{}.mlp.down_proj"),
            $((
                concat!("layers.{}.attention.", $name),
                concat!("model.layers.{}.graph_attn.relations.", $name),
            ),)*
        ]
    };
}

const NAMES: NameTable = relations!("previous", "same", "follows", "phrase", "member", "earlier");

impl Family for Graph {
    fn model_type(&self) -> &'static str {
        "cupola_graph"
    }

    fn architecture(&self) -> &'static str {
        "CupolaGraphForCausalLM"
    }

    fn paper(&self) -> &'static str {
        "Busbridge et al. 2019, Relational Graph Attention Networks, arXiv:1904.05811; Dwivedi and Bresson 2020, A \
         Generalization of Transformer Networks to Graphs, arXiv:2012.09699"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        let like = LlamaLike::read(config)?;
        let edges = EdgeSpec {
            previous: config.required_size("previous_tokens")?,
            same: config.count("same_tokens", 0)?,
            phrases: config.count("phrases", 0)?,
            phrase: config.required_size("phrase_length")?,
        };
        let attention = &like.attention;
        let mut block = like.block(attention.clone());
        let spec = GraphSpec {
            n_heads: attention.n_heads,
            n_kv_heads: attention.n_kv_heads,
            d_head: attention.d_head,
            rope: config.rope(attention.d_head)?,
            edges,
        };
        block.layers[0].1 = spec.into();
        let blocks = vec![block; like.n_layers];
        like.spec_of(config, blocks)
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let mut config = LlamaLike::fresh(sizes);
        let settings = [("previous_tokens", 16), ("same_tokens", 4), ("phrases", 8), ("phrase_length", 8)];
        config.extend(settings.map(|(key, value)| (key.into(), json!(value))));
        config
    }

    fn names(&self) -> NameTable {
        NAMES
    }

    fn settings(&self) -> &'static [&'static str] {
        &["previous_tokens", "same_tokens", "phrases", "phrase_length"]
    }
}
