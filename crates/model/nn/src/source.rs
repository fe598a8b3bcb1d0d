//! Where a model's weights come from, and the names under which its parts ask for them.

use std::fmt::Display;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use cupola_artifact::Result;
use cupola_ops::{Precision, from_vec};

use crate::linear::{Linear, Weight};
use crate::norm::{Norm, NormSpec};
use crate::param::Param;
use crate::rope::{Angles, RopeSpec};
use crate::tensor_train::{TensorTrain, TrainSpec};

/// What a fresh weight is filled with.
#[derive(Clone, Copy)]
pub enum Init<'a> {
    /// Normally distributed, with a deviation of 0.02.
    Normal,
    /// Normally distributed, with this deviation.
    Deviation(f32),
    /// The same for a layer that writes to the residual stream: divided by the square root of how many do (Radford et al.
    /// 2019).
    Residual,
    /// Uniform between minus and plus this.
    Uniform(f32),
    /// One number everywhere.
    Fill(f32),
    /// One of `factors` numbers whose products, summed over `terms` of them, deviate as [`Init::Normal`], or as
    /// [`Init::Residual`].
    Factor {
        /// As which.
        residual: bool,
        /// Numbers of a product.
        factors: usize,
        /// Products of a sum.
        terms: f64,
    },
    /// The number for each place.
    Each(&'a dyn Fn(usize) -> f32),
}

/// What a weight is for; the counts of a model go by it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Use {
    /// A matrix that every token is multiplied by.
    Product,
    /// Matrices of which each token is multiplied by this share, or so many times.
    Share(f64),
    /// A table with a row for each token, position or the like.
    Table,
    /// Norms, biases and whatever else is not multiplied by whole rows.
    Other,
    /// No parameter: it moves by a rule of its own, not by gradients.
    Buffer,
}

/// A weight that a model asks for.
#[derive(Clone, Copy)]
pub struct Want<'a> {
    /// Its name as the model calls it: `layers.0.attention.q.weight`.
    pub name: &'a str,
    /// Its shape.
    pub shape: &'a [usize],
    /// What a fresh one is filled with.
    pub init: Init<'a>,
    /// What it is for.
    pub purpose: Use,
}

/// Where weights come from: a checkpoint, a random number generator, or a count that needs their shapes alone.
pub trait WeightSource {
    /// Where the tensors go.
    fn device(&self) -> Device;

    /// The name in the checkpoint and the numbers; no numbers where only shapes count.
    ///
    /// # Errors
    /// When the source lacks the weight or has it in another shape.
    fn take(&mut self, want: &Want<'_>) -> Result<(String, Option<Vec<f32>>)>;

    /// The same of a weight that a checkpoint may lack, with what is in it then.
    ///
    /// # Errors
    /// When the source has the weight in another shape.
    fn take_or(&mut self, want: &Want<'_>, _fill: &dyn Fn(usize) -> f32) -> Result<(String, Option<Vec<f32>>)> {
        self.take(want)
    }

    /// The weight of a linear layer where the source has it quantized.
    ///
    /// # Errors
    /// As [`Self::take`].
    fn quantized(&mut self, _want: &Want<'_>) -> Result<Option<Weight>> {
        Ok(None)
    }
}

/// A place in a model that is being built, e.g. `layers.0.attention`.
pub struct Scope<'a> {
    source: &'a mut dyn WeightSource,
    angles: &'a mut Vec<Arc<Angles>>,
    path: String,
    /// What linear layers have for weights, if not matrices.
    train: Option<TrainSpec>,
}

impl<'a> Scope<'a> {
    /// The root. `angles` collects the rotary positions, which layers with equal settings share.
    pub fn root(source: &'a mut dyn WeightSource, angles: &'a mut Vec<Arc<Angles>>) -> Self {
        Self { source, angles, path: String::new(), train: None }
    }

