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
    /// Low frequencies divided by a factor, high ones kept, those between blended by their number, and everything that is
    /// rotated made longer (YaRN, Peng et al. 2023).
    Yarn {
        /// The divisor of the low frequencies.
        factor: f64,
        /// Turns within the original context from which on a frequency is kept.
        beta_fast: f64,
        /// Turns within the original context up to which a frequency is divided.
        beta_slow: f64,
        /// The context that the model was first trained on.
        original_max_seq_len: f64,
        /// What cosines and sines are multiplied by.
        attention_factor: f64,
        /// Whether the ends of the blend are rounded to whole frequencies, outwards.
        truncate: bool,
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
                    RopeScaling::Yarn { factor, .. } => {
                        let kept = 1.0 - self.yarn_share(i);
                        (1.0 - kept) * f / factor + kept * f
                    }
                }
            })
            .collect()
    }

    /// How far frequency `i` is on the way from kept, 0, to divided, 1.
    fn yarn_share(&self, i: usize) -> f64 {
        let RopeScaling::Yarn { beta_fast, beta_slow, original_max_seq_len, truncate, .. } = self.scaling else {
            return 0.0;
        };
        let dim = self.rotary_dim as f64;
        // The frequency that turns so often within the original context.
        let turning =
            |turns: f64| dim * (original_max_seq_len / (turns * std::f64::consts::TAU)).ln() / (2.0 * self.theta.ln());
        let (mut low, mut high) = (turning(beta_fast), turning(beta_slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001;
        }
        ((i as f64 - low) / (high - low)).clamp(0.0, 1.0)
    }

    /// What cosines and sines are multiplied by.
    fn length(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } => attention_factor,
            _ => 1.0,
        }
    }

    /// Cosines and sines for the positions before `end`.
    fn angles(&self, end: usize) -> RopeAngles {
        let frequencies = self.frequencies();
        let all = (0..end).flat_map(|p| frequencies.iter().map(move |f| p as f64 * f));
        let length = self.length();
        let (cos, sin) = all.map(|a| ((length * a.cos()) as f32, (length * a.sin()) as f32)).unzip();
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Frequencies and the length of what is rotated as transformers 5.24 computes them (`ROPE_INIT_FUNCTIONS["yarn"]`).
    #[test]
    fn yarn_equals_the_reference() {
        let scaling = |factor, original_max_seq_len, beta: [f64; 2], attention_factor, truncate| RopeScaling::Yarn {
            factor,
            beta_fast: beta[0],
            beta_slow: beta[1],
            original_max_seq_len,
            attention_factor,
            truncate,
        };
        let rounded =
            [1.0, 2.371708155e-1, 4.999999702e-2, 7.905694656e-3, 2.5e-3, 7.905694656e-4, 2.5e-4, 7.905694656e-5];
        let exact = [
            1.0,
            2.874085903e-1,
            4.244179651e-2,
            3.952847328e-3,
            1.249999972e-3,
            3.952847328e-4,
            1.250000059e-4,
            3.952847328e-5,
        ];
        for (scaling, want) in [
            (scaling(4.0, 64.0, [32.0, 1.0], 1.138629436111989, true), rounded),
            (scaling(8.0, 256.0, [16.0, 2.0], 0.9017839869787123, false), exact),
        ] {
            let spec = RopeSpec { theta: 10_000.0, rotary_dim: 16, scaling };
            let got = spec.frequencies();
            assert!(got.iter().zip(want).all(|(got, want)| (got / want - 1.0).abs() < 1e-6), "{got:?}");
            let angles = spec.angles(2);
            assert!(angles.cos[..8].iter().all(|cos| f64::from(*cos) == f64::from(spec.length() as f32)));
            assert!((f64::from(angles.sin[9]) - spec.length() * want[1].sin()).abs() < 1e-6);
        }
    }
}
