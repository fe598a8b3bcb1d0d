//! How a file's tensors differ from a model's parameters, where they do.

use cupola_artifact::{Error, HostTensor, Result, StateDict};

use crate::fused::Fused;

/// A difference between a file's tensors and the model's; both directions.
#[derive(Clone, Debug, PartialEq)]
pub enum Rearrangement {
    /// A linear layer of the file that holds several of the model's, or lies on its side.
    Fused(Fused),
    /// Tensors of the file, one for each of `count` experts and the like, that the model has in one.
    Stacked {
        /// The name in the file, with `{}` for the number, e.g. `….experts.{}.up_proj.weight`.
        file: String,
        /// How many.
        count: usize,
        /// The model's name.
        name: String,
    },
    /// Tensors that the model has no use for; they are not written again.
    Dropped {
        /// What their names begin with.
        prefix: String,
    },
    /// A tensor of another shape with the same numbers in the same order.
    Reshaped {
        /// Its name.
        name: String,
        /// The shape in the file.
        file: Vec<usize>,
        /// The model's shape.
        model: Vec<usize>,
    },
    /// Names that begin otherwise.
    Renamed {
        /// How they begin in the file; nothing where all of the model's names that begin so stand bare in it.
        file: String,
        /// How the model's begin.
        name: String,
    },
}

impl From<Fused> for Rearrangement {
    fn from(fused: Fused) -> Self {
        Self::Fused(fused)
    }
}

impl Rearrangement {
    /// A tensor that the model has in one row.
    pub fn in_a_row(name: String, file: Vec<usize>) -> Self {
        let model = vec![file.iter().product()];
        Self::Reshaped { name, file, model }
    }

    /// Replaces the file's tensors by the model's. What is absent is left to whoever looks for it.
    ///
    /// # Errors
    /// A tensor whose shape does not fit.
    pub fn unpack(&self, state: &mut StateDict) -> Result<()> {
        match self {
            Self::Fused(fused) => fused.unpack(state),
            Self::Stacked { file, count, name } => stack(state, file, *count, name),
            Self::Dropped { prefix } => {
                state.retain(|name, _| !name.starts_with(prefix));
                Ok(())
            }
            Self::Reshaped { name, file, model } => {
                let Some(tensor) = state.get_mut(name) else { return Ok(()) };
                if tensor.shape != *file {
                    return Err(mismatch(name, &tensor.shape, file));
                }
                tensor.shape.clone_from(model);
                Ok(())
            }
            Self::Renamed { file, name } => {
                // Files that should be bare and are not stay as they are.
                if !file.is_empty() || !state.keys().any(|key| key.starts_with(name)) {
                    rename(state, file, name);
                }
                Ok(())
            }
        }
    }

    /// Replaces the model's tensors by the file's.
    pub fn pack(&self, state: &mut StateDict) {
        match self {
            Self::Fused(fused) => fused.pack(state),
            Self::Stacked { file, count, name } => {
                let Some(tensor) = state.remove(name) else { return };
                let size = tensor.bytes.len() / count;
                for (i, bytes) in tensor.bytes.chunks_exact(size.max(1)).enumerate() {
                    let (shape, dtype, bytes) = (tensor.shape[1..].to_vec(), tensor.dtype, bytes.to_vec());
                    state.insert(numbered(file, i), HostTensor { shape, dtype, bytes });
                }
            }
            Self::Dropped { .. } => {}
            Self::Reshaped { name, file, .. } => {
                if let Some(tensor) = state.get_mut(name) {
                    tensor.shape.clone_from(file);
                }
            }
            Self::Renamed { file, name } => rename(state, name, file),
        }
    }
}

/// Replaces the beginning of names.
fn rename(state: &mut StateDict, from: &str, to: &str) {
    let all = std::mem::take(state);
    let renamed = |name: String| name.strip_prefix(from).map(|rest| format!("{to}{rest}")).unwrap_or(name);
    state.extend(all.into_iter().map(|(name, tensor)| (renamed(name), tensor)));
}

fn numbered(file: &str, i: usize) -> String {
    file.replacen("{}", &i.to_string(), 1)
}

