//! What this machine can do.

use cupola_artifact::{Machine, Result, human_bytes, human_count};
use serde_json::json;

use crate::args::{Device, DoctorArgs};
use crate::out::say;
use clap::ValueEnum;

/// How long each measurement takes.
const MEASURE_SECONDS: f64 = 1.0;

/// `cupola doctor`.
pub fn run(args: &DoctorArgs) -> Result<()> {
    let machine = Machine::this();
    let (simd, threads) = (cupola_kernels::simd_name(), cupola_kernels::threads());
    let peak = cupola_kernels::measure_peak_flops(MEASURE_SECONDS);
    let bandwidth = cupola_kernels::measure_bandwidth(MEASURE_SECONDS);
    let available = Machine::available_memory();
    let devices: Vec<&str> = Device::value_variants().iter().filter(|d| d.is_built()).map(|d| d.name()).collect();
    if args.json {
        let record = json!({
            "machine": machine, "threads": threads, "simd": simd, "available_memory_bytes": available,
            "peak_flops": peak, "bandwidth_bytes_per_second": bandwidth, "devices": devices,
        });
        say(&format!("{record:#}"));
        return Ok(());
    }
    let missing: Vec<&str> = Device::value_variants().iter().filter(|d| !d.is_built()).map(|d| d.name()).collect();
    let memory = |bytes: Option<u64>| bytes.map_or("unknown".into(), |bytes| human_bytes(bytes as f64));
    say(&format!("system      {} {}", machine.os, machine.arch));
    say(&format!("processor   {}", machine.cpu));
    say(&format!("cores       {} ({threads} threads used)", machine.cores));
    say(&format!("SIMD        {simd}"));
    say(&format!("memory      {} ({} free)", memory(machine.memory_bytes), memory(available)));
    say(&format!("peak        {}FLOP/s in 32-bit matrix products", human_count(peak)));
    say(&format!("bandwidth   {}/s from main memory", human_bytes(bandwidth)));
    say(&format!("devices     {}", devices.join(", ")));
    if !missing.is_empty() {
        say(&format!("not built   {} (cargo build --release --features NAME)", missing.join(", ")));
    }
    Ok(())
}
