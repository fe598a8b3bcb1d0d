#![allow(clippy::unwrap_used, reason = "tests")]

use burn::tensor::Device;
use cupola_arch::Model;
use cupola_artifact::stage::{Input, Silent};
use cupola_nn::Module;
use cupola_ops::LossForm;
use cupola_records::Document;
use cupola_testkit::{TempDir, tiny_llama_dir};
use cupola_tokenizer::Tokenizer;
use cupola_tokenizer::pack::{Arrange, Boundary, Layout, PackConfig, arrange, write_shards};
use cupola_train::optim::OptimizerConfig;
use cupola_train::schedule::ScheduleConfig;
use cupola_train::{TrainIo, TrainSettings, train};

use super::*;
use crate::corpus::{Corpus, packs, tokenizer_of};
use crate::objective::CausalLm;

const SEQ: usize = 32;

/// Shards of forty documents of many lengths below `dir/train`, and their tokens.
fn shards(dir: &Path, boundary: Boundary, rows: Option<Layout>) -> (Arc<Shards>, Vec<Vec<u32>>) {
    let tokenizer = Tokenizer::load(dir).unwrap();
    let text = |i: usize| (0..i * 7 % 19).map(|j| format!("word {i}.{j} ")).collect::<String>();
    let documents = (0..40).map(|i| Ok(Document::new(format!("d{i}"), text(i), "")));
    let config = PackConfig { boundary, shard_tokens: 400, ..PackConfig::default() };
    write_shards(documents, &tokenizer, &config, 0, &dir.join("train")).unwrap();
    let shards = Arc::new(Shards::open(&dir.join("train")).unwrap());
    assert!(shards.info().shards.len() > 3);
    if let Some(layout) = rows {
        let how = Arrange { length: SEQ as u32, layout, buckets: vec![8, SEQ as u32], ..Arrange::default() };
        arrange(&shards, &how, &dir.join("train").join(ROWS_FILE)).unwrap();
    }
    let documents = (0..40).map(|i| shards.document(i).unwrap()).collect();
    (shards, documents)
}

/// Rows that are given directly.
struct Given(Vec<Row>);

impl RowSource for Given {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn row(&self, number: u64, _: u64) -> Result<Row> {
        Ok(self.0[number as usize].clone())
    }
}

/// A tiny model's training losses, step by step.
fn losses(dir: &Path, rows: Box<dyn Rows>, steps: u64) -> Vec<String> {
    let mut model = Model::load(dir, &Device::flex()).unwrap();
    model.set_trainable(|_| true);
    let mut objective = CausalLm {
        rows,
        drawn: Drawn::default(),
        sequences: 5,
        micro_batch: 2,
        form: LossForm { label_smoothing: 0.0, z_loss: 0.0 },
        validation: None,
        tokenizer: Tokenizer::load(dir).unwrap(),
        prompt: vec![1],
        seed: 1,
        flops_per_token: 1.0,
    };
    let settings = TrainSettings {
        steps,
        lr: 1e-2,
        schedule: ScheduleConfig { name: "constant".into(), warmup_steps: 0, min_ratio: 0.1 },
        optimizer: OptimizerConfig { name: "adamw".into(), ..Default::default() },
        clip: 1.0,
        eval_every: 0,
        sample_every: 0,
        checkpoint_every: 0,
        log_every: 1,
        task: "shards".into(),
    };
    let out = TempDir::new("losses");
    let io = TrainIo { checkpoints: out.path().join("c"), metrics: out.path().into(), progress: &Silent };
    train(&mut model, &mut objective, &settings, &io).unwrap();
    let lines = std::fs::read_to_string(out.path().join("metrics.jsonl")).unwrap();
    let values = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    values.filter_map(|line| Some(line.get("loss")?.to_string())).collect()
}

#[test]
fn training_from_shards_has_the_losses_of_training_on_the_same_sequences() {
    for layout in [Layout::BestFit, Layout::Stream, Layout::Buckets] {
        let dir = TempDir::new("rows");
        tiny_llama_dir(dir.path(), 1);
        let (shards, documents) = shards(dir.path(), Boundary::Begin, Some(layout));
        let (begin, pad) = (shards.info().begin, 3);
        // The file of rows, read by hand: 16 bytes a piece.
        let bytes = std::fs::read(dir.path().join("train").join(ROWS_FILE)).unwrap();
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        let (rows, pieces) = (number(bytes.len() - 24), number(bytes.len() - 16));
        let row = |i: usize| {
            let ends = 16 * pieces + 8 * i;
            let mut row = Row { ids: vec![], ends: vec![], after: vec![] };
            for piece in (if i == 0 { 0 } else { number(ends - 8) })..number(ends) {
                let place = number(16 * piece + 8);
                let (start, count) = (place & 0xffff_ffff, place >> 32);
                let document = &documents[number(16 * piece)];
                row.ids.extend(&document[start..start + count]);
                row.ends.push(row.ids.len());
                row.after.push(document.get(start + count).copied().or(begin));
            }
            row.ids.resize(SEQ, pad);
            row
        };
        let given = Box::new(Shuffled::new(Given((0..rows).map(row).collect()), 7));
        let packed = Box::new(Shuffled::new(Arranged::open(&shards, SEQ, pad).unwrap().unwrap(), 7));
        let (given, packed) = (losses(dir.path(), given, 12), losses(dir.path(), packed, 12));
        assert_eq!(packed.len(), 12);
        assert_eq!(packed, given, "{layout:?}");
    }
}

