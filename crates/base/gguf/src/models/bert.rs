//! BERT, RoBERTa and DistilBERT: llama.cpp gives a vector for each token, or for a text; their other heads it leaves out.

use cupola_artifact::{Error, Result};
use serde_json::{Value, json};

use super::change::Change;
use super::settings::{Constant, Described, Export, Fixed, Setting, count, fixed, number};
use super::{Architecture, Tensor, changed, same};

/// What llama.cpp calls the mean of a text's vectors.
const MEAN: u32 = 1;

/// llama.cpp has one GELU for all, which differs from the exact one by less than 0.001.
const GELUS: &[Constant] = &[Constant::Text("gelu"), Constant::Text("gelu_new"), Constant::Text("gelu_fast")];

const SETTINGS: &[Setting] = &[
    count(&["hidden_size"], "embedding_length"),
    count(&["num_hidden_layers"], "block_count"),
    count(&["intermediate_size"], "feed_forward_length"),
    count(&["num_attention_heads"], "attention.head_count"),
    number(&["layer_norm_eps"], "attention.layer_norm_epsilon"),
];

const FIXED: &[Fixed] = &[
    fixed("hidden_act", GELUS),
    fixed("position_embedding_type", &[Constant::Text("absolute")]),
    fixed("is_decoder", &[Constant::Flag(false)]),
    fixed("add_cross_attention", &[Constant::Flag(false)]),
];

const EMBEDDINGS: &[Tensor] = &[
    same("embeddings.word_embeddings", "token_embd"),
    changed("embeddings.position_embeddings", "position_embd", Change::Positions),
    same("embeddings.LayerNorm", "token_embd_norm"),
];

/// BERT.
pub const BERT: Architecture = Architecture {
    model_type: "bert",
    class: "BertModel",
    name: "bert",
    settings: &[SETTINGS],
    fixed: FIXED,
    tensors: &[
        EMBEDDINGS,
        &[
            same("embeddings.token_type_embeddings", "token_types"),
            same("encoder.layer.{}.attention.self.query", "blk.{}.attn_q"),
            same("encoder.layer.{}.attention.self.key", "blk.{}.attn_k"),
            same("encoder.layer.{}.attention.self.value", "blk.{}.attn_v"),
            same("encoder.layer.{}.attention.output.dense", "blk.{}.attn_output"),
            same("encoder.layer.{}.attention.output.LayerNorm", "blk.{}.attn_output_norm"),
            same("encoder.layer.{}.intermediate.dense", "blk.{}.ffn_up"),
            same("encoder.layer.{}.output.dense", "blk.{}.ffn_down"),
            same("encoder.layer.{}.output.LayerNorm", "blk.{}.layer_output_norm"),
        ],
    ],
    write,
    read,
    marks: &["token_types.weight"],
    left_out: &["cls.", "pooler.", "classifier.", "qa_outputs."],
    prefix: "bert.",
};

/// RoBERTa, whose first position is the one after the padding token's number. Without the rows before it is a BERT, and read
/// as one.
pub const ROBERTA: Architecture = Architecture {
    model_type: "roberta",
    class: "RobertaModel",
    write: write_roberta,
    left_out: &["lm_head.", "pooler.", "classifier.", "qa_outputs."],
    prefix: "roberta.",
    ..BERT
};

/// The same in a hundred languages.
pub const XLM_ROBERTA: Architecture = Architecture { model_type: "xlm-roberta", class: "XLMRobertaModel", ..ROBERTA };

/// DistilBERT: no types of texts.
pub const DISTILBERT: Architecture = Architecture {
    model_type: "distilbert",
    class: "DistilBertModel",
    settings: &[&[
        count(&["max_position_embeddings"], "context_length"),
        count(&["dim"], "embedding_length"),
        count(&["n_layers"], "block_count"),
        count(&["hidden_dim"], "feed_forward_length"),
        count(&["n_heads"], "attention.head_count"),
    ]],
    fixed: &[fixed("activation", GELUS)],
    tensors: &[
        EMBEDDINGS,
        &[
            same("transformer.layer.{}.attention.q_lin", "blk.{}.attn_q"),
            same("transformer.layer.{}.attention.k_lin", "blk.{}.attn_k"),
            same("transformer.layer.{}.attention.v_lin", "blk.{}.attn_v"),
            same("transformer.layer.{}.attention.out_lin", "blk.{}.attn_output"),
            same("transformer.layer.{}.sa_layer_norm", "blk.{}.attn_output_norm"),
            same("transformer.layer.{}.ffn.lin1", "blk.{}.ffn_up"),
            same("transformer.layer.{}.ffn.lin2", "blk.{}.ffn_down"),
            same("transformer.layer.{}.output_layer_norm", "blk.{}.layer_output_norm"),
        ],
    ],
    write: write_distilbert,
    read: |_| Ok(()),
    marks: &[],
    left_out: &["vocab_", "pre_classifier.", "classifier.", "qa_outputs."],
    prefix: "distilbert.",
    ..BERT
};

/// What all encoders say: every token sees all, and a text's vector is the mean of its tokens'.
pub fn write_encoder(export: &mut Export<'_>) {
    export.set("attention.causal", false);
    export.set("pooling_type", MEAN);
}

fn write(export: &mut Export<'_>) -> Result<()> {
    let rows = export.size_or(&["max_position_embeddings"], 512)?;
    export.set_size("context_length", rows)?;
    let types = export.size_or(&["type_vocab_size"], 2)?;
    export.metadata.set("tokenizer.ggml.token_type_count", types as u32);
    write_encoder(export);
    Ok(())
}

fn write_roberta(export: &mut Export<'_>) -> Result<()> {
    write(export)?;
    let rows = export.size_or(&["max_position_embeddings"], 512)?;
    let unused = export.get(&["pad_token_id"]).and_then(Value::as_u64).unwrap_or(1) as usize + 1;
    if unused >= rows {
        return Err(Error::failed(format!("config.json has {rows} positions, of which the first is number {unused}")));
    }
    export.unused = unused;
    export.set_size("context_length", rows - unused)
}

fn write_distilbert(export: &mut Export<'_>) -> Result<()> {
    export.set("attention.layer_norm_epsilon", 1e-12f32);
    // None is not allowed, but the table may be absent.
    export.metadata.set("tokenizer.ggml.token_type_count", 1u32);
    write_encoder(export);
    Ok(())
}

fn read(file: &mut Described<'_>) -> Result<()> {
    let context = file.size("context_length")?.unwrap_or(512);
    let types = file.metadata.size("tokenizer.ggml.token_type_count")?.unwrap_or(2);
    file.set("max_position_embeddings", json!(context));
    file.set("type_vocab_size", json!(types));
    Ok(())
}
