//! A random model of a few thousand parameters in Hugging Face's layout.

use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

/// The chat format of the tiny tokenizer: each turn between `<|im_start|>` and `<|im_end|>`.
pub const CHAT_TEMPLATE: &str = "{%- for message in messages -%}\n\
    {{- '<|im_start|>' + message['role'] + '\\n' -}}\n\
    {%- if message['role'] == 'assistant' -%}\n\
    {%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}\n\
    {%- else -%}\n\
    {{- message['content'] + '<|im_end|>' -}}\n\
    {%- endif -%}\n\
    {{- '\\n' -}}\n\
    {%- endfor -%}\n\
    {%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}";

/// The special tokens; their ids follow the 256 bytes.
const SPECIAL: [&str; 4] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"];

/// Where a tiny model lies and how large it is.
#[derive(Clone, Debug)]
pub struct TinyModel {
    /// The folder.
    pub dir: PathBuf,
    /// Rows of the embedding: 320, of which the tokenizer uses 260.
    pub vocab_size: usize,
    /// Width.
    pub d_model: usize,
    /// Decoder blocks.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub d_head: usize,
    /// Width of the feed-forward part.
    pub d_ff: usize,
    /// Longest sequence.
    pub max_seq_len: usize,
    /// The id of `<|endoftext|>`, which begins and ends documents.
    pub eos: u32,
    /// The id of `<|im_end|>`, which ends a turn.
    pub turn_end: u32,
    /// The id of `<|pad|>`.
    pub pad: u32,
}

/// Writes a random Llama model with its tokenizer: `config.json`, `generation_config.json`, `model.safetensors`,
/// `tokenizer.json`, `tokenizer_config.json`. The same seed writes the same bytes.
pub fn tiny_llama_dir(dir: &Path, seed: u64) -> TinyModel {
    let model = TinyModel {
        dir: dir.to_path_buf(),
        vocab_size: 320,
        d_model: 32,
        n_layers: 2,
        n_heads: 4,
        n_kv_heads: 2,
        d_head: 8,
        d_ff: 64,
        max_seq_len: 256,
        eos: 256,
        turn_end: 258,
        pad: 259,
    };
    std::fs::create_dir_all(dir).unwrap();
    write_json(&dir.join("config.json"), &config(&model));
    let generation = json!({ "bos_token_id": 256, "eos_token_id": [256, 258], "pad_token_id": 259 });
    write_json(&dir.join("generation_config.json"), &generation);
    write_weights(&model, seed);
    tiny_tokenizer_files(dir);
    model
}

/// Writes `tokenizer.json` and `tokenizer_config.json` of a tokenizer whose tokens are the 256 bytes and four special
/// tokens; no merges.
pub fn tiny_tokenizer_files(dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(i, content)| {
            json!({ "id": 256 + i, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true })
        })
        .collect();
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let mut vocab = serde_json::Map::new();
    for byte in 0..=255u8 {
        vocab.insert(byte_char(byte).to_string(), json!(byte));
    }
    for (i, content) in SPECIAL.iter().enumerate() {
        vocab.insert((*content).to_owned(), json!(256 + i));
    }
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                   "vocab": vocab, "merges": [] },
    });
    write_json(&dir.join("tokenizer.json"), &tokenizer);
    let settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 256, "clean_up_tokenization_spaces": false,
        "bos_token": SPECIAL[0], "eos_token": SPECIAL[0], "pad_token": SPECIAL[3], "chat_template": CHAT_TEMPLATE,
    });
    write_json(&dir.join("tokenizer_config.json"), &settings);
}

fn config(model: &TinyModel) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": model.vocab_size,
        "hidden_size": model.d_model, "num_hidden_layers": model.n_layers, "num_attention_heads": model.n_heads,
        "num_key_value_heads": model.n_kv_heads, "head_dim": model.d_head, "intermediate_size": model.d_ff,
        "max_position_embeddings": model.max_seq_len, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "rope_scaling": null, "hidden_act": "silu", "attention_bias": false, "attention_dropout": 0.0,
        "mlp_bias": false, "tie_word_embeddings": false, "initializer_range": 0.02, "torch_dtype": "float32",
        "use_cache": true, "bos_token_id": 256, "eos_token_id": [256, 258], "pad_token_id": 259,
    })
}

