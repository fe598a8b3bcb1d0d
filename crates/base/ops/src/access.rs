//! Between tensors and plain numbers.

use burn::backend::Flex;
use burn::tensor::{Device, Tensor, TensorData};

use crate::host::{erase, flex, slice};

/// A tensor from numbers, row-major.
pub fn from_vec<const D: usize>(data: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(data, shape), device)
}

/// A tensor's numbers, row-major, without its tape.
pub fn to_vec<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    let tensor = tensor.clone();
    let tensor = if tensor.is_autodiff() { tensor.inner() } else { tensor };
    if crate::is_host(&tensor.device()) {
        return slice(&flex(erase(tensor))).to_vec();
    }
    into_vec(tensor)
}

/// A tensor's numbers, row-major; no copy when nobody else holds the tensor. It must not have a tape.
pub fn into_vec<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    match tensor.into_data().convert::<f32>().try_into_vec::<f32>() {
        Ok(data) => data,
        Err(e) => unreachable!("a float tensor gives floats: {e:?}"),
    }
}

/// A tensor's only number.
pub fn scalar(tensor: &Tensor<1>) -> f32 {
    to_vec(tensor).first().copied().unwrap_or(f32::NAN)
}

/// Reads a CPU tensor's numbers in place; it must not have a tape.
pub fn read<const D: usize, R>(tensor: Tensor<D>, f: impl FnOnce(&[f32]) -> R) -> R {
    f(slice(&flex(erase(tensor))))
}

/// Changes a CPU tensor's numbers, in place when nobody else holds the tensor (then `true` is given as well), else in
/// a copy. The result has no tape.
pub fn update<const D: usize>(tensor: Tensor<D>, f: impl FnOnce(&mut [f32])) -> (Tensor<D>, bool) {
    let tensor = if tensor.is_autodiff() { tensor.inner() } else { tensor };
    let count = tensor.dims().iter().product::<usize>();
    let mut primitive = flex(erase(tensor));
    let whole = primitive.layout().start_offset() == 0 && primitive.storage::<f32>().len() == count;
    if !whole {
        let mut data = slice(&primitive).to_vec();
        let shape = primitive.layout().shape().clone();
        f(&mut data);
        let primitive = burn::backend::flex::FlexTensor::from_data(TensorData::new(data, shape));
        return (Tensor::from_primitive::<Flex>(primitive), false);
    }
    let unique = primitive.is_unique();
    f(primitive.storage_mut::<f32>());
    (Tensor::from_primitive::<Flex>(primitive), unique)
}
