//! Bottleneck adapters: a narrow feed-forward layer behind the layers of a block (Houlsby et al. 2019) or behind the
//! feed-forward layer alone (Pfeiffer et al. 2021), before the residual stream.

use burn::tensor::Tensor;
use cupola_artifact::Result;
use cupola_ops::{Activation, Precision};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::adapters::linear_adapter::{Make, kaiming};
use crate::adapters::targets::LAYERS;
use crate::adapters::{Adapter, AdapterKind, Field, Stands, object, require, settings};
use crate::param::{Param, ParamMut};
use crate::source::Init;

/// A curve of a bottleneck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Curve {
    /// `max(x, 0)`.
    Relu,
    /// The exact GELU.
    Gelu,
    /// SiLU.
    Silu,
    /// The hyperbolic tangent.
    Tanh,
}

/// What bottleneck adapters are told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BottleneckSettings {
    width: usize,
    activation: Curve,
    feed_forward_only: bool,
    layers: Option<Vec<usize>>,
}

const FIELDS: &[Field] = &[
    Field { name: "width", peft: "bottleneck_size", about: "the width of the narrow layer" },
    Field { name: "activation", peft: "non_linearity", about: "its curve: `relu`, `gelu`, `silu` or `tanh`" },
    Field {
        name: "feed_forward_only",
        peft: "use_adapterp",
        about: "whether it stands behind the last layer of a block only",
    },
    Field { name: "layers", peft: "layers_to_transform", about: LAYERS },
];

/// Bottlenecks behind every layer of a block or behind the last.
pub struct BottleneckKind {
    name: &'static str,
    about: &'static str,
    feed_forward_only: bool,
}

/// Houlsby's.
pub const HOULSBY: BottleneckKind = BottleneckKind {
    name: "houlsby",
    about: "narrow feed-forward layers behind attention and behind the feed-forward layer (Houlsby et al. 2019)",
    feed_forward_only: false,
};

/// Pfeiffer's.
pub const PFEIFFER: BottleneckKind = BottleneckKind {
    name: "pfeiffer",
    about: "a narrow feed-forward layer behind the feed-forward layer (Pfeiffer et al. 2021)",
    feed_forward_only: true,
};

impl BottleneckKind {
    fn preset(&self) -> BottleneckSettings {
        BottleneckSettings {
            width: 64,
            activation: Curve::Relu,
            feed_forward_only: self.feed_forward_only,
            layers: None,
        }
    }
}

impl AdapterKind for BottleneckKind {
    fn name(&self) -> &'static str {
        self.name
    }

    fn peft_type(&self) -> &'static str {
        "BOTTLENECK"
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    settings!(BottleneckKind: BottleneckSettings);
}

impl BottleneckSettings {
    fn check(&self) -> Result<()> {
        require(self.width > 0, "`width` must be at least 1")
    }

    /// Whether one stands behind a layer of a block.
    pub fn behind(&self, block: usize, last: bool) -> bool {
        (last || !self.feed_forward_only) && self.layers.as_ref().is_none_or(|layers| layers.contains(&block))
    }

    /// The adapter behind a layer; `make.dims` is `[D, D]`.
    ///
    /// # Errors
    /// As [`crate::WeightSource::take`].
    pub fn make(&self, make: &mut Make<'_>) -> Result<Bottleneck> {
        let (d, width) = (make.dims[0], self.width);
        // Nothing changes at first.
        Ok(Bottleneck {
            down: make.param("adapter_down.weight", [width, d], kaiming(d))?,
            down_bias: make.param("adapter_down.bias", [width], Init::Fill(0.0))?,
            up: make.param("adapter_up.weight", [d, width], Init::Fill(0.0))?,
            up_bias: make.param("adapter_up.bias", [d], Init::Fill(0.0))?,
            curve: self.activation,
        })
    }
}

impl Adapter for BottleneckSettings {
    fn settings(&self) -> Map<String, Value> {
        object(self)
    }

    fn stands(&self) -> Stands<'_> {
        Stands::Blocks(self)
    }

    fn boxed(&self) -> Box<dyn Adapter> {
        Box::new(self.clone())
    }
}

/// A bottleneck.
#[derive(Clone, Debug)]
pub struct Bottleneck {
    /// `[width, D]`.
    down: Param<2>,
    down_bias: Param<1>,
    /// `[D, width]`.
    up: Param<2>,
    up_bias: Param<1>,
    curve: Curve,
}

impl Bottleneck {
    /// `y + up(f(down(y)))` for y `[N, D]`.
    pub(crate) fn forward(&self, y: Tensor<2>) -> Tensor<2> {
        let linear = |x, w: &Param<2>, b: &Param<1>| cupola_ops::linear(x, w.value(), Some(b.value()), Precision::F32);
        let narrow = linear(y.clone(), &self.down, &self.down_bias);
        let narrow = match self.curve {
            Curve::Relu => cupola_ops::activation(Activation::Relu, narrow),
            Curve::Gelu => cupola_ops::activation(Activation::GeluErf, narrow),
            Curve::Silu => cupola_ops::activation(Activation::Silu, narrow),
            Curve::Tanh => narrow.tanh(),
        };
        y + linear(narrow, &self.up, &self.up_bias)
    }

    pub(crate) fn params_mut<'a>(&'a mut self, out: &mut Vec<ParamMut<'a>>) {
        out.push(ParamMut::Matrix(&mut self.down));
        out.push(ParamMut::Vector(&mut self.down_bias));
        out.push(ParamMut::Matrix(&mut self.up));
        out.push(ParamMut::Vector(&mut self.up_bias));
    }
}
