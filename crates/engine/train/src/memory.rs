//! The memory of training: what it will take, and what it took.

use cupola_arch::Spec;
use cupola_ops::Precision;

/// Bytes of a process that trains besides the training itself: code, threads, tokenizer and its caches, what an
/// evaluation adds. Measured.
pub const PROGRAM_BYTES: f64 = 48e6;

/// What a training step on the CPU is given.
#[derive(Clone, Copy, Debug)]
pub struct StepSize {
    /// Tokens of a forward pass.
    pub rows: usize,
    /// Whether several forward passes add up to a step.
    pub accumulates: bool,
    /// Whether blocks are computed again in the backward pass.
    pub recompute: bool,
    /// What products multiply.
    pub precision: Precision,
    /// What the optimizer remembers of a parameter, bytes.
    pub state: f64,
}

/// Bytes that training takes on the CPU. The backward pass frees what the blocks kept while gradients fill up, so the most
/// is held where it begins (everything kept, and the output layer's gradient) or where it ends (all gradients; those of
/// a shared embedding twice).
pub fn training_bytes(spec: &Spec, step: StepSize) -> f64 {
    let parameters = spec.parameters() as f64;
    let head = 4.0 * (spec.stack().vocab_size * spec.stack().d_model) as f64;
    let sums = if step.accumulates { 4.0 } else { 0.0 };
    let begin = head + spec.activation_bytes(step.rows, step.recompute, step.precision);
    let end = 4.0 * parameters + if spec.tie_embeddings() { head } else { 0.0 };
    // A twelfth more: gaps between blocks of memory, packed matrices.
    13.0 / 12.0 * ((4.0 + step.state + sums) * parameters + begin.max(end))
}

/// Gives unused memory back and lets [`peak_memory`] begin anew, where the system permits that.
pub fn begin_peak() {
    cupola_kernels::give_back_memory();
    // Refused, the peak goes on to be that of the whole process.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The largest amount of memory that this process held since [`begin_peak`], bytes; 0 where the system does not tell.
pub fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:"));
    line.and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) << 10
}
