//! Files: read, written, and damaged in every way.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use cupola_artifact::{DType, Result};
use cupola_gguf::{Array, Gguf, Metadata, Planned, Value, format_by_name, write_gguf};
use cupola_testkit::fixture;

fn planned(name: &str, shape: &[usize], format: &str) -> Planned {
    Planned { name: name.into(), shape: shape.into(), format: format_by_name(format).unwrap() }
}

fn metadata() -> Metadata {
    let mut m = Metadata::new();
    m.set("general.architecture", "llama");
    m.set("a.u8", 1u8);
    m.set("a.i8", -1i8);
    m.set("a.u16", 2u16);
    m.set("a.i16", -2i16);
    m.set("a.u32", 3u32);
    m.set("a.i32", -3i32);
    m.set("a.f32", 0.5f32);
    m.set("a.bool", true);
    m.set("a.u64", u64::MAX);
    m.set("a.i64", i64::MIN);
    m.set("a.f64", -0.25f64);
    m.set("list.text", vec!["a".to_string(), "ü ▁".into(), String::new()]);
    m.set("list.i32", vec![1i32, -1]);
    m.set("list.f32", vec![1.5f32, -1.5]);
    m.set("list.bool", vec![true, false]);
    m.set("list.none", Vec::<u32>::new());
    let nested = Array::Array(vec![Array::U8(vec![1, 2]), Array::String(vec!["x".into()]), Array::Array(vec![])]);
    m.set("list.list", Value::Array(nested));
    m
}

fn tensors() -> Vec<Planned> {
    vec![
        planned("blk.0.weight", &[3, 64], "Q8_0"),
        planned("odd", &[5], "F32"),
        planned("cube", &[2, 3, 4], "F16"),
        planned("one", &[], "F32"),
    ]
}

/// The bytes of a tensor of the test's files: values that depend on the name.
fn data(tensor: &Planned) -> Result<Vec<u8>> {
    let count = tensor.shape.iter().product();
    let first = tensor.name.len() as f32;
    tensor.format.encode(&(0..count).map(|i| first + i as f32 * 0.5).collect::<Vec<_>>())
}

fn write(path: &Path) {
    write_gguf(path, &metadata(), &tensors(), data).unwrap();
}

#[test]
fn written_file_reads_back_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write(&path);
    let file = Gguf::open(&path).unwrap();
    assert_eq!((file.version(), file.metadata()), (3, &metadata()));
    assert_eq!(file.tensors().len(), 4);
    for (info, planned) in file.tensors().iter().zip(tensors()) {
        assert_eq!((&info.name, &info.shape, info.format), (&planned.name, &planned.shape, planned.format));
        assert_eq!(info.offset % 32, 0);
        assert_eq!(file.read_bytes(info).unwrap(), data(&planned).unwrap());
    }
    let cube = file.read(file.tensor("cube").unwrap()).unwrap();
    assert_eq!((cube.dtype, cube.to_f32().unwrap()[..2].to_vec()), (DType::F16, vec![4.0, 4.5]));
    let row = file.read(file.tensor("blk.0.weight").unwrap()).unwrap();
    assert_eq!((row.dtype, row.shape.as_slice()), (DType::F32, &[3, 64][..]));
    assert_eq!(file.read_all().unwrap().len(), 4);
}

#[test]
fn equal_content_gives_equal_files() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a.gguf"), dir.path().join("b.gguf"));
    write(&a);
    let file = Gguf::open(&a).unwrap();
    let planned: Vec<Planned> = file
        .tensors()
        .iter()
        .map(|t| Planned { name: t.name.clone(), shape: t.shape.clone(), format: t.format })
        .collect();
    write_gguf(&b, file.metadata(), &planned, |t| file.read_bytes(file.tensor(&t.name)?)).unwrap();
    assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
}

