//! Devices by name.

use burn::tensor::Device;
use cupola_artifact::{Error, Result};

/// The devices that `--device` knows, and whether this build has them.
pub const NAMES: &[(&str, bool)] = &[
    ("cpu", true),
    ("vulkan", cfg!(feature = "vulkan")),
    ("cuda", cfg!(feature = "cuda")),
    ("rocm", cfg!(feature = "rocm")),
    ("metal", cfg!(feature = "metal")),
];

/// Opens a device by name.
///
/// # Errors
/// An unknown name, or a device that this build was made without.
pub fn open(name: &str) -> Result<Device> {
    match name {
        "cpu" => Ok(Device::flex()),
        #[cfg(feature = "vulkan")]
        "vulkan" => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(0)),
        #[cfg(feature = "rocm")]
        "rocm" => Ok(Device::rocm(0)),
        #[cfg(feature = "metal")]
        "metal" => Ok(Device::metal(burn::tensor::DeviceKind::DefaultDevice)),
        _ if NAMES.iter().any(|(known, _)| *known == name) => {
            Err(Error::usage(format!("this build has no device `{name}`"))
                .with_hint(format!("build it with `cargo build --release --features {name}`, or use `--device cpu`")))
        }
        _ => Err(Error::usage(format!("unknown device `{name}`"))
            .with_hint("the devices are cpu, vulkan, cuda, rocm and metal".to_string())),
    }
}

/// Whether tensors of this device live in the CPU's memory, where our kernels run.
pub fn is_host(device: &Device) -> bool {
    #[cfg(feature = "gpu")]
    {
        matches!(device.clone().inner().as_dispatch(), burn::backend::DispatchDevice::Flex(_))
    }
    #[cfg(not(feature = "gpu"))]
    {
        let _ = device;
        true
    }
}