fn write_json(path: &Path, value: &Value) {
    std::fs::write(path, serde_json::to_vec_pretty(value).unwrap()).unwrap();
}

fn write_weights(model: &TinyModel, seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x243f_6a88_85a3_08d3);
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut matrix = |name: String, rows: usize, columns: usize| {
        let scale = (columns as f32).powf(-0.5);
        let data = (0..rows * columns).flat_map(|_| (random.normal() * scale).to_le_bytes()).collect();
        tensors.push((name, vec![rows, columns], data));
    };
    let (d, q, kv) = (model.d_model, model.n_heads * model.d_head, model.n_kv_heads * model.d_head);
    matrix("model.embed_tokens.weight".into(), model.vocab_size, d);
    matrix("lm_head.weight".into(), model.vocab_size, d);
    for layer in 0..model.n_layers {
        for (part, rows, columns) in [
            ("self_attn.q_proj", q, d),
            ("self_attn.k_proj", kv, d),
            ("self_attn.v_proj", kv, d),
            ("self_attn.o_proj", d, q),
            ("mlp.gate_proj", model.d_ff, d),
            ("mlp.up_proj", model.d_ff, d),
            ("mlp.down_proj", d, model.d_ff),
        ] {
            matrix(format!("model.layers.{layer}.{part}.weight"), rows, columns);
        }
    }
    let mut norm = |name: String| {
        // Near one but not one, so that a test notices a norm that is left out.
        let data = (0..d).flat_map(|_| (1.0 + 0.1 * random.normal()).to_le_bytes()).collect();
        tensors.push((name, vec![d], data));
    };
    for layer in 0..model.n_layers {
        norm(format!("model.layers.{layer}.input_layernorm.weight"));
        norm(format!("model.layers.{layer}.post_attention_layernorm.weight"));
    }
    norm("model.norm.weight".into());
    let views = tensors.iter().map(|(n, s, d)| (n.as_str(), TensorView::new(Dtype::F32, s.clone(), d).unwrap()));
    let metadata = [("format".to_owned(), "pt".to_owned())].into_iter().collect();
    let bytes = safetensors::serialize(views, Some(metadata)).unwrap();
    std::fs::write(model.dir.join("model.safetensors"), bytes).unwrap();
}

/// The character that stands for a byte in a byte-level vocabulary: itself where it can be seen, else one from U+0100
/// on.
fn byte_char(byte: u8) -> char {
    let shown = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    if shown(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|&b| !shown(b)).count() as u32;
    char::from_u32(256 + before).unwrap()
}

/// SplitMix64; good enough to fill weights.
struct Random(u64);

impl Random {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The sum of twelve uniform numbers, less six: nearly normal, and the same on every machine.
    fn normal(&mut self) -> f32 {
        ((0..12).map(|_| self.uniform()).sum::<f64>() - 6.0) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TempDir;

    #[test]
    fn the_same_seed_writes_the_same_model() {
        let (a, b, c) = (TempDir::new("tiny"), TempDir::new("tiny"), TempDir::new("tiny"));
        tiny_llama_dir(a.path(), 1);
        tiny_llama_dir(b.path(), 1);
        tiny_llama_dir(c.path(), 2);
        let read = |dir: &TempDir| std::fs::read(dir.join("model.safetensors")).unwrap();
        assert_eq!(read(&a), read(&b));
        assert_ne!(read(&a), read(&c));
    }

    #[test]
    fn bytes_are_written_as_in_gpt2() {
        assert_eq!(byte_char(b' '), 'Ġ');
        assert_eq!(byte_char(b'\n'), 'Ċ');
        assert_eq!(byte_char(b'A'), 'A');
        assert_eq!(byte_char(173), 'Ń');
    }

    #[test]
    fn all_weights_of_the_architecture_are_there() {
        let dir = TempDir::new("tiny");
        let model = tiny_llama_dir(dir.path(), 3);
        let bytes = std::fs::read(dir.join("model.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.len(), 3 + 9 * model.n_layers);
        assert_eq!(file.tensor("model.layers.1.mlp.down_proj.weight").unwrap().shape(), [32, 64]);
    }
}
