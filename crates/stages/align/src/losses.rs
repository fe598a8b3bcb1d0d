//! The losses, a file each.

pub mod hinge;
pub mod ipo;
pub mod robust;
pub mod sigmoid;