#[test]
fn shards_without_rows_are_cut_as_one_stream_of_documents() {
    let dir = TempDir::new("cut");
    tiny_llama_dir(dir.path(), 1);
    let (shards, documents) = shards(dir.path(), Boundary::Begin, None);
    assert!(Arranged::open(&shards, SEQ, 0).unwrap().is_none());
    let stream: Vec<u32> = documents.concat();
    let mut rows = Shuffled::new(Cut::new(&shards, SEQ, 7).unwrap(), 7);
    let all = cut_rows(stream.len() as u64, SEQ) as usize;
    assert!(all * SEQ + 2 * SEQ > stream.len());
    for _ in 0..3 {
        let mut begins = Vec::new();
        for _ in 0..all {
            let row = rows.draw(1).unwrap();
            let fits = |at: &usize| {
                stream[*at..].starts_with(&row.ids) && row.targets[..] == signed(&stream[at + 1..at + 1 + SEQ])
            };
            begins.extend((0..stream.len() - SEQ).filter(fits).take(1));
        }
        begins.sort_unstable();
        assert!(begins.len() == all && begins.windows(2).all(|two| two[1] - two[0] == SEQ), "{begins:?}");
    }
}

fn signed(ids: &[u32]) -> Vec<i32> {
    ids.iter().map(|id| *id as i32).collect()
}

#[test]
fn rows_from_shards_go_on_from_their_position() {
    let dir = TempDir::new("position");
    tiny_llama_dir(dir.path(), 1);
    let (shards, _) = shards(dir.path(), Boundary::End, Some(Layout::BestFit));
    let make: [&dyn Fn() -> Box<dyn Rows>; 2] =
        [&|| Box::new(Shuffled::new(Arranged::open(&shards, SEQ, 0).unwrap().unwrap(), 3)), &|| {
            Box::new(Shuffled::new(Cut::new(&shards, SEQ, 3).unwrap(), 3))
        }];
    for make in make {
        let mut whole = make();
        let all: Vec<Drawn> = (0..60).map(|_| whole.draw(7).unwrap()).collect();
        assert!(all.iter().any(|drawn| drawn.counted() < drawn.ids.len()), "ends of documents predict nothing");
        for at in [0, 1, 13, 59] {
            let mut first = make();
            (0..at).for_each(|_| drop(first.draw(7).unwrap()));
            let mut resumed = make();
            resumed.restore(&first.position()).unwrap();
            assert_eq!((at..60).map(|_| resumed.draw(7).unwrap()).collect::<Vec<_>>(), all[at..]);
        }
    }
}

#[test]
fn rows_of_another_length_and_other_tokenizers_are_refused() {
    let dir = TempDir::new("refused");
    tiny_llama_dir(dir.path(), 1);
    let (shards, _) = shards(dir.path(), Boundary::Begin, Some(Layout::BestFit));
    let error = Arranged::open(&shards, 64, 0).err().unwrap();
    assert!(error.to_string().contains("rows have 32 tokens, but seq_len = 64"), "{error}");
    assert!(Cut::new(&shards, 100_000, 0).err().unwrap().to_string().contains("too few for sequences"));

    let input =
        |key: &str, path: &Path| Input { key: key.into(), reference: "x".into(), path: path.into(), kind: None };
    let data = input("data", dir.path());
    let opened = packs(&[&data]).unwrap().unwrap();
    let same = tokenizer_of(&opened, Some(&input("tokenizer", dir.path()))).unwrap();
    assert_eq!(same.sha256(), shards.info().tokenizer);
    let other = TempDir::new("other");
    tiny_llama_dir(other.path(), 1);
    let path = other.path().join("tokenizer.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text} ")).unwrap();
    let error = tokenizer_of(&opened, Some(&input("tokenizer", other.path()))).unwrap_err();
    assert!(error.to_string().contains("is not the one that `x` was packed with"), "{error}");
    // Documents beside a pack.
    let error = packs(&[&data, &input("data", &path)]).err().unwrap();
    assert!(error.to_string().contains("not all packs"), "{error}");
    assert_eq!(Corpus::Packs(opened).tokens(), shards.info().tokens);
}

#[test]
fn held_out_documents_are_evenly_spaced_and_no_more_than_asked_for() {
    let dir = TempDir::new("some");
    tiny_llama_dir(dir.path(), 1);
    let (shards, documents) = shards(dir.path(), Boundary::Begin, None);
    assert_eq!(some_documents(&shards, shards.info().tokens).unwrap(), documents);
    let most = shards.info().tokens / 4;
    let some = some_documents(&shards, most).unwrap();
    assert!(some.iter().map(Vec::len).sum::<usize>() as u64 <= most && (9..=10).contains(&some.len()));
    assert_eq!(some[1], documents[40 / some.len()]);
}
