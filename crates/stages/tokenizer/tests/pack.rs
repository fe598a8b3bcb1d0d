//! Shards, rows and their order.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::rayon_pool;
use cupola_artifact::Result;
use cupola_artifact::stage::{Input, Silent, Stage, StageContext};
use cupola_records::Document;
use cupola_testkit::fixture;
use cupola_tokenizer::Tokenizer;
use cupola_tokenizer::pack::{
    Arrange, Boundary, Fim, FimOrder, Layout, Long, PackConfig, PackStage, Sequences, Shards, Shuffle, arrange,
    export_llm_c, export_nanogpt, write_shards,
};
use serde_json::Value;

fn tokenizer() -> Tokenizer {
    Tokenizer::load(&fixture("tokenizers/gpt2")).unwrap()
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pack_golden").join(name)
}

fn documents(texts: &[String]) -> impl Iterator<Item = Result<Document>> + Send {
    let texts = texts.to_vec();
    texts.into_iter().enumerate().map(|(i, text)| Ok(Document::new(format!("d{i}"), text, format!("file{}.rs", i % 2))))
}

/// Texts of many lengths.
fn texts(count: u64) -> Vec<String> {
    let words = ["the ", "one ", "naïve ", "日本 ", "fn main() {}\n", "1234 "];
    let text = |i: u64| {
        let length = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58;
        (0..length).map(|j| words[(i * 7 + j * j) as usize % words.len()]).collect()
    };
    (0..count).map(text).collect()
}

fn end(shard_tokens: u64) -> PackConfig {
    PackConfig { boundary: Boundary::End, shard_tokens, ..PackConfig::default() }
}

fn same_file(ours: &Path, name: &str) {
    assert_eq!(std::fs::read(ours).unwrap(), std::fs::read(golden(name)).unwrap(), "{name}");
}

#[test]
fn shards_and_exports_are_the_bytes_that_other_writers_give() {
    let dir = tempfile::tempdir().unwrap();
    let expected: Value = serde_json::from_slice(&std::fs::read(golden("documents.json")).unwrap()).unwrap();
    let texts: Vec<String> = serde_json::from_value(expected["texts"].clone()).unwrap();
    let ids: Vec<Vec<u32>> = serde_json::from_value(expected["ids"].clone()).unwrap();
    let info = write_shards(documents(&texts), &tokenizer(), &end(1 << 20), 0, dir.path()).unwrap();
    assert_eq!((info.documents, info.tokens), (5, ids.iter().map(Vec::len).sum::<usize>() as u64));
    same_file(&dir.path().join("tokens-00000.bin"), "narrow.bin");
    same_file(&dir.path().join("tokens-00000.idx"), "narrow.idx");
    let shards = Shards::open(dir.path()).unwrap();
    shards.verify().unwrap();
    for (document, ids) in (0..).zip(&ids) {
        assert_eq!(shards.document(document).unwrap(), *ids);
    }
    assert!(shards.document(5).unwrap_err().chain().contains("no document 5"));
    export_nanogpt(&shards, &dir.path().join("train.bin")).unwrap();
    same_file(&dir.path().join("train.bin"), "nanogpt.bin");
    let files = export_llm_c(&shards, &dir.path().join("c"), "text_train").unwrap();
    assert_eq!(files, [dir.path().join("c/text_train_000000.bin")]);
    same_file(&files[0], "llm_c.bin");
}

