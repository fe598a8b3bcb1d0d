//! The losses, a file each.

pub mod aot;
pub mod apo;
pub mod bco;
pub mod cpo;
pub mod discopop;
pub mod exo;
pub mod hinge;
pub mod ipo;
pub mod kto;
pub mod nca;
pub mod orpo;
pub mod robust;
pub mod sft;
pub mod sigmoid;
pub mod sigmoid_norm;
pub mod simpo;
pub mod sppo;