#[test]
fn alignment_is_obeyed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    for alignment in [1u32, 8, 64, 4096] {
        let mut metadata = metadata();
        metadata.set("general.alignment", alignment);
        write_gguf(&path, &metadata, &tensors(), data).unwrap();
        let file = Gguf::open(&path).unwrap();
        assert!(file.tensors().iter().all(|t| t.offset % u64::from(alignment) == 0), "{alignment}");
        assert_eq!(file.read_bytes(file.tensor("odd").unwrap()).unwrap(), data(&tensors()[1]).unwrap());
    }
    for bad in [Value::U32(0), Value::U32(24), Value::U64(32)] {
        let mut metadata = metadata();
        metadata.set("general.alignment", bad);
        let error = write_gguf(&path, &metadata, &tensors(), data).unwrap_err();
        assert!(error.chain().contains("power of two"), "{}", error.chain());
    }
}

#[test]
fn file_of_the_reference_writer_is_read_and_written_the_same() {
    let path = fixture("gguf-llama").join("model.gguf");
    let file = Gguf::open(&path).unwrap();
    let m = file.metadata();
    assert_eq!(m.text("general.architecture").unwrap(), Some("llama"));
    assert_eq!(m.size("llama.block_count").unwrap(), Some(2));
    assert_eq!(m.texts("tokenizer.ggml.tokens").unwrap().unwrap().len(), 99);
    assert_eq!(file.tensor("blk.1.ffn_down.weight").unwrap().shape, [64, 96]);
    assert_eq!(file.tensor("blk.0.attn_k.weight").unwrap().format.name, "Q4_0");
    let near = file.tensor("blk.1.ffn_dwn.weight").unwrap_err();
    assert!(near.hint().unwrap().contains("ffn_down"), "{near:?}");
    assert!(file.read_all().unwrap().values().all(|t| t.to_f32().unwrap().iter().all(|v| v.is_finite())));
    let dir = tempfile::tempdir().unwrap();
    let again = dir.path().join("again.gguf");
    let planned: Vec<Planned> = file
        .tensors()
        .iter()
        .map(|t| Planned { name: t.name.clone(), shape: t.shape.clone(), format: t.format })
        .collect();
    write_gguf(&again, m, &planned, |t| file.read_bytes(file.tensor(&t.name)?)).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&again).unwrap());
}

#[test]
fn header_of_a_large_file_is_read_without_its_data() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.gguf");
    write_gguf(&path, &Metadata::new(), &[planned("w", &[1024, 1024], "F32")], data).unwrap();
    // The same header promises 64 GiB; the file has holes instead of data.
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.truncate(96);
    let at = 24 + 8 + 1 + 4 + 8;
    bytes[at..at + 8].copy_from_slice(&(1u64 << 24).to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len((1 << 36) + 4096).unwrap();
    let file = Gguf::open(&path).unwrap();
    assert_eq!((file.tensors()[0].bytes, file.tensors()[0].shape.as_slice()), (1 << 36, &[1 << 24, 1024][..]));
}

#[test]
fn failed_data_keeps_the_old_file_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write(&path);
    let old = std::fs::read(&path).unwrap();
    let failing =
        |t: &Planned| if t.name == "cube" { Err(cupola_artifact::Error::failed("no cube today")) } else { data(t) };
    let error = write_gguf(&path, &metadata(), &tensors(), failing).unwrap_err();
    assert!(error.chain().contains("no cube today") && error.chain().contains("model.gguf"), "{}", error.chain());
    let short = write_gguf(&path, &metadata(), &tensors(), |t| data(t).map(|d| d[1..].to_vec())).unwrap_err();
    assert!(short.chain().contains("`blk.0.weight` takes 204 bytes, but 203 were given"), "{}", short.chain());
    for bad in [planned("w", &[3, 33], "Q8_0"), planned("w", &[0], "F32"), planned("w", &[1; 5], "F32")] {
        let error = write_gguf(&path, &metadata(), &[bad], data).unwrap_err();
        assert!(error.chain().contains("`w` of shape"), "{}", error.chain());
    }
    let twice = [planned("w", &[1], "F32"), planned("w", &[1], "F32")];
    assert!(write_gguf(&path, &metadata(), &twice, data).unwrap_err().chain().contains("given twice"));
    assert_eq!(std::fs::read(&path).unwrap(), old);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// A header piece by piece.
#[derive(Clone, Default)]
struct Raw(Vec<u8>);

