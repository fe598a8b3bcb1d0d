//! What stands beside a linear layer, or beside several that read one input.

use std::fmt::Debug;

use burn::tensor::{Device, Tensor};
use cupola_artifact::Result;
use cupola_ops::{Precision, from_vec};

use crate::adapters::AdaLora;
use crate::linear::Linear;
use crate::param::{Param, ParamMut};
use crate::source::{Init, Use, Want, WeightSource};

/// What an adapter makes of a linear layer.
pub trait LinearAdapter: Debug + Send + Sync {
    /// What the layer gives of x `[N, d_in]`: `[N, d_out]`.
    fn forward(&self, x: Tensor<2>, base: &Base<'_>) -> Tensor<2>;

    /// The weight `[d_out, d_in]` and the bias `[d_out]` of a layer that gives the same without the adapter.
    fn merged(&self, weight: Tensor<2>, bias: Option<Tensor<1>>) -> (Tensor<2>, Option<Tensor<1>>);

    /// Its parameters, always in the same order.
    fn params_mut<'a>(&'a mut self, out: &mut Vec<ParamMut<'a>>);

    /// The same as an adapter whose rank moves during training, where it is one.
    fn ranked(&mut self) -> Option<&mut AdaLora> {
        None
    }

    /// A copy that shares the numbers.
    fn boxed(&self) -> Box<dyn LinearAdapter>;
}

impl Clone for Box<dyn LinearAdapter> {
    fn clone(&self) -> Self {
        self.boxed()
    }
}

/// The layer that an adapter stands beside: one, or several of one input, whose rows stand in `groups` equal shares as in the
/// files of the family.
pub struct Base<'a> {
    parts: &'a [&'a Linear],
    groups: usize,
}

impl<'a> Base<'a> {
    /// One layer.
    pub fn one(part: &'a [&'a Linear; 1]) -> Self {
        Self { parts: part, groups: 1 }
    }

    /// Several.
    pub fn of(parts: &'a [&'a Linear], groups: usize) -> Self {
        Self { parts, groups }
    }

    /// What the layer gives without the adapter: x `[N, d_in]`, `[N, d_out]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.joined(|part| part.unadapted(x.clone()))
    }

    /// The same without the bias.
    pub fn product(&self, x: Tensor<2>) -> Tensor<2> {
        self.joined(|part| part.weight.product(x.clone(), None, part.precision))
    }

    /// The weight as floats, `[d_out, d_in]`.
    pub fn weight(&self) -> Tensor<2> {
        match self.parts {
            [only] => only.weight.dense(),
            _ => self.joined(|part| part.weight.dense().transpose()).transpose(),
        }
    }

    /// The bias, `[d_out]`.
    pub fn bias(&self) -> Option<Tensor<1>> {
        self.parts.iter().all(|part| part.bias.is_some()).then(|| {
            let bias = |part: &Linear| part.bias.as_ref().map(Param::value);
            match self.parts {
                [only] => bias(only),
                _ => Some(self.joined(|part| unrow(bias(part))).squeeze_dim::<1>(0)),
            }
        })?
    }

    /// What the parts' products multiply.
    pub fn precision(&self) -> Precision {
        self.parts.first().map_or(Precision::F32, |part| part.precision)
    }

    /// The columns of all parts, each `[N, d_out]`, in the order of the file.
    fn joined(&self, of: impl Fn(&Linear) -> Tensor<2>) -> Tensor<2> {
        let parts: Vec<Tensor<2>> = self.parts.iter().map(|part| of(part)).collect();
        join(parts, self.groups)
    }

    /// `[N, d_out]` of all parts as the parts' own.
    pub(crate) fn split(&self, y: Tensor<2>) -> Vec<Tensor<2>> {
        let widths: Vec<usize> = self.parts.iter().map(|part| part.weight.dims()[0]).collect();
        split(y, &widths, self.groups)
    }
}

/// A bias as a row.
fn unrow(bias: Option<Tensor<1>>) -> Tensor<2> {
    bias.map_or_else(|| Tensor::zeros([1, 0], &Device::flex()), |bias| bias.unsqueeze::<2>())
}

/// Columns of several tensors `[N, ·]`, each in `groups` equal shares which take turns.
pub(crate) fn join(parts: Vec<Tensor<2>>, groups: usize) -> Tensor<2> {
    let taped = parts.iter().any(Tensor::is_autodiff);
    let parts: Vec<Tensor<2>> = parts.into_iter().map(|part| on_tape(part, taped)).collect();
    if parts.len() == 1 || groups == 1 {
        return Tensor::cat(parts, 1);
    }
    let rows = parts[0].dims()[0];
    let parts = parts.into_iter().map(|part| {
        let share = part.dims()[1] / groups;
        part.reshape([rows, groups, share])
    });
    let all: Tensor<3> = Tensor::cat(parts.collect(), 2);
    let width = all.dims()[2];
    all.reshape([rows, groups * width])
}

