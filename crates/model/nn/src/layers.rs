//! The list of layers that blocks are made of.

use crate::attention::AttentionSpec;
use crate::feed_forward::FeedForwardSpec;
use crate::layer::LayerKind;
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
    /// A feed-forward layer.
    FeedForward(FeedForwardSpec),
    /// A layer whose weights are tensor trains.
    Factored(FactoredSpec),
}
