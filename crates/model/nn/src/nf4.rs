//! Weights in four bits as bitsandbytes writes them.

use cupola_artifact::{Context, DType, Error, HostTensor, Result, StateDict};
use cupola_kernels::{NF4, NF4_BLOCK, NF4_NESTED, Nf4Parts, nf4_scale_codes};
use cupola_ops::Nf4Weight;
use serde_json::{Value, json};

/// What stands behind a weight's name where the rest is said in words.
const STATE: &str = "quant_state.bitsandbytes__nf4";

/// The tensors of a file that hold a weight called `name`.
pub(crate) fn to_host(weight: &Nf4Weight, name: &str) -> StateDict {
    let Nf4Parts { packed, scales, nested, offset } = &*weight.parts;
    let words = json!({
        "quant_type": "nf4", "blocksize": NF4_BLOCK, "dtype": "float32", "shape": weight.shape(),
        "nested_blocksize": NF4_NESTED, "nested_dtype": "float32", "nested_offset": offset,
    });
    let words = words.to_string().into_bytes();
    let tensors = [
        (String::new(), HostTensor::from_u8([packed.len(), 1], packed)),
        (".absmax".into(), HostTensor::from_u8([scales.len()], scales)),
        (".quant_map".into(), HostTensor::from_f32([16], &NF4)),
        (".nested_absmax".into(), HostTensor::from_f32([nested.len()], nested)),
        (".nested_quant_map".into(), HostTensor::from_f32([256], &nf4_scale_codes())),
        (format!(".{STATE}"), HostTensor::from_u8([words.len()], &words)),
    ];
    tensors.into_iter().map(|(part, tensor)| (format!("{name}{part}"), tensor)).collect()
}

/// Takes a weight `[d_out, d_in]` out of a file's tensors; none where the file does not have it in four bits.
///
/// # Errors
/// A part that is missing or does not fit; another way of quantization.
pub fn take_nf4(state: &mut StateDict, name: &str, [d_out, d_in]: [usize; 2]) -> Result<Option<Nf4Weight>> {
    let Some(words) = state.remove(&format!("{name}.{STATE}")) else { return Ok(None) };
    let wrong = |what: String| {
        Error::failed(format!("{name} in four bits: {what}"))
            .with_hint("this build reads bitsandbytes' NF4 in blocks of 64 with double quantization")
    };
    let words: Value = serde_json::from_slice(&words.bytes).context(|| format!("{name}.{STATE} is no JSON"))?;
    let number = |key: &str| words[key].as_u64().unwrap_or_default() as usize;
    if words["quant_type"] != "nf4" || number("blocksize") != NF4_BLOCK || number("nested_blocksize") != NF4_NESTED {
        return Err(wrong(format!("its state is {words}")));
    }
    if words["shape"] != json!([d_out, d_in]) {
        let message =
            format!("{name} is {} in the checkpoint, but config.json implies [{d_out}, {d_in}]", words["shape"]);
        return Err(Error::failed(message));
    }
    let offset = words["nested_offset"].as_f64().ok_or_else(|| wrong("it has no `nested_offset`".into()))? as f32;
    let mut part = |part: &str, len: usize, dtype: DType| {
        let tensor =
            state.remove(&format!("{name}{part}")).ok_or_else(|| wrong(format!("there is no `{name}{part}`")))?;
        match tensor.len() == len && tensor.dtype == dtype {
            true => Ok(tensor),
            false => Err(wrong(format!("`{name}{part}` is not {len} numbers of type {}", dtype.name()))),
        }
    };
    let len = d_out * d_in;
    let blocks = len.div_ceil(NF4_BLOCK);
    let parts = Nf4Parts {
        packed: part("", len.div_ceil(2), DType::U8)?.bytes,
        scales: part(".absmax", blocks, DType::U8)?.bytes,
        nested: part(".nested_absmax", blocks.div_ceil(NF4_NESTED), DType::F32)?.to_f32()?,
        offset,
    };
    let same = |found: HostTensor, known: &[f32]| {
        Ok::<_, Error>(found.to_f32()?.iter().zip(known).all(|(a, b)| (a - b).abs() < 1e-6))
    };
    let tables = same(part(".quant_map", 16, DType::F32)?, &NF4)?
        && same(part(".nested_quant_map", 256, DType::F32)?, &nf4_scale_codes())?;
    if !tables {
        return Err(wrong("its tables of codes are others".into()));
    }
    Ok(Some(Nf4Weight { parts: parts.into(), d_out, d_in }))
}
