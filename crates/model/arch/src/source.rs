//! Weights for a decoder: from a checkpoint, or drawn at random.

use burn::tensor::Device;
use cupola_artifact::{DType, Error, HostTensor, Result, StateDict};
use cupola_nn::{Linear, Param, Rng, Role, Weight, WeightSource, scale_name};
use cupola_ops::{Int8Weight, from_vec};

use crate::family::Family;

/// Weights out of a checkpoint.
pub struct Checkpoint<'a> {
    /// The family that names them.
    pub family: &'a dyn Family,
    /// What has not been taken yet.
    pub state: StateDict,
    /// Where the tensors go.
    pub device: Device,
    /// Columns that share a scale, for int8 weights.
    pub group: usize,
}

impl Checkpoint<'_> {
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<HostTensor> {
        let tensor = self.state.remove(name).ok_or_else(|| {
            let hint = match cupola_artifact::nearest(name, self.state.keys().map(String::as_str)) {
                Some(near) => format!("the nearest name there is `{near}`"),
                None => "the checkpoint is empty or belongs to another model".into(),
            };
            Error::failed(format!("the checkpoint has no `{name}`")).with_hint(hint)
        })?;
        if tensor.shape != shape {
            let message = format!("{name} is {:?} in the checkpoint, but config.json implies {shape:?}", tensor.shape);
            return Err(Error::failed(message)
                .with_hint("config.json disagrees with the checkpoint; one of them is another model's"));
        }
        Ok(tensor)
    }

    fn vector(&mut self, name: String, len: usize) -> Result<Param<1>> {
        let data = self.take(&name, &[len])?.to_f32()?;
        Ok(Param::new(name, from_vec(data, [len], &self.device)))
    }

    fn matrix(&mut self, name: String, shape: [usize; 2]) -> Result<Param<2>> {
        let data = self.take(&name, &shape)?.to_f32()?;
        Ok(Param::new(name, from_vec(data, shape, &self.device)))
    }

    fn int8(&mut self, name: String, [d_out, d_in]: [usize; 2]) -> Result<Weight> {
        let q = self.take(&name, &[d_out, d_in])?.to_i8()?;
        let groups = d_in.div_ceil(self.group);
        let scales = self.take(&scale_name(&name), &[d_out, groups])?.to_f32()?;
        let weight = Int8Weight { q: q.into(), scales: scales.into(), d_out, d_in, group: self.group };
        Ok(Weight::Int8 { name, weight, device: self.device.clone() })
    }

    /// An error that names weights which the model has no place for.
    pub fn finish(self, tied: bool) -> Result<()> {
        let head = format!("{}.weight", self.family.module(Role::Head, 0));
        let left: Vec<_> = self.state.keys().filter(|k| !(tied && **k == head)).collect();
        match left.as_slice() {
            [] => Ok(()),
            [first, ..] => Err(Error::failed(format!(
                "the checkpoint has {} weights that the model has no place for, e.g. `{first}`",
                left.len()
            ))
            .with_hint("config.json says fewer layers or another form than the checkpoint has")),
        }
    }
}

impl WeightSource for Checkpoint<'_> {
    fn norm(&mut self, role: Role, layer: usize, len: usize, bias: bool) -> Result<(Param<1>, Option<Param<1>>)> {
        let module = self.family.module(role, layer);
        let weight = self.vector(format!("{module}.weight"), len)?;
        let bias = bias.then(|| self.vector(format!("{module}.bias"), len)).transpose()?;
        Ok((weight, bias))
    }

    fn linear(&mut self, role: Role, layer: usize, shape: [usize; 2], bias: bool) -> Result<Linear> {
        let module = self.family.module(role, layer);
        let name = format!("{module}.weight");
        let weight = match self.state.get(&name).map(|t| t.dtype) {
            Some(DType::I8) => self.int8(name, shape)?,
            _ => Weight::Dense(self.matrix(name, shape)?),
        };
        let bias = bias.then(|| self.vector(format!("{module}.bias"), shape[0])).transpose()?;
        Ok(Linear { weight, bias, lora: None, precision: cupola_ops::Precision::F32 })
    }

    fn embedding(&mut self, role: Role, shape: [usize; 2]) -> Result<Param<2>> {
        self.matrix(format!("{}.weight", self.family.module(role, 0)), shape)
    }
}

/// Fresh weights: normal with a deviation of 0.02, those that write to the residual stream divided by the square root of
/// how many do (Radford et al. 2019), norms 1, biases 0.
pub struct Fresh<'a> {
    /// The family that names them.
    pub family: &'a dyn Family,
    /// Where randomness starts.
    pub seed: u64,
    /// Where the tensors go.
    pub device: Device,
    /// Blocks of the model.
    pub n_layers: usize,
}

const STD: f32 = 0.02;

impl Fresh<'_> {
    fn drawn(&self, name: String, shape: [usize; 2], std: f32) -> Param<2> {
        let data = Rng::new(self.seed, &name).normal(shape[0] * shape[1], std);
        Param::new(name, from_vec(data, shape, &self.device))
    }
}

impl WeightSource for Fresh<'_> {
    fn norm(&mut self, role: Role, layer: usize, len: usize, bias: bool) -> Result<(Param<1>, Option<Param<1>>)> {
        let module = self.family.module(role, layer);
        let filled = |part: &str, value: f32| {
            Param::new(format!("{module}.{part}"), from_vec(vec![value; len], [len], &self.device))
        };
        Ok((filled("weight", 1.0), bias.then(|| filled("bias", 0.0))))
    }

    fn linear(&mut self, role: Role, layer: usize, shape: [usize; 2], bias: bool) -> Result<Linear> {
        let module = self.family.module(role, layer);
        let std = match role {
            Role::O | Role::Down => STD / ((2 * self.n_layers) as f32).sqrt(),
            _ => STD,
        };
        let mut linear = Linear::dense(self.drawn(format!("{module}.weight"), shape, std));
        if bias {
            let zeros = from_vec(vec![0.0; shape[0]], [shape[0]], &self.device);
            linear.bias = Some(Param::new(format!("{module}.bias"), zeros));
        }
        Ok(linear)
    }

    fn embedding(&mut self, role: Role, shape: [usize; 2]) -> Result<Param<2>> {
        Ok(self.drawn(format!("{}.weight", self.family.module(role, 0)), shape, STD))
    }
}