#[test]
fn shards_are_the_same_on_any_number_of_threads() {
    let texts = texts(500);
    let mut config = end(4000);
    config.fim = Fim { rate: 0.5, prefix: "a".into(), suffix: "b".into(), middle: "c".into(), ..Fim::default() };
    let write = |threads| {
        let dir = tempfile::tempdir().unwrap();
        let pool = rayon_pool(threads);
        let info = pool.install(|| write_shards(documents(&texts), &tokenizer(), &config, 3, dir.path()).unwrap());
        let shards = Shards::open(dir.path()).unwrap();
        shards.verify().unwrap();
        (info, (0..500).map(|i| shards.document(i).unwrap()).collect::<Vec<_>>())
    };
    let first = write(1);
    assert!(first.0.shards.len() > 3 && first.0.shards.iter().all(|shard| shard.tokens <= 4000));
    assert!(first.0.rearranged > 150 && first.0.rearranged < 350, "{}", first.0.rearranged);
    for threads in [2, 3, 4] {
        assert_eq!(write(threads), first);
    }
}

#[test]
fn filling_in_the_middle_only_moves_the_parts_of_a_document() {
    let (tokenizer, texts) = (tokenizer(), texts(300));
    // Tokens that stand in no text here.
    let [prefix, suffix, middle] = ["~", "^", "`"].map(|token| tokenizer.token_to_id(token).unwrap());
    for (order, both) in [(FimOrder::Psm, false), (FimOrder::Spm, true)] {
        let dir = tempfile::tempdir().unwrap();
        let fim = Fim {
            rate: 1.0,
            order,
            endings: vec![".rs".into()],
            prefix: "~".into(),
            suffix: "^".into(),
            middle: "`".into(),
        };
        let config = PackConfig { boundary: Boundary::None, fim, ..PackConfig::default() };
        write_shards(documents(&texts), &tokenizer, &config, 1, dir.path()).unwrap();
        let shards = Shards::open(dir.path()).unwrap();
        for (i, text) in (0..).zip(&texts) {
            let ids = shards.document(i).unwrap();
            let place = |token| ids.iter().position(|id| *id == token).unwrap();
            let (p, s, m) = (place(prefix), place(suffix), place(middle));
            assert!(p == 0 && s < m);
            let part = |ids: &[u32]| tokenizer.decode(ids).unwrap();
            let (before, after) = (part(&ids[1..s]), part(&ids[s + 1..m]));
            let rest = part(&ids[m + 1..]);
            assert!(before.is_empty() || !both);
            assert_eq!(format!("{before}{rest}{after}"), *text);
        }
    }
}

#[test]
fn only_named_endings_are_rearranged_and_unknown_tokens_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = end(1 << 20);
    config.fim = Fim { rate: 1.0, endings: vec!["0.rs".into()], ..Fim::default() };
    let error = write_shards(documents(&texts(4)), &tokenizer(), &config, 0, dir.path()).unwrap_err();
    assert!(error.chain().contains("fim.prefix"), "{}", error.chain());
    (config.fim.prefix, config.fim.suffix, config.fim.middle) = ("~".into(), "^".into(), "`".into());
    let info = write_shards(documents(&texts(40)), &tokenizer(), &config, 0, dir.path()).unwrap();
    assert_eq!(info.rearranged, 20);
    let error = write_shards(documents(&texts(4)), &tokenizer(), &config, 0, dir.path()).unwrap_err();
    assert!(error.chain().contains("holds shards already"));
    config.fim.rate = 1.5;
    assert!(write_shards(documents(&[]), &tokenizer(), &config, 0, &dir.path().join("x")).is_err());
}

fn shards_of(dir: &Path, count: u64) -> Arc<Shards> {
    write_shards(documents(&texts(count)), &tokenizer(), &end(3000), 0, dir).unwrap();
    Arc::new(Shards::open(dir).unwrap())
}