fn mismatch(name: &str, found: &[usize], implied: &[usize]) -> Error {
    Error::failed(format!("{name} is {found:?} in the checkpoint, but config.json implies {implied:?}"))
        .with_hint("config.json disagrees with the checkpoint; one of them is another model's")
}

/// One tensor out of `count`; without the first of them the state stays as it is.
fn stack(state: &mut StateDict, file: &str, count: usize, name: &str) -> Result<()> {
    let Some(first) = state.get(&numbered(file, 0)) else { return Ok(()) };
    let (shape, dtype) = (first.shape.clone(), first.dtype);
    let mut bytes = Vec::with_capacity(first.bytes.len() * count);
    for i in 0..count {
        let part = numbered(file, i);
        let tensor = state.remove(&part).ok_or_else(|| {
            Error::failed(format!("the checkpoint has no `{part}`"))
                .with_hint(format!("config.json says that there are {count} of them"))
        })?;
        if tensor.shape != shape || tensor.dtype != dtype {
            return Err(mismatch(&part, &tensor.shape, &shape));
        }
        bytes.extend(tensor.bytes);
    }
    state.insert(name.to_string(), HostTensor { shape: [&[count], shape.as_slice()].concat(), dtype, bytes });
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn experts_are_one_tensor_in_the_model_and_several_in_the_file() {
        let file: StateDict =
            (0..3).map(|e| (format!("experts.{e}.up"), HostTensor::from_f32([1, 2], &[e as f32, 7.0]))).collect();
        let stacked = Rearrangement::Stacked { file: "experts.{}.up".into(), count: 3, name: "up".into() };
        let mut state = file.clone();
        stacked.unpack(&mut state).unwrap();
        assert_eq!(state["up"], HostTensor::from_f32([3, 1, 2], &[0.0, 7.0, 1.0, 7.0, 2.0, 7.0]));
        stacked.pack(&mut state);
        assert_eq!(state, file);
        let missing = Rearrangement::Stacked { file: "experts.{}.up".into(), count: 4, name: "up".into() };
        assert!(missing.unpack(&mut state).unwrap_err().to_string().contains("no `experts.3.up`"));
    }

    #[test]
    fn names_begin_otherwise_in_the_file() {
        let file: StateDict =
            ["layer.1.w", "layer.10.w", "norm"].map(|n| (n.to_string(), HostTensor::from_f32([1], &[0.5]))).into();
        let mut state = file.clone();
        let all = Rearrangement::Renamed { file: String::new(), name: "bert.".into() };
        let one = Rearrangement::Renamed { file: "bert.layer.1.".into(), name: "bert.group.0.".into() };
        all.unpack(&mut state).unwrap();
        one.unpack(&mut state).unwrap();
        assert_eq!(state.keys().collect::<Vec<_>>(), ["bert.group.0.w", "bert.layer.10.w", "bert.norm"]);
        all.unpack(&mut state).unwrap();
        assert_eq!(state.len(), 3, "what begins so already stays");
        one.pack(&mut state);
        all.pack(&mut state);
        assert_eq!(state, file);
    }

    #[test]
    fn a_shape_that_differs_from_the_files_is_an_error() {
        let mut state: StateDict = [("a".to_string(), HostTensor::from_f32([2, 1, 2], &[0.0; 4]))].into();
        let before = state.clone();
        let fits = Rearrangement::Reshaped { name: "a".into(), file: vec![2, 1, 2], model: vec![2, 2] };
        fits.unpack(&mut state).unwrap();
        assert_eq!(state["a"].shape, [2, 2]);
        fits.pack(&mut state);
        assert_eq!(state, before);
        let other = Rearrangement::Reshaped { name: "a".into(), file: vec![2, 1, 3], model: vec![2, 3] };
        assert!(other.unpack(&mut state).is_err());
    }

    #[test]
    fn what_the_model_has_no_use_for_is_dropped() {
        let tensor = || HostTensor::from_f32([1], &[1.0]);
        let mut state: StateDict = ["layers.2.up", "layers.20.up"].map(|name| (name.to_string(), tensor())).into();
        let dropped = Rearrangement::Dropped { prefix: "layers.2.".into() };
        dropped.unpack(&mut state).unwrap();
        dropped.pack(&mut state);
        assert_eq!(state.into_keys().collect::<Vec<_>>(), ["layers.20.up"]);
    }
}