/// The way back: columns `[N, Σ widths]` as a tensor for each of the widths.
pub(crate) fn split(y: Tensor<2>, widths: &[usize], groups: usize) -> Vec<Tensor<2>> {
    let ([rows, all], mut at) = (y.dims(), 0);
    let y: Tensor<3> = y.reshape([rows, groups, all / groups]);
    let part = |width: &usize| {
        let share = width / groups;
        at += share;
        y.clone().narrow(2, at - share, share).reshape([rows, *width])
    };
    widths.iter().map(part).collect()
}

/// A tensor on the tape where others are, so that they can stand side by side.
pub(crate) fn on_tape<const D: usize>(tensor: Tensor<D>, taped: bool) -> Tensor<D> {
    if taped && !tensor.is_autodiff() { Tensor::from_inner(tensor) } else { tensor }
}

/// An adapter of several layers that read one input, which a file has in one.
#[derive(Clone, Debug)]
pub struct Spanning {
    /// The adapter.
    pub adapter: Box<dyn LinearAdapter>,
    /// Equal shares of each layer's rows, which take turns.
    pub groups: usize,
}

impl Spanning {
    /// Merges the adapter into the layers.
    pub(crate) fn merge(self, layers: &mut [&mut Linear]) {
        let (merged, widths) = {
            let parts: Vec<&Linear> = layers.iter().map(|layer| &**layer).collect();
            let base = Base::of(&parts, self.groups);
            let widths: Vec<usize> = parts.iter().map(|part| part.weight.dims()[0]).collect();
            (self.adapter.merged(base.weight(), base.bias()), widths)
        };
        let mut weights = split(merged.0.transpose(), &widths, self.groups).into_iter().map(Tensor::transpose);
        let mut biases = merged.1.map(|bias| split(bias.unsqueeze::<2>(), &widths, self.groups).into_iter());
        for layer in layers {
            let bias = biases.as_mut().and_then(Iterator::next).map(|bias| bias.squeeze_dim::<1>(0));
            if let Some(weight) = weights.next() {
                layer.replace(weight, bias);
            }
        }
    }

    /// What each of the layers gives.
    pub(crate) fn forward(&self, x: Tensor<2>, parts: &[&Linear]) -> Vec<Tensor<2>> {
        let base = Base::of(parts, self.groups);
        let y = self.adapter.forward(x, &base);
        base.split(y)
    }
}

/// A place for an adapter that is being made, and where its weights come from.
pub struct Make<'a> {
    source: &'a mut dyn WeightSource,
    /// The module's name in files.
    pub module: String,
    /// `[d_out, d_in]` of the layer that it stands at.
    pub dims: [usize; 2],
    /// The layer's weight, where there are numbers.
    weight: Option<Tensor<2>>,
}

impl<'a> Make<'a> {
    /// A place.
    pub fn new(source: &'a mut dyn WeightSource, module: &str, dims: [usize; 2], weight: Option<Tensor<2>>) -> Self {
        Self { source, module: module.to_string(), dims, weight }
    }

    /// A parameter of the adapter: `part` follows the module's name.
    ///
    /// # Errors
    /// As [`WeightSource::take`].
    pub fn param<const D: usize>(&mut self, part: &str, shape: [usize; D], init: Init<'_>) -> Result<Param<D>> {
        let name = match self.module.as_str() {
            "" => part.to_string(),
            module => format!("{module}.{part}"),
        };
        let (name, data) = self.source.take(&Want { name: &name, shape: &shape, init, purpose: Use::Other })?;
        let device = self.source.device();
        let value = data.map_or_else(|| Tensor::zeros([1; D], &device), |data| from_vec(data, shape, &device));
        Ok(Param::new(name, value))
    }

    /// The layer's weight, `[d_out, d_in]`, without a tape.
    pub fn weight(&self) -> Option<Tensor<2>> {
        self.weight.clone()
    }
}

/// PyTorch's default for linear layers, Kaiming with a = sqrt(5): uniform within this.
pub(crate) fn kaiming(fan_in: usize) -> Init<'static> {
    Init::Uniform((fan_in.max(1) as f32).powf(-0.5))
}

/// `b · a` for b `[n, r]` and a `[r, m]`: `[n, m]`.
pub(crate) fn product(b: Tensor<2>, a: Tensor<2>) -> Tensor<2> {
    cupola_ops::linear(b, a.transpose(), None, Precision::F32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_take_turns_come_apart_and_together_again() {
        let device = Device::flex();
        let y = from_vec((0..16).map(|i| i as f32).collect(), [2, 8], &device);
        for (groups, first, last) in [(1, [0., 1., 2., 3.], [6., 7.]), (2, [0., 1., 4., 5.], [3., 7.])] {
            let parts = split(y.clone(), &[4, 2, 2], groups);
            assert_eq!(cupola_ops::to_vec(&parts[0])[..4], first);
            assert_eq!(cupola_ops::to_vec(&parts[2])[..2], last);
            assert_eq!(cupola_ops::to_vec(&join(parts, groups)), cupola_ops::to_vec(&y));
        }
    }
}