#[test]
fn every_layout_keeps_all_tokens_and_their_documents() {
    let dir = tempfile::tempdir().unwrap();
    let shards = shards_of(dir.path(), 300);
    let all: u64 = shards.info().tokens;
    let pad = 479;
    for (layout, window) in
        [(Layout::BestFit, 1000), (Layout::BestFit, 64), (Layout::Stream, 64), (Layout::Buckets, 1000)]
    {
        let how = Arrange { length: 128, layout, long: Long::Split, buckets: vec![128, 32, 64], window };
        let path = dir.path().join("rows");
        let rows = arrange(&shards, &how, &path).unwrap();
        let sequences = Sequences::open(&path, Arc::clone(&shards)).unwrap();
        assert_eq!(sequences.len(), rows);
        let (mut tokens, mut stream) = (0, Vec::new());
        let order = Shuffle::new(rows, 16, 9);
        for i in 0..rows {
            let row = sequences.get(if layout == Layout::Stream { i } else { order.at(i) }, pad).unwrap();
            let used = *row.ends.last().unwrap();
            let fits = |n: &u32| *n as usize == row.ids.len();
            assert!(sequences.lengths().iter().any(fits), "{layout:?}");
            assert!(layout != Layout::Buckets || used > row.ids.len() / 2 || row.ids.len() == 32);
            assert!(row.ids[used..].iter().all(|id| *id == pad));
            tokens += used as u64;
            stream.extend_from_slice(&row.ids[..used]);
            let (segments, targets) = (row.segments(), row.targets(-1));
            for i in 0..row.ids.len() {
                let same = i + 1 < used && segments[i] == segments[i + 1];
                let after = row.ends.iter().position(|end| *end == i + 1).and_then(|piece| row.after[piece]);
                let next = if same { Some(row.ids[i + 1]) } else { after };
                assert_eq!(targets[i], next.map_or(-1, |id| id as i32));
            }
        }
        assert_eq!(tokens, all, "{layout:?}");
        assert_eq!(sequences.tokens().unwrap(), all, "{layout:?}");
        if layout == Layout::Stream {
            let want: Vec<u32> = (0..300).flat_map(|i| shards.document(i).unwrap()).collect();
            assert_eq!(stream, want);
            assert_eq!(rows, all.div_ceil(128));
        }
    }
}

#[test]
fn any_part_of_the_stream_is_read_with_its_documents_and_what_comes_after_them() {
    for boundary in [Boundary::Begin, Boundary::End, Boundary::None] {
        let dir = tempfile::tempdir().unwrap();
        let config = PackConfig { boundary, shard_tokens: 3000, ..PackConfig::default() };
        let info = write_shards(documents(&texts(300)), &tokenizer(), &config, 0, dir.path()).unwrap();
        assert!(info.shards.len() > 2);
        let shards = Shards::open(dir.path()).unwrap();
        let all: Vec<Vec<u32>> = (0..300).map(|i| shards.document(i).unwrap()).collect();
        assert!(boundary != Boundary::None || all.iter().any(Vec::is_empty));
        let stream: Vec<(u32, usize)> =
            all.iter().enumerate().flat_map(|(number, ids)| ids.iter().map(move |id| (*id, number))).collect();
        for at in (0..stream.len() - 100).step_by(37) {
            let row = shards.span(at as u64, 100).unwrap();
            let part = &stream[at..at + 101];
            assert_eq!(row.ids, part[..100].iter().map(|token| token.0).collect::<Vec<_>>());
            let next = |i: usize| match part[i].1 == part[i + 1].1 {
                true => part[i + 1].0 as i32,
                false if boundary == Boundary::Begin => part[i + 1].0 as i32,
                false => -1,
            };
            assert_eq!(row.targets(-1), (0..100).map(next).collect::<Vec<_>>(), "{boundary:?} at {at}");
            let segments = row.segments();
            assert!((1..100).all(|i| (segments[i] == segments[i - 1]) == (part[i].1 == part[i - 1].1)));
        }
        assert!(shards.span(info.tokens - 50, 100).is_err());
        assert!(shards.span(info.tokens, 1).is_err());
    }
}

#[test]
fn wrong_settings_of_rows_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let shards = shards_of(dir.path(), 10);
    let path = dir.path().join("rows");
    for how in [
        Arrange { length: 0, ..Arrange::default() },
        Arrange { layout: Layout::Buckets, ..Arrange::default() },
        Arrange { window: 0, ..Arrange::default() },
        Arrange { length: 1 << 25, ..Arrange::default() },
    ] {
        assert!(arrange(&shards, &how, &path).unwrap_err().class() == cupola_artifact::Class::Usage);
    }
}

