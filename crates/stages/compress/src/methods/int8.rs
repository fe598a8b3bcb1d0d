//! Weight-only int8: each group of neighbours in a row of a matrix shares one scale, its largest magnitude over 127
//! (absmax quantization as in Dettmers et al. 2022, by groups; stored as compressed-tensors' `int-quantized`).

use cupola_arch::Model;
use cupola_artifact::{DType, Error, HostTensor, Result, StateDict, parse_config};
use cupola_nn::{Module, scale_name};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::method::{Method, MethodKind};

/// The kind `int8`.
pub struct Kind;

#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Int8 {
    /// Columns that share a scale.
    group: usize,
}

impl Default for Int8 {
    fn default() -> Self {
        Self { group: 64 }
    }
}

impl MethodKind for Kind {
    fn name(&self) -> &'static str {
        "int8"
    }

    fn about(&self) -> &'static str {
        "weights as 8-bit integers with one scale for each `group` of columns"
    }

    fn configure(&self, section: &str, table: toml::Table) -> Result<Box<dyn Method>> {
        let method: Int8 = parse_config(section, table)?;
        if method.group == 0 {
            return Err(Error::usage(format!("`group` in [{section}] must be at least 1")).with_hint("64 is usual"));
        }
        Ok(Box::new(method))
    }
}

impl Method for Int8 {
    fn settings(&self) -> Value {
        json!(self)
    }

    fn describe(&self) -> String {
        format!("int8 in groups of {}", self.group)
    }

    fn bytes_per_parameter(&self) -> f64 {
        1.0 + 4.0 / self.group as f64
    }

    fn apply(&self, model: &mut Model) -> Result<()> {
        if model.state().values().any(|tensor| tensor.dtype == DType::I8) {
            return Err(Error::failed("the model's weights are int8 numbers already")
                .with_hint("compress the model it was made from"));
        }
        if !model.routers().is_empty() {
            return Err(
                Error::failed("int8 weights of experts are not supported").with_hint("the model stays as it is")
            );
        }
        model.quantize_int8(self.group);
        Ok(())
    }

    fn weight(&self, compressed: &StateDict, name: &str) -> Result<Vec<f32>> {
        let get = |name: &str| -> Result<&HostTensor> {
            compressed.get(name).ok_or_else(|| Error::failed(format!("the compressed model has no {name}")))
        };
        let weight = get(name)?;
        if weight.dtype != DType::I8 {
            return weight.to_f32();
        }
        let scales = get(&scale_name(name))?;
        let (&[_, cols], &[_, groups]) = (&weight.shape[..], &scales.shape[..]) else {
            return Err(Error::failed(format!("{name} and its scales must be matrices")));
        };
        let (q, scales) = (weight.to_i8()?, scales.to_f32()?);
        let value = |(i, q): (usize, &i8)| f32::from(*q) * scales[i / cols * groups + i % cols / self.group];
        Ok(q.iter().enumerate().map(value).collect())
    }
}
