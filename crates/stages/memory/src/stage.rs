//! The stage `memory`.

use std::sync::Arc;
use std::time::Instant;

use cupola_arch::Model;
use cupola_artifact::stage::{Configured, Plan, PlanInputs, Reference, Report, Stage, StageContext};
use cupola_artifact::{Error, Result, human_bytes, human_count, parse_config};
use cupola_generate::{document_start, load_model, score_texts};
use cupola_neighbours::{Found, Memory, Settings};
use cupola_nn::Readout;
use cupola_records::{Split, read_documents, total_bytes};
use cupola_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::fill::fill;

/// Gives a model a memory, or adds to the one that it has.
pub struct MemoryStage;

/// The settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemoryConfig {
    /// The model: a stage or a model directory. The memory that it may have grows.
    model: String,
    /// The documents to remember: a data stage, of which the training split is taken, or a file, of which all but the last
    /// tenth is. Without them only the settings of the memory change.
    data: Option<String>,
    /// Held-out text to measure bits per byte on without and with the memory.
    text: Option<String>,
    /// Neighbours that are asked.
    #[serde(default = "default_k")]
    k: usize,
    /// The share of the neighbours' tokens in the prediction.
    #[serde(default = "default_lambda")]
    lambda: f32,
    /// How far neighbours may be, in units of the memory's mean squared distance between nearest keys.
    #[serde(default = "default_temperature")]
    temperature: f32,
    /// Cells of the index; 0 looks through everything. By default those that there are, or the square root of the pairs.
    cells: Option<usize>,
    /// Cells that a query visits.
    #[serde(default = "default_probes")]
    probes: usize,
    /// At most so many pairs are added.
    most_pairs: Option<usize>,
}

fn default_k() -> usize {
    32
}
fn default_lambda() -> f32 {
    0.25
}
fn default_temperature() -> f32 {
    1.0
}
fn default_probes() -> usize {
    16
}

/// Memories of fewer pairs have no cells unless some are asked for.
const FEW_PAIRS: usize = 10_000;
/// Tokens of held-out text whose neighbours are compared with the exact ones.
const RECALL_SAMPLE: usize = 256;

impl Stage for MemoryStage {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn about(&self) -> &'static str {
        "gives a model a memory of documents that it looks up while it predicts; nothing is trained"
    }

    fn configure(&self, table: toml::Table) -> Result<Box<dyn Configured>> {
        let config: MemoryConfig = parse_config(self.kind(), table)?;
        config.settings().check()?;
        if config.most_pairs == Some(0) {
            return Err(Error::usage("`most_pairs` in [memory] must be at least 1"));
        }
        Ok(Box::new(config))
    }
}

impl MemoryConfig {
    fn settings(&self) -> Settings {
        Settings { k: self.k, lambda: self.lambda, temperature: self.temperature, probes: self.probes }
    }

    /// How many cells a memory shall have.
    fn cells_of(&self, memory: &Memory) -> usize {
        match (self.cells, memory.cells()) {
            (Some(cells), _) => cells,
            (None, 0) if memory.len() < FEW_PAIRS => 0,
            (None, 0) => (memory.len() as f64).sqrt() as usize,
            (None, cells) => cells,
        }
    }
}

impl Configured for MemoryConfig {
    fn references(&self) -> Vec<Reference> {
        let model = Reference { key: "model", value: self.model.clone() };
        let data = self.data.iter().map(|data| Reference { key: "data", value: data.clone() });
        let text = self.text.iter().map(|text| Reference { key: "text", value: text.clone() });
        std::iter::once(model).chain(data).chain(text).collect()
    }

    fn effective_config(&self) -> Value {
        json!(self)
    }

    fn plan(&self, inputs: &PlanInputs<'_>) -> Result<Plan> {
        let model = inputs.inputs.iter().find(|(input, _)| input.key == "model").and_then(|(_, plan)| *plan);
        let mut facts = model.map(|plan| plan.facts.clone()).unwrap_or_default();
        let fact = |key: &str| facts.get(key).copied().unwrap_or(0.0);
        // About four bytes to a token; most are read twice, as the context of what follows them.
        let bytes = inputs.fact("data", "train_bytes").or(inputs.fact("data", "bytes")).unwrap_or(1e6);
        let tokens = if self.data.is_some() { bytes / 4.0 } else { 0.0 };
        let added = self.most_pairs.map_or(tokens, |most| tokens.min(most as f64));
        let pairs = fact("pairs") + added;
        let width = fact("d_model").max(1.0);
        let flops = 2.0 * 2.0 * fact("parameters") * added + 8.0 * 2.0 * 64.0 * pairs * width;
        let plan = Plan {
            flops,
            memory_bytes: 4.0 * fact("parameters") + 2.0 * (4.0 * width + 8.0) * pairs,
            disk_bytes: 4.0 * fact("parameters") + (2.0 * width + 8.0) * pairs,
            seconds: flops / (0.3 * inputs.peak_flops.max(1.0)) + 1.0,
            notes: vec![format!("about {} pairs", human_count(pairs))],
            ..Plan::default()
        };
        facts.insert("pairs".into(), pairs);
        Ok(Plan { facts, ..plan })
    }

