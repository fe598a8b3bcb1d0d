//! The optimizers' passes over the parameters, and sums over gradients.
//!
//! A rule of one element alone ([`adamw`], [`lion`], [`sgd`]) is one pass in place: everything is read once and written
//! once. [`adafactor_matrix`] and [`muon`] look at a whole matrix.

mod adafactor;
mod adamw;
mod lion;
mod moment;
mod muon;
mod pass;
mod sgd;
mod squares;

pub use adafactor::{Adafactor, adafactor_matrix, adafactor_vector};
pub use adamw::{AdamW, adamw};
pub use lion::{Lion, lion};
pub use moment::Moment;
pub(crate) use moment::dither;
pub use muon::{MUON_COEFFICIENTS, MUON_EPS, MUON_STEPS, Muon, muon};
pub use sgd::{Sgd, sgd};
pub use squares::{add_with_squares, sum_of_squares};

/// What decoupled weight decay leaves of a parameter: `1 - lr * weight_decay`.
fn decay(lr: f32, weight_decay: f32) -> f32 {
    (1.0 - f64::from(lr) * f64::from(weight_decay)) as f32
}
