//! Weights for a model: from a checkpoint, or drawn at random.

use burn::tensor::Device;
use cupola_artifact::{DType, Error, HostTensor, Result, StateDict};
use cupola_nn::{Init, Rng, Want, Weight, WeightSource, scale_name, take_nf4};
use cupola_ops::Int8Weight;

use crate::names::Names;

/// Weights out of a checkpoint.
pub struct Checkpoint {
    /// What they are called there.
    pub names: Names,
    /// What has not been taken yet.
    pub state: StateDict,
    /// Where the tensors go.
    pub device: Device,
    /// Columns that share a scale, for int8 weights.
    pub group: usize,
}

impl Checkpoint {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<HostTensor> {
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

    /// An error that names weights which the model has no place for; `spare` are names that need none.
    pub fn finish(self, spare: impl Fn(&str) -> bool) -> Result<()> {
        let left: Vec<_> = self.state.keys().filter(|k| !spare(k)).collect();
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

impl WeightSource for Checkpoint {
    fn device(&self) -> Device {
        self.device.clone()
    }

    fn take(&mut self, want: &Want<'_>) -> Result<(String, Option<Vec<f32>>)> {
        let name = self.names.in_file(want.name)?;
        let data = self.tensor(&name, want.shape)?.to_f32()?;
        Ok((name, Some(data)))
    }

    fn take_or(&mut self, want: &Want<'_>, fill: &dyn Fn(usize) -> f32) -> Result<(String, Option<Vec<f32>>)> {
        let name = self.names.in_file(want.name)?;
        if self.state.contains_key(&name) {
            return self.take(want);
        }
        Ok((name, Some((0..want.shape.iter().product()).map(fill).collect())))
    }

    fn quantized(&mut self, want: &Want<'_>) -> Result<Option<Weight>> {
        let name = self.names.in_file(want.name)?;
        let &[d_out, d_in] = want.shape else { return Ok(None) };
        if let Some(weight) = take_nf4(&mut self.state, &name, [d_out, d_in])? {
            return Ok(Some(Weight::Nf4 { name, weight, device: self.device.clone() }));
        }
        if self.state.get(&name).is_none_or(|tensor| tensor.dtype != DType::I8) {
            return Ok(None);
        }
        let q = self.tensor(&name, want.shape)?.to_i8()?;
        let scales = self.tensor(&scale_name(&name), &[d_out, d_in.div_ceil(self.group)])?.to_f32()?;
        let weight = Int8Weight { q: q.into(), scales: scales.into(), d_out, d_in, group: self.group };
        Ok(Some(Weight::Int8 { name, weight, device: self.device.clone() }))
    }
}

/// Fresh weights.
pub struct Fresh {
    /// What they are called.
    pub names: Names,
    /// Where randomness starts.
    pub seed: u64,
    /// Where the tensors go.
    pub device: Device,
    /// Layers that write to the residual stream.
    pub writers: usize,
    /// What stands before the names of a network beside another.
    pub before: &'static str,
}

const STD: f32 = 0.02;

impl WeightSource for Fresh {
    fn device(&self) -> Device {
        self.device.clone()
    }

    fn take(&mut self, want: &Want<'_>) -> Result<(String, Option<Vec<f32>>)> {
        let name = format!("{}{}", self.before, self.names.in_file(want.name)?);
        let data = drawn(want, &mut Rng::new(self.seed, &name), self.writers);
        Ok((name, Some(data)))
    }
}

/// What a fresh weight is filled with, where so many layers write to a residual stream.
pub(crate) fn drawn(want: &Want<'_>, rng: &mut Rng, writers: usize) -> Vec<f32> {
    let numbers = want.shape.iter().product();
    match want.init {
        Init::Normal => rng.normal(numbers, STD),
        Init::Deviation(deviation) => rng.normal(numbers, deviation),
        Init::Residual => rng.normal(numbers, STD / (writers as f32).sqrt()),
        Init::Uniform(bound) => (0..numbers).map(|_| (2.0 * rng.uniform() - 1.0) as f32 * bound).collect(),
        Init::Factor { residual, factors, terms } => {
            let product = if residual { STD / (writers as f32).sqrt() } else { STD };
            let one = (f64::from(product) / terms.sqrt()).powf(1.0 / factors as f64);
            rng.normal(numbers, one as f32)
        }
        Init::Fill(value) => vec![value; numbers],
        Init::Each(f) => (0..numbers).map(f).collect(),
    }
}

/// A checkpoint's weights, and fresh ones for a head that it lacks.
pub struct Headed<'a> {
    /// What is there.
    pub checkpoint: Checkpoint,
    /// What is drawn.
    pub fresh: Fresh,
    /// How the names of heads' weights begin.
    pub scopes: &'a [&'a str],
}

impl Headed<'_> {
    /// Whether a weight is one of a head, and the checkpoint has none of its name and shape.
    fn is_missing(&self, want: &Want<'_>) -> Result<bool> {
        let of_head = self.scopes.iter().any(|scope| want.name.strip_prefix(scope).is_some_and(|n| n.starts_with('.')));
        let name = self.checkpoint.names.in_file(want.name)?;
        Ok(of_head && self.checkpoint.state.get(&name).is_none_or(|tensor| tensor.shape != want.shape))
    }
}

impl WeightSource for Headed<'_> {
    fn device(&self) -> Device {
        self.checkpoint.device.clone()
    }

    fn take(&mut self, want: &Want<'_>) -> Result<(String, Option<Vec<f32>>)> {
        match self.is_missing(want)? {
            true => {
                self.checkpoint.state.remove(&self.checkpoint.names.in_file(want.name)?);
                self.fresh.take(want)
            }
            false => self.checkpoint.take(want),
        }
    }

    fn take_or(&mut self, want: &Want<'_>, fill: &dyn Fn(usize) -> f32) -> Result<(String, Option<Vec<f32>>)> {
        self.checkpoint.take_or(want, fill)
    }

    fn quantized(&mut self, want: &Want<'_>) -> Result<Option<Weight>> {
        self.checkpoint.quantized(want)
    }
}
