//! Metrics as JSON lines and as TensorBoard event files.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use cupola_artifact::{Context, Result};
use serde_json::{Map, Value};

/// Writes both forms.
pub struct Metrics {
    lines: BufWriter<File>,
    events: BufWriter<File>,
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

impl Metrics {
    /// Opens `metrics.jsonl` and `tensorboard/events.out.tfevents.*` below `dir`; lines of steps from `resume_at` on, left by
    /// an attempt that was cut off, are dropped.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn open(dir: &Path, resume_at: u64) -> Result<Self> {
        let path = dir.join("metrics.jsonl");
        let kept = kept_lines(&path, resume_at)?;
        cupola_artifact::write_atomic(&path, kept.as_bytes())?;
        let lines =
            OpenOptions::new().append(true).open(&path).context(|| format!("cannot write {}", path.display()))?;
        let folder = dir.join("tensorboard");
        std::fs::create_dir_all(&folder).context(|| format!("cannot create {}", folder.display()))?;
        if resume_at == 0 {
            // A fresh start: no curves of an earlier attempt.
            for entry in std::fs::read_dir(&folder).context(|| format!("cannot read {}", folder.display()))?.flatten() {
                std::fs::remove_file(entry.path()).context(|| format!("cannot remove {}", entry.path().display()))?;
            }
        }
        let path = folder.join(format!("events.out.tfevents.{:010}.cupola.{resume_at}", now() as u64));
        let events = File::create(&path).context(|| format!("cannot write {}", path.display()))?;
        let mut metrics = Self { lines: BufWriter::new(lines), events: BufWriter::new(events) };
        let mut event = Vec::new();
        field_double(&mut event, 1, now());
        field_bytes(&mut event, 3, b"brain.Event:2");
        write_record(&mut metrics.events, &event).context(|| "cannot write the event file".into())?;
        Ok(metrics)
    }

    /// Writes the figures of a step.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&mut self, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let mut line = Map::new();
        line.insert("step".into(), step.into());
        for (name, value) in values {
            line.insert((*name).into(), serde_json::Number::from_f64(*value).map_or(Value::Null, Value::Number));
        }
        let failed = || "cannot write the metrics".to_string();
        writeln!(self.lines, "{}", Value::Object(line)).context(failed)?;
        self.lines.flush().context(failed)?;
        write_record(&mut self.events, &scalars_event(step, values)).context(failed)?;
        self.events.flush().context(failed)
    }
}

fn kept_lines(path: &Path, resume_at: u64) -> Result<String> {
    if resume_at == 0 || !path.exists() {
        return Ok(String::new());
    }
    let file = File::open(path).context(|| format!("cannot read {}", path.display()))?;
    let mut kept = String::new();
    for line in BufReader::new(file).lines().map_while(std::io::Result::ok) {
        let step = serde_json::from_str::<Value>(&line).ok().and_then(|v| v["step"].as_u64());
        if step.is_some_and(|s| s < resume_at) {
            kept.push_str(&line);
            kept.push('\n');
        }
    }
    Ok(kept)
}

/// An `Event` message with one scalar `Summary.Value` for each figure (TensorFlow's event.proto and summary.proto).
fn scalars_event(step: u64, values: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (name, value) in values {
        let mut entry = Vec::new();
        field_bytes(&mut entry, 1, name.as_bytes());
        entry.push(2 << 3 | 5);
        entry.extend((*value as f32).to_le_bytes());
        field_bytes(&mut summary, 1, &entry);
    }
    let mut event = Vec::new();
    field_double(&mut event, 1, now());
    event.push(2 << 3);
    varint(&mut event, step);
    field_bytes(&mut event, 5, &summary);
    event
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn field_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn field_double(out: &mut Vec<u8>, field: u8, value: f64) {
    out.push(field << 3 | 1);
    out.extend(value.to_le_bytes());
}

/// A TFRecord: length, its checksum, data, its checksum.
fn write_record(out: &mut impl Write, data: &[u8]) -> std::io::Result<()> {
    let length = (data.len() as u64).to_le_bytes();
    out.write_all(&length)?;
    out.write_all(&masked_crc(&length).to_le_bytes())?;
    out.write_all(data)?;
    out.write_all(&masked_crc(data).to_le_bytes())
}

/// CRC-32C, rotated and shifted as TFRecord wants it.
fn masked_crc(data: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in data {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    (!crc).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_checksum_is_the_published_crc32c() {
        // RFC 3720, appendix B.4: 32 bytes of zeros.
        let crc = masked_crc(&[0; 32]).wrapping_sub(0xa282_ead8).rotate_left(15);
        assert_eq!(crc, 0x8a91_36aa);
    }

    #[test]
    fn a_resumed_run_continues_the_lines_where_its_checkpoint_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::open(dir.path(), 0).unwrap();
        for step in 0..4 {
            metrics.write(step, &[("loss", f64::from(step as u32))]).unwrap();
        }
        let mut metrics = Metrics::open(dir.path(), 2).unwrap();
        metrics.write(2, &[("loss", 9.0)]).unwrap();
        let text = std::fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
        let losses: Vec<f64> =
            text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["loss"].as_f64().unwrap()).collect();
        assert_eq!(losses, [0.0, 1.0, 9.0]);
        assert_eq!(std::fs::read_dir(dir.path().join("tensorboard")).unwrap().count(), 2);
    }
}