impl Raw {
    fn start(tensors: u64, entries: u64) -> Self {
        Raw(b"GGUF".to_vec()).u32(3).u64(tensors).u64(entries)
    }
    fn u32(mut self, v: u32) -> Self {
        self.0.extend(v.to_le_bytes());
        self
    }
    fn u64(mut self, v: u64) -> Self {
        self.0.extend(v.to_le_bytes());
        self
    }
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
    fn text(self, text: &[u8]) -> Self {
        self.u64(text.len() as u64).raw(text)
    }
    fn tensor(self, name: &str, dims: &[u64], kind: u32, offset: u64) -> Self {
        let raw = self.text(name.as_bytes()).u32(dims.len() as u32);
        dims.iter().fold(raw, |raw, d| raw.u64(*d)).u32(kind).u64(offset)
    }
    fn data(mut self, bytes: usize) -> Self {
        self.0.resize(self.0.len().next_multiple_of(32) + bytes, 0);
        self
    }
}

#[test]
fn the_cause_says_what_is_wrong() {
    let one = || Raw::start(1, 0);
    let entry = |kind: u32| Raw::start(0, 1).text(b"key").u32(kind);
    let cases: Vec<(Raw, &str)> = vec![
        (Raw(b"GG".to_vec()), "ends before its first four bytes"),
        (Raw(b"PK\x03\x04 and more".to_vec()), "instead of `GGUF`"),
        (Raw(b"GGUF\0\0\0\x03".to_vec()).u64(0).u64(0), "big-endian"),
        (Raw(b"GGUF".to_vec()).u32(1).u64(0), "version 1"),
        (Raw(b"GGUF".to_vec()).u32(99).u64(0), "version 99"),
        (Raw::start(u64::MAX, 0), "18446744073709551615 tensors"),
        (Raw::start(0, 1 << 40), "1099511627776 metadata entries"),
        (Raw::start(0, 1).u64(1 << 62).data(64), "would have 4611686018427387904 bytes"),
        (Raw::start(0, 1).u64(1000).data(64), "would take 1000 bytes"),
        (Raw::start(0, 1).text(b"\xff\xfe").u32(4).u32(0), "is not UTF-8"),
        (entry(8).text(b"\xc3").data(32), "`key` is not UTF-8"),
        (entry(13).data(32), "`key` has the type 13"),
        (entry(7).raw(&[2]).data(32), "neither true (1) nor false (0)"),
        (entry(9).u32(4).u64(1 << 61).data(32), "`key` would have 2305843009213693952 values"),
        (entry(9).u32(77).u64(1).data(32), "type 77"),
        (entry(9).u32(9).u64(1).u32(9).u64(1).u32(9).u64(1).u32(9).u64(1).u32(9).u64(0).data(64), "4 deep"),
        (Raw::start(0, 2).text(b"k").u32(0).raw(&[1]).text(b"k").u32(0).raw(&[1]), "`k` stands twice"),
        (Raw::start(0, 1).text(b"general.alignment").u32(4).u32(24).data(32), "no power of two"),
        (one().tensor("w", &[4], 0, 0).data(15), "`w` would take 16 bytes from 0 of the data, which has 15"),
        (one().tensor("w", &[4], 0, 32).data(32), "`w` would take"),
        (one().tensor("w", &[4], 0, u64::MAX - 31).data(32), "`w` would take"),
        (one().tensor("w", &[4], 0, 8).data(64), "no multiple of the alignment 32"),
        (one().tensor("w", &[4], 99, 0).data(64), "`w` has the element type 99"),
        (one().tensor("w", &[4], 4, 0).data(64), "`w` has the element type 4"),
        (one().tensor("w", &[4, 0], 0, 0).data(64), "a dimension is 0"),
        (one().tensor("w", &[33], 8, 0).data(64), "blocks of 32 (Q8_0) do not fill"),
        (one().tensor("w", &[1 << 32, 1 << 32, 2], 0, 0).data(64), "overflows"),
        (one().tensor("w", &[1 << 61, 4], 28, 0).data(64), "overflows"),
        (one().tensor("w", &[1; 5], 0, 0).data(64), "5 dimensions"),
        (Raw::start(2, 0).tensor("w", &[9], 0, 0).tensor("v", &[4], 0, 32).data(64), "`w` and `v` lie on each other"),
        (Raw::start(2, 0).tensor("w", &[4], 0, 0).tensor("w", &[4], 0, 32).data(64), "`w` stands twice"),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broken.gguf");
    for (raw, reason) in cases {
        std::fs::write(&path, &raw.0).unwrap();
        let error = Gguf::open(&path).unwrap_err();
        assert!(error.chain().contains(reason), "{reason}: {}", error.chain());
        assert!(error.to_string().contains("broken.gguf") && error.hint().is_some(), "{error:?}");
    }
    let missing = Gguf::open(&dir.path().join("none.gguf")).unwrap_err();
    assert!(missing.chain().contains("none.gguf"), "{}", missing.chain());
    std::fs::write(&path, one().tensor("w", &[4, 2], 0, 0).data(32).0).unwrap();
    assert_eq!(Gguf::open(&path).unwrap().tensors()[0].shape, [2, 4]);
}

#[test]
fn every_truncation_and_every_flip_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write(&path);
    let bytes = std::fs::read(&path).unwrap();
    let header = Gguf::open(&path).unwrap().tensors()[0].offset as usize;
    let last = Gguf::open(&path).unwrap().tensors()[3].offset as usize + 4;
    for length in 0..last {
        std::fs::write(&path, &bytes[..length]).unwrap();
        assert!(Gguf::open(&path).is_err(), "cut to {length} bytes");
    }
    let mut sound = 0;
    for bit in 0..header * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &damaged).unwrap();
        // Some flips leave a sound file, whose tensors can be read or not; none may panic.
        if let Ok(file) = Gguf::open(&path) {
            sound += 1;
            file.tensors().iter().for_each(|t| drop(file.read(t)));
        }
    }
    assert!(sound > 100, "{sound}");
}

