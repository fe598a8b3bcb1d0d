//! What machine this is.

use serde::{Deserialize, Serialize};

/// The machine that made an artifact.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// `linux`, `macos`, `windows`.
    pub os: String,
    /// `x86_64`, `aarch64`.
    pub arch: String,
    /// The processor's name, where the system tells it.
    pub cpu: String,
    /// Cores this process may use.
    pub cores: usize,
    /// Main memory in bytes, where the system tells it.
    pub memory_bytes: Option<u64>,
}

impl Machine {
    /// This machine.
    pub fn this() -> Self {
        Self {
            os: std::env::consts::OS.into(),
            arch: std::env::consts::ARCH.into(),
            cpu: cpu_model().unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory("MemTotal:", "hw.memsize"),
        }
    }

    /// Memory that is free for use now, in bytes, where the system tells it.
    pub fn available_memory() -> Option<u64> {
        memory("MemAvailable:", "hw.usermem")
    }
}

fn cpu_model() -> Option<String> {
    match std::env::consts::OS {
        "linux" => {
            let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
            let line = text.lines().find(|l| l.starts_with("model name") || l.starts_with("Model"))?;
            Some(line.split_once(':')?.1.trim().to_string())
        }
        "macos" => sysctl("machdep.cpu.brand_string"),
        _ => std::env::var("PROCESSOR_IDENTIFIER").ok(),
    }
}

fn memory(meminfo_key: &str, sysctl_key: &str) -> Option<u64> {
    if cfg!(target_os = "macos") {
        return sysctl(sysctl_key)?.parse().ok();
    }
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix(meminfo_key))?;
    Some(rest.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

fn sysctl(key: &str) -> Option<String> {
    let output = std::process::Command::new("sysctl").args(["-n", key]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_string();
    (output.status.success() && !text.is_empty()).then_some(text)
}
