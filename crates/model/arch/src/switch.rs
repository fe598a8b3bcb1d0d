//! Switch Transformers (Fedus et al. 2021): T5 of which some blocks have experts, one for each token, that take a limited number
//! of tokens of each text.

use cupola_artifact::{Error, Result};
use cupola_nn::{FfnKind, LayerSpec, SwitchSpec};
use serde_json::{Map, Value, json};

use crate::config::ConfigJson;
use crate::family::{ExpertSizes, Family, Form, Sizes};
use crate::names::NameTable;
use crate::network::Spec;
use crate::rearrange::Rearrangement;
use crate::seq2seq::T5Like;
use crate::t5::kept;

/// Switch Transformers.
pub struct SwitchTransformers;

/// Every so many blocks one has experts, counted from the second.
fn step(config: &ConfigJson<'_>, side: &str, n_layers: usize) -> Result<usize> {
    let key = format!("num_sparse_{side}_layers");
    let sparse = config.get(&key).map_or(Some(3), |value| value.as_u64().map(|n| n as usize));
    match sparse {
        Some(0) => Ok(n_layers),
        Some(sparse) if sparse <= n_layers => Ok(n_layers / sparse),
        _ => Err(Error::failed(format!("`{key}` in config.json should be a number up to the {n_layers} layers"))),
    }
}

/// The experts of a fresh model; a token goes to one, whatever else is asked for.
const USUAL: ExpertSizes = ExpertSizes { count: 4, per_token: 1, balance_loss: 0.01, z_loss: 0.001 };