#[test]
fn any_mix_of_changes_to_a_header_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write(&path);
    let bytes = std::fs::read(&path).unwrap();
    let header = Gguf::open(&path).unwrap().tensors()[0].offset as usize;
    let mut state = 1u64;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let words = [0, 1, 8, 9, 255, 1 << 31, u64::from(u32::MAX), 1 << 40, 1 << 63, u64::MAX];
    for _ in 0..4000 {
        let mut damaged = bytes.clone();
        for _ in 0..=draw(3) {
            let at = 4 + draw(header - 12);
            match draw(4) {
                0 => damaged[at..at + 8].copy_from_slice(&words[draw(words.len())].to_le_bytes()),
                1 => damaged[at..at + 4].copy_from_slice(&(draw(64) as u32).to_le_bytes()),
                2 => drop(damaged.drain(at..at + draw(8))),
                _ => damaged[at] = draw(256) as u8,
            }
        }
        std::fs::write(&path, &damaged).unwrap();
        match Gguf::open(&path) {
            Ok(file) => file.tensors().iter().for_each(|t| drop(file.read(t))),
            Err(error) => assert!(error.to_string().contains("model.gguf") && error.hint().is_some(), "{error:?}"),
        }
    }
}

#[test]
fn metadata_of_a_wrong_type_is_named() {
    let mut m = Metadata::new();
    m.set("llama.block_count", "two");
    m.set("llama.rope.freq_base", 1e4f32);
    m.set("tokenizer.ggml.bos_token_id", u32::MAX);
    let error = m.size("llama.block_count").unwrap_err();
    assert_eq!(error.to_string(), "the metadata `llama.block_count` should be a count, not \"two\"");
    assert_eq!(m.number("llama.rope.freq_base").unwrap(), Some(1e4));
    assert_eq!(m.token("tokenizer.ggml.bos_token_id").unwrap(), None);
    let error = m.required::<usize>("llama.block_cont", None).unwrap_err();
    assert!(error.hint().unwrap().contains("llama.block_count"), "{error:?}");
    m.set("llama.block_count", 2u64);
    assert_eq!((m.iter().len(), m.size("llama.block_count").unwrap()), (3, Some(2)));
}
