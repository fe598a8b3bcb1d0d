//! A linear layer: dense, quantized or factored, with or without an adapter.

use burn::tensor::{Device, Tensor};
use cupola_artifact::{HostTensor, Result, StateDict};
use cupola_ops::{Int8Weight, LinearTensors, Nf4Weight, Precision};

use crate::adapters::{Base, LinearAdapter, Spanning};
use crate::param::{Param, ParamMut};
use crate::tensor_train::TensorTrain;

/// What kind of weights a linear layer holds.
#[derive(Clone, Debug)]
pub enum Weight {
    /// 32-bit floats, `[d_out, d_in]`.
    Dense(Param<2>),
    /// int8 numbers with a scale for each group.
    Int8 {
        /// The name in the checkpoint.
        name: String,
        /// The numbers.
        weight: Int8Weight,
        /// Where products run.
        device: Device,
    },
    /// Four-bit numbers with a scale for each block.
    Nf4 {
        /// The name in the checkpoint.
        name: String,
        /// The numbers.
        weight: Nf4Weight,
        /// Where products run.
        device: Device,
    },
    /// A product of cores.
    Train(TensorTrain),
}

impl Weight {
    /// The name in the checkpoint.
    pub fn name(&self) -> &str {
        match self {
            Weight::Dense(param) => param.name(),
            Weight::Int8 { name, .. } | Weight::Nf4 { name, .. } => name,
            Weight::Train(train) => train.name(),
        }
    }

    /// `[d_out, d_in]`.
    pub fn dims(&self) -> [usize; 2] {
        match self {
            Weight::Dense(param) => param.value().dims(),
            Weight::Int8 { weight, .. } => [weight.d_out, weight.d_in],
            Weight::Nf4 { weight, .. } => weight.shape(),
            Weight::Train(train) => train.dims(),
        }
    }

    /// Where it lives.
    pub fn device(&self) -> Device {
        match self {
            Weight::Dense(param) => param.value().device().without_autodiff(),
            Weight::Int8 { device, .. } | Weight::Nf4 { device, .. } => device.clone(),
            Weight::Train(train) => train.device().without_autodiff(),
        }
    }

    /// The weight as a float tensor; decoded when it is quantized, multiplied out when it is factored.
    pub fn dense(&self) -> Tensor<2> {
        match self {
            Weight::Dense(param) => param.value(),
            Weight::Int8 { weight, device, .. } => {
                cupola_ops::from_vec(weight.dequantize(), [weight.d_out, weight.d_in], device)
            }
            Weight::Nf4 { weight, device, .. } => cupola_ops::from_vec(weight.dequantize(), weight.shape(), device),
            Weight::Train(train) => train.dense(),
        }
    }

    /// `x·wᵀ + b`.
    pub(crate) fn product(&self, x: Tensor<2>, bias: Option<Tensor<1>>, precision: Precision) -> Tensor<2> {
        match self {
            Weight::Dense(param) => cupola_ops::linear(x, param.value(), bias, precision),
            Weight::Int8 { weight, .. } => {
                let y = cupola_ops::linear_int8(x, weight);
                bias.map_or_else(|| y.clone(), |bias| y.clone() + bias.unsqueeze::<2>())
            }
            Weight::Nf4 { weight, .. } => {
                let y = cupola_ops::linear_nf4(x, weight, precision);
                bias.map_or_else(|| y.clone(), |bias| y.clone() + bias.unsqueeze::<2>())
            }
            Weight::Train(train) => train.product(x, bias, precision),
        }
    }
}

/// `y = x·wᵀ + b`, and what an adapter makes of it.
#[derive(Clone, Debug)]
pub struct Linear {
    /// The weight, `[d_out, d_in]`.
    pub weight: Weight,
    /// The bias, `[d_out]`.
    pub bias: Option<Param<1>>,
    /// An adapter.
    pub adapter: Option<Box<dyn LinearAdapter>>,
    /// What a dense weight's products multiply.
    pub precision: Precision,
}

