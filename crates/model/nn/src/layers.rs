//! The list of layers that blocks are made of.

use crate::attention::AttentionSpec;
use crate::block_sparse::BlockSparseSpec;
use crate::cell::CellSpec;
use crate::cross_attention::CrossAttentionSpec;
use crate::experts::ExpertsSpec;
use crate::feed_forward::FeedForwardSpec;
use crate::global_attention::GlobalAttentionSpec;
use crate::graph::GraphSpec;
use crate::griffin::GriffinSpec;
use crate::hybrid::HybridSpec;
use crate::latent_attention::LatentAttentionSpec;
use crate::layer::LayerKind;
use crate::logic::LogicSpec;
use crate::mamba::MambaSpec;
use crate::mamba2::Mamba2Spec;
use crate::rwkv::{ChannelMixSpec, TimeMixSpec};
use crate::switch::SwitchSpec;
use crate::tensor_train::FactoredSpec;

/// The numbers of a layer, whichever it is.
macro_rules! layers {
    ($($(#[$doc:meta])* $name:ident($spec:ty),)*) => {
        /// A layer and the numbers that make it.
        #[derive(Clone, Debug, PartialEq)]
        pub enum LayerSpec {
            $($(#[$doc])* $name($spec),)*
        }

        impl LayerSpec {
            /// What all kinds of layers tell.
            pub fn kind(&self) -> &dyn LayerKind {
                match self {
                    $(LayerSpec::$name(spec) => spec,)*
                }
            }
        }

        $(impl From<$spec> for LayerSpec {
            fn from(spec: $spec) -> Self {
                LayerSpec::$name(spec)
            }
        })*
    };
}

layers! {
    /// Multi-head attention.
    Attention(AttentionSpec),
    /// Attention to what an encoder has given.
    CrossAttention(CrossAttentionSpec),
    /// A feed-forward layer.
    FeedForward(FeedForwardSpec),
    /// Mamba's selective state space.
    Mamba(MambaSpec),
    /// Mamba-2's, with heads.
    Mamba2(Mamba2Spec),
    /// RWKV's weighted mean of the past.
    TimeMix(TimeMixSpec),
    /// RWKV's feed-forward layer.
    ChannelMix(ChannelMixSpec),
    /// Griffin's gated linear recurrence.
    Griffin(GriffinSpec),
    /// Mamba-2 behind a Transformer block that several layers share.
    Hybrid(HybridSpec),
    /// An Elman, LSTM or GRU layer.
    Cell(CellSpec),
    /// Attention to a window and to global tokens.
    GlobalAttention(GlobalAttentionSpec),
    /// A mixture of experts.
    Experts(ExpertsSpec),
    /// A mixture of experts of which a token goes to one.
    Switch(SwitchSpec),
    /// Multi-head latent attention.
    LatentAttention(LatentAttentionSpec),
    /// A layer whose weights are tensor trains.
    Factored(FactoredSpec),
    /// Attention to blocks that are near, global or drawn.
    BlockSparse(BlockSparseSpec),
    /// Attention over a graph of tokens and phrases.
    Graph(GraphSpec),
    /// A probabilistic logic program.
    Logic(LogicSpec),
}
