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
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum RopeScaling {
    /// None.
    None,
    /// All positions divided by a factor (Chen et al. 2023, position interpolation).
    Linear {
        /// The divisor.
        factor: f64,
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
    /// The angular frequency of each pair.
    fn frequencies(&self) -> Vec<f64> {
        let half = self.rotary_dim / 2;
        (0..half)
            .map(|i| {
                let f = self.theta.powf(-(2.0 * i as f64) / self.rotary_dim as f64);
                match self.scaling {
                    RopeScaling::None => f,
                    RopeScaling::Linear { factor } => f / factor,
                    RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_seq_len } => {
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
                    }
                }
            })
            .collect()
    }

    /// Cosines and sines for the positions before `end`.
    fn angles(&self, end: usize) -> RopeAngles {
        let frequencies = self.frequencies();
        let all = (0..end).flat_map(|p| frequencies.iter().map(move |f| p as f64 * f));
        let (cos, sin) = all.map(|a| (a.cos() as f32, a.sin() as f32)).unzip();
        RopeAngles { cos, sin, rotary_dim: self.rotary_dim }
    }
}

/// The angles of all positions so far; the table grows as positions are asked for.
#[derive(Debug)]
pub struct Angles {
    spec: RopeSpec,
    table: Mutex<(usize, Arc<RopeAngles>)>,
}

impl Angles {
    pub(crate) fn new(spec: RopeSpec) -> Self {
        let empty = Arc::new(spec.angles(0));
        Self { spec, table: Mutex::new((0, empty)) }
    }

    pub(crate) fn spec(&self) -> &RopeSpec {
        &self.spec
    }

    /// A table of at least the positions before `end`.
    pub fn upto(&self, end: usize) -> Arc<RopeAngles> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.0 < end {
            let len = end.next_power_of_two();
            *table = (len, Arc::new(self.spec.angles(len)));
        }
        Arc::clone(&table.1)
    }
}
