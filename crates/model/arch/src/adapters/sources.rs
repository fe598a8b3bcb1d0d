//! Where an adapter's weights come from: a file, a random number generator, or a count.

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::Device;
use cupola_artifact::{Error, Result, StateDict, nearest};
use cupola_nn::{Rng, Use, Want, WeightSource};

use crate::names::Names;
use crate::source::drawn;

/// A folder's tensors.
pub(crate) struct AdapterFile {
    /// What has not been taken yet, without PEFT's prefix.
    pub state: StateDict,
    /// Where the tensors go.
    pub device: Device,
    /// The folder.
    pub dir: PathBuf,
}

impl AdapterFile {
    /// An error that names weights which the model has no place for.
    pub fn finish(self) -> Result<()> {
        match self.state.keys().next() {
            None => Ok(()),
            Some(left) => {
                let message =
                    format!("the adapter in {} has weights that the model has no place for", self.dir.display());
                Err(Error::failed(format!("{message}, e.g. `{left}`"))
                    .with_hint("the adapter belongs to another base model, or its configuration names other modules"))
            }
        }
    }
}

impl WeightSource for AdapterFile {
    fn device(&self) -> Device {
        self.device.clone()
    }

    fn take(&mut self, want: &Want<'_>) -> Result<(String, Option<Vec<f32>>)> {
        let tensor = self.state.remove(want.name).ok_or_else(|| {
            let near = nearest(want.name, self.state.keys().map(String::as_str));
            let hint = near.map(|near| format!("the nearest name there is `{near}`"));
            Error::failed(format!("the adapter in {} has no `{}`", self.dir.display(), want.name))
                .with_hint(hint.unwrap_or_else(|| "the adapter belongs to another base model".into()))
        })?;
        if tensor.shape != want.shape {
            let message = format!("{} is {:?} in {}", want.name, tensor.shape, self.dir.display());
            return Err(Error::failed(format!("{message}, but the model implies {:?}", want.shape))
                .with_hint("the adapter belongs to another base model, or its configuration has another rank"));
        }
        Ok((want.name.to_string(), Some(tensor.to_f32()?)))
    }

    /// What a file need not have.
    fn take_or(&mut self, want: &Want<'_>, fill: &dyn Fn(usize) -> f32) -> Result<(String, Option<Vec<f32>>)> {
        if self.state.contains_key(want.name) {
            return self.take(want);
        }
        Ok((want.name.to_string(), Some((0..want.shape.iter().product()).map(fill).collect())))
    }
}

/// Fresh weights of an adapter.
pub(crate) struct FreshAdapter {
    /// Where randomness starts.
    pub seed: u64,
    /// Where the tensors go.
    pub device: Device,
}

impl WeightSource for FreshAdapter {
    fn device(&self) -> Device {
        self.device.clone()
    }

    fn take(&mut self, want: &Want<'_>) -> Result<(String, Option<Vec<f32>>)> {
        let data = drawn(want, &mut Rng::new(self.seed, want.name), 1);
        Ok((want.name.to_string(), Some(data)))
    }
}

/// A source that makes nothing and keeps the shapes, by the names in files.
pub(crate) struct Shapes {
    /// What weights are called.
    pub names: Names,
    /// What was asked for.
    pub shapes: BTreeMap<String, Vec<usize>>,
}

impl WeightSource for Shapes {
    fn device(&self) -> Device {
        Device::flex()
    }

    fn take(&mut self, want: &Want<'_>) -> Result<(String, Option<Vec<f32>>)> {
        let name = self.names.in_file(want.name)?;
        if want.purpose != Use::Buffer {
            self.shapes.insert(name.clone(), want.shape.to_vec());
        }
        Ok((name, None))
    }
}