    fn run(&self, context: &StageContext<'_>) -> Result<Report> {
        let input = context.input("model")?;
        let (mut model, tokenizer) = load_model(&input.path, &cupola_ops::open(context.device)?)?;
        model.merge_adapter()?;
        let vocab_size = model.spec().stack().vocab_size;
        let width = model.spec().stack().embedding.width;
        let old = Memory::load(&input.path, vocab_size)?;
        let first = old.is_none();
        let mut memory = old.unwrap_or_else(|| Memory::empty(width, self.settings()));
        memory.settings = self.settings();
        if memory.is_empty() && self.data.is_none() {
            return Err(Error::usage(format!("`data` is not set in [memory.{}]", context.name))
                .with_hint("the model has no memory yet, and something must be in it"));
        }
        let (mut metrics, mut went_in) = (Map::new(), String::from("no documents"));
        let started = Instant::now();
        if self.data.is_some() {
            let documents = read_documents(&context.input("data")?.path, Split::Train)?;
            went_in = format!("{} documents, {}", documents.len(), human_bytes(total_bytes(&documents) as f64));
            let start = document_start(model.decoder()?, &tokenizer)?;
            let texts: Vec<&str> = documents.iter().map(|d| d.text.as_str()).collect();
            let ids = tokenizer.encode_batch(&texts)?;
            let ids: Vec<Vec<u32>> = ids.into_iter().map(|ids| [vec![start], ids].concat()).collect();
            let most = self.most_pairs.unwrap_or(usize::MAX);
            let total = ids.iter().map(|ids| ids.len() as u64 - 1).sum::<u64>().min(most as u64);
            context.progress.begin("reading documents", Some(total), "tokens");
            let mut tell = |done: usize| context.progress.update(done as u64, "");
            let added = fill(&mut memory, &model.decoder()?.frozen(), &ids, most, &mut tell);
            context.progress.end();
            metrics.insert("added".into(), json!(added?));
        }
        let cells = self.cells_of(&memory);
        context.progress.line(&format!("{} pairs in {cells} cells", human_count(memory.len() as f64)));
        if self.data.is_some() || cells != memory.cells() {
            memory.settle(cells, context.seed, first);
        }
        metrics.insert("fill_seconds".into(), json!(started.elapsed().as_secs_f64()));
        model.save(context.dir)?;
        tokenizer.save(context.dir)?;
        memory.save(context.dir)?;
        let memory = Arc::new(memory);
        metrics.insert("pairs".into(), json!(memory.len()));
        metrics.insert("cells".into(), json!(memory.cells()));
        metrics.insert("scale".into(), json!(memory.scale));
        if self.text.is_some() {
            self.measure(context, model, &tokenizer, &memory, &mut metrics)?;
        }
        let came_out = format!("{} pairs, {} cells", human_count(memory.len() as f64), memory.cells());
        Ok(Report { went_in, came_out, metrics, scores: vec![] })
    }
}

impl MemoryConfig {
    /// What the memory gains on held-out text, how long an answer takes, and how many neighbours the cells miss.
    fn measure(
        &self,
        context: &StageContext<'_>,
        mut model: Model,
        tokenizer: &Tokenizer,
        memory: &Arc<Memory>,
        metrics: &mut Map<String, Value>,
    ) -> Result<()> {
        let documents = read_documents(&context.input("text")?.path, Split::Validation)?;
        let texts: Vec<&str> = documents.iter().map(|d| d.text.as_str()).collect();
        for (name, readout) in [("model_bits_per_byte", None), ("bits_per_byte", Some(Arc::clone(memory)))] {
            model.decoder_mut()?.set_readout(readout.map(|memory| memory as Arc<dyn Readout>));
            context.progress.begin(name, None, "tokens");
            let mut tell = |done: u64, total: u64| context.progress.update(done, &format!("of {total}"));
            let score = score_texts(model.decoder()?, tokenizer, &texts, &mut tell);
            context.progress.end();
            metrics.insert(name.into(), json!(score?.bits_per_byte()));
        }
        let start = document_start(model.decoder()?, tokenizer)?;
        let ids: Vec<u32> = [vec![start], tokenizer.encode(texts.first().unwrap_or(&""))?].concat();
        let mut queries = Memory::empty(memory.width(), self.settings());
        fill(&mut queries, &model.decoder()?.frozen(), &[ids], RECALL_SAMPLE, &mut |_| {})?;
        let queries = queries.states();
        let timed = |find: &dyn Fn() -> Vec<Vec<Found>>| {
            let started = Instant::now();
            let found = find();
            (started.elapsed().as_secs_f64() * 1000.0 / found.len().max(1) as f64, found)
        };
        let (slow, exact) = timed(&|| memory.nearest_of_all(queries));
        let (fast, found) = timed(&|| memory.nearest(queries));
        let hits = |(exact, found): (&Vec<Found>, &Vec<Found>)| {
            exact.iter().filter(|e| found.iter().any(|f| f.at == e.at)).count()
        };
        let hits: usize = exact.iter().zip(&found).map(hits).sum();
        metrics.insert("recall".into(), json!(hits as f64 / exact.iter().map(Vec::len).sum::<usize>().max(1) as f64));
        metrics.insert("exact_ms_per_query".into(), json!(slow));
        metrics.insert("ms_per_query".into(), json!(fast));
        Ok(())
    }
}

#[cfg(test)]
#[path = "stage_tests.rs"]
mod tests;
