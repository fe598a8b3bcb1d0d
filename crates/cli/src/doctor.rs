//! What this machine can do.

use cupola_artifact::{Machine, Result, human_bytes};
use cupola_kernels::Precision;
use serde_json::json;

use crate::args::{Device, DoctorArgs};
use crate::out::{flop_rate, say};
use clap::ValueEnum;

/// How long each measurement takes.
const MEASURE_SECONDS: f64 = 1.0;

/// `cupola doctor`.
pub fn run(args: &DoctorArgs) -> Result<()> {
    let machine = Machine::this();
    let (simd, threads) = (cupola_kernels::simd_name(), cupola_kernels::threads());
    let peak = cupola_kernels::measure_peak_flops(MEASURE_SECONDS);
    let halves =
        [Precision::Bf16, Precision::F16].map(|p| (p, cupola_kernels::measure_peak_in(p, MEASURE_SECONDS / 2.0)));
    let bandwidth = cupola_kernels::measure_bandwidth(MEASURE_SECONDS);
    let available = Machine::available_memory();
    let devices: Vec<&str> = Device::value_variants().iter().filter(|d| d.is_built()).map(|d| d.name()).collect();
    if args.json {
        let record = json!({
            "machine": machine, "threads": threads, "simd": simd, "available_memory_bytes": available,
            "peak_flops": peak, "peak_flops_bf16": halves[0].1, "peak_flops_f16": halves[1].1,
            "precision": Precision::fastest().name(), "bandwidth_bytes_per_second": bandwidth, "devices": devices,
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
    say(&format!("peak        {} in 32-bit matrix products", flop_rate(peak)));
    for (precision, peak) in halves {
        let how = if precision.is_native() { "" } else { ": rounded, then multiplied as f32" };
        say(&format!("            {} in {}{how}", flop_rate(peak), precision.name()));
    }
    say(&format!("precision   {} is the fastest here: the default of training", Precision::fastest().name()));
    say(&format!("bandwidth   {}/s from main memory", human_bytes(bandwidth)));
    say(&format!("devices     {}", devices.join(", ")));
    if !missing.is_empty() {
        say(&format!("not built   {} (cargo build --release --features NAME)", missing.join(", ")));
    }
    Ok(())
}