impl Family for SwitchTransformers {
    fn model_type(&self) -> &'static str {
        "switch_transformers"
    }

    fn architecture(&self) -> &'static str {
        "SwitchTransformersForConditionalGeneration"
    }

    fn paper(&self) -> &'static str {
        "Fedus et al. 2021, Switch Transformers: Scaling to Trillion Parameter Models with Simple and Efficient Sparsity, arXiv:2101.03961"
    }

    fn read(&self, config: &ConfigJson<'_>) -> Result<Spec> {
        config.only(&[("router_ignore_padding_tokens", json!(false))])?;
        let mut like = T5Like::read(config, "relu")?;
        let f = config.activation("dense_act_fn", "relu")?;
        like.ffn.kind = FfnKind::Plain(f);
        let dense = like.ffn.clone();
        let experts = SwitchSpec {
            n_experts: config.size("num_experts")?.unwrap_or(8),
            capacity: config.size("expert_capacity")?.unwrap_or(64),
            d_ff: dense.d_ff,
            f,
            router_bias: config.flag("router_bias", false)?,
            z_loss: config.number("router_z_loss_coef", 0.001)? as f32,
        };
        let steps = [step(config, "encoder", like.n_layers[0])?, step(config, "decoder", like.n_layers[1])?];
        let d_model = like.d_model;
        let mut spec = like.spec(config, |side, block| match block % steps[side] == 1 || steps[side] == 1 {
            true => experts.clone().into(),
            false => dense.clone().into(),
        })?;
        spec.balance = config.number("router_aux_loss_coef", 0.001)? as f32;
        spec.head_scale = spec.tie_embeddings.then(|| (d_model as f32).powf(-0.5));
        Ok(Spec::EncoderDecoder(spec))
    }

    fn fresh(&self, sizes: &Sizes) -> Map<String, Value> {
        let mut config = T5Like::fresh(sizes);
        let sparse = sizes.n_layers.div_ceil(2);
        let experts = sizes.experts;
        config.extend([
            ("dense_act_fn".to_string(), json!("relu")),
            ("num_experts".into(), json!(experts.count)),
            // A quarter more than an even share.
            ("expert_capacity".into(), json!((5 * sizes.max_seq_len).div_ceil(4 * experts.count.max(1)))),
            ("num_sparse_encoder_layers".into(), json!(sparse)),
            ("num_sparse_decoder_layers".into(), json!(sparse)),
            ("router_bias".into(), json!(false)),
            ("router_jitter_noise".into(), json!(0.0)),
            ("router_ignore_padding_tokens".into(), json!(false)),
            ("router_aux_loss_coef".into(), json!(experts.balance_loss)),
            ("router_z_loss_coef".into(), json!(experts.z_loss)),
        ]);
        config
    }

    fn names(&self) -> NameTable {
        &[
            ("encoder.embed.tokens", "shared"),
            ("head", "lm_head"),
            ("encoder.norm", "encoder.final_layer_norm"),
            ("encoder.embed.relative", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"),
            ("encoder.layers.{}.attention_norm", "encoder.block.{}.layer.0.layer_norm"),
            ("encoder.layers.{}.attention.q", "encoder.block.{}.layer.0.SelfAttention.q"),
            ("encoder.layers.{}.attention.k", "encoder.block.{}.layer.0.SelfAttention.k"),
            ("encoder.layers.{}.attention.v", "encoder.block.{}.layer.0.SelfAttention.v"),
            ("encoder.layers.{}.attention.o", "encoder.block.{}.layer.0.SelfAttention.o"),
            ("encoder.layers.{}.ffn_norm", "encoder.block.{}.layer.1.layer_norm"),
            ("encoder.layers.{}.ffn.up", "encoder.block.{}.layer.1.mlp.wi"),
            ("encoder.layers.{}.ffn.down", "encoder.block.{}.layer.1.mlp.wo"),
            ("encoder.layers.{}.ffn.router", "encoder.block.{}.layer.1.mlp.router.classifier"),
            ("encoder.layers.{}.ffn.router.shift", "encoder.block.{}.layer.1.mlp.router.classifier.bias"),
            ("encoder.layers.{}.ffn.experts.up", "encoder.block.{}.layer.1.mlp.experts.wi.weight"),
            ("encoder.layers.{}.ffn.experts.down", "encoder.block.{}.layer.1.mlp.experts.wo.weight"),
            ("decoder.norm", "decoder.final_layer_norm"),
            ("decoder.embed.relative", "decoder.block.0.layer.0.SelfAttention.relative_attention_bias"),
            ("decoder.layers.{}.attention_norm", "decoder.block.{}.layer.0.layer_norm"),
            ("decoder.layers.{}.attention.q", "decoder.block.{}.layer.0.SelfAttention.q"),
            ("decoder.layers.{}.attention.k", "decoder.block.{}.layer.0.SelfAttention.k"),
            ("decoder.layers.{}.attention.v", "decoder.block.{}.layer.0.SelfAttention.v"),
            ("decoder.layers.{}.attention.o", "decoder.block.{}.layer.0.SelfAttention.o"),
            ("decoder.layers.{}.cross_norm", "decoder.block.{}.layer.1.layer_norm"),
            ("decoder.layers.{}.cross.q", "decoder.block.{}.layer.1.EncDecAttention.q"),
            ("decoder.layers.{}.cross.k", "decoder.block.{}.layer.1.EncDecAttention.k"),
            ("decoder.layers.{}.cross.v", "decoder.block.{}.layer.1.EncDecAttention.v"),
            ("decoder.layers.{}.cross.o", "decoder.block.{}.layer.1.EncDecAttention.o"),
            ("decoder.layers.{}.ffn_norm", "decoder.block.{}.layer.2.layer_norm"),
            ("decoder.layers.{}.ffn.up", "decoder.block.{}.layer.2.mlp.wi"),
            ("decoder.layers.{}.ffn.down", "decoder.block.{}.layer.2.mlp.wo"),
            ("decoder.layers.{}.ffn.router", "decoder.block.{}.layer.2.mlp.router.classifier"),
            ("decoder.layers.{}.ffn.router.shift", "decoder.block.{}.layer.2.mlp.router.classifier.bias"),
            ("decoder.layers.{}.ffn.experts.up", "decoder.block.{}.layer.2.mlp.experts.wi.weight"),
            ("decoder.layers.{}.ffn.experts.down", "decoder.block.{}.layer.2.mlp.experts.wo.weight"),
        ]
    }

    fn rearrangements(&self, spec: &Spec) -> Vec<Rearrangement> {
        let Spec::EncoderDecoder(spec) = spec else { return vec![] };
        let sides = [("encoder", 1, &spec.encoder), ("decoder", 2, &spec.decoder)];
        let experts = sides.into_iter().flat_map(|(side, layer, stack)| {
            stack.blocks.iter().enumerate().flat_map(move |(i, block)| {
                let found = block.layers.iter().find_map(|(_, layer)| match layer {
                    LayerSpec::Switch(experts) => Some(experts.n_experts),
                    _ => None,
                });
                found.into_iter().flat_map(move |count| {
                    ["wi", "wo"].map(|part| {
                        let module = format!("{side}.block.{i}.layer.{layer}.mlp.experts");
                        let file = format!("{module}.expert_{{}}.{part}.weight");
                        Rearrangement::Stacked { file, count, name: format!("{module}.{part}.weight") }
                    })
                })
            })
        });
        experts.collect()
    }

    fn rename(&self, name: &str) -> Option<String> {
        kept(name)
    }

    fn experts(&self) -> Option<ExpertSizes> {
        Some(USUAL)
    }

    fn form(&self) -> Form {
        Form { gated: false, grouped_queries: false }
    }
}
