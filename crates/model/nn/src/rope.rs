//! The angles of rotary positions and their scalings for longer contexts.

use std::sync::{Arc, Mutex, PoisonError};

use cupola_ops::RopeAngles;
use serde::{Deserialize, Serialize};

/// How positions become angles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RopeSpec {
    /// The base of the frequencies.
    pub theta: f64,
    /// How many of a head's numbers are rotated.
    pub rotary_dim: usize,
    /// The stretch for longer contexts.
    pub scaling: RopeScaling,
}

/// Stretches of rotary positions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RopeScaling {
    /// None.
    None,
    /// All positions divided by a factor (Chen et al. 2023, position interpolation).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// High frequencies kept, low ones divided by a factor, those between blended by how often they turn within the original
    /// context (Peng et al. 2023, YaRN).
    Yarn {
        /// The divisor of the low frequencies.
        factor: f64,
        /// Frequencies that turn more often than this are kept.
        beta_fast: f64,
        /// Frequencies that turn less often than this are divided.
        beta_slow: f64,
        /// Whether the bounds between them are rounded to whole pairs.
        truncate: bool,
        /// What cosines and sines are multiplied by.
        attention_factor: f64,
        /// The context that the model was first trained on.
        original_max_seq_len: f64,
    },
    /// A base that grows with the sequence once that is longer than the original context (dynamic NTK scaling, as transformers
    /// has it).
    Dynamic {
        /// How much longer the context becomes.
        factor: f64,
        /// The context that the model was first trained on.
        original_max_seq_len: f64,
    },
    /// Each frequency divided by a number of its own, other numbers for sequences longer than the original context (Ding et
    /// al. 2024, LongRoPE).
    Long {
        /// The divisors of short sequences.
        short: Vec<f64>,
        /// The divisors of long ones.
        long: Vec<f64>,
        /// What cosines and sines are multiplied by.
        attention_factor: f64,
        /// The context that the model was first trained on.
        original_max_seq_len: f64,
    },
    /// Low frequencies divided by a factor, high ones kept, those between blended (Llama 3.1).
    Llama3 {
        /// The divisor of the low frequencies.
        factor: f64,
        /// Wavelengths longer than the original context over this are divided.
        low_freq_factor: f64,
        /// Wavelengths shorter than the original context over this are kept.
        high_freq_factor: f64,
        /// The context that the model was first trained on.
        original_max_seq_len: f64,
    },
}

impl RopeSpec {
    /// The angular frequency of each pair, for sequences of `len`.
    fn frequencies(&self, len: usize) -> Vec<f64> {
        let (half, len) = (self.rotary_dim / 2, len as f64);
        let plain = |theta: f64, i: usize| theta.powf(-(2.0 * i as f64) / self.rotary_dim as f64);
        let all = |theta: f64| (0..half).map(move |i| plain(theta, i));
        match &self.scaling {
            RopeScaling::None => all(self.theta).collect(),
            RopeScaling::Linear { factor } => all(self.theta).map(|f| f / factor).collect(),
            RopeScaling::Dynamic { factor, original_max_seq_len } => {
                let grown = (factor * len.max(*original_max_seq_len) / original_max_seq_len) - (factor - 1.0);
                let dim = self.rotary_dim as f64;
                all(self.theta * grown.powf(dim / (dim - 2.0))).collect()
            }
            RopeScaling::Yarn { factor, beta_fast, beta_slow, truncate, original_max_seq_len, .. } => {
                let dim = self.rotary_dim as f64;
                // The pair whose frequency turns so often within the original context.
                let pair = |turns: f64| {
                    dim * (original_max_seq_len / (turns * std::f64::consts::TAU)).ln() / (2.0 * self.theta.ln())
                };
                let (low, high) = (pair(*beta_fast), pair(*beta_slow));
                let (low, high) = if *truncate { (low.floor(), high.ceil()) } else { (low, high) };
                let (low, high) = (low.max(0.0), high.min(dim - 1.0));
                let width = if high == low { 0.001 } else { high - low };
                let divided = |i: usize| ((i as f64 - low) / width).clamp(0.0, 1.0);
                all(self.theta).enumerate().map(|(i, f)| f / factor * divided(i) + f * (1.0 - divided(i))).collect()
            }
            RopeScaling::Long { short, long, original_max_seq_len, .. } => {
                let divisors = if len > *original_max_seq_len { long } else { short };
                all(self.theta).zip(divisors).map(|(f, divisor)| f / divisor).collect()
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_seq_len } => {
                let one = |f: f64| {
                    let wavelength = std::f64::consts::TAU / f;
                    if wavelength < original_max_seq_len / high_freq_factor {
                        f
                    } else if wavelength > original_max_seq_len / low_freq_factor {
                        f / factor
                    } else {
                        let smooth = (original_max_seq_len / wavelength - low_freq_factor)
                            / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                };
                all(self.theta).map(one).collect()
            }
        }
    }

    /// What cosines and sines are multiplied by.
    fn amplitude(&self) -> f64 {
        match self.scaling {
            RopeScaling::Long { attention_factor, .. } | RopeScaling::Yarn { attention_factor, .. } => attention_factor,
            _ => 1.0,
        }
    }

    /// The sequences whose angles are those of sequences of `len`: the table for them holds as many positions.
    fn table_len(&self, len: usize) -> usize {
        let grown = len.next_power_of_two();
        match &self.scaling {
            RopeScaling::Dynamic { original_max_seq_len, .. } if len as f64 > *original_max_seq_len => len,
            RopeScaling::Dynamic { original_max_seq_len, .. } => grown.min(*original_max_seq_len as usize),
            RopeScaling::Long { original_max_seq_len, .. } if len as f64 <= *original_max_seq_len => {
                grown.min(*original_max_seq_len as usize)
            }
            _ => grown,
        }
    }

    /// Cosines and sines for the positions before `len`.
    fn angles(&self, len: usize) -> RopeAngles {
        let frequencies = if len == 0 { vec![] } else { self.frequencies(len) };
        let amplitude = self.amplitude();
        let all = (0..len).flat_map(|p| frequencies.iter().map(move |f| p as f64 * f));
        let (cos, sin) = all.map(|a| ((a.cos() * amplitude) as f32, (a.sin() * amplitude) as f32)).unzip();
        RopeAngles { cos, sin, rotary_dim: self.rotary_dim }
    }
}

/// The angles of all positions so far; the table grows as positions are asked for, and is made anew where angles depend on the
/// sequence's length.
#[derive(Debug)]
pub struct Angles {
    spec: RopeSpec,
    table: Mutex<(usize, Arc<RopeAngles>)>,
}

impl Angles {
    /// No angles yet.
    pub fn new(spec: RopeSpec) -> Self {
        let empty = Arc::new(spec.angles(0));
        Self { spec, table: Mutex::new((0, empty)) }
    }

    pub(crate) fn spec(&self) -> &RopeSpec {
        &self.spec
    }

    /// A table of at least the positions before `end`.
    pub fn upto(&self, end: usize) -> Arc<RopeAngles> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let len = self.spec.table_len(end);
        let by_length = matches!(self.spec.scaling, RopeScaling::Dynamic { .. } | RopeScaling::Long { .. });
        let len = len.max(end);
        if table.0 < len || (by_length && table.0 != len) {
            *table = (len, Arc::new(self.spec.angles(len)));
        }
        Arc::clone(&table.1)
    }
}