#[test]
fn the_stage_packs_both_sides_of_a_data_artifact() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("data"), dir.path().join("out"));
    std::fs::create_dir_all(&data).unwrap();
    for (name, count) in [("train.jsonl.zst", 40), ("validation.jsonl.zst", 7)] {
        let mut writer = cupola_records::DocumentWriter::create(&data.join(name)).unwrap();
        documents(&texts(count)).for_each(|document| writer.write(&document.unwrap()).unwrap());
        writer.finish().unwrap();
    }
    let settings = "data = 'd'\ntokenizer = 't'\nboundary = 'end'\nexport = ['nanogpt', 'llm_c']\n[rows]\nlength = 64";
    let input = |key: &str, path| Input { key: key.into(), reference: "x".into(), path, kind: None };
    let inputs = [input("data", data), input("tokenizer", fixture("tokenizers/gpt2"))];
    let context = StageContext {
        name: "corpus",
        dir: &out,
        work: &out,
        recipe_dir: dir.path(),
        inputs: &inputs,
        device: "cpu",
        seed: 0,
        progress: &Silent,
    };
    let report = PackStage.configure(settings.parse().unwrap()).unwrap().run(&context).unwrap();
    for (side, count) in [("train", 40), ("validation", 7)] {
        let shards = Arc::new(Shards::open(&out.join(side)).unwrap());
        assert_eq!(shards.documents(), count);
        assert_eq!(report.metrics[&format!("{side}_tokens")], shards.info().tokens);
        let bytes = 2 * shards.info().tokens;
        assert_eq!(std::fs::metadata(out.join(format!("{side}.bin"))).unwrap().len(), bytes);
        assert_eq!(std::fs::metadata(out.join(format!("llm_c/{side}_000000.bin"))).unwrap().len(), bytes + 1024);
        let rows = Sequences::open(&out.join(side).join("rows.bin"), shards).unwrap();
        assert_eq!(report.metrics[&format!("{side}_rows")], rows.len());
    }
    assert!(Tokenizer::load(&out).is_ok());
    for settings in ["data = 'd'", "data = 'd'\ntokenizer = 't'\nboundry = 'end'"] {
        assert!(PackStage.configure(settings.parse().unwrap()).is_err());
    }
}

/// Each byte of each file in turn is changed, and each file cut anywhere: an error or other tokens, never a panic.
#[test]
fn damaged_files_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let rows = dir.path().join("rows");
    {
        let shards = shards_of(dir.path(), 6);
        arrange(&shards, &Arrange { length: 16, ..Arrange::default() }, &rows).unwrap();
    }
    let read_all = || -> Result<()> {
        let shards = Arc::new(Shards::open(dir.path())?);
        (0..shards.documents()).try_for_each(|i| shards.document(i).map(drop))?;
        let sequences = Sequences::open(&rows, shards)?;
        (0..sequences.len()).try_for_each(|i| sequences.get(i, 0).map(drop))
    };
    read_all().unwrap();
    for file in ["tokens-00000.bin", "tokens-00000.idx", "shards.json", "rows"] {
        let path = dir.path().join(file);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(read_all().is_err() || file == "shards.json", "{file} cut at {at}");
            for change in [0xff, 0x80, 1] {
                let mut changed = whole.clone();
                changed[at] ^= change;
                std::fs::write(&path, &changed).unwrap();
                let read = read_all();
                let noticed = Shards::open(dir.path()).and_then(|shards| shards.verify()).is_err();
                assert!(read.is_err() || noticed || ["shards.json", "rows"].contains(&file), "{file}, byte {at}");
            }
        }
        std::fs::write(&path, &whole).unwrap();
    }
    read_all().unwrap();
}