impl Linear {
    /// x `[N, d_in]`, y `[N, d_out]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.adapter {
            Some(adapter) => adapter.forward(x, &Base::one(&[self])),
            None => self.unadapted(x),
        }
    }

    /// The same without the adapter.
    pub(crate) fn unadapted(&self, x: Tensor<2>) -> Tensor<2> {
        self.weight.product(x, self.bias.as_ref().map(Param::value), self.precision)
    }

    /// What several layers make of one input `[N, d_in]`, `[N, d_out]` each. Three that are plain read it once where their
    /// products have 16 bits; beside products in 32 bits packing is little.
    pub(crate) fn together<const N: usize>(
        layers: [&Linear; N],
        x: Tensor<2>,
        span: Option<&Spanning>,
    ) -> [Tensor<2>; N] {
        if let Some(span) = span {
            let mut parts = span.forward(x.clone(), &layers).into_iter();
            return layers.map(|layer| parts.next().unwrap_or_else(|| layer.unadapted(x.clone())));
        }
        if let Ok([a, b, c]) = <[&Linear; 3]>::try_from(&layers[..]) {
            let mut all = Self::three([a, b, c], x.clone()).into_iter();
            return layers.map(|layer| all.next().unwrap_or_else(|| layer.forward(x.clone())));
        }
        layers.map(|layer| layer.forward(x.clone()))
    }

    fn three(layers: [&Linear; 3], x: Tensor<2>) -> [Tensor<2>; 3] {
        let precision = layers[0].precision;
        let together = |layer: &Linear| layer.precision == precision && precision != Precision::F32;
        match layers.map(|layer| layer.plain().filter(|_| together(layer))) {
            [Some(a), Some(b), Some(c)] => cupola_ops::linear_three(x, [a, b, c], precision),
            _ => layers.map(|layer| layer.forward(x.clone())),
        }
    }

    /// Weight and bias, where `y = x·wᵀ + b` of 32-bit floats is all that it computes for many rows.
    pub(crate) fn plain(&self) -> Option<LinearTensors> {
        match (&self.weight, &self.adapter) {
            (Weight::Dense(param), None) => Some((param.value(), self.bias.as_ref().map(Param::value))),
            (Weight::Train(train), None) if train.is_whole_for_many() => {
                Some((train.dense(), self.bias.as_ref().map(Param::value)))
            }
            _ => None,
        }
    }

    /// The weight as floats with the adapter's share, `[d_out, d_in]`.
    pub(crate) fn whole_weight(&self) -> Tensor<2> {
        match &self.adapter {
            Some(adapter) => adapter.merged(self.weight.dense(), None).0,
            None => self.weight.dense(),
        }
    }

    /// Merges the adapter into weight and bias and removes it.
    ///
    /// # Errors
    /// When the weight is quantized or factored.
    pub fn merge_adapter(&mut self) -> Result<()> {
        let Some(adapter) = self.adapter.take() else { return Ok(()) };
        if let Err(error) = self.mergeable() {
            self.adapter = Some(adapter);
            return Err(error);
        }
        let (weight, bias) = adapter.merged(self.weight.dense(), self.bias.as_ref().map(Param::value));
        self.replace(weight, bias);
        Ok(())
    }

    /// An error unless an adapter can be merged into the weight.
    pub(crate) fn mergeable(&self) -> Result<()> {
        let (what, hint) = match &self.weight {
            Weight::Dense(_) => return Ok(()),
            Weight::Int8 { .. } | Weight::Nf4 { .. } => ("is quantized", "merge the adapter first, then compress"),
            Weight::Train(_) => ("is a product of cores", "train all weights instead of adapters"),
        };
        let message = format!("{} {what}: an adapter cannot be merged into it", self.weight.name());
        Err(cupola_artifact::Error::failed(message).with_hint(hint))
    }

    /// Puts others in the place of a dense weight and of the bias.
    pub(crate) fn replace(&mut self, weight: Tensor<2>, bias: Option<Tensor<1>>) {
        if let Weight::Dense(param) = &mut self.weight {
            param.set(plain(weight));
        }
        if let (Some(param), Some(bias)) = (&mut self.bias, bias) {
            param.set(plain(bias));
        }
    }

    /// Replaces the dense weight by int8 numbers.
    pub fn quantize_int8(&mut self, group: usize) {
        if let Weight::Dense(param) = &self.weight {
            let [d_out, d_in] = param.value().dims();
            let weight = Int8Weight::quantize(&cupola_ops::to_vec(&param.value()), d_out, d_in, group);
            let device = self.weight.device();
            self.weight = Weight::Int8 { name: param.name().to_string(), weight, device };
        }
    }

    /// Replaces a quantized weight by floats.
    pub fn dequantize(&mut self) {
        if matches!(self.weight, Weight::Int8 { .. } | Weight::Nf4 { .. }) {
            self.weight = Weight::Dense(Param::new(self.weight.name(), self.weight.dense()));
        }
    }

    /// Replaces the dense weight by four-bit numbers.
    pub fn quantize_nf4(&mut self) {
        if let Weight::Dense(param) = &self.weight {
            let shape = param.value().dims();
            let weight = Nf4Weight::quantize(&cupola_ops::to_vec(&param.value()), shape);
            let device = self.weight.device();
            self.weight = Weight::Nf4 { name: param.name().to_string(), weight, device };
        }
    }

    /// Its parameters, the adapter's last.
    pub fn params_mut<'a>(&'a mut self, out: &mut Vec<ParamMut<'a>>) {
        match &mut self.weight {
            Weight::Dense(param) => out.push(ParamMut::Matrix(param)),
            Weight::Train(train) => out.extend(train.cores.iter_mut().map(ParamMut::Matrix)),
            Weight::Int8 { .. } | Weight::Nf4 { .. } => {}
        }
        if let Some(bias) = &mut self.bias {
            out.push(ParamMut::Vector(bias));
        }
        if let Some(adapter) = &mut self.adapter {
            adapter.params_mut(out);
        }
    }

    /// Adds what belongs in a checkpoint, adapters apart.
    pub fn state(&self, out: &mut StateDict) {
        match &self.weight {
            Weight::Dense(param) => {
                out.insert(param.name().to_string(), param.to_host());
            }
            Weight::Int8 { name, weight: w, .. } => {
                out.insert(name.clone(), HostTensor::from_i8(vec![w.d_out, w.d_in], &w.q));
                let groups = w.scales.len() / w.d_out.max(1);
                out.insert(scale_name(name), HostTensor::from_f32(vec![w.d_out, groups], &w.scales));
            }
            Weight::Nf4 { name, weight, .. } => out.extend(crate::nf4::to_host(weight, name)),
            Weight::Train(train) => out.extend(train.cores.iter().map(|c| (c.name().to_string(), c.to_host()))),
        }
        if let Some(bias) = &self.bias {
            out.insert(bias.name().to_string(), bias.to_host());
        }
    }
}

/// A tensor without its tape.
fn plain<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    if tensor.is_autodiff() { tensor.inner() } else { tensor }
}

/// Where the scales of a quantized weight stand, as compressed-tensors names them.
pub fn scale_name(weight: &str) -> String {
    format!("{weight}_scale")
}
