//! Rotary positions: base, stretch, and the factors of Llama 3 that stand in a tensor.

use cupola_artifact::{Error, Result};
use serde_json::{Map, Value, json};

use super::settings::{Described, Export, plain};

/// The tensor whose numbers divide the frequencies.
pub const FACTORS: &str = "rope_freqs.weight";
/// The same of sequences no longer than the original context, and of longer ones.
pub const SHORT: &str = "rope_factors_short.weight";
/// The same of longer ones.
pub const LONG: &str = "rope_factors_long.weight";
/// All of them.
pub const TENSORS: [&str; 3] = [FACTORS, SHORT, LONG];

/// What divides the frequencies, as tensors say it.
pub struct Factors {
    /// Of all sequences.
    pub of_all: Option<Vec<f32>>,
    /// Of short sequences.
    pub of_short: Option<Vec<f32>>,
    /// Of long ones.
    pub of_long: Option<Vec<f32>>,
}

/// Llama 3's stretch: low frequencies are divided, high ones kept, those between blended.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stretch {
    factor: f64,
    low: f64,
    high: f64,
    original: f64,
}

impl Stretch {
    /// What divides the frequency of a wavelength.
    fn divisor(self, wavelength: f64) -> f64 {
        let smooth = ((self.original / wavelength - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        1.0 / ((1.0 - smooth) / self.factor + smooth)
    }
}

/// The wavelengths of a head's pairs.
fn wavelengths(theta: f64, dim: usize) -> impl Iterator<Item = f64> {
    (0..dim / 2).map(move |i| std::f64::consts::TAU * theta.powf(2.0 * i as f64 / dim as f64))
}

/// The rotary settings of one kind of layer, as transformers 5 (`rope_parameters`) or 4 (`rope_theta`, `rope_scaling`)
/// writes them.
pub fn parameters(config: &Map<String, Value>, layers: &str) -> Map<String, Value> {
    let object = |key: &str| config.get(key).and_then(Value::as_object);
    let of_all = object("rope_parameters").or_else(|| object("rope_scaling")).cloned().unwrap_or_default();
    let mut found = of_all.get(layers).and_then(Value::as_object).cloned().unwrap_or(of_all);
    for key in ["rope_theta", "partial_rotary_factor"] {
        if let (None, Some(value)) = (found.get(key), config.get(key)) {
            found.insert(key.into(), value.clone());
        }
    }
    found
}

/// Writes base, stretch and rotated numbers of heads of `d_head`.
///
/// # Errors
/// A stretch that llama.cpp does not have in this form.
pub fn write(export: &mut Export<'_>, d_head: usize) -> Result<()> {
    let rope = parameters(export.config, "full_attention");
    let number = |key: &str, default: f64| rope.get(key).and_then(Value::as_f64).unwrap_or(default);
    let theta = number("rope_theta", 10_000.0);
    let dim = (number("partial_rotary_factor", 1.0) * d_head as f64) as usize;
    export.set("rope.dimension_count", dim as u32);
    export.set("rope.freq_base", theta as f32);
    let kind = rope.get("rope_type").or_else(|| rope.get("type")).and_then(Value::as_str).unwrap_or("default");
    match kind {
        "default" => {}
        "linear" => {
            export.set("rope.scaling.type", "linear");
            export.set("rope.scaling.factor", number("factor", 1.0) as f32);
        }
        "llama3" => {
            let stretch = Stretch {
                factor: number("factor", 8.0),
                low: number("low_freq_factor", 1.0),
                high: number("high_freq_factor", 4.0),
                original: number("original_max_position_embeddings", 8192.0),
            };
            export.made.push((FACTORS, wavelengths(theta, dim).map(|w| stretch.divisor(w) as f32).collect()));
        }
        "yarn" => write_yarn(export, &rope)?,
        "longrope" | "su" if export.arch == "phi3" => write_long(export, &rope, dim)?,
        other => {
            return Err(Error::failed(format!(
                "config.json asks for rotary scaling `{other}`, which llama.cpp lacks here"
            ))
            .with_hint("it has default, linear, llama3 and yarn, and longrope for Phi-3"));
        }
    }
    Ok(())
}

/// By how much YaRN lengthens what is rotated.
fn lengthened(factor: f64, scale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
}

/// The original context, as the stretch or the model says it.
fn original(config: &Map<String, Value>, rope: &Map<String, Value>) -> Option<f64> {
    let key = "original_max_position_embeddings";
    let found = rope.get(key).or_else(|| config.get(key)).filter(|v| !v.is_null());
    found.or_else(|| config.get("max_position_embeddings"))?.as_f64()
}

/// YaRN (Peng et al. 2023).
fn write_yarn(export: &mut Export<'_>, rope: &Map<String, Value>) -> Result<()> {
    let said = |key: &str| rope.get(key).and_then(Value::as_f64).filter(|v| *v != 0.0);
    if rope.get("truncate") == Some(&Value::Bool(false)) {
        return Err(Error::failed(
            "`truncate` of the rotary scaling in config.json is false; llama.cpp always truncates",
        ));
    }
    let original = original(export.config, rope).unwrap_or(2048.0);
    let longest = export.get(&["max_position_embeddings"]).and_then(Value::as_f64).unwrap_or(2048.0);
    let factor = said("factor").unwrap_or(longest / original);
    export.set("rope.scaling.type", "yarn");
    export.set("rope.scaling.factor", factor as f32);
    export.set("rope.scaling.original_context_length", original as u32);
    for (name, key, usual) in [("beta_fast", "yarn_beta_fast", 32.0), ("beta_slow", "yarn_beta_slow", 1.0)] {
        if let Some(beta) = said(name).filter(|beta| *beta != usual) {
            export.set(&format!("rope.scaling.{key}"), beta as f32);
        }
    }
    let (some, all) = (said("mscale"), said("mscale_all_dim"));
    let stretched = lengthened(factor, 1.0);
    let derived = match (some, all) {
        (Some(some), Some(all)) => lengthened(factor, some) / lengthened(factor, all),
        _ => stretched,
    };
    let length = said("attention_factor").unwrap_or(derived);
    if export.arch == "deepseek2" {
        // The scores are scaled by the second, and what is rotated stays as long as it was.
        let Some(all) = all.filter(|_| length == 1.0) else {
            return Err(Error::failed("`mscale` and `mscale_all_dim` in config.json differ or are absent")
                .with_hint("llama.cpp takes them to be equal for this architecture"));
        };
        export.set("rope.scaling.yarn_log_multiplier", (0.1 * all) as f32);
    } else if length != stretched {
        export.set("rope.scaling.attn_factor", (length / stretched) as f32);
    }
    Ok(())
}

/// The length of what is rotated where LongRoPE says none.
fn long_length(config: &Map<String, Value>, rope: &Map<String, Value>, original: f64) -> f64 {
    let longest = config.get("max_position_embeddings").and_then(Value::as_f64).unwrap_or(original);
    let factor = rope.get("factor").and_then(Value::as_f64).unwrap_or(longest / original);
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() }
}

/// LongRoPE (Ding et al. 2024). llama.cpp chooses the factors by the context that it is started with, not by the sequence.
fn write_long(export: &mut Export<'_>, rope: &Map<String, Value>, dim: usize) -> Result<()> {
    for (name, key) in [(SHORT, "short_factor"), (LONG, "long_factor")] {
        let list = rope.get(key).and_then(Value::as_array);
        let factors: Option<Vec<f32>> = list.and_then(|l| l.iter().map(|v| v.as_f64().map(|v| v as f32)).collect());
        let factors = factors.filter(|factors| factors.len() == dim / 2).ok_or_else(|| {
            Error::failed(format!("`{key}` of the rotary scaling in config.json is no list of {}", dim / 2))
        })?;
        export.made.push((name, factors));
    }
    let original = original(export.config, rope).unwrap_or(4096.0);
    let said = rope.get("attention_factor").and_then(Value::as_f64);
    let length = said.unwrap_or_else(|| long_length(export.config, rope, original));
    export.set("rope.scaling.original_context_length", original as u32);
    export.set("rope.scaling.attn_factor", length as f32);
    Ok(())
}

/// Reads base, stretch and rotated numbers.
///
/// # Errors
/// A stretch that is not known here.
pub fn read(file: &mut Described<'_>, d_head: usize, factors: &Factors) -> Result<()> {
    let theta = file.number("rope.freq_base")?.unwrap_or(10_000.0);
    let dim = file.size("rope.dimension_count")?.unwrap_or(d_head);
    let mut rope = json!({"rope_type": "default", "rope_theta": plain(theta)});
    let kind = file.metadata.text(&file.key("rope.scaling.type"))?.unwrap_or("none").to_owned();
    let factor = file.number("rope.scaling.factor")?.unwrap_or(1.0);
    match (kind.as_str(), factors.of_all.as_deref()) {
        ("none" | "linear" | "longrope", None) if factors.of_short.is_some() || factors.of_long.is_some() => {
            read_long(file, factors, &mut rope)?;
        }
        ("yarn", None) => read_yarn(file, &mut rope)?,
        ("none" | "linear", Some(factors)) => {
            let stretch = fitted(theta, dim, factors).ok_or_else(|| {
                Error::failed(format!("the frequencies in `{FACTORS}` are stretched in an unknown way"))
                    .with_hint("known is Llama 3's way")
            })?;
            rope["rope_type"] = json!("llama3");
            rope["factor"] = plain(stretch.factor);
            rope["low_freq_factor"] = json!(stretch.low);
            rope["high_freq_factor"] = json!(stretch.high);
            rope["original_max_position_embeddings"] = whole(stretch.original);
        }
        ("linear", None) if factor != 1.0 => {
            rope["rope_type"] = json!("linear");
            rope["factor"] = plain(factor);
        }
        ("none" | "linear", None) => {}
        _ => {
            return Err(Error::failed(format!("the file asks for rotary scaling `{kind}`"))
                .with_hint("known are none, linear, yarn, longrope and Llama 3's factors"));
        }
    }
    if dim != d_head {
        rope["partial_rotary_factor"] = json!(dim as f64 / d_head as f64);
    }
    file.set("rope_parameters", rope);
    Ok(())
}

fn read_yarn(file: &mut Described<'_>, rope: &mut Value) -> Result<()> {
    let factor = file.number("rope.scaling.factor")?.unwrap_or(1.0);
    rope["rope_type"] = json!("yarn");
    rope["factor"] = plain(factor);
    for (name, key) in [("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")] {
        if let Some(beta) = file.number(&format!("rope.scaling.{key}"))? {
            rope[name] = plain(beta);
        }
    }
    if let Some(original) = file.number("rope.scaling.original_context_length")? {
        rope["original_max_position_embeddings"] = whole(original);
    }
    if let Some(log) = file.number("rope.scaling.yarn_log_multiplier")?.filter(|log| *log != 0.0) {
        let all = plain((log as f32 / 0.1).into());
        rope["mscale"] = all.clone();
        rope["mscale_all_dim"] = all;
    } else if let Some(more) = file.number("rope.scaling.attn_factor")?.filter(|more| *more != 1.0) {
        rope["attention_factor"] = plain(more * lengthened(factor, 1.0));
    }
    Ok(())
}

fn read_long(file: &mut Described<'_>, factors: &Factors, rope: &mut Value) -> Result<()> {
    let list = |factors: &Option<Vec<f32>>| -> Option<Value> {
        Some(factors.as_ref()?.iter().map(|f| plain((*f).into())).collect::<Vec<_>>().into())
    };
    let (Some(short), Some(long)) = (list(&factors.of_short), list(&factors.of_long)) else {
        return Err(
            Error::failed(format!("the file has one of `{SHORT}` and `{LONG}` only")).with_hint("get the model again")
        );
    };
    rope["rope_type"] = json!("longrope");
    rope["short_factor"] = short;
    rope["long_factor"] = long;
    let key = "rope.scaling.original_context_length";
    let original = file.metadata.required(&file.key(key), file.number(key)?)?;
    rope["original_max_position_embeddings"] = whole(original);
    file.set("original_max_position_embeddings", whole(original));
    let derived = long_length(&file.config, &Map::new(), original);
    if let Some(length) = file.number("rope.scaling.attn_factor")?.filter(|length| *length as f32 != derived as f32) {
        rope["attention_factor"] = plain(length);
    }
    Ok(())
}

/// A number, without a point where it is whole.
fn whole(number: f64) -> Value {
    if number.fract() == 0.0 { json!(number as u64) } else { json!(number) }
}

/// A stretch that gives these factors. Only the ratio of its numbers shows in them: the low factor is 1, and where one pair
/// or none is blended, the high one 4 as in all published models.
fn fitted(theta: f64, dim: usize, factors: &[f32]) -> Option<Stretch> {
    let factor = f64::from(factors.iter().copied().fold(1.0, f32::max));
    if factors.len() != dim / 2 || factors.iter().any(|f| !f.is_finite() || *f < 1.0) || factor > 1e6 {
        return None;
    }
    let pairs: Vec<(f64, f64)> = wavelengths(theta, dim).zip(factors.iter().map(|f| f64::from(*f))).collect();
    let smooth = |f: f64| (1.0 / f - 1.0 / factor) / (1.0 - 1.0 / factor);
    let blended: Vec<(f64, f64)> =
        pairs.iter().filter(|(_, f)| *f > 1.0001 && *f < factor * 0.9999).map(|(w, f)| (1.0 / w, smooth(*f))).collect();
    let stretch =
        |high: f64, original: f64| Stretch { factor, low: 1.0, high, original: (original * 1e3).round() / 1e3 };
    let guess = match blended.as_slice() {
        // None between: the last that is kept says how long the original context was at least.
        [] => {
            let kept = pairs.iter().filter(|(_, f)| *f < 1.0001).map(|(w, _)| 4.0 * w).fold(0.0, f64::max);
            let divided = pairs.iter().filter(|(_, f)| *f > 1.0001).map(|(w, _)| *w).fold(f64::INFINITY, f64::min);
            stretch(4.0, if kept > 0.0 { (kept + divided.min(4.0 * kept)) / 2.0 } else { divided / 2.0 })
        }
        [(per, s)] => stretch(4.0, (s * 3.0 + 1.0) / per),
        [first, .., last] => {
            // s = (original / w - 1) / (high - 1) is a line over 1 / w.
            let slope = (first.1 - last.1) / (first.0 - last.0);
            let high = 1.0 + 1.0 / (slope * first.0 - first.1);
            stretch((high * 1e3).round() / 1e3, slope * (high - 1.0))
        }
    };
    let near = |(w, f): &(f64, f64)| (guess.divisor(*w) / f - 1.0).abs() < 1e-3;
    (guess.high > 1.0 && guess.original.is_finite() && pairs.iter().all(near)).then_some(guess)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn factors_give_back_the_stretch() {
        for (theta, dim, stretch) in [
            (500_000.0, 128, Stretch { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 }),
            (500_000.0, 64, Stretch { factor: 32.0, low: 1.0, high: 4.0, original: 8192.0 }),
            (10_000.0, 16, Stretch { factor: 8.0, low: 1.0, high: 4.0, original: 16.0 }),
            (10_000.0, 8, Stretch { factor: 4.0, low: 1.0, high: 2.0, original: 64.0 }),
        ] {
            let factors: Vec<f32> = wavelengths(theta, dim).map(|w| stretch.divisor(w) as f32).collect();
            let found = fitted(theta, dim, &factors).unwrap();
            let again: Vec<f64> = wavelengths(theta, dim).map(|w| found.divisor(w)).collect();
            assert!(factors.iter().zip(&again).all(|(a, b)| (f64::from(*a) / b - 1.0).abs() < 1e-3), "{found:?}");
            if dim > 16 {
                assert_eq!((found.original, found.high), (stretch.original, stretch.high));
            }
        }
        assert_eq!(fitted(10_000.0, 8, &[1.0, 3.0, 2.0, 8.0]), None);
        assert_eq!(fitted(10_000.0, 8, &[1.0, f32::NAN, 2.0, 8.0]), None);
        assert_eq!(fitted(10_000.0, 8, &[1.0]), None);
    }
}
