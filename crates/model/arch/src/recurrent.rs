//! What the recurrent families have in common.

use cupola_artifact::Result;
use cupola_nn::{DecoderSpec, LayerSpec, Mamba2Spec, MambaSpec, StackSpec};

use crate::config::ConfigJson;
use crate::network::Spec;
use crate::rearrange::Rearrangement;

/// A decoder without a soft cap; `tied` says whether the output layer is the embedding where nothing is said.
pub(crate) fn decoder(config: &ConfigJson<'_>, stack: StackSpec, tied: bool) -> Result<Spec> {
    Ok(Spec::Decoder(DecoderSpec {
        stack,
        tie_embeddings: config.flag("tie_word_embeddings", tied)?,
        soft_cap: None,
        bos: config.token("bos_token_id")?,
        eos: config.tokens("eos_token_id")?,
        pad: config.token("pad_token_id")?,
    }))
}

/// What files have in another shape than the model, layer by layer: `of` is given the block's number, the layer's name and
/// its numbers.
pub(crate) fn rows_of_layers(
    spec: &Spec,
    of: impl Fn(usize, &str, &LayerSpec) -> Vec<Rearrangement>,
) -> Vec<Rearrangement> {
    let blocks = spec.stack().blocks.iter().enumerate();
    let layers = blocks.flat_map(|(i, block)| block.layers.iter().map(move |(name, layer)| (i, *name, layer)));
    layers.flat_map(|(block, name, layer)| of(block, name, layer)).collect()
}

/// What a Mamba mixer has in a row and its files have not.
pub(crate) fn of_mamba(place: &str, mixer: &MambaSpec) -> Vec<Rearrangement> {
    vec![
        Rearrangement::in_a_row(format!("{place}.conv1d.weight"), vec![mixer.d_inner, 1, mixer.d_conv]),
        Rearrangement::in_a_row(format!("{place}.A_log"), vec![mixer.d_inner, mixer.d_state]),
    ]
}

/// The same of a Mamba-2 mixer.
pub(crate) fn of_mamba2(place: &str, mixer: &Mamba2Spec) -> Vec<Rearrangement> {
    vec![Rearrangement::in_a_row(format!("{place}.conv1d.weight"), vec![mixer.convolved(), 1, mixer.d_conv])]
}
