//! Parameters: tensors with a name, walked by optimizers and writers.

use burn::tensor::{Gradients, Tensor};
use cupola_artifact::HostTensor;

/// A tensor that may be trained; its name is the one in the checkpoint.
#[derive(Clone, Debug)]
pub struct Param<const D: usize> {
    name: String,
    value: Tensor<D>,
    trainable: bool,
    fixed: bool,
    lr_ratio: f32,
}

impl<const D: usize> Param<D> {
    /// A parameter that is not trained until [`Self::set_trainable`].
    pub fn new(name: impl Into<String>, value: Tensor<D>) -> Self {
        Self { name: name.into(), value, trainable: false, fixed: false, lr_ratio: 1.0 }
    }

    /// A parameter that is never trained, whoever asks: sinusoids and the like, which files have among the weights.
    pub fn fixed(name: impl Into<String>, value: Tensor<D>) -> Self {
        Self { fixed: true, ..Self::new(name, value) }
    }

    /// The same, whose learning rate is so many times that of others.
    #[must_use]
    pub fn with_lr_ratio(self, lr_ratio: f32) -> Self {
        Self { lr_ratio, ..self }
    }

    /// The name in the checkpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tensor; cheap to clone.
    pub fn value(&self) -> Tensor<D> {
        self.value.clone()
    }

    /// Whether it takes part in training.
    pub fn trainable(&self) -> bool {
        self.trainable
    }

    /// Puts the parameter on the tape, or takes its gradient away.
    pub fn set_trainable(&mut self, trainable: bool) {
        self.trainable = trainable && !self.fixed;
        let inner = self.plain();
        self.value = if self.trainable { Tensor::from_inner(inner).require_grad() } else { inner };
    }

    /// The tensor without its tape.
    pub fn plain(&self) -> Tensor<D> {
        if self.value.is_autodiff() { self.value.clone().inner() } else { self.value.clone() }
    }

    /// Replaces the value; it stays trainable or not as before.
    pub fn set(&mut self, value: Tensor<D>) {
        self.value = value;
        self.set_trainable(self.trainable);
    }

    /// Its gradient, taken out.
    pub fn take_gradient(&self, gradients: &mut Gradients) -> Option<Tensor<D>> {
        if self.trainable { self.value.grad_remove(gradients) } else { None }
    }

    /// Changes the numbers in place on the CPU; `true` when no copy was needed.
    pub fn update(&mut self, f: impl FnOnce(&mut [f32])) -> bool {
        // The tensor moves out, so that nobody else holds it while it changes.
        let empty = Tensor::zeros([0; D], &self.value.device().without_autodiff());
        let held = std::mem::replace(&mut self.value, empty);
        let (value, in_place) = cupola_ops::update(held, f);
        self.value = if self.trainable { Tensor::from_inner(value).require_grad() } else { value };
        in_place
    }

    /// Its numbers as they are written to a file.
    pub fn to_host(&self) -> HostTensor {
        HostTensor::from_f32(self.value.dims().to_vec(), &cupola_ops::to_vec(&self.value))
    }
}

/// A parameter of whatever rank.
#[derive(Debug)]
pub enum ParamMut<'a> {
    /// Norm weights and biases.
    Vector(&'a mut Param<1>),
    /// Matrices inside the blocks.
    Matrix(&'a mut Param<2>),
    /// The embedding and the output layer, whose rows belong to tokens.
    Table(&'a mut Param<2>),
    /// Several matrices of one shape, e.g. those of a layer's experts.
    Stack(&'a mut Param<3>),
}

macro_rules! each {
    ($self:expr, $param:ident => $body:expr) => {
        match $self {
            ParamMut::Vector($param) => $body,
            ParamMut::Matrix($param) | ParamMut::Table($param) => $body,
            ParamMut::Stack($param) => $body,
        }
    };
}

impl ParamMut<'_> {
    /// The same, a matrix taken to be a table.
    pub fn into_table(self) -> Self {
        match self {
            ParamMut::Matrix(param) => ParamMut::Table(param),
            other => other,
        }
    }

    /// The name in the checkpoint.
    pub fn name(&self) -> &str {
        each!(self, p => p.name())
    }

    /// Its shape.
    pub fn shape(&self) -> Vec<usize> {
        each!(self, p => p.value.dims().to_vec())
    }

    /// How many numbers it has.
    pub fn numel(&self) -> usize {
        self.shape().iter().product()
    }

    /// Whether it takes part in training.
    pub fn trainable(&self) -> bool {
        each!(self, p => p.trainable())
    }

    /// Whether it is never trained.
    pub fn fixed(&self) -> bool {
        each!(self, p => p.fixed)
    }

    /// What its learning rate is multiplied by.
    pub fn lr_ratio(&self) -> f32 {
        each!(self, p => p.lr_ratio)
    }

    /// Whether it is a matrix, a table or a stack of them; weight decay applies to those only.
    pub fn is_matrix(&self) -> bool {
        !matches!(self, ParamMut::Vector(_))
    }

    /// Whether it is one matrix and no table.
    pub fn is_hidden(&self) -> bool {
        matches!(self, ParamMut::Matrix(_))
    }

    /// Its tensor on the tape, its rank forgotten; none where it is not trained.
    pub fn leaf(&self) -> Option<Tensor<1>> {
        self.trainable().then(|| each!(self, p => cupola_ops::unranked(p.value())))
    }

    /// Puts it on the tape, or takes its gradient away.
    pub fn set_trainable(&mut self, trainable: bool) {
        each!(self, p => p.set_trainable(trainable));
    }

    /// Its gradient as numbers, taken out; `None` when it is not trained or did not take part.
    pub fn take_gradient(&self, gradients: &mut Gradients) -> Option<Vec<f32>> {
        each!(self, p => p.take_gradient(gradients).map(cupola_ops::into_vec))
    }

    /// Its numbers.
    pub fn to_host(&self) -> HostTensor {
        each!(self, p => p.to_host())
    }

    /// Changes its numbers: in place on the CPU, through a copy elsewhere. `true` when nothing was copied.
    pub fn update(&mut self, f: impl FnOnce(&mut [f32])) -> bool {
        each!(self, p => {
            if cupola_ops::is_host(&p.value.device()) {
                return p.update(f);
            }
            let mut data = cupola_ops::to_vec(&p.value);
            f(&mut data);
            let device = p.value.device().without_autodiff();
            let value = cupola_ops::from_vec(data, p.value.dims(), &device);
            p.set(value);
            false
        })
    }
}