    /// A place inside this one.
    pub fn at(&mut self, part: impl Display) -> Scope<'_> {
        let path = self.name(part);
        Scope { source: &mut *self.source, angles: &mut *self.angles, path, train: self.train }
    }

    /// This place, with tensor trains for the weights of linear layers.
    pub fn factored(&mut self, train: TrainSpec) -> Scope<'_> {
        Scope { train: Some(train), ..self.at("") }
    }

    /// Where the tensors go.
    pub(crate) fn device(&self) -> Device {
        self.source.device()
    }

    fn name(&self, part: impl Display) -> String {
        match (self.path.as_str(), part.to_string()) {
            ("", part) => part,
            (path, part) if part.is_empty() => path.to_string(),
            (path, part) => format!("{path}.{part}"),
        }
    }

    /// A parameter of any rank.
    ///
    /// # Errors
    /// As [`WeightSource::take`]; so do all that follow.
    pub fn param<const D: usize>(&mut self, part: &str, shape: [usize; D], init: Init<'_>) -> Result<Param<D>> {
        self.param_for(part, shape, init, Use::Other)
    }

    /// A parameter that is not a linear layer's weight and yet a factor of products.
    ///
    /// # Errors
    /// As [`Self::param`].
    pub fn param_for<const D: usize>(
        &mut self,
        part: &str,
        shape: [usize; D],
        init: Init<'_>,
        purpose: Use,
    ) -> Result<Param<D>> {
        let name = self.name(part);
        let (name, data) = self.source.take(&Want { name: &name, shape: &shape, init, purpose })?;
        let device = self.source.device();
        let value = data.map_or_else(|| Tensor::zeros([1; D], &device), |data| from_vec(data, shape, &device));
        Ok(Param::new(name, value))
    }

    /// A table of vectors, `[rows, width]`.
    ///
    /// # Errors
    /// As [`Self::param`].
    pub fn table(&mut self, part: &str, shape: [usize; 2]) -> Result<Param<2>> {
        self.at(part).param_for("weight", shape, Init::Normal, Use::Table)
    }

    /// A parameter that is never trained; where a checkpoint has none it is filled as a fresh one is.
    ///
    /// # Errors
    /// As [`Self::param`].
    pub fn fixed<const D: usize>(
        &mut self,
        part: &str,
        shape: [usize; D],
        init: impl Fn(usize) -> f32,
    ) -> Result<Param<D>> {
        let name = self.name(part);
        let want = Want { name: &name, shape: &shape, init: Init::Each(&init), purpose: Use::Table };
        let (name, data) = self.source.take_or(&want, &init)?;
        let device = self.source.device();
        let value = data.map_or_else(|| Tensor::zeros([1; D], &device), |data| from_vec(data, shape, &device));
        Ok(Param::fixed(name, value))
    }

    /// A linear layer of `[d_out, d_in]`.
    ///
    /// # Errors
    /// As [`Self::param`].
    pub fn linear(&mut self, part: &str, shape: [usize; 2], bias: bool) -> Result<Linear> {
        self.linear_of(part, shape, bias, Init::Normal)
    }

    /// A linear layer that writes to the residual stream.
    ///
    /// # Errors
    /// As [`Self::param`].
    pub fn linear_out(&mut self, part: &str, shape: [usize; 2], bias: bool) -> Result<Linear> {
        self.linear_of(part, shape, bias, Init::Residual)
    }

    /// A linear layer without a bias that not every token passes once.
    ///
    /// # Errors
    /// As [`Self::param`].
    pub fn linear_for(&mut self, part: &str, shape: [usize; 2], purpose: Use) -> Result<Linear> {
        self.linear_with(part, shape, false, (Init::Normal, purpose))
    }

    /// A linear layer whose fresh weight is filled otherwise.
    ///
    /// # Errors
    /// As [`Self::param`].
    pub fn linear_of(&mut self, part: &str, shape: [usize; 2], bias: bool, init: Init<'_>) -> Result<Linear> {
        self.linear_with(part, shape, bias, (init, Use::Product))
    }

    fn linear_with(
        &mut self,
        part: &str,
        shape: [usize; 2],
        bias: bool,
        (init, purpose): (Init<'_>, Use),
    ) -> Result<Linear> {
        let mut here = self.at(part);
        let name = here.name("weight");
        let want = Want { name: &name, shape: &shape, init, purpose };
        let weight = match here.train {
            Some(train) => Weight::Train(TensorTrain::build(&mut here, train, shape, init)?),
            None => match here.source.quantized(&want)? {
                Some(weight) => weight,
                None => Weight::Dense(here.param_for("weight", shape, init, purpose)?),
            },
        };
        let bias = bias.then(|| here.param("bias", [shape[0]], Init::Fill(0.0))).transpose()?;
        Ok(Linear { weight, bias, adapter: None, precision: Precision::F32 })
    }

    /// A norm over `width` numbers.
    ///
    /// # Errors
    /// As [`Self::param`].
    pub fn norm(&mut self, part: &str, spec: NormSpec, width: usize) -> Result<Norm> {
        let mut here = self.at(part);
        let weight = here.param("weight", [width], Init::Fill(if spec.plus_one { 0.0 } else { 1.0 }))?;
        let bias = spec.bias.then(|| here.param("bias", [width], Init::Fill(0.0))).transpose()?;
        Ok(Norm { spec, weight, bias })
    }

    /// The angles of rotary positions.
    pub fn angles(&mut self, spec: &RopeSpec) -> Arc<Angles> {
        if let Some(found) = self.angles.iter().find(|a| a.spec() == spec) {
            return Arc::clone(found);
        }
        let fresh = Arc::new(Angles::new(spec.clone()));
        self.angles.push(Arc::clone(&fresh));
        fresh
    }
}

/// A source that counts what is asked for and makes nothing.
#[derive(Debug, Default)]
pub struct Count {
    /// Numbers in all weights.
    pub parameters: u64,
    /// Numbers in the matrices that a token is multiplied by.
    pub products: f64,
}

impl WeightSource for Count {
    fn device(&self) -> Device {
        Device::flex()
    }

    fn take(&mut self, want: &Want<'_>) -> Result<(String, Option<Vec<f32>>)> {
        let numbers = want.shape.iter().fold(1u64, |product, n| product.saturating_mul(*n as u64));
        if want.purpose != Use::Buffer {
            self.parameters = self.parameters.saturating_add(numbers);
        }
        self.products += match want.purpose {
            Use::Product => numbers as f64,
            Use::Share(share) => share * numbers as f64,
            Use::Table | Use::Other | Use::Buffer => 0.0,
        };
        Ok((want.name.to_string(), None))
    }
}
